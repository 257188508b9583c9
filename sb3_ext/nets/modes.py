"""Training and evaluation mode for each kind of layer, and the tensors that an update changes."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch as th
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from sb3_ext.nets.normalization import EnsembleBatchNorm, InputBatchNorm
from sb3_ext.nets.walk import set_mode, walk


def set_dropout_mode(network: nn.Module, active: bool) -> None:
    """
    Switch dropout on or off, and put every other layer into evaluation mode.

    Batch normalization in a target network must neither use the minibatch's statistics nor update its own.
    """
    set_mode(network, False)
    for module in walk(network):
        if isinstance(module, _DropoutNd):
            module.train(active)


def named_tensors(network: nn.Module) -> tuple[dict[str, nn.Parameter], dict[str, th.Tensor]]:
    """
    Return what ``named_parameters()`` and ``named_buffers()`` do.

    One walk takes half of their time, which counts where ``train()`` makes a single update.
    """
    parameters: dict[str, nn.Parameter] = {}
    buffers: dict[str, th.Tensor] = {}
    seen: set[int] = set()
    waiting: list[tuple[str, nn.Module]] = [("", network)]
    while waiting:
        prefix, module = waiting.pop()
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) not in seen:
                seen.add(id(parameter))
                parameters[prefix + name] = parameter
        for name, buffer in module._buffers.items():
            if buffer is not None and id(buffer) not in seen:
                seen.add(id(buffer))
                buffers[prefix + name] = buffer
        if module._modules:
            children = [(f"{prefix}{name}.", child) for name, child in module._modules.items() if child is not None]
            waiting += reversed(children)
    return parameters, buffers


def select_statistics(buffers: Mapping[str, th.Tensor], prefix: str = "") -> list[th.Tensor]:
    """Select running statistics from named buffers, those of one network by the prefix of their names."""
    # SB3 knows them by these names
    return [buffer for name, buffer in buffers.items() if "running_" in name and name.startswith(prefix)]


def changes_statistics_in_place(network: nn.Module) -> bool:
    """Tell whether the forward pass of a layer changes its running statistics. Those of this package return them."""
    return any(
        module._buffers and select_statistics(dict(module.named_buffers(recurse=False)))
        for module in walk(network)
        if not isinstance(module, (EnsembleBatchNorm, InputBatchNorm))
    )


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Evaluate without dropout and updates of running statistics, and restore each module's mode afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
