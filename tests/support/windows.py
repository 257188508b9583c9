"""
Windows of consecutive transitions in plain loops.

The oracle keeps every transition in a list for each environment and walks through it. Nothing here knows about slots
that wrap around: the slot of a transition is its number modulo the capacity.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from sb3_ext import (
    FrameDedupReplayBuffer,
    PrioritizedFrameDedupReplayBuffer,
    PrioritizedReplayBuffer,
)
from sb3_ext.buffers import ArrayReplayBuffer

VECTOR = spaces.Box(-np.inf, np.inf, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (2, 5, 7), np.uint8)
SPACES = {"vector": VECTOR, "image": IMAGE, "dict": spaces.Dict({"image": IMAGE, "vector": VECTOR})}
ACTIONS = spaces.Box(-1, 1, (2,), np.float32)
PRIORITIZED = [PrioritizedReplayBuffer, PrioritizedFrameDedupReplayBuffer]

#: Class and arguments of every storage; "file" gets its path in ``make``
STORAGES: dict[str, tuple[type, dict[str, Any]]] = {
    "arrays": (ArrayReplayBuffer, {}),
    "frames": (FrameDedupReplayBuffer, {}),
    "lz4": (FrameDedupReplayBuffer, {"compression": "lz4"}),
    "file": (FrameDedupReplayBuffer, {"storage_path": None}),
    "prioritized": (PrioritizedReplayBuffer, {}),
    "prioritized frames": (PrioritizedFrameDedupReplayBuffer, {}),
}


class Step(NamedTuple):
    """One transition of one environment."""

    obs: Any
    next_obs: Any
    action: np.ndarray
    reward: np.float32
    terminated: bool
    truncated: bool


class Recorder:
    """
    Random episodes, as a list of steps for each environment.

    :param space: observation space
    :param n_envs: number of environments
    :param p_end: probability that an episode ends at a step
    :param seed: seed of everything random
    """

    def __init__(self, space: spaces.Space, n_envs: int, p_end: float = 0.2, seed: int = 0) -> None:
        self.space = space
        self.p_end = p_end
        self.rng = np.random.default_rng(seed)
        self.steps: list[list[Step]] = [[] for _ in range(n_envs)]
        self._obs = [self._first(space) for _ in range(n_envs)]

    def _first(self, space: Any) -> Any:
        if isinstance(space, spaces.Dict):
            return {key: self._first(part) for key, part in space.spaces.items()}
        if space.dtype == np.uint8:
            return self.rng.integers(1, 255, space.shape, dtype=np.uint8)
        return self.rng.normal(size=space.shape).astype(space.dtype)

    def _after(self, obs: Any) -> Any:
        """Images are stacks of frames that move on by one."""
        if isinstance(obs, dict):
            return {key: self._after(part) for key, part in obs.items()}
        if obs.dtype == np.uint8:
            return np.concatenate([obs[1:], self.rng.integers(1, 255, obs[:1].shape, dtype=np.uint8)])
        return self.rng.normal(size=obs.shape).astype(obs.dtype)

    def play(self, n_steps: int, *buffers: Any, ends: list[str] | None = None) -> None:
        """
        :param n_steps: number of steps of each environment
        :param buffers: replay buffers that store them
        :param ends: how each step ends ("", "terminated" or "truncated"), the same for all environments; else random
        """
        for index in range(n_steps):
            for env, steps in enumerate(self.steps):
                end = ends[index] if ends else ""
                if not ends and self.rng.random() < self.p_end:
                    end = str(self.rng.choice(["terminated", "truncated"]))
                action = self.rng.uniform(-1, 1, 2).astype(np.float32)
                reward = np.float32(self.rng.choice([0.0, -0.0, self.rng.normal()]))
                obs, next_obs = self._obs[env], self._after(self._obs[env])
                steps.append(Step(obs, next_obs, action, reward, end == "terminated", end == "truncated"))
                self._obs[env] = self._first(self.space) if end else next_obs
            for buffer in buffers:
                self._store(buffer)

    def _store(self, buffer: Any) -> None:
        last = [steps[-1] for steps in self.steps]
        buffer.add(
            stacked([step.obs for step in last]),
            stacked([step.next_obs for step in last]),
            np.stack([step.action for step in last]),
            np.array([step.reward for step in last]),
            np.array([step.terminated or step.truncated for step in last]),
            [{"TimeLimit.truncated": step.truncated} for step in last],
        )

    def window(self, slot: int, env: int, length: int, capacity: int) -> list[Step]:
        """
        :param slot: slot of the first transition
        :param env: its environment
        :param length: the most steps there may be
        :param capacity: number of slots of the buffer
        :return: the valid steps
        """
        steps = self.steps[env]
        number = max(n for n in range(len(steps)) if n % capacity == slot)
        window = []
        while number < len(steps) and len(window) < length:
            window.append(steps[number])
            if steps[number].terminated or steps[number].truncated:
                break
            number += 1
        return window

    def is_end(self, step: Step, env: int) -> bool:
        return step.terminated or step.truncated or step is self.steps[env][-1]


def stacked(observations: list[Any]) -> Any:
    if isinstance(observations[0], dict):
        return {key: np.stack([obs[key] for obs in observations]) for key in observations[0]}
    return np.stack(observations)


def make(storage: str, space: str, buffer_size: int, n_envs: int, folder: Path, **kwargs: Any) -> Any:
    buffer_class, own = STORAGES[storage]
    own = {**own, "storage_path": folder} if "storage_path" in own else own
    return buffer_class(buffer_size, SPACES[space], ACTIONS, "cpu", n_envs, **own, **kwargs)


def every_place(buffer: Any) -> tuple[np.ndarray, np.ndarray]:
    """
    :return: slot and environment of everything stored
    """
    leaves = np.arange(buffer.size() * buffer.n_envs)
    return leaves // buffer.n_envs, leaves % buffer.n_envs


def assert_same(actual: Any, expected: Any, row: Any) -> None:
    """
    :param actual: array or dictionary of arrays with leading axes (B, L)
    :param expected: observation of one step
    :param row: its place (b, k)
    """
    if isinstance(expected, dict):
        assert set(actual) == set(expected)
        for key, value in expected.items():
            assert_same(actual[key], value, row)
    else:
        assert (actual.dtype, actual.shape[2:]) == (expected.dtype, expected.shape)
        assert actual[row].tobytes() == expected.tobytes(), row


def assert_windows(window: Any, recorder: Recorder, slots: Any, envs: Any, length: int, capacity: int) -> None:
    assert window.valid.shape == window.ends.shape == window.rewards.shape == window.dones.shape == (len(slots), length)
    assert window.valid.dtype == window.ends.dtype == bool
    assert window.rewards.dtype == window.dones.dtype == np.float32
    assert window.actions.shape == (len(slots), length, 2)
    for b, (slot, env) in enumerate(zip(slots.tolist(), envs.tolist(), strict=True)):
        steps = recorder.window(slot, env, length, capacity)
        assert window.lengths[b] == len(steps) >= 1
        for k in range(length):
            assert window.valid[b, k] == (k < len(steps))
            # From the end on, the last valid step is repeated
            step = steps[min(k, len(steps) - 1)]
            assert window.ends[b, k] == recorder.is_end(step, env)
            assert window.dones[b, k] == step.terminated
            assert window.rewards[b, k].tobytes() == step.reward.tobytes()
            assert (window.actions[b, k] == step.action).all()
            assert_same(window.observations, step.obs, (b, k))
            assert_same(window.next_observations, step.next_obs, (b, k))
