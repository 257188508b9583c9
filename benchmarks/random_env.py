"""An environment that costs next to nothing, because only the training is measured."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

# Observations and actions of MuJoCo's environments
DIMENSIONS = {"humanoid": (376, 17), "hopper": (11, 3)}
# REDQ's minibatch, and its updates per environment step
BATCH_SIZE = 256
UTD = 20


class RandomEnv(gym.Env):
    """
    Random observations, in episodes that never end.

    :param observation_space: a space to draw from
    :param action_space: whose actions have no effect
    """

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        observation_space.seed(0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), float(self.np_random.normal()), False, False, {}


def like_mujoco(name: str) -> RandomEnv:
    """
    :param name: a key of ``DIMENSIONS``
    :return: an environment with spaces of that shape and of MuJoCo's types
    """
    n_observations, n_actions = DIMENSIONS[name]
    return RandomEnv(
        spaces.Box(-np.inf, np.inf, (n_observations,), np.float64), spaces.Box(-1.0, 1.0, (n_actions,), np.float32)
    )


def like_atari() -> RandomEnv:
    """
    :return: an environment with four stacked frames and six actions
    """
    return RandomEnv(spaces.Box(0, 255, (84, 84, 4), np.uint8), spaces.Discrete(6))


def like_cart_pole() -> RandomEnv:
    """
    :return: an environment with four observations and two actions
    """
    return RandomEnv(spaces.Box(-np.inf, np.inf, (4,), np.float32), spaces.Discrete(2))
