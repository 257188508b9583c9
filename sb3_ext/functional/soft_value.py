"""
Values and policies of soft Q-learning with discrete actions.

- soft values: Haarnoja et al. 2017, https://arxiv.org/abs/1702.08165
- mellowmax: Asadi & Littman 2017, https://arxiv.org/abs/1612.05628
- Munchausen: Vieillard et al. 2020, https://arxiv.org/abs/2007.14430

Every function subtracts the largest value before it divides by the temperature. So values of 1e6 and temperatures of
1e-4 stay finite, and lose no more precision than float32 itself.

Actions may be masked, see :mod:`sb3_ext.functional.action_masks`. They have probability 0, and A counts the others.
"""

import math
from typing import Literal, NamedTuple, get_args

import torch as th

from sb3_ext.functional.action_masks import count_allowed, gaps_to_best
from sb3_ext.functional.q_learning import double_q_learning, q_learning

#: How the Q-values of the next state become one value
SoftBackup = Literal["soft", "boltzmann", "mellowmax", "max"]
SOFT_BACKUPS: tuple[SoftBackup, ...] = get_args(SoftBackup)
#: Values of 1e6 divided by this temperature stay finite, as do their exponentials
SMALLEST_TEMPERATURE = 1e-8


class Munchausen(NamedTuple):
    """
    The settings of Munchausen targets, see :func:`munchausen_bonus`.

    :param temperature: alpha > 0
    :param coef: m
    :param clip: l0 <= 0
    """

    temperature: float
    coef: float
    clip: float


def _logits(q_values: th.Tensor, temperature: th.Tensor | float) -> th.Tensor:
    """Return ``(Q - max Q) / alpha``, shape (B, A); their softmax is the Boltzmann policy, -inf masks an action."""
    return gaps_to_best(q_values) / temperature


def boltzmann_log_policy(q_values: th.Tensor, temperature: th.Tensor | float) -> th.Tensor:
    """
    Compute ``log softmax(Q / alpha)``.

    :param q_values: shape (B, A)
    :param temperature: alpha > 0, a number or a tensor of shape () or (1,)
    :return: shape (B, A); -inf for masked actions
    """
    return th.log_softmax(_logits(q_values, temperature), dim=1)


def policy_entropy(log_policy: th.Tensor) -> th.Tensor:
    """
    Compute ``- sum_a pi log pi``.

    :param log_policy: shape (B, A); -inf for impossible actions, which add nothing
    :return: shape (B,), from 0 to log A
    """
    # The lowest number in place of -inf, because 0 * -inf is NaN
    return -(log_policy.exp() * log_policy.clamp(min=th.finfo(log_policy.dtype).min)).sum(dim=1)


def soft_state_value(
    target_backup: SoftBackup,
    q_values: th.Tensor,
    temperature: th.Tensor | float,
    selector_q: th.Tensor | None = None,
) -> th.Tensor:
    """
    Compute the value of a state under the Boltzmann policy of its Q-values.

    - ``"soft"``: ``alpha logsumexp(Q / alpha)``, the expected Q of the policy plus alpha times its entropy
    - ``"boltzmann"``: the expected Q of the policy
    - ``"mellowmax"``: ``alpha (logsumexp(Q / alpha) - log A)``, with the number A of actions that are not masked
    - ``"max"``: the largest Q

    With ``selector_q`` the policy comes from ``selector_q`` and the values from ``q_values`` (double Q-learning). For
    example, ``"soft"`` is then ``sum_a pi (Q - alpha log pi)``, and ``"max"`` is Double DQN's target.

    :param target_backup: one of :data:`SOFT_BACKUPS`
    :param q_values: shape (B, A)
    :param temperature: alpha > 0, a number or a tensor of shape () or (1,)
    :param selector_q: values of the online network, shape (B, A)
    :return: shape (B,)
    :raises ValueError: for an unknown backup
    """
    if target_backup not in SOFT_BACKUPS:
        raise ValueError(f"target_backup={target_backup!r} is not one of {', '.join(map(repr, SOFT_BACKUPS))}")
    if target_backup == "max":
        return q_learning(q_values) if selector_q is None else double_q_learning(q_values, selector_q)

    logits = _logits(q_values if selector_q is None else selector_q, temperature)
    if target_backup == "boltzmann":
        return _expectation(logits, q_values)
    log_normalizer = th.logsumexp(logits, dim=1, keepdim=True) if target_backup == "soft" else _log_mean_exp(logits)
    if selector_q is None:
        return q_values.max(dim=1).values + (temperature * log_normalizer).squeeze(1)
    # The term -alpha log pi is positive, so an uncertain policy is worth more, which encourages exploration
    return _expectation(logits, q_values - temperature * (logits - log_normalizer))


def _expectation(logits: th.Tensor, values: th.Tensor) -> th.Tensor:
    """Compute ``sum_a pi values``, shape (B,), without the masked actions, whose values may be infinite."""
    return (th.softmax(logits, dim=1) * values.masked_fill(logits == -math.inf, 0.0)).sum(dim=1)


def _log_mean_exp(logits: th.Tensor) -> th.Tensor:
    """
    Compute ``logsumexp - log A``, shape (B, 1), over the actions that are not masked.

    It takes no difference of two large numbers, which would be inexact at high temperatures.
    """
    terms = th.expm1(logits).masked_fill(logits == -math.inf, 0.0)
    # The factor is exactly 1 without a mask
    return th.log1p(terms.mean(dim=1, keepdim=True) * (logits.shape[1] / count_allowed(logits)))


def soft_quantiles(quantiles: th.Tensor, temperature: th.Tensor | float) -> th.Tensor:
    """
    Compute quantiles of the soft value of a state, ``sum_a pi (z - alpha log pi)``, under the policy of their means.

    That is the next return of Munchausen-IQN (appendix of https://arxiv.org/abs/2007.14430). Its mean is the value
    ``"soft"`` of :func:`soft_state_value`, from the means of the quantiles.

    :param quantiles: z of each action, shape (B, T, A); -inf for masked actions
    :param temperature: alpha > 0
    :return: shape (B, T)
    """
    log_policy = boltzmann_log_policy(quantiles.mean(dim=1), temperature).unsqueeze(1)
    terms = quantiles - temperature * log_policy
    return (log_policy.exp() * terms.masked_fill(log_policy == -math.inf, 0.0)).sum(dim=2)


def munchausen_bonus(
    q_values: th.Tensor, actions: th.Tensor, temperature: th.Tensor | float, coef: float, clip: float
) -> th.Tensor:
    """
    Compute ``m clip(alpha log pi(a|s), l0, 0)``, which Munchausen-DQN adds to the reward.

    The clip applies after the log-policy is scaled by alpha.

    :param q_values: values in the state s, shape (B, A): those of the TARGET network in the paper
    :param actions: a, shape (B, 1), integers
    :param temperature: alpha > 0, a number or a tensor of shape () or (1,)
    :param coef: m
    :param clip: l0 <= 0
    :return: shape (B,)
    """
    log_policy = boltzmann_log_policy(q_values, temperature).gather(1, actions).squeeze(1)
    return coef * (temperature * log_policy).clamp(clip, 0.0)
