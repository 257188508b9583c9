"""
Bellman targets and the losses towards them.

Soft policy evaluation: Haarnoja et al. 2018, https://arxiv.org/abs/1812.05905, equations 2 and 5.
"""

import torch as th
from torch.nn import functional as F


def soft_td_target(
    rewards: th.Tensor,
    dones: th.Tensor,
    discounts: th.Tensor | float,
    next_values: th.Tensor,
    entropy_bonus: th.Tensor | float = 0.0,
) -> th.Tensor:
    """
    ``r + g (1 - d) (V' + entropy bonus)``.

    :param rewards: shape (B,); the discounted sum of the rewards for n-step returns
    :param dones: shape (B,); 1 only where the next state is terminal (a time limit bootstraps)
    :param discounts: ``gamma``, or shape (B,) with ``gamma ** k`` for k steps really taken
    :param next_values: shape (N, B), the value for each critic
    :param entropy_bonus: shape (B,), ``-alpha log pi(a'|s')``, or 0
    :return: shape (N, B)
    """
    return rewards + discounts * (1 - dones) * (next_values + entropy_bonus)


def ensemble_critic_loss(q_values: th.Tensor, targets: th.Tensor, weights: th.Tensor | None = None) -> th.Tensor:
    """
    ``0.5 * sum_i mean_B w (Q_i - y_i)^2``, SB3's convention: the gradient of one critic does not depend on N.

    :param q_values: shape (N, B)
    :param targets: shape (N, B), detached
    :param weights: w, importance weights of prioritised replay, shape (B,); ``None``: 1
    :return: a scalar
    :raises ValueError: if the shapes differ, which would broadcast to a wrong loss
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
    ``mean_i |Q_i - y_i|``: what prioritised replay takes for the error of a transition.

    :param q_values: shape (N, B)
    :param targets: shape (N, B)
    :return: shape (B,), detached
    """
    return (q_values.detach() - targets).abs().mean(dim=0)


def huber_value_loss(q_values: th.Tensor, targets: th.Tensor) -> th.Tensor:
    """
    DQN's loss of each sample: ``delta^2 / 2`` up to ``|delta| = 1``, linear from there (SB3's ``smooth_l1_loss``).

    :param q_values: of the actions taken, shape (B,)
    :param targets: shape (B,), detached
    :return: shape (B,)
    :raises ValueError: if the shapes differ, which would broadcast to a wrong loss
    """
    if q_values.shape != targets.shape:
        raise ValueError(f"q_values {tuple(q_values.shape)} and targets {tuple(targets.shape)} must have one shape")
    return F.smooth_l1_loss(q_values, targets, reduction="none")
