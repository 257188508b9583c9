"""Networks, layers and optimizers that a user has replaced: trained from the next update on, or refused."""

from collections.abc import Sequence

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from torch import nn

from sb3_ext.nets.modes import named_tensors


def check_networks(
    model: BaseAlgorithm,
    optimizers: Sequence[th.optim.Optimizer | None],
    networks: Sequence[str] = (),
    targets: Sequence[str] = (),
) -> tuple[dict[str, nn.Parameter], dict[str, th.Tensor]]:
    """
    Check that training reaches all networks. It changes a parameter that an optimizer has and that is not frozen.

    :param optimizers: those of the networks, ``None`` for one that is missing
    :param networks: names of the trained networks, the same in model and policy
    :param targets: names of the target networks, which have no optimizer
    :return: the parameters that training changes, and all buffers, by their names in the policy
    :raises ValueError: if training would not reach a network: model and policy have different ones, it is not SB3's, it
        is on another device, or its optimizer has a replaced layer's parameters. Also if nothing is trained
    """
    policy = model.policy
    for name in (*networks, *targets):
        network, other = getattr(model, name), getattr(policy, name)
        if not hasattr(other, "set_training_mode"):
            raise ValueError(
                f"model.policy.{name} is a {type(other).__name__}, which cannot be trained: it was exported, traced or "
                "wrapped. Keep the original network for training"
            )
        # What `torch.compile` returns is another module with the same parameters
        if network is not other and not _same_parameters(network, other):
            raise ValueError(
                f"model.{name} and model.policy.{name} are two networks: only the first is trained, only the second "
                "acts and is saved. Assign one network to both"
            )
    in_optimizers: set[int] = set()
    for optimizer in optimizers:
        if optimizer is None:
            raise ValueError(f"one of the networks {', '.join(networks)} has no optimizer: set its attribute optimizer")
        for group in optimizer.param_groups:
            in_optimizers.update(map(id, group["params"]))
    device = th.device(model.device).type
    named, buffers = named_tensors(policy)
    for wrong in {parameter.device for parameter in named.values()}:
        if wrong.type != device:
            key = next(key for key, parameter in named.items() if parameter.device == wrong)
            raise ValueError(f"{key} is on the device {wrong}, but only networks on {device} are trained")
    found = {key: parameter for key, parameter in named.items() if id(parameter) in in_optimizers}
    trained = {key: parameter for key, parameter in found.items() if parameter.requires_grad}
    if len(found) < len(in_optimizers):
        for key, parameter in named.items():
            if key not in found and parameter.requires_grad and key.partition(".")[0] in networks:
                raise ValueError(
                    f"no optimizer has {key}, but one has parameters that are in no network. Was a layer replaced? "
                    "Then make a new optimizer, too, or freeze the layer by requires_grad_(False)"
                )
    if not trained:
        raise ValueError("there is nothing to train: every parameter of the policy is frozen, or in no optimizer")
    return trained, buffers


def _same_parameters(network: nn.Module, other: nn.Module) -> bool:
    first, second = ({id(parameter) for parameter in module.parameters()} for module in (network, other))
    return first == second


def check_temperature(name: str, tensor: th.Tensor | None, optimizer: th.optim.Optimizer | None) -> None:
    """Raise a ValueError if the optimizer of a learned temperature has another tensor than ``tensor``."""
    if tensor is None or optimizer is None:
        return
    if not any(p is tensor for group in optimizer.param_groups for p in group["params"]):
        raise ValueError(f"the optimizer of model.{name} has another tensor: make a new optimizer with the new one")


def set_training_mode(policy: BasePolicy) -> None:
    """Put all networks into training mode. One that has no modes raises a ValueError."""
    try:
        policy.set_training_mode(True)
    except NotImplementedError as error:  # from networks of torch.export
        raise ValueError(f"a network of the policy cannot be trained, because it was exported: {error}") from error


def check_learning_rates(optimizers: Sequence[th.optim.Optimizer] | th.optim.Optimizer) -> None:
    """Raise a ValueError if a learning rate is not finite in float32: one step with it would spoil all parameters."""
    largest = th.finfo(th.float32).max
    for optimizer in [optimizers] if isinstance(optimizers, th.optim.Optimizer) else optimizers:
        for group in optimizer.param_groups:
            if not abs(float(group["lr"])) <= largest:
                raise ValueError(
                    f"learning_rate={float(group['lr'])} is not allowed, only numbers up to {largest:.2g}. It is what "
                    "the schedule returned, and nothing was updated with it"
                )
