"""
Measures that tell a healthy critic from a failing one.

They are the bias against Monte-Carlo returns, the disagreement of an ensemble, inactive units and the rank of features:

- normalized bias: Chen et al. 2021, https://arxiv.org/abs/2101.05982
- dormant units: Sokar et al. 2023, https://arxiv.org/abs/2302.12902
- effective rank: Kumar et al. 2021, https://arxiv.org/abs/2010.14498
"""

import math
from collections.abc import Sequence

import torch as th


def discounted_returns(rewards: th.Tensor, gamma: float) -> th.Tensor:
    """
    Compute ``G_t = sum_{k >= 0} gamma^k r_{t+k}`` up to the last reward of an episode.

    :param rewards: rewards of one episode in order, shape (T,)
    :param gamma: discount, in [0, 1]
    :return: shape (T,), float64
    :raises ValueError: if ``rewards`` has another shape
    """
    return soft_returns(rewards, th.zeros_like(rewards), gamma)


def soft_returns(
    rewards: th.Tensor,
    entropy_bonuses: th.Tensor,
    gamma: float,
    n_steps: int = 1,
    reward_bonuses: th.Tensor | None = None,
) -> th.Tensor:
    """
    Compute the returns that a maximum-entropy critic estimates.

    Source: Haarnoja et al. 2018, https://arxiv.org/abs/1812.05905, equations 2 and 3.

    ``G_t = r_t + sum_{k >= 1} gamma^k (r_{t+k} + b_{t+k})``, ``b = -alpha log pi(a|s)``.

    The entropy of the first action is NOT part of it. A critic of n-step returns counts entropy only where it
    bootstraps. So only the ``b_{t+k}`` with k = n, 2n, 3n, ... count. Such a critic adds a Munchausen bonus once to an
    n-step return, for its first action. So those of k = 0, n, 2n, ... count.

    :param rewards: rewards of one episode in order, shape (T,)
    :param entropy_bonuses: b of each step, shape (T,)
    :param gamma: discount, in [0, 1]
    :param n_steps: n >= 1
    :param reward_bonuses: what the critic adds to the reward of each step, shape (T,); ``None``: nothing
    :return: shape (T,), float64
    :raises ValueError: if the shapes differ or are not (T,), or if ``n_steps`` is below 1
    """
    if rewards.ndim != 1 or rewards.shape != entropy_bonuses.shape:
        raise ValueError(
            f"rewards {tuple(rewards.shape)} and entropy_bonuses {tuple(entropy_bonuses.shape)} must have one shape "
            "(T,)"
        )
    if n_steps < 1:
        raise ValueError(f"n_steps={n_steps} must be at least 1")
    reward_bonuses = th.zeros_like(rewards) if reward_bonuses is None else reward_bonuses
    if reward_bonuses.shape != rewards.shape:
        raise ValueError(f"reward_bonuses {tuple(reward_bonuses.shape)} must have the shape {tuple(rewards.shape)}")
    added = reward_bonuses.double().tolist()
    reward_list, bonus_list = rewards.double().tolist(), entropy_bonuses.double().tolist()
    length = len(reward_list)
    # Beyond the end of the episode, everything is zero.
    returns, bonuses = [0.0] * (length + 1), [0.0] * (length + n_steps)
    for t in reversed(range(length)):
        returns[t] = reward_list[t] + gamma * returns[t + 1]
        bonuses[t] = added[t]
        if t + n_steps < length:
            bonuses[t] += gamma**n_steps * (bonus_list[t + n_steps] + bonuses[t + n_steps])
    sums = [a + b for a, b in zip(returns[:length], bonuses[:length], strict=True)]
    return th.tensor(sums, dtype=th.float64, device=rewards.device)


def tail_length(gamma: float, tolerance: float) -> int | None:
    """
    Count the rewards that a return needs if its episode was cut off: the smallest k with ``gamma^k <= tolerance``.

    The rewards after the cut are missing. They are worth ``gamma^k`` times the value of the next state, which is
    unknown.

    :param gamma: discount, in [0, 1]
    :param tolerance: in (0, 1]
    :return: k; ``None`` if nothing is discounted, so that only episodes that terminate have returns
    :raises ValueError: if an argument is outside its range
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma={gamma} must be in [0, 1]")
    if not 0 < tolerance <= 1:
        raise ValueError(f"tolerance={tolerance} must be in (0, 1]")
    if gamma == 1:
        return None if tolerance < 1 else 0
    if gamma == 0:
        return 0 if tolerance == 1 else 1
    length = math.ceil(math.log(tolerance) / math.log(gamma))
    # Rounding may put the quotient of the logarithms on the wrong side of an integer.
    while gamma**length > tolerance:
        length += 1
    while length > 0 and gamma ** (length - 1) <= tolerance:
        length -= 1
    return length


def n_known_returns(length: int, terminated: bool, tail: int | None) -> int:
    """
    Count the states of an episode, from the first one on, whose Monte-Carlo return is known.

    Nothing bootstraps here. The last states of an episode that was cut off do not count, because rewards are missing.

    :param length: T, the number of rewards of the episode
    :param terminated: whether the episode ended in a terminal state, rather than at a time limit
    :param tail: from :func:`tail_length`
    :return: T if the episode terminated; otherwise the number of states followed by at least ``tail`` rewards
    """
    if terminated:
        return length
    return 0 if tail is None else min(max(length - tail + 1, 0), length)


def normalized_bias(q_values: th.Tensor, returns: th.Tensor) -> th.Tensor:
    """
    Compute ``(Q - Q_pi) / |mean Q_pi|``: REDQ's bias in units of the mean value.

    Its mean tells whether a critic overestimates or underestimates. Its standard deviation tells how uneven the bias
    is. A constant bias would change no greedy action.

    :param q_values: Q of B state-action pairs, shape (B,)
    :param returns: Monte-Carlo returns of the same pairs, as estimates of Q_pi, shape (B,)
    :return: shape (B,), float64; not finite if the mean return is 0
    :raises ValueError: if the two shapes differ or are not (B,) with B >= 1
    """
    if q_values.ndim != 1 or q_values.shape != returns.shape or len(returns) == 0:
        raise ValueError(
            f"q_values {tuple(q_values.shape)} and returns {tuple(returns.shape)} must have one shape (B,), B >= 1"
        )
    q_values, returns = q_values.double(), returns.double()
    return (q_values - returns) / returns.mean().abs()


def ensemble_disagreement(q_values: th.Tensor) -> th.Tensor:
    """
    Compute the standard deviation over the N critics, averaged over the batch.

    The deviation divides by N, because it describes these critics and not a larger population. Actions that every
    critic masks by -inf do not count.

    :param q_values: shape (N, B)
    :return: a scalar, in the units of Q; NaN if all actions are masked
    :raises ValueError: for fewer than two critics
    """
    if q_values.ndim != 2 or len(q_values) < 2:
        raise ValueError(f"q_values {tuple(q_values.shape)} must have the shape (N, B) with N >= 2")
    is_valued = (q_values != -math.inf).any(dim=0)
    return q_values[:, is_valued].std(dim=0, correction=0).mean()


def dormancy_scores(mean_activations: th.Tensor) -> th.Tensor:
    """
    Compute ``s_i = E|h_i| / mean_k E|h_k|``: the activity of a unit relative to the average unit of its layer.

    :param mean_activations: ``E|h_i|`` over the inputs for each of the H units of a layer, shape (..., H), >= 0
    :return: the same shape; all 0 for a layer without any activity
    """
    average = mean_activations.mean(dim=-1, keepdim=True)
    return th.where(average > 0, mean_activations / average, th.zeros_like(mean_activations))


def dormant_fraction(scores: Sequence[th.Tensor], threshold: float) -> float:
    """
    Compute the fraction of tau-dormant units over all layers: the units whose score is at most tau.

    With tau = 0 they are exactly the dead units, which are 0 for every input.

    :param scores: one tensor of any shape for each layer, see :func:`dormancy_scores`
    :param threshold: tau >= 0
    :return: in [0, 1]
    :raises ValueError: if there is no unit, or the threshold is negative
    """
    n_units = sum(layer.numel() for layer in scores)
    if n_units == 0:
        raise ValueError(f"scores of {len(scores)} layers hold no unit")
    if threshold < 0:
        raise ValueError(f"threshold={threshold} must be at least 0")
    return sum(int((layer <= threshold).sum()) for layer in scores) / n_units


def effective_rank(features: th.Tensor, delta: float = 0.01) -> int:
    """
    Compute ``srank_delta``: the smallest k for which the k largest singular values make up ``1 - delta`` of their sum.

    :param features: features of B states, shape (B, d)
    :param delta: in [0, 1)
    :return: from 1 to min(B, d); 0 if all features are 0
    :raises ValueError: if ``features`` is no matrix or ``delta`` is outside its range
    """
    if features.ndim != 2:
        raise ValueError(f"features {tuple(features.shape)} must have the shape (B, d)")
    if not 0 <= delta < 1:
        raise ValueError(f"delta={delta} must be in [0, 1)")
    singular_values = th.linalg.svdvals(features.double())
    cumulated = singular_values.cumsum(dim=0)
    if cumulated[-1] == 0:
        return 0
    return int((cumulated < (1 - delta) * cumulated[-1]).sum()) + 1
