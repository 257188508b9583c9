"""
Windows: the consecutive transitions of one environment that follow a sampled transition.

A window stops at the last step of an episode and at the newest stored transition. The slot after the newest one holds
the oldest transition or nothing.
"""

from functools import cached_property

import numpy as np

from sb3_ext.buffers.transitions import Observations, TransitionStorage


def following_slots(slots: np.ndarray, length: int, capacity: int) -> np.ndarray:
    """Return the slots from B first ones on, in the order of time, shape (B, ``length``). Slot 0 follows the last."""
    return (slots[:, None] + np.arange(length)) % capacity


def window_lengths(ends: np.ndarray) -> np.ndarray:
    """Count the steps of each window up to its first stop, which is included: from shape (B, L) to (B,)."""
    stops = ends.copy()
    stops[:, -1] = True
    return stops.argmax(axis=1) + 1


def repeated_slots(slots: np.ndarray, lengths: np.ndarray, length: int, capacity: int) -> np.ndarray:
    """
    Do the same as :func:`following_slots`, but from the end of a window on, repeat its last slot.

    :param lengths: number of steps in each window, from 1 to ``length``, shape (B,)
    """
    return (slots[:, None] + np.minimum(np.arange(length), lengths[:, None] - 1)) % capacity


class Window:
    """
    The L consecutive transitions that begin with each of B given ones, as numpy arrays of shape (B, L, ...).

    Windows near the end of an episode have fewer than L steps. Entries after the last valid step repeat that step, so
    use ``valid`` as a mask. Arrays are read from the buffer when they are first accessed. Access them before the next
    ``add()``, which may overwrite transitions.

    Use :meth:`~sb3_ext.buffers.base.LazyReplayBuffer.window` to create one.

    :param storage: the buffer to read from
    :param slots: slot of each first transition, shape (B,)
    :param envs: environment of each window, shape (B,)
    :param length: L, at least 1
    """

    def __init__(self, storage: TransitionStorage, slots: np.ndarray, envs: np.ndarray, length: int) -> None:
        self._storage = storage
        self._first_slots = slots
        self._envs = envs
        self._length = length
        self._following = following_slots(slots, length, storage.buffer_size)
        self._following_ends = storage.ends_at(self._following, envs[:, None])
        #: Number of valid steps, from 1 to L, shape (B,)
        self.lengths = window_lengths(self._following_ends)

    @property
    def last_slots(self) -> np.ndarray:
        """Slot of the last valid step, shape (B,)."""
        return (self._first_slots + self.lengths - 1) % self._storage.buffer_size

    @cached_property
    def slots(self) -> np.ndarray:
        """Slot of each step, shape (B, L)."""
        return repeated_slots(self._first_slots, self.lengths, self._length, self._storage.buffer_size)

    @property
    def envs(self) -> np.ndarray:
        """Environment of each step, shape (B, L)."""
        return np.broadcast_to(self._envs[:, None], self._following.shape)

    @cached_property
    def valid(self) -> np.ndarray:
        """Whether the step belongs to the window, bool, shape (B, L); always true for the first step."""
        return np.arange(self._length) < self.lengths[:, None]

    @cached_property
    def ends(self) -> np.ndarray:
        """Whether the step is the last of its episode or the newest one stored, bool, shape (B, L)."""
        return self._following_ends | ~self.valid

    @cached_property
    def rewards(self) -> np.ndarray:
        """Rewards, not normalized, float32, shape (B, L)."""
        return self._storage.rewards[self.slots, self.envs]

    @property
    def unmasked_rewards(self) -> np.ndarray:
        """
        Rewards of the slots that follow, also after the last valid step, shape (B, L).

        n-step returns multiply the latter by zero, as SB3 does. This is faster than finding the slots to repeat.
        """
        return self._storage.rewards.take(self._following * self._storage.n_envs + self._envs[:, None])

    @cached_property
    def dones(self) -> np.ndarray:
        """1 where the episode terminated, 0 where it goes on or was truncated, float32, shape (B, L)."""
        return self._storage.terminated_at(self.slots, self.envs)

    @cached_property
    def log_probs(self) -> np.ndarray:
        """Log-probabilities of the actions, float32, shape (B, L); only from a buffer with ``store_log_probs``."""
        return self._storage.log_probs[self.slots, self.envs]

    @cached_property
    def actions(self) -> np.ndarray:
        """Actions, shape (B, L, action_dim)."""
        return self._storage.actions[self.slots, self.envs]

    @property
    def observations(self) -> Observations:
        """Observations, shape (B, L, ``*shape``), or a dictionary of such arrays."""
        return self._both_observations[0]

    @property
    def next_observations(self) -> Observations:
        """Observations after each step, the last one of an episode included; shapes as ``observations``."""
        return self._both_observations[1]

    @cached_property
    def _both_observations(self) -> tuple[Observations, Observations]:
        both = self._storage.read_observations(self.slots.ravel(), self.envs.ravel())
        return self._with_steps(both[0]), self._with_steps(both[1])

    def _with_steps(self, observations: Observations) -> Observations:
        if isinstance(observations, dict):
            return {key: array.reshape(*self.slots.shape, *array.shape[1:]) for key, array in observations.items()}
        return observations.reshape(*self.slots.shape, *observations.shape[1:])
