"""
The running scale of returns, by which rewards are divided so that values stay within known limits.

With a bound: FlashSAC, https://arxiv.org/abs/2604.04539. Without one: XQC, https://arxiv.org/abs/2509.25174.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

#: Added to the variance, so that returns that hardly vary are not blown up
_EPSILON = 1e-8
#: The largest absolute return after division, where returns hardly vary
_MOST = 100.0


def next_returns(returns: np.ndarray, rewards: np.ndarray, gamma: float) -> np.ndarray:
    """
    Compute ``gamma G + r``, the sum of all rewards of an episode so far, discounted by their age.

    :param returns: G before the step, 0 where an episode begins, float64, shape (E,)
    :param rewards: shape (E,)
    :return: float64, shape (E,)
    """
    return gamma * returns + rewards


def merge_moments(count: int, mean: float, m2: float, values: np.ndarray) -> tuple[int, float, float]:
    """
    Add values to a mean and a sum of squared deviations.

    Differences of means keep the precision that a sum of squares loses: Chan et al. 1983, "Algorithms for computing the
    sample variance".

    :param count: number of values before
    :param mean: their mean
    :param m2: the sum of the squares of their deviations from it
    :param values: float64, shape (E,), E > 0
    :return: the new count, mean and sum of squared deviations
    """
    new_mean = float(values.mean())
    new_m2 = float(np.square(values - new_mean).sum())
    total, delta = count + values.size, new_mean - mean
    return total, mean + delta * values.size / total, m2 + new_m2 + delta**2 * count * values.size / total


def scale_of_returns(variance: float, largest: float, bound: float | None) -> float:
    """
    Compute ``max(sqrt(variance + 1e-8), largest / bound, largest / 100)``, and 1 where every return was 0.

    The first two terms would give 1e-4 there, and where all returns are equal, and enlarge rewards ten thousand times.

    :param variance: of the returns, >= 0
    :param largest: the largest absolute return, >= 0
    :param bound: the limit > 0 of absolute returns after division; ``None`` leaves the second term out
    :return: > 0
    """
    if largest == 0:
        return 1.0
    deviation = max(math.sqrt(variance + _EPSILON), largest / _MOST)
    return deviation if bound is None else max(deviation, largest / bound)


class ReturnScale:
    """
    The scale of the discounted returns of all environments at all steps so far.

    A return is counted at each step. Termination and truncation alike end it, after its last reward was counted. This
    is SB3's ``VecNormalize``. The code of FlashSAC resets one step earlier, and adds the last reward to the next
    episode.

    :param n_envs: number of environments
    :param gamma: discount factor; may be changed later, and then holds for the rewards that follow
    :param bound: the limit > 0 of absolute returns after division, ``None`` for none; may be changed later
    """

    def __init__(self, n_envs: int, gamma: float, bound: float | None) -> None:
        self.gamma = gamma
        self.bound = bound
        #: Number of returns counted, their mean and the sum of their squared deviations from it
        self.count = 0
        self.mean = 0.0
        self.m2 = 0.0
        #: The largest absolute return
        self.largest = 0.0
        self.restart(n_envs)

    def restart(self, n_envs: int) -> None:
        """Begin new episodes in ``n_envs`` environments. What was counted stays."""
        #: The running returns, shape (E,)
        self.returns = np.zeros(n_envs)

    def update(self, rewards: np.ndarray, dones: np.ndarray) -> None:
        """
        Count one step of all environments.

        :param rewards: finite, shape (E,)
        :param dones: where an episode ended with this step, by termination or truncation, bool, shape (E,)
        :raises ValueError: if the shapes differ, because broadcasting would count wrong returns; nothing is counted
        """
        if not rewards.shape == dones.shape == self.returns.shape:
            raise ValueError(
                f"rewards {rewards.shape} and dones {dones.shape} must have the shape {self.returns.shape}, one number "
                "for each environment"
            )
        returns = next_returns(self.returns, rewards, self.gamma)
        self.count, self.mean, self.m2 = merge_moments(self.count, self.mean, self.m2, returns)
        self.largest = max(self.largest, float(np.abs(returns).max()))
        self.returns = np.where(dones, 0.0, returns)

    @property
    def scale(self) -> float:
        """What to divide rewards by: 1 before the first reward that is not 0, see :func:`scale_of_returns`."""
        return scale_of_returns(self.m2 / max(self.count, 1), self.largest, self.bound)

    def state(self) -> dict[str, Any]:
        """Return everything but ``gamma`` and ``bound`` as Python's numbers, which ``weights_only`` files may have."""
        return {
            "count": self.count,
            "mean": self.mean,
            "m2": self.m2,
            "largest": self.largest,
            "returns": self.returns.tolist(),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """
        Continue from a state. Where it has another number of environments, all begin new episodes.

        :param state: from :meth:`state`
        :raises KeyError: if a part is missing; nothing changes
        """
        returns = np.array(state["returns"], dtype=np.float64)
        count, mean, m2, largest = (state[name] for name in ("count", "mean", "m2", "largest"))
        self.count, self.mean, self.m2, self.largest = count, mean, m2, largest
        self.returns = returns if returns.shape == self.returns.shape else np.zeros_like(self.returns)
