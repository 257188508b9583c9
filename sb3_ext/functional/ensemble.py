"""
What an ensemble of critics says about the next state: the backups of REDQ and its relatives.

Notation: N critics, B samples of a minibatch, M critics of a random subset.

- REDQ, and the comparison of backups: Chen et al. 2021, https://arxiv.org/abs/2101.05982
- clipped double Q-learning (``min`` with N = 2): Fujimoto et al. 2018, https://arxiv.org/abs/1802.09477
- random ensemble mixture (``rem``): Agarwal et al. 2020, https://arxiv.org/abs/1907.04543
"""

import math
from collections.abc import Callable

import torch as th

BACKUPS = ("vanilla", "doubleq", "min", "mean", "redq", "rem")
AGGREGATES = ("mean", "min")


def _vanilla(next_q: th.Tensor) -> th.Tensor:
    return next_q


def _doubleq(next_q: th.Tensor) -> th.Tensor:
    # A cyclic shift, not a reversal: with odd N a reversal would give the middle critic its own value.
    return next_q.roll(-1, dims=0)


def _min(next_q: th.Tensor) -> th.Tensor:
    return next_q.amin(dim=0, keepdim=True)


def _mean(next_q: th.Tensor) -> th.Tensor:
    return next_q.mean(dim=0, keepdim=True)


def _rem(next_q: th.Tensor, mixture: th.Tensor | None = None) -> th.Tensor:
    if mixture is None:
        mixture = random_mixture_weights(next_q.shape[0], next_q.shape[1], dtype=next_q.dtype, device=next_q.device)
    return (mixture * next_q).sum(dim=0, keepdim=True)


# ``redq`` is the minimum over the critics it was given: only the subset is ever evaluated.
_BACKUP_FUNCTIONS: dict[str, Callable[..., th.Tensor]] = {
    "vanilla": _vanilla,
    "doubleq": _doubleq,
    "min": _min,
    "mean": _mean,
    "redq": _min,
    "rem": _rem,
}


def ensemble_backup(backup: str, next_q: th.Tensor, n_critics: int, mixture: th.Tensor | None = None) -> th.Tensor:
    """
    The value of the next state-action pair that each critic is to learn.

    :param backup: one of ``BACKUPS``
    :param next_q: values of the target critics, shape (N, B); for ``redq`` those of the subset, shape (M, B)
    :param n_critics: N, the number of critics that are to learn
    :param mixture: for ``rem``: the convex combinations, shape (N, B); ``None``: :func:`random_mixture_weights` draws
        them. The others do without
    :return: shape (N, B): row i is the value for critic i (a view where all critics share one value)
    :raises ValueError: if ``backup`` is unknown
    """
    if backup not in _BACKUP_FUNCTIONS:
        raise ValueError(f"target_backup={backup!r} is not one of {', '.join(BACKUPS)}")
    drawn = {"mixture": mixture} if backup == "rem" else {}
    return _BACKUP_FUNCTIONS[backup](next_q, **drawn).expand(n_critics, -1)


def random_mixture_weights(
    n_critics: int, batch_size: int, dtype: th.dtype = th.float32, device: th.device | str = "cpu"
) -> th.Tensor:
    """
    One random convex combination of the critics for every sample: uniform numbers divided by their sum.

    :param n_critics: N
    :param batch_size: B
    :param dtype: of the weights
    :param device: where they are drawn
    :return: shape (N, B), non-negative, each column sums to 1
    """
    # 1 - u lies in (0, 1], so that the sum is never zero
    weights = 1.0 - th.rand(n_critics, batch_size, dtype=dtype, device=device)
    return weights / weights.sum(dim=0, keepdim=True)


def random_subset(n_critics: int, subset_size: float, device: th.device | str = "cpu") -> th.Tensor | None:
    """
    Draw the critics of one REDQ target, without replacement.

    A fractional size is random: 1.5 gives two critics with probability 0.5, else one, as in the authors' code.

    :param n_critics: N
    :param subset_size: M, in [1, N]
    :param device: where they are drawn, so that on a GPU nothing waits for a copy
    :return: the indices, shape (M,); ``None`` if the subset is the whole ensemble, in which
        case no random number is drawn and REDQ with M = N is ``min`` to the bit
    """
    size = math.floor(subset_size)
    if size < subset_size:
        size += int(th.rand(()).item() < subset_size - size)
    if size == n_critics:
        return None
    # The places of the largest of N random numbers. (`randperm` has no form that a CUDA graph can repeat)
    return th.rand(n_critics, device=device).topk(size).indices


def aggregate_q(q_values: th.Tensor, how: str) -> th.Tensor:
    """
    One value from the ensemble, for the actor's objective.

    :param q_values: shape (N, ...)
    :param how: ``"mean"`` (REDQ) or ``"min"`` (SAC)
    :return: shape (...)
    :raises ValueError: if ``how`` is unknown
    """
    if how == "mean":
        return q_values.mean(dim=0)
    if how == "min":
        return q_values.amin(dim=0)
    raise ValueError(f"actor_q={how!r} is not one of {', '.join(AGGREGATES)}")
