"""
Returns as categorical distributions over K fixed atoms.

- the projection onto the atoms: Bellemare et al. 2017 (C51), https://arxiv.org/abs/1707.06887
- the distribution of the critic with the smaller value as target: XQC, https://arxiv.org/abs/2509.25174, and FlashSAC,
  https://arxiv.org/abs/2604.04539

Notation: N critics, M of them evaluated, B transitions, K atoms.
"""

from collections.abc import Callable

import torch as th

from sb3_ext.functional.bellman import soft_td_target
from sb3_ext.functional.ensemble import TARGET_BACKUPS, TargetBackup, random_mixture_weights


def categorical_support(n_bins: int, bound: float) -> th.Tensor:
    """Return the atoms, ``n_bins`` numbers from ``-bound`` to ``bound`` at equal distances, shape (K,)."""
    return th.linspace(-bound, bound, n_bins)


def expected_value(probabilities: th.Tensor, support: th.Tensor) -> th.Tensor:
    """Return the mean of each distribution, shape (...), from probabilities of shape (..., K)."""
    return (probabilities * support).sum(dim=-1)


def categorical_projection(probabilities: th.Tensor, atoms: th.Tensor, support: th.Tensor) -> th.Tensor:
    """
    Distribute the mass of moved atoms over the two nearest fixed ones.

    Atoms outside the support move to its end first. Elsewhere the mean stays as it is.

    :param probabilities: shape (..., K)
    :param atoms: where each probability lies, broadcastable to (..., K)
    :param support: the fixed atoms, shape (K,), at equal distances
    :return: shape (..., K); each row has the sum of the given one, or a NaN where an atom is NaN
    """
    n_bins = support.shape[-1]
    low, high = support[0], support[-1]
    position = (atoms.clamp(low, high) - low) * ((n_bins - 1) / (high - low))
    lower = position.floor().clamp(0, n_bins - 2)
    upper_share = (position - lower).clamp(max=1).expand_as(probabilities)  # rounding may exceed 1 at the upper end
    # NaN, a sign of divergence, passes through the share. As an integer it would be an index out of range
    index = lower.long().clamp(min=0).expand_as(probabilities)
    projected = th.zeros_like(probabilities)
    projected = projected.scatter_add(-1, index, probabilities * (1 - upper_share))
    return projected.scatter_add(-1, index + 1, probabilities * upper_share)


def _smallest(probabilities: th.Tensor, support: th.Tensor) -> th.Tensor:
    values = expected_value(probabilities, support)
    if len(values) == 2:  # the usual subset; faster than `gather`, and the same: of equal ones the first
        chosen = th.where((values[0] <= values[1]).unsqueeze(-1), probabilities[0], probabilities[1])
        return chosen.unsqueeze(0)
    index = values.argmin(dim=0, keepdim=True)[..., None]
    return probabilities.gather(0, index.expand(-1, -1, probabilities.shape[-1]))


def _own(probabilities: th.Tensor, support: th.Tensor) -> th.Tensor:
    return probabilities


def _others(probabilities: th.Tensor, support: th.Tensor) -> th.Tensor:
    return probabilities.roll(-1, dims=0)


def _mean(probabilities: th.Tensor, support: th.Tensor) -> th.Tensor:
    return probabilities.mean(dim=0, keepdim=True)


def _rem(probabilities: th.Tensor, support: th.Tensor, mixture: th.Tensor | None = None) -> th.Tensor:
    if mixture is None:
        n_critics, batch_size = probabilities.shape[:2]
        mixture = random_mixture_weights(n_critics, batch_size, probabilities.dtype, probabilities.device)
    return (mixture.unsqueeze(-1) * probabilities).sum(dim=0, keepdim=True)


_BACKUP_FUNCTIONS: dict[str, Callable[..., th.Tensor]] = {
    "vanilla": _own,
    "doubleq": _others,
    "min": _smallest,
    "mean": _mean,
    "redq": _smallest,
    "rem": _rem,
}


def categorical_backup(
    target_backup: TargetBackup,
    next_probabilities: th.Tensor,
    support: th.Tensor,
    n_critics: int,
    mixture: th.Tensor | None = None,
) -> th.Tensor:
    """
    Compute the distribution of the return from the next state-action pair, for the target of each critic.

    ``min`` and ``redq`` take, for each transition, the distribution of the critic with the smallest value. ``mean`` and
    ``rem`` mix the distributions. ``vanilla`` and ``doubleq`` take one critic's, as
    :func:`~sb3_ext.functional.ensemble.ensemble_backup` takes its value.

    :param target_backup: one of :data:`~sb3_ext.functional.ensemble.TARGET_BACKUPS`
    :param next_probabilities: of the target critics, shape (N, B, K); for ``redq`` of the subset, shape (M, B, K)
    :param support: the atoms, shape (K,)
    :param n_critics: N, the number of critics that learn
    :param mixture: the convex combinations for ``rem``, shape (N, B); drawn by default. Other backups ignore it
    :return: shape (N, B, K); a view where all critics share one distribution
    :raises ValueError: if ``target_backup`` is unknown
    """
    if target_backup not in _BACKUP_FUNCTIONS:
        raise ValueError(f"target_backup={target_backup!r} is not one of {', '.join(TARGET_BACKUPS)}")
    drawn = {"mixture": mixture} if target_backup == "rem" else {}
    return _BACKUP_FUNCTIONS[target_backup](next_probabilities, support, **drawn).expand(n_critics, -1, -1)


def categorical_td_target(
    rewards: th.Tensor,
    dones: th.Tensor,
    discounts: th.Tensor | float,
    next_probabilities: th.Tensor,
    entropy_bonus: th.Tensor,
    support: th.Tensor,
) -> th.Tensor:
    """
    Move the atoms of the next return by the Bellman equation, and project them onto the fixed atoms.

    :param rewards: shape (B,)
    :param dones: shape (B,); 1 only where the next state is terminal
    :param discounts: ``gamma``, or shape (B,)
    :param next_probabilities: shape (N, B, K)
    :param entropy_bonus: what the entropy adds to the next value, shape (B,)
    :param support: the atoms, shape (K,)
    :return: shape (N, B, K)
    """
    # Row k of this "ensemble" is the k-th atom in every next state
    next_atoms = support.unsqueeze(-1).expand(-1, len(rewards))
    atoms = soft_td_target(rewards, dones, discounts, next_atoms, entropy_bonus).T
    if next_probabilities.stride(0) == 0:  # one distribution for all critics
        return categorical_projection(next_probabilities[:1], atoms, support).expand_as(next_probabilities)
    return categorical_projection(next_probabilities, atoms, support)


def categorical_cross_entropy(logits: th.Tensor, targets: th.Tensor) -> th.Tensor:
    """
    Compute ``- sum_k target log softmax(logits)``.

    :param logits: shape (..., K)
    :param targets: probabilities, shape (..., K), detached
    :return: shape (...)
    :raises ValueError: if the shapes differ, because broadcasting would give a wrong loss
    """
    if logits.shape != targets.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)} must have one shape")
    return -(targets * logits.log_softmax(dim=-1)).sum(dim=-1)


def categorical_critic_loss(logits: th.Tensor, targets: th.Tensor, weights: th.Tensor | None = None) -> th.Tensor:
    """
    Compute the cross-entropy ``- sum_i mean_B w sum_k target log softmax(logits)``.

    It sums over critics, so the gradient of one critic does not depend on N.

    :param logits: shape (N, B, K)
    :param targets: probabilities, shape (N, B, K), detached
    :param weights: w, the importance weights of prioritized replay, shape (B,); ``None`` means 1
    :return: a scalar
    :raises ValueError: if the shapes differ, because broadcasting would give a wrong loss
    """
    losses = categorical_cross_entropy(logits, targets)
    if weights is not None:
        if weights.shape != losses.shape[1:]:
            raise ValueError(f"weights {tuple(weights.shape)} must have the shape {tuple(losses.shape[1:])}")
        losses = weights * losses
    return losses.mean(dim=1).sum()
