"""Spaces of every kind, an environment that has them, and the wrapper that an error message names."""

import re
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Emitting(gym.Env):
    """Samples of its observation space, in episodes of seven steps. Actions outside the action space are refused."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        observation_space.seed(0)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.n_steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        assert action in self.action_space, f"{action!r} is outside {self.action_space}"
        self.n_steps += 1
        return self.observation_space.sample(), 1.0, self.n_steps == 7, False, {}


def box(low: float = -1, high: float = 1, shape: tuple[int, ...] = (3,), dtype: Any = np.float32) -> spaces.Box:
    return spaces.Box(low, high, shape, dtype)


def float32(low: list[float], high: list[float]) -> spaces.Box:
    return spaces.Box(np.float32(low), np.float32(high))


#: Observations that are learned from
HANDLED = [
    *(box(dtype=dtype) for dtype in (np.float16, np.float32, np.float64)),
    *(box(-3, 7, dtype=dtype) for dtype in (np.int8, np.int32, np.int64)),
    *(box(0, 7, dtype=dtype) for dtype in (np.uint8, np.uint16, np.uint32, np.uint64)),
    box(0, 1, dtype=np.bool_),
    box(-np.inf, np.inf),
    box(shape=(3, 4)),
    box(shape=(3, 4, 2)),
    spaces.Discrete(5),
    spaces.Discrete(1),
    spaces.MultiDiscrete([3, 4]),
    spaces.MultiBinary(4),
    spaces.MultiBinary((2, 3)),
]
#: Observations that are refused, with a wrapper
WRAPPED = [
    box(shape=(0,)),
    box(shape=(2, 0)),
    box(shape=()),
    box(-np.inf, 2, shape=()),
    spaces.Discrete(5, start=1),
    spaces.Discrete(5, start=-2),
    spaces.MultiDiscrete([3, 4], start=[1, -2]),
    spaces.MultiDiscrete([[3, 4], [5, 2]]),
    spaces.MultiDiscrete([[3, 4]], start=[[1, 0]]),
    spaces.Text(4),
    spaces.Tuple((spaces.Discrete(3, start=1), box())),
    spaces.OneOf((spaces.Discrete(2), box())),
]
#: Observations that are refused, because nothing of fixed size can hold them
WITHOUT_SIZE = [spaces.Sequence(spaces.Discrete(3)), spaces.Graph(box(), None)]


def in_dict(space: spaces.Space) -> spaces.Dict:
    return spaces.Dict({"a": box(), "b": space})


def policy_of(space: spaces.Space) -> str:
    return "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"


def wrapper_in(message: str, env: gym.Env) -> gym.Env:
    """Wrap an environment as a message says, which names the wrapper in Python code."""
    code = re.search(r"wrap each environment in (gymnasium\.wrappers\..*)$", message, re.DOTALL)
    assert code is not None, message
    return eval(code[1], {"gymnasium": gym, "spaces": spaces, "np": np, "env": env})
