"""Small deduplicating buffers, filled."""

from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_ext import (
    FrameDedupReplayBuffer,
)

ACTIONS = spaces.Discrete(4)


def make(buffer_class: type = FrameDedupReplayBuffer, buffer_size: int = 20, n_envs: int = 2, **kwargs: Any) -> Any:
    space = kwargs.pop("space", spaces.Box(0, 255, (3, 5, 7), np.uint8))
    return buffer_class(buffer_size, space, ACTIONS, "cpu", n_envs, **kwargs)


def fill(buffer: Any, n_steps: int, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    n = buffer.n_envs
    obs = rng.integers(1, 255, (n, *buffer.obs_shape)).astype(buffer.observation_space.dtype)
    for _ in range(n_steps):
        next_obs = np.roll(obs, -1, axis=1)
        next_obs[:, -1] = rng.integers(1, 255, next_obs[:, -1].shape)
        buffer.add(obs, next_obs, np.zeros((n, 1), dtype=int), np.ones(n), np.zeros(n, dtype=bool), [{}] * n)
        obs = next_obs.copy()
