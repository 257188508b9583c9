"""Exploration noise held for several steps: the noise repetition of FlashSAC, https://arxiv.org/abs/2604.04539."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th


def repeat_probabilities(max_repeat: int) -> np.ndarray:
    """
    Compute ``P(n) ~ n^-2``, a zeta distribution that ends at ``max_repeat``.

    :param max_repeat: the largest number of steps, >= 1
    :return: the probabilities of n = 1, ..., max_repeat, float64, shape (max_repeat,)
    """
    weights = np.arange(1, max_repeat + 1, dtype=np.float64) ** -2
    return weights / weights.sum()


class HeldNoise:
    """
    Gaussian noise that each environment keeps for a random number of steps, drawn anew with each noise.

    The code of FlashSAC draws one number for all environments. Here each has its own. In both, the end of an episode
    cuts no hold. Random numbers come from torch's global generator, which SB3 seeds.

    :param max_repeat: the largest number of steps, >= 1; with 1 the numbers are those of ``th.randn`` in each step
    :param n_envs: E, number of environments
    :param n_actions: A, number of action dimensions
    """

    def __init__(self, max_repeat: int, n_envs: int, n_actions: int) -> None:
        self.max_repeat = max_repeat
        self._probabilities = th.from_numpy(repeat_probabilities(max_repeat))
        self._noise = th.zeros(n_envs, n_actions, dtype=th.float32, device="cpu")
        # Steps for which the noise is still kept, 0 where new noise is due
        self._remaining = th.zeros(n_envs, dtype=th.int64, device="cpu")

    @property
    def shape(self) -> tuple[int, ...]:
        """E and A."""
        return tuple(self._noise.shape)

    def sample(self) -> th.Tensor:
        """
        Return the noise of the next step, after drawing it anew where it was kept long enough.

        :return: standard normal at each step, float32, on the CPU, shape (E, A); the caller's own
        """
        is_due = self._remaining == 0
        n_due = int(is_due.sum())
        if n_due:
            shape = (n_due, self._noise.shape[1])
            self._noise[is_due] = th.randn(shape, dtype=th.float32, device="cpu")
            self._remaining[is_due] = self._draw_repeats(n_due)
        self._remaining -= 1
        return self._noise.clone()

    def _draw_repeats(self, n: int) -> th.Tensor:
        if self.max_repeat == 1:  # certain, and needs no random number
            return th.ones(n, dtype=th.int64, device="cpu")
        return th.multinomial(self._probabilities, n, replacement=True) + 1

    def state(self) -> dict[str, Any]:
        """Return the noise and how long it is kept as Python's numbers, which ``weights_only`` files may have."""
        return {"noise": self._noise.tolist(), "remaining": self._remaining.tolist()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """
        Continue from a state. Where it has another number of environments, all draw new noise.

        With a smaller ``max_repeat`` than that of the state, no hold lasts longer than the smaller one allows.

        :param state: from :meth:`state`
        :raises KeyError: if a part is missing; nothing changes
        """
        noise = th.tensor(state["noise"], dtype=th.float32, device="cpu")
        remaining = th.tensor(state["remaining"], dtype=th.int64, device="cpu")
        if noise.shape != self._noise.shape:
            noise, remaining = th.zeros_like(self._noise), th.zeros_like(self._remaining)
        self._noise, self._remaining = noise, remaining.clamp(max=self.max_repeat - 1)
