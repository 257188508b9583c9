"""
Normalization of activations and of weights.

- batch statistics over transitions and their next states together: CrossQ, Bhatt et al. 2024,
  https://arxiv.org/abs/1902.05605
- batch renormalization: Ioffe 2017, https://arxiv.org/abs/1702.03275
- RMS normalization: Zhang & Sennrich 2019, https://arxiv.org/abs/1910.07467
- weights of unit norm: XQC, Palenicek et al. 2025, https://arxiv.org/abs/2509.25174, and FlashSAC,
  https://arxiv.org/abs/2604.04539
"""

import math
from collections.abc import Sequence

import torch as th

#: Limits of the correction factor and shift of batch renormalization, those of the paper and of CrossQ
RENORM_MAX_SCALE, RENORM_MAX_SHIFT = 3.0, 5.0


def batch_moments(groups: Sequence[th.Tensor]) -> tuple[th.Tensor, th.Tensor]:
    """
    Compute mean and biased variance of each feature over the rows of all groups together.

    :param groups: each of shape (..., B_i, d)
    :return: both of shape (..., 1, d), differentiable with respect to every group
    """
    n_rows = sum(group.shape[-2] for group in groups)
    mean = sum_of([group.sum(dim=-2, keepdim=True) for group in groups]) / n_rows
    mean_square = sum_of([group.square().sum(dim=-2, keepdim=True) for group in groups]) / n_rows
    return mean, (mean_square - mean.square()).clamp(min=0)  # rounding may make it negative


def shifted_batch_moments(groups: Sequence[th.Tensor]) -> tuple[th.Tensor, th.Tensor]:
    """Compute :func:`batch_moments` exactly for features that are large compared with their standard deviation."""
    shift = groups[0][..., :1, :].detach()
    mean, variance = batch_moments([group - shift for group in groups])
    return mean + shift, variance


def sum_of(tensors: Sequence[th.Tensor]) -> th.Tensor:
    """Add tensors up; ``sum`` would start with the number 0."""
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total


def scale_and_shift(
    mean: th.Tensor, variance: th.Tensor, weight: th.Tensor, bias: th.Tensor, eps: float
) -> tuple[th.Tensor, th.Tensor]:
    """Return a and b with ``a x + b = weight (x - mean) / sqrt(variance + eps) + bias``."""
    scale = weight * th.rsqrt(variance + eps)
    return scale, bias - mean * scale


def renormalized(
    mean: th.Tensor,
    variance: th.Tensor,
    running_mean: th.Tensor,
    running_variance: th.Tensor,
    eps: float,
) -> tuple[th.Tensor, th.Tensor]:
    """
    Correct the statistics of a batch towards running ones, as batch renormalization does.

    With r = clip(std / running std, 1/3, 3) and d = clip((mean - running mean) / running std, -5, 5), both without a
    gradient, normalizing with the result gives ``(x - mean) / std * r + d``.

    :return: mean and variance to normalize with, of the shape of ``mean``
    """
    with th.no_grad():
        running_std = (running_variance + eps).sqrt()
        r = ((variance + eps).sqrt() / running_std).clamp(1 / RENORM_MAX_SCALE, RENORM_MAX_SCALE)
        d = ((mean - running_mean) / running_std).clamp(-RENORM_MAX_SHIFT, RENORM_MAX_SHIFT)
    return mean - d * (variance + eps).sqrt() / r, (variance + eps) / r.square() - eps


def rms_norm(x: th.Tensor, weight: th.Tensor, eps: float) -> th.Tensor:
    """Divide each row by its root mean square, and multiply each feature by its weight."""
    return x * th.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps) * weight


@th.no_grad()
def project_columns(weight: th.Tensor, dim: int) -> None:
    """
    Scale the weights that lead to one output to norm 1, in place.

    :param dim: the axis of the inputs
    """
    # Not by `vector_norm`, which reduces over strided axes slowly on a CPU
    weight.mul_(th.rsqrt(weight.square().sum(dim=dim, keepdim=True).clamp(min=1e-16)))


@th.no_grad()
def project_features(weight: th.Tensor, bias: th.Tensor | None = None) -> None:
    """Scale weight and bias of d features together, so that their squares sum to d, in place."""
    squares = weight.square().sum(dim=-1, keepdim=True)
    if bias is not None:
        squares = squares + bias.square().sum(dim=-1, keepdim=True)
    factor = math.sqrt(weight.shape[-1]) * th.rsqrt(squares + 1e-8)
    weight.mul_(factor)
    if bias is not None:
        bias.mul_(factor)
