"""
Bellman targets and the losses towards them.

Soft policy evaluation: Haarnoja et al. 2018, https://arxiv.org/abs/1812.05905, equations 2 and 5.
"""

import torch as th


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


def ensemble_critic_loss(q_values: th.Tensor, targets: th.Tensor) -> th.Tensor:
    """
    ``0.5 * sum_i mean_B (Q_i - y_i)^2``, SB3's convention: the gradient of one critic does not depend on N.

    :param q_values: shape (N, B)
    :param targets: shape (N, B), detached
    :return: a scalar
    :raises ValueError: if the shapes differ, which would broadcast to a wrong loss
    """
    if q_values.shape != targets.shape:
        raise ValueError(f"q_values {tuple(q_values.shape)} and targets {tuple(targets.shape)} must have one shape")
    return 0.5 * (q_values - targets).square().mean(dim=1).sum()
