"""Small environments, and a callback that stops in them."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.envs import FakeImageEnv


class Blank(gym.Env):
    """Only there for its spaces."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        self.observation_space, self.action_space = observation_space, action_space


class Vectors(gym.Env):
    """The reward is fixed by the action; each episode is one step long."""

    def __init__(self, n_actions: int = 3, n_inputs: int = 4, as_dict: bool = False) -> None:
        box = spaces.Box(-1.0, 1.0, (n_inputs,), np.float32)
        self.observation_space = spaces.Dict({"a": box, "b": box}) if as_dict else box
        self.action_space = spaces.Discrete(n_actions)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: int) -> Any:
        return self.observation_space.sample(), 0.1 * float(action), True, False, {}


class SameStep(gym.Env):
    """The same observation and the reward 2 in every step."""

    def __init__(self, action_space: spaces.Space | None = None) -> None:
        self.observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.action_space = action_space or spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.array([0.5, -0.5], np.float32), {}

    def step(self, action: Any) -> Any:
        return np.array([0.5, -0.5], np.float32), 2.0, False, False, {}


def images() -> FakeImageEnv:
    """Grey images, always the same ones, for continuous actions."""
    env = FakeImageEnv(screen_height=40, screen_width=40, n_channels=1, discrete=False)
    env.observation_space.seed(0)
    return env


class StopAt(BaseCallback):
    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def _on_step(self) -> bool:
        return self.num_timesteps < self.step
