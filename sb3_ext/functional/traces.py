"""
Off-policy corrections of returns over several steps.

The target of the first of n transitions is

    y = r_0 + gamma (1 - d_0) V'(s_1) + sum_{k=1..n-1} gamma^k c_1 ... c_k delta_k,
    delta_k = r_k + gamma (1 - d_k) V'(s_{k+1}) - Q'(s_k, a_k),    V'(s) = E_{a~pi} Q'(s, a).

Each delta has mean 0 where Q' is the value of the policy pi, whatever policy mu chose the actions. So these targets
have no bias there, which plain n-step returns have unless pi equals mu. The coefficients c say how far to trust the
transitions that follow. The first action is given, and needs none.

- tree backup: Precup et al. 2000, and with lambda Harutyunyan et al. 2016, https://arxiv.org/abs/1602.04951
- Retrace: Munos et al. 2016, https://arxiv.org/abs/1606.02647, whose table 1 has all of them
- cut at the first action that is not greedy: Watkins 1989

With an entropy term, V' includes it: ``V'(s) = E_{a~pi} [Q'(s, a) - alpha log pi(a|s)]``.
"""

import math
from typing import Literal, get_args

import torch as th

from sb3_ext.functional.bellman import soft_td_target

#: How returns over several steps are corrected for actions that the policy would not choose
NStepCorrection = Literal["none", "cut", "tree_backup", "retrace", "importance"]
N_STEP_CORRECTIONS: tuple[NStepCorrection, ...] = get_args(NStepCorrection)
#: Those that divide by the probability with which the action was chosen
RATIO_CORRECTIONS: tuple[NStepCorrection, ...] = ("retrace", "importance")
#: Those in which lambda occurs
LAMBDA_CORRECTIONS: tuple[NStepCorrection, ...] = ("tree_backup", "retrace")
# So that products of ratios stay finite
_LARGEST_LOG_RATIO = 20.0


def trace_coefficients(
    correction: NStepCorrection,
    log_policy: th.Tensor,
    log_behaviour: th.Tensor | None = None,
    greedy: th.Tensor | None = None,
    trace_lambda: float = 1.0,
) -> th.Tensor:
    """
    Compute the coefficients c of actions that were taken.

    - ``"cut"``: 1 if the action is greedy, else 0
    - ``"tree_backup"``: lambda pi
    - ``"retrace"``: lambda min(1, pi / mu)
    - ``"importance"``: pi / mu, which has a large variance; at most e^20

    :param log_policy: log pi(a|s) of the policy whose values are learned, any shape; -inf for impossible actions
    :param log_behaviour: log mu(a|s) when the action was chosen; only for ``"retrace"`` and ``"importance"``
    :param greedy: whether the action is the best, bool; only for ``"cut"``
    :return: the shape of ``log_policy``
    :raises ValueError: for another correction
    """
    if correction == "cut":
        assert greedy is not None
        return greedy.to(log_policy.dtype)
    if correction == "tree_backup":
        return trace_lambda * log_policy.exp()
    if correction in RATIO_CORRECTIONS:
        assert log_behaviour is not None
        # An impossible action ends the trace, whatever its other probability: -inf - -inf would be NaN
        log_ratio = (log_policy - log_behaviour).masked_fill(log_policy == -math.inf, -math.inf)
        if correction == "retrace":
            return trace_lambda * log_ratio.clamp(max=0.0).exp()
        return log_ratio.clamp(max=_LARGEST_LOG_RATIO).exp()
    raise ValueError(f"correction={correction!r} has no coefficients: one of {', '.join(N_STEP_CORRECTIONS[1:])} has")


def return_correction(
    rewards: th.Tensor,
    dones: th.Tensor,
    valid: th.Tensor,
    next_values: th.Tensor,
    values_of_actions: th.Tensor,
    coefficients: th.Tensor,
    gamma: float,
) -> th.Tensor:
    """
    Compute ``sum_k gamma^k c_1 ... c_k delta_k``, what the steps from the second on add to a target of one step.

    Every argument is that of these L - 1 steps, so k begins with 1. Without any, the result is 0.

    :param rewards: r_k, shape (B, L - 1)
    :param dones: d_k, 1 only where the next state is terminal, shape (B, L - 1)
    :param valid: whether the step belongs to the window, bool, shape (B, L - 1)
    :param next_values: V'(s_{k+1}), shape (..., B, L - 1)
    :param values_of_actions: Q'(s_k, a_k), shape (..., B, L - 1)
    :param coefficients: c_k, shape (B, L - 1)
    :return: shape (..., B)
    """
    # Not by a product, because 0 * inf is NaN
    traces = (gamma * coefficients).where(valid, 0.0).cumprod(dim=-1)
    errors = soft_td_target(rewards, dones, gamma, next_values) - values_of_actions
    # Behind the end of a trace are values of masked actions, which are infinite
    return (traces * errors.masked_fill(traces == 0, 0.0)).sum(dim=-1)


def return_before_cut(
    rewards: th.Tensor, is_best: th.Tensor, valid: th.Tensor, gamma: float
) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    """
    Compute uncorrected returns over the steps of each window before the first action that is not the best.

    For a greedy policy they make the same targets as ``"cut"``. They need no values in between, so they are defined for
    distributions of returns as well.

    :param rewards: shape (B, L)
    :param is_best: of the actions from the second step on, bool, shape (B, L - 1)
    :param valid: bool, shape (B, L); always true for the first step
    :return: returns, discounts of the values that follow, and the index of the last step, each of shape (B,)
    """
    last = (is_best & valid[:, 1:]).long().cumprod(dim=1).sum(dim=1)
    steps = th.arange(rewards.shape[1], device=rewards.device)
    weights = (gamma ** steps.to(rewards.dtype)) * (steps <= last.unsqueeze(1))
    return (weights * rewards).sum(dim=1), gamma ** (last + 1).to(rewards.dtype), last
