"""
How an ensemble of critics values the next state: the backups of REDQ and its relatives.

Notation: N critics, B samples of a minibatch, M critics of a random subset.

- REDQ, and the comparison of backups: Chen et al. 2021, https://arxiv.org/abs/2101.05982
- clipped double Q-learning (``min`` with N = 2): Fujimoto et al. 2018, https://arxiv.org/abs/1802.09477
- random ensemble mixture (``rem``): Agarwal et al. 2020, https://arxiv.org/abs/1907.04543
"""

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch as th

TargetBackup = Literal["vanilla", "doubleq", "min", "mean", "redq", "rem"]
TARGET_BACKUPS: tuple[TargetBackup, ...] = get_args(TargetBackup)
ActorQ = Literal["mean", "min"]
ACTOR_QS: tuple[ActorQ, ...] = get_args(ActorQ)


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
    # A critic of weight 0 adds nothing, even if its value is -inf
    return th.where(mixture == 0, 0.0, mixture * next_q).sum(dim=0, keepdim=True)


# ``redq`` is the minimum over the critics passed in, because only the subset is ever evaluated.
_BACKUP_FUNCTIONS: dict[str, Callable[..., th.Tensor]] = {
    "vanilla": _vanilla,
    "doubleq": _doubleq,
    "min": _min,
    "mean": _mean,
    "redq": _min,
    "rem": _rem,
}


def ensemble_backup(
    target_backup: TargetBackup, next_q: th.Tensor, n_critics: int, mixture: th.Tensor | None = None
) -> th.Tensor:
    """
    Compute the value of the next state-action pair for the target of each critic.

    :param target_backup: one of :data:`TARGET_BACKUPS`
    :param next_q: values of the target critics, shape (N, B); for ``redq`` those of the subset, shape (M, B)
    :param n_critics: N, the number of critics that learn
    :param mixture: the convex combinations for ``rem``, shape (N, B); by default :func:`random_mixture_weights` draws
        them. Other backups ignore it
    :return: shape (N, B), row i for critic i; a view where all critics share one value
    :raises ValueError: if ``target_backup`` is unknown
    """
    if target_backup not in _BACKUP_FUNCTIONS:
        raise ValueError(f"target_backup={target_backup!r} is not one of {', '.join(TARGET_BACKUPS)}")
    drawn = {"mixture": mixture} if target_backup == "rem" else {}
    return _BACKUP_FUNCTIONS[target_backup](next_q, **drawn).expand(n_critics, -1)


def random_mixture_weights(
    n_critics: int, batch_size: int, dtype: th.dtype = th.float32, device: th.device | str = "cpu"
) -> th.Tensor:
    """
    Draw one random convex combination of the critics for every sample: uniform numbers divided by their sum.

    :return: shape (n_critics, batch_size), non-negative, each column sums to 1
    """
    # 1 - u lies in (0, 1], so that the sum is never zero
    weights = 1.0 - th.rand(n_critics, batch_size, dtype=dtype, device=device)
    return weights / weights.sum(dim=0, keepdim=True)


def random_subset(n_critics: int, subset_size: float, device: th.device | str = "cpu") -> th.Tensor | None:
    """
    Draw the critics of one REDQ target, without replacement.

    A fractional size is random, as in the authors' code: 1.5 gives one or two critics with probability 0.5 each.

    :param n_critics: N
    :param subset_size: M, in [1, N]
    :param device: where to draw, so that a GPU need not wait for a copy
    :return: the indices, shape (M,); ``None`` for the whole ensemble. That case draws no random number, so REDQ with M
        = N equals ``min`` bit for bit
    """
    size = math.floor(subset_size)
    if size < subset_size:
        size += int(th.rand(()).item() < subset_size - size)
    if size == n_critics:
        return None
    # The indices of the largest of N random numbers, because a CUDA graph cannot repeat `randperm`
    return th.rand(n_critics, device=device).topk(size).indices


def aggregate_q(q_values: th.Tensor, actor_q: ActorQ) -> th.Tensor:
    """
    Reduce the ensemble to one value for the actor's objective.

    :param q_values: shape (N, ...)
    :param actor_q: ``"mean"`` (REDQ) or ``"min"`` (SAC)
    :return: shape (...)
    :raises ValueError: if ``actor_q`` is unknown
    """
    if actor_q == "mean":
        return q_values.mean(dim=0)
    if actor_q == "min":
        return q_values.amin(dim=0)
    raise ValueError(f"actor_q={actor_q!r} is not one of {', '.join(ACTOR_QS)}")
