"""Normalizations of N stacked networks. Batch statistics are results of a pass, so nothing changes inside it."""

from collections.abc import Sequence

import torch as th
from torch import nn

from sb3_ext.functional.normalization import (
    batch_moments,
    project_features,
    renormalized,
    rms_norm,
    scale_and_shift,
    shifted_batch_moments,
)
from sb3_ext.nets.layers import Pick, StackedLayer, unchanged
from sb3_ext.nets.walk import walk

#: Updates of CrossQ before batch renormalization uses running statistics
RENORM_WARM_UP = 100_000


class EnsembleBatchNorm(StackedLayer):
    """
    N batch normalizations side by side.

    Its mode is explicit: :meth:`forward` uses the running statistics, :meth:`by_batch` those of the minibatch. Neither
    changes a buffer, so both can be compiled. :func:`move_running_statistics` does that after an update.

    :param n_features: d
    :param momentum: weight of a minibatch in the running statistics
    :param renorm: batch renormalization (https://arxiv.org/abs/1702.03275), as CrossQ has it
    """

    bias: nn.Parameter

    def __init__(
        self, n_members: int, n_features: int, eps: float = 1e-5, momentum: float = 0.01, renorm: bool = False
    ) -> None:
        super().__init__()
        self.n_features, self.eps, self.momentum, self.renorm = n_features, eps, momentum, renorm
        self.weight = nn.Parameter(th.ones(n_members, 1, n_features))
        self.bias = nn.Parameter(th.zeros(n_members, 1, n_features))
        self.running_mean: th.Tensor
        self.running_var: th.Tensor
        self.n_batches: th.Tensor
        self.register_buffer("running_mean", th.zeros(n_members, 1, n_features))
        self.register_buffer("running_var", th.ones(n_members, 1, n_features))
        self.register_buffer("n_batches", th.zeros((), dtype=th.long))

    def extra_repr(self) -> str:
        return f"{self.n_features}, eps={self.eps}, momentum={self.momentum}, renorm={self.renorm}"

    def reset_parameters(self) -> None:
        """Set scale, shift and statistics to those of a new layer."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)
        self.running_mean.zero_()
        self.running_var.fill_(1.0)
        self.n_batches.zero_()

    def forward(self, x: th.Tensor, pick: Pick = unchanged) -> th.Tensor:
        mean, variance = pick(self.running_mean), pick(self.running_var)
        scale, shift = scale_and_shift(mean, variance, pick(self.weight), pick(self.bias), self.eps)
        return th.addcmul(shift, x.to(scale.dtype), scale)

    def by_batch(
        self, groups: Sequence[th.Tensor], picks: Sequence[Pick], statistics: list[th.Tensor]
    ) -> list[th.Tensor]:
        """
        Normalize groups of rows by the statistics of all of them together.

        :param groups: each of shape (N, B_i, d). Only the first may need a gradient
        :param picks: selects networks from the parameters, one function for each group
        :param statistics: the minibatch's mean and variance are appended to it, detached
        """
        groups = [group.to(self.weight.dtype) for group in groups]
        mean, variance = batch_moments(groups)
        statistics += [mean.detach(), variance.detach()]
        if self.renorm:
            pick = picks[0]
            corrected = renormalized(mean, variance, pick(self.running_mean), pick(self.running_var), self.eps)
            is_warm = self.n_batches >= RENORM_WARM_UP
            mean, variance = th.where(is_warm, corrected[0], mean), th.where(is_warm, corrected[1], variance)
        results = []
        for index, (group, pick) in enumerate(zip(groups, picks, strict=True)):
            if index == 1:  # the gradient of the statistics flows through the first group
                mean, variance = mean.detach(), variance.detach()
            scale, shift = scale_and_shift(mean, variance, pick(self.weight), pick(self.bias), self.eps)
            results.append(th.addcmul(shift, group, scale))
        return results

    def project_weights(self) -> None:
        """Scale weight and bias of each network so that their squares sum to d."""
        project_features(self.weight, self.bias)


class InputBatchNorm(nn.Module):
    """
    Batch normalization of the inputs that all N networks share, without scale and shift.

    Its modes are those of :class:`EnsembleBatchNorm`.
    """

    def __init__(self, n_features: int, eps: float = 1e-5, momentum: float = 0.01) -> None:
        super().__init__()
        self.n_features, self.eps, self.momentum = n_features, eps, momentum
        self.running_mean: th.Tensor
        self.running_var: th.Tensor
        self.register_buffer("running_mean", th.zeros(1, n_features))
        self.register_buffer("running_var", th.ones(1, n_features))

    def extra_repr(self) -> str:
        return f"{self.n_features}, eps={self.eps}, momentum={self.momentum}"

    def forward(self, x: th.Tensor) -> th.Tensor:
        return (x - self.running_mean) * th.rsqrt(self.running_var + self.eps)

    def by_batch(self, groups: Sequence[th.Tensor], statistics: list[th.Tensor]) -> list[th.Tensor]:
        """Normalize groups of rows, shape (B_i, d), by their joint statistics, which are appended to ``statistics``."""
        groups = [group.to(self.running_mean.dtype) for group in groups]
        mean, variance = shifted_batch_moments(groups)
        statistics += [mean.detach(), variance.detach()]
        factor = th.rsqrt(variance + self.eps)
        return [(group - mean) * factor for group in groups]


class EnsembleRMSNorm(StackedLayer):
    """N root mean square normalizations side by side, each with its own weights of the features and no bias."""

    def __init__(self, n_members: int, n_features: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.n_features, self.eps = n_features, eps
        self.weight = nn.Parameter(th.ones(n_members, 1, n_features))
        self.register_parameter("bias", None)

    def extra_repr(self) -> str:
        return f"{self.n_features}, eps={self.eps}"

    def reset_parameters(self) -> None:
        """Set the weights to those of a new layer."""
        nn.init.ones_(self.weight)

    def forward(self, x: th.Tensor, pick: Pick = unchanged) -> th.Tensor:
        return rms_norm(x.to(self.weight.dtype), pick(self.weight), self.eps)

    def project_weights(self) -> None:
        """Scale the weights of each network to a root mean square of 1."""
        project_features(self.weight)


def batch_norm_layers(network: nn.Module) -> list[EnsembleBatchNorm | InputBatchNorm]:
    """Return the layers whose statistics a pass by batch returns, in the order in which it does."""
    return [module for module in walk(network) if isinstance(module, (EnsembleBatchNorm, InputBatchNorm))]


@th.no_grad()
def move_running_statistics(
    layers: Sequence[EnsembleBatchNorm | InputBatchNorm], statistics: Sequence[th.Tensor]
) -> None:
    """
    Move running statistics towards those of a minibatch, by each layer's ``momentum``.

    :param layers: those of :func:`batch_norm_layers`
    :param statistics: mean and variance of each layer, in this order
    """
    if not layers:
        return
    running = [tensor for layer in layers for tensor in (layer.running_mean, layer.running_var)]
    if len(running) != len(statistics):
        raise ValueError(f"{len(statistics)} statistics do not fit {len(layers)} layers with two each")
    momenta = {layer.momentum for layer in layers}
    if len(momenta) == 1:
        th._foreach_lerp_(running, list(statistics), momenta.pop())
    else:
        for tensor, value, layer in zip(running, statistics, (part for part in layers for _ in range(2)), strict=True):
            tensor.lerp_(value, layer.momentum)
    for layer in layers:
        if isinstance(layer, EnsembleBatchNorm) and layer.renorm:
            layer.n_batches += 1


def copy_counts(
    layers: Sequence[EnsembleBatchNorm | InputBatchNorm], targets: Sequence[EnsembleBatchNorm | InputBatchNorm]
) -> None:
    """Copy how many minibatches batch renormalization has seen, so that target networks end the warm-up, too."""
    for layer, target in zip(layers, targets, strict=True):
        if isinstance(layer, EnsembleBatchNorm) and isinstance(target, EnsembleBatchNorm) and layer.renorm:
            target.n_batches.copy_(layer.n_batches)
