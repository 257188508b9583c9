"""Walks through networks in a fraction of the time of ``nn.Module``'s, for what is done at each call of ``train()``."""

from torch import nn


def walk(network: nn.Module) -> list[nn.Module]:
    """Return the modules of a network in the order of ``network.modules()``, each of them once."""
    found: dict[int, nn.Module] = {}
    waiting: list[nn.Module | None] = [network]
    while waiting:
        module = waiting.pop()
        if module is not None and id(module) not in found:
            found[id(module)] = module
            if module._modules:
                waiting += reversed(module._modules.values())
    return list(found.values())


def set_mode(network: nn.Module, training: bool) -> None:
    """
    Do what ``network.train(training)`` does.

    A module with a ``train`` or ``__setattr__`` of its own is asked to do it, for all that is in it.
    """
    waiting: list[nn.Module | None] = [network]
    while waiting:
        module = waiting.pop()
        if module is None:
            continue
        kind = type(module)
        if (
            kind.train is not nn.Module.train
            or kind.__setattr__ is not nn.Module.__setattr__
            or "train" in vars(module)
        ):
            module.train(training)
            continue
        vars(module)["training"] = training
        if module._modules:
            waiting += module._modules.values()
