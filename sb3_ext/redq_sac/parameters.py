"""The parameters that an update of the critics changes."""

from typing import NamedTuple

import torch as th
from torch import nn

from sb3_ext.nets import EnsembleCritic
from sb3_ext.nets.modes import named_tensors, select_statistics


class CriticParameters(NamedTuple):
    """
    What an update changes of critics and target critics.

    :param trained: what the critics' optimizer changes, by the names in :class:`~sb3_ext.redq_sac.update.CriticLoss`
    :param online: parameters of the critics, those of a shared features extractor and frozen ones included
    :param targets: parameters of the target critics, in the order of ``online``
    :param online_statistics: running statistics of batch normalization in the critics
    :param target_statistics: those in the target critics
    """

    trained: dict[str, nn.Parameter]
    online: list[th.Tensor]
    targets: list[th.Tensor]
    online_statistics: list[th.Tensor]
    target_statistics: list[th.Tensor]


def critic_parameters(critic: EnsembleCritic, critic_target: EnsembleCritic) -> CriticParameters:
    """
    Look up parameters as they are now. This takes longer than moving the target critics, so do it once for each call of
    ``train()``.

    A features extractor shared with the actor is not trained with the critics, and neither are frozen layers.

    :raises ValueError: if the target critics have other shapes than the critics
    """
    in_optimizer = {id(p) for group in critic.optimizer.param_groups for p in group["params"]}
    named, buffers = named_tensors(critic)
    named_targets, target_buffers = named_tensors(critic_target)
    online: list[th.Tensor] = list(named.values())
    targets: list[th.Tensor] = list(named_targets.values())
    if [tensor.shape for tensor in online] != [tensor.shape for tensor in targets]:
        shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (online, targets)]
        raise ValueError(
            f"critic_target has parameters of the shapes {shapes[1]}, critic {shapes[0]}: replace layers in both"
        )
    trained = {f"critic.{name}": p for name, p in named.items() if id(p) in in_optimizer and p.requires_grad}
    return CriticParameters(trained, online, targets, select_statistics(buffers), select_statistics(target_buffers))
