"""
Values of the next state in Q-learning with discrete actions.

- Q-learning: Mnih et al. 2015, https://doi.org/10.1038/nature14236
- double Q-learning: van Hasselt et al. 2016, https://arxiv.org/abs/1509.06461
"""

import math

import torch as th


def q_learning(next_q: th.Tensor) -> th.Tensor:
    """Compute ``max_a Q(s', a)``, shape (B,), from the values of the target network, shape (B, A)."""
    return next_q.max(dim=1).values


def double_q_learning(next_q: th.Tensor, selector_q: th.Tensor) -> th.Tensor:
    """
    Compute ``Q(s', argmax_a Q_selector(s', a))``: one network chooses the action, the other one values it.

    :param next_q: values of the target network, shape (B, A)
    :param selector_q: values of the online network, shape (B, A)
    :return: shape (B,)
    """
    return next_q.gather(1, selector_q.argmax(dim=1, keepdim=True)).squeeze(1)


def greedy_log_policy(q_values: th.Tensor) -> th.Tensor:
    """
    Return log-probabilities of the greedy policy: 0 for the best action of each state, the first of equals, else -inf.

    :param q_values: shape (B, A)
    :return: shape (B, A)
    """
    log_policy = th.full_like(q_values, -math.inf)
    return log_policy.scatter_(1, q_values.argmax(dim=1, keepdim=True), 0.0)
