"""
Values and policies of soft Q-learning with discrete actions.

Soft values: Haarnoja et al. 2017, https://arxiv.org/abs/1702.08165; mellowmax: Asadi & Littman 2017,
https://arxiv.org/abs/1612.05628; Munchausen: Vieillard et al. 2020, https://arxiv.org/abs/2007.14430.

Every function subtracts the largest value before it divides by the temperature, so that values of 1e6 and temperatures
of 1e-4 stay finite, and exact to float32's precision of the values themselves.
"""

from typing import Literal, get_args

import torch as th

from sb3_ext.functional.q_learning import double_q_learning, q_learning

#: What the Q-values of the next state can be backed up as
SoftBackup = Literal["soft", "boltzmann", "mellowmax", "max"]
SOFT_BACKUPS: tuple[SoftBackup, ...] = get_args(SoftBackup)


def _logits(q_values: th.Tensor, temperature: th.Tensor | float) -> th.Tensor:
    """
    :param q_values: shape (B, A)
    :param temperature: alpha > 0
    :return: ``(Q - max Q) / alpha``, shape (B, A): the Boltzmann policy is their softmax
    """
    return (q_values - q_values.max(dim=1, keepdim=True).values) / temperature


def boltzmann_log_policy(q_values: th.Tensor, temperature: th.Tensor | float) -> th.Tensor:
    """
    ``log softmax(Q / alpha)``.

    :param q_values: shape (B, A)
    :param temperature: alpha > 0, a number or a tensor of shape () or (1,)
    :return: shape (B, A)
    """
    return th.log_softmax(_logits(q_values, temperature), dim=1)


def policy_entropy(log_policy: th.Tensor) -> th.Tensor:
    """
    ``- sum_a pi log pi``.

    :param log_policy: shape (B, A)
    :return: shape (B,), from 0 to log A
    """
    return -(log_policy.exp() * log_policy).sum(dim=1)


def soft_state_value(
    target_backup: SoftBackup,
    q_values: th.Tensor,
    temperature: th.Tensor | float,
    selector_q: th.Tensor | None = None,
) -> th.Tensor:
    """
    The value of a state under the Boltzmann policy of its Q-values.

    ``"soft"``: ``alpha logsumexp(Q / alpha)``, which is the policy's expected Q plus alpha times its entropy;
    ``"boltzmann"``: its expected Q; ``"mellowmax"``: ``alpha (logsumexp(Q / alpha) - log A)``; ``"max"``: the largest
    Q.

    With ``selector_q`` the policy is theirs and the values stay those of ``q_values`` (double Q-learning):
    ``sum_a pi (Q - alpha log pi)`` for ``"soft"``, and so on; ``"max"`` is then Double DQN's.

    :param target_backup: one of :data:`SOFT_BACKUPS`
    :param q_values: shape (B, A)
    :param temperature: alpha > 0, a number or a tensor of shape () or (1,)
    :param selector_q: values of another network, the online one, shape (B, A)
    :return: shape (B,)
    :raises ValueError: for an unknown backup
    """
    if target_backup not in SOFT_BACKUPS:
        raise ValueError(f"target_backup={target_backup!r} is not one of {', '.join(map(repr, SOFT_BACKUPS))}")
    if target_backup == "max":
        return q_learning(q_values) if selector_q is None else double_q_learning(q_values, selector_q)

    logits = _logits(q_values if selector_q is None else selector_q, temperature)
    if target_backup == "boltzmann":
        return (th.softmax(logits, dim=1) * q_values).sum(dim=1)
    if target_backup == "soft":
        log_normalizer = th.logsumexp(logits, dim=1, keepdim=True)
    else:
        # logsumexp - log A, without the difference of two large numbers at high temperatures
        log_normalizer = th.log1p(th.expm1(logits).mean(dim=1, keepdim=True))
    if selector_q is None:
        return q_values.max(dim=1).values + (temperature * log_normalizer).squeeze(1)
    # Minus alpha log pi, which is positive: an uncertain policy is worth more, and that makes it explore
    return (th.softmax(logits, dim=1) * (q_values - temperature * (logits - log_normalizer))).sum(dim=1)


def munchausen_bonus(
    q_values: th.Tensor, actions: th.Tensor, temperature: th.Tensor | float, coef: float, clip: float
) -> th.Tensor:
    """
    ``m clip(alpha log pi(a|s), l0, 0)``: what Munchausen-DQN adds to the reward. The already scaled log-policy is
    clipped.

    :param q_values: of the TARGET network in the state s, shape (B, A)
    :param actions: a, shape (B, 1), integers
    :param temperature: alpha > 0, a number or a tensor of shape () or (1,)
    :param coef: m
    :param clip: l0 <= 0
    :return: shape (B,)
    """
    log_policy = boltzmann_log_policy(q_values, temperature).gather(1, actions).squeeze(1)
    return coef * (temperature * log_policy).clamp(clip, 0.0)
