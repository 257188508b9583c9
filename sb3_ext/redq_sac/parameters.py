"""The parameters that an update changes."""

from typing import NamedTuple

import torch as th
from stable_baselines3.sac.policies import Actor
from torch import nn

from sb3_ext.nets import EnsembleCritic
from sb3_ext.nets.modes import named_tensors, select_statistics


class TrainedParameters(NamedTuple):
    """
    What an update changes of the networks.

    :param trained: what the critics' optimizer changes, by the names in :class:`~sb3_ext.redq_sac.losses.CriticLoss`
    :param trained_actor: what the actor's changes, by the names in :class:`~sb3_ext.redq_sac.losses.ActorLoss`
    :param online: parameters of the critics, those of a shared features extractor and frozen ones included
    :param targets: parameters of the target critics, in the order of ``online``
    :param online_statistics: running statistics of batch normalization in the critics
    :param target_statistics: those in the target critics
    """

    trained: dict[str, nn.Parameter]
    trained_actor: dict[str, nn.Parameter]
    online: list[th.Tensor]
    targets: list[th.Tensor]
    online_statistics: list[th.Tensor]
    target_statistics: list[th.Tensor]


def trained_parameters(actor: Actor, critic: EnsembleCritic, critic_target: EnsembleCritic) -> TrainedParameters:
    """
    Look up parameters as they are now. This takes longer than moving the target critics, so do it once for each call of
    ``train()``.

    A features extractor shared with the actor is not trained with the critics, and neither are frozen layers.

    :raises ValueError: if the target critics have other shapes than the critics
    """
    named, buffers = named_tensors(critic)
    named_targets, target_buffers = named_tensors(critic_target)
    online: list[th.Tensor] = list(named.values())
    targets: list[th.Tensor] = list(named_targets.values())
    if [tensor.shape for tensor in online] != [tensor.shape for tensor in targets]:
        shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (online, targets)]
        raise ValueError(
            f"critic_target has parameters of the shapes {shapes[1]}, critic {shapes[0]}: replace layers in both"
        )
    statistics = select_statistics(buffers), select_statistics(target_buffers)
    of_actor, _ = named_tensors(actor)
    trained = _in_optimizer("critic.", named, critic.optimizer), _in_optimizer("actor.", of_actor, actor.optimizer)
    return TrainedParameters(*trained, online, targets, *statistics)


def _in_optimizer(
    prefix: str, named: dict[str, nn.Parameter], optimizer: th.optim.Optimizer
) -> dict[str, nn.Parameter]:
    known = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return {prefix + name: p for name, p in named.items() if id(p) in known and p.requires_grad}
