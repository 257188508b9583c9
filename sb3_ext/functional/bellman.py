"""
Bellman targets, and losses for predictions of them.

Soft policy evaluation: Haarnoja et al. 2018, https://arxiv.org/abs/1812.05905, equations 2 and 5.
"""

from typing import Literal, get_args

import torch as th
from torch.nn import functional as F

#: How errors of values become a loss
ValueLoss = Literal["huber", "mse"]
VALUE_LOSSES: tuple[ValueLoss, ...] = get_args(ValueLoss)


def soft_td_target(
    rewards: th.Tensor,
    dones: th.Tensor,
    discounts: th.Tensor | float,
    next_values: th.Tensor,
    entropy_bonus: th.Tensor | float = 0.0,
) -> th.Tensor:
    """
    Compute ``r + g (1 - d) (V' + entropy bonus)``.

    :param rewards: shape (B,); for n-step returns, the discounted sum of the rewards
    :param dones: shape (B,); 1 only where the next state is terminal (a time limit bootstraps)
    :param discounts: ``gamma``, or shape (B,) with ``gamma ** k`` for a return of k steps
    :param next_values: shape (N, B), one row for each critic; -inf, for a state without a possible action, counts only
        where it is not multiplied by 0
    :param entropy_bonus: ``-alpha log pi(a'|s')``, shape (B,), or 0
    :return: shape (N, B)
    """
    factors = discounts * (1 - dones)
    values = next_values + entropy_bonus
    # Only -inf becomes finite. NaN and inf are signs of divergence and pass through
    values = th.where(factors == 0, values.clamp(min=th.finfo(values.dtype).min), values)
    return rewards + factors * values


def ensemble_critic_loss(q_values: th.Tensor, targets: th.Tensor, weights: th.Tensor | None = None) -> th.Tensor:
    """
    Compute ``0.5 * sum_i mean_B w (Q_i - y_i)^2``.

    As in SB3, the loss sums over critics, so the gradient of one critic does not depend on N.

    :param q_values: shape (N, B)
    :param targets: shape (N, B), detached
    :param weights: w, the importance weights of prioritized replay, shape (B,); ``None`` means 1
    :return: a scalar
    :raises ValueError: if the shapes differ, because broadcasting would give a wrong loss
    """
    if q_values.shape != targets.shape:
        raise ValueError(f"q_values {tuple(q_values.shape)} and targets {tuple(targets.shape)} must have one shape")
    squares = (q_values - targets).square()
    if weights is not None:
        if weights.shape != q_values.shape[1:]:
            raise ValueError(f"weights {tuple(weights.shape)} must have the shape {tuple(q_values.shape[1:])}")
        squares = weights * squares
    return 0.5 * squares.mean(dim=1).sum()


def ensemble_td_errors(q_values: th.Tensor, targets: th.Tensor) -> th.Tensor:
    """
    Compute ``mean_i |Q_i - y_i|``, the error that sets the priority of a transition.

    :param q_values: shape (N, B)
    :param targets: shape (N, B)
    :return: shape (B,), detached
    """
    return (q_values.detach() - targets).abs().mean(dim=0)


def value_loss(
    q_values: th.Tensor, targets: th.Tensor, loss: ValueLoss = "huber", huber_delta: float = 1.0
) -> th.Tensor:
    """
    Compute the loss of each sample, from its error e.

    - ``"huber"``: ``e^2 / 2`` up to ``|e| = huber_delta``, ``huber_delta (|e| - huber_delta / 2)`` beyond. DQN's loss
      has a delta of 1, where SB3's name is ``smooth_l1_loss``
    - ``"mse"``: ``e^2``, as ``torch.nn.functional.mse_loss``

    :param q_values: values of the actions taken, shape (B,)
    :param targets: shape (B,), detached
    :return: shape (B,)
    :raises ValueError: if the shapes differ, because broadcasting would give a wrong loss, or for another loss
    """
    if q_values.shape != targets.shape:
        raise ValueError(f"q_values {tuple(q_values.shape)} and targets {tuple(targets.shape)} must have one shape")
    if loss == "mse":
        return F.mse_loss(q_values, targets, reduction="none")
    if loss == "huber":
        return F.huber_loss(q_values, targets, reduction="none", delta=huber_delta)
    raise ValueError(f"loss={loss!r} is not one of {', '.join(map(repr, VALUE_LOSSES))}")
