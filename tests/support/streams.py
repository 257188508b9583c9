"""Streams of transitions with stacks of frames in every layout, as environments produce them."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from gymnasium import spaces

from tests.support.stock import ONLY, Obs, Transition

# More than the channels of any stack here: which axis the frames lie along is not ambiguous
WIDTH = 13


@dataclass(frozen=True)
class Part:
    """
    One observation, perhaps one of a dictionary.

    :param kind: layout of the stack, see :meth:`stacked`
    :param n_stack: how many frames
    :param channels: of one frame; the length of a vector
    :param dtype: of images and vectors
    :param height: of images
    """

    kind: str
    n_stack: int = 1
    channels: int = 1
    dtype: str = "uint8"
    height: int = 16

    @property
    def frame_shape(self) -> tuple[int, ...]:
        if self.kind == "first":
            return (self.channels, self.height, WIDTH)
        if self.kind in ("last", "transposed"):
            return (self.height, WIDTH, self.channels)
        if self.kind == "leading":
            return (self.height, WIDTH, self.channels) if self.channels > 1 else (self.height, WIDTH)
        return () if self.kind == "discrete" else (self.channels,)

    @cached_property
    def space(self) -> spaces.Space:
        if self.kind == "discrete":
            return spaces.Discrete(6)
        if self.kind == "multibinary":
            return spaces.MultiBinary(self.channels)
        if self.kind == "multidiscrete":
            return spaces.MultiDiscrete([6] * self.channels)
        dtype = np.dtype(self.dtype)
        shape = self.stacked([[np.zeros(self.frame_shape)] * self.n_stack]).shape[1:]
        low, high = self._bounds
        return spaces.Box(low, high, shape, dtype)

    @property
    def _bounds(self) -> tuple[float, float]:
        dtype = np.dtype(self.dtype)
        if dtype.kind == "f":
            return -np.inf, np.inf
        return np.iinfo(dtype).min, np.iinfo(dtype).max

    def stacked(self, stacks: list[list[np.ndarray]]) -> np.ndarray:
        """
        :param stacks: of every environment the frames, oldest first
        :return: the array with a leading axis of environments
        """
        if self.kind == "leading":
            return np.stack([np.stack(stack) for stack in stacks])
        if self.kind in ("discrete", "multibinary", "multidiscrete"):
            return np.stack([stack[-1] for stack in stacks])
        axis = 0 if self.kind == "first" else -1
        result = np.stack([np.concatenate(stack, axis=axis) for stack in stacks])
        # As VecTransposeImage: a view that is not contiguous
        return result.transpose(0, 3, 1, 2) if self.kind == "transposed" else result

    def random_frame(self, rng: np.random.Generator) -> np.ndarray:
        shape, dtype = self.frame_shape, self.space.dtype
        if dtype.kind == "f":
            frame = rng.normal(size=shape)
            special = rng.random(shape) < 0.3
            frame[special] = rng.choice([0.0, -0.0, np.nan, np.inf], size=int(special.sum()))
            return frame.astype(dtype)
        highs = {"multibinary": 1, "discrete": 5, "multidiscrete": 5}
        low, high = (0, highs[self.kind]) if self.kind in highs else self._bounds
        return np.asarray(rng.integers(low, high, size=shape, endpoint=True), dtype=dtype)


def in_another_order(array: np.ndarray, how: int) -> np.ndarray:
    """
    :param array: any
    :param how: 0 to 4
    :return: the same numbers in a new array, lying in memory in another order
    """
    if how == 0:
        return np.array(array, order="C")
    if how == 1:
        return np.array(array, order="F")
    if how == 2:
        return np.array(array[::-1], order="C")[::-1]
    if how == 3:
        return np.repeat(array, 2, axis=-1)[..., ::2]
    return array.copy() if array.ndim == 1 else np.moveaxis(np.array(np.moveaxis(array, 1, -1), order="C"), -1, 1)


@dataclass(frozen=True)
class StreamConfig:
    """
    :param parts: the observations; the key ``ONLY`` for a space that is no dictionary
    :param n_envs: how many environments
    :param action_space:
    :param seed: of everything random
    :param palette: draw frames from so few, the first of them black; 0: every frame is new
    :param padding: of the first stack of an episode: "zero", "first" (the first frame repeated) or "both"
    :param arrays: "fresh" ones for every transition, "spoilt" after each ``add``, the same ones "reused", or
        "shuffled": each in an order of its own in memory
    :param black_steps: how many transitions at the very start are black
    :param p_static: probability of a frame that is the previous one
    :param p_black: of a black frame
    :param p_done: of the end of an episode
    :param p_interrupt: of a reset of all environments without done, and of a single one
    :param p_jump: of a stack that has nothing to do with the previous one
    """

    parts: dict[str, Part]
    n_envs: int = 1
    action_space: spaces.Space = field(default_factory=lambda: spaces.Discrete(5))
    seed: int = 0
    palette: int = 0
    padding: str = "zero"
    arrays: str = "fresh"
    black_steps: int = 0
    p_static: float = 0.0
    p_black: float = 0.0
    p_done: float = 0.1
    p_interrupt: float = 0.0
    p_jump: float = 0.0

    @cached_property
    def observation_space(self) -> spaces.Space:
        if ONLY in self.parts:
            return self.parts[ONLY].space
        return spaces.Dict({key: part.space for key, part in self.parts.items()})


class Stream:
    """
    Transitions of vectorised environments with stacked frames, frame by frame.

    :param config: what they look like
    """

    def __init__(self, config: StreamConfig) -> None:
        self.config = config
        self.rng = np.random.default_rng(config.seed)
        self.n_steps = 0
        # Whether some `next_obs` was no shift of its `obs`, and whether anything jumped at all
        self.irregular = self.jumped = False
        self._arrays: dict[tuple[int, str], np.ndarray] = {}
        self._palette = {key: self._draw_palette(part) for key, part in config.parts.items()}
        self._stacks = [{key: self._first_stack(key) for key in config.parts} for _ in range(config.n_envs)]

    def _draw_palette(self, part: Part) -> list[np.ndarray]:
        black = np.zeros(part.frame_shape, part.space.dtype)
        # As floats two different black frames
        return [black, black * -1 if part.space.dtype.kind == "f" else part.random_frame(self.rng)] + [
            part.random_frame(self.rng) for _ in range(max(self.config.palette - 2, 0))
        ]

    def _frame(self, key: str, previous: np.ndarray | None = None) -> np.ndarray:
        config = self.config
        if self.n_steps < config.black_steps:
            return self._palette[key][0]
        draw = self.rng.random()
        if draw < config.p_static and previous is not None:
            return previous
        if draw < config.p_static + config.p_black:
            return self._palette[key][0]
        if config.palette:
            return self._palette[key][self.rng.integers(config.palette)]
        return config.parts[key].random_frame(self.rng)

    def _first_stack(self, key: str) -> list[np.ndarray]:
        frame, n_stack = self._frame(key), self.config.parts[key].n_stack
        padding = self.config.padding
        if padding == "both":
            padding = str(self.rng.choice(["zero", "first"]))
        return [self._palette[key][0] if padding == "zero" else frame] * (n_stack - 1) + [frame]

    def _jump(self, stack: dict[str, list[np.ndarray]]) -> dict[str, list[np.ndarray]]:
        self.jumped = True
        return {key: [self._frame(key) for _ in frames] for key, frames in stack.items()}

    def _presented(self, role: int, stacks: list[dict[str, list[np.ndarray]]]) -> Obs:
        arrays = {key: part.stacked([stack[key] for stack in stacks]) for key, part in self.config.parts.items()}
        if self.config.arrays == "reused":
            # As environments that write into their own memory: this call's `obs` is last call's `next_obs`
            for key, array in arrays.items():
                kept = self._arrays.setdefault((role, key), array)
                kept[...] = array
                arrays[key] = kept
        elif self.config.arrays == "shuffled":
            arrays = {key: in_another_order(array, int(self.rng.integers(5))) for key, array in arrays.items()}
        return arrays.get(ONLY, arrays)

    def _chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def _next_stack(self, stack: dict[str, list[np.ndarray]]) -> dict[str, list[np.ndarray]]:
        result = {key: [*frames[1:], self._frame(key, frames[-1])] for key, frames in stack.items()}
        if self._chance(self.config.p_jump):
            result, regular = self._jump(result), result
            self.irregular |= any(
                a.tobytes() != b.tobytes()
                for key in result
                for a, b in zip(result[key][:-1], regular[key][:-1], strict=True)
            )
        return result

    def _start_of(self, next_stack: dict[str, list[np.ndarray]], reset: bool) -> dict[str, list[np.ndarray]]:
        if reset or self._chance(self.config.p_interrupt):
            return {key: self._first_stack(key) for key in next_stack}
        if self._chance(self.config.p_jump):
            return self._jump(next_stack)
        return next_stack

    def step(self) -> Transition:
        """
        :return: the arguments of ``add``
        """
        config, rng = self.config, self.rng
        obs = self._presented(self.n_steps % 2, self._stacks)
        next_stacks = [self._next_stack(stack) for stack in self._stacks]
        next_obs = self._presented((self.n_steps + 1) % 2, next_stacks)
        dones = rng.random(config.n_envs) < config.p_done
        infos: list[dict[str, Any]] = [{}, {"TimeLimit.truncated": False}]
        step_infos = [{"TimeLimit.truncated": self._chance(0.5)} if done else infos[rng.integers(2)] for done in dones]
        reset_all = self._chance(config.p_interrupt)
        self._stacks = [
            self._start_of(stack, bool(done) or reset_all) for stack, done in zip(next_stacks, dones, strict=True)
        ]
        self.n_steps += 1
        actions = np.stack([config.action_space.sample() for _ in range(config.n_envs)])
        rewards = rng.normal(size=config.n_envs).astype(rng.choice(["float32", "float64"]))
        return obs, next_obs, actions, rewards, dones, step_infos

    def feed(self, *buffers: Any) -> None:
        """
        One step.

        :param buffers: each gets the transition, the last one as it is and the others copies
        """
        self.config.action_space.seed(int(self.rng.integers(2**31)))
        transition = self.step()
        before = copy.deepcopy(transition)
        for buffer in buffers[:-1]:
            buffer.add(*copy.deepcopy(transition))
        buffers[-1].add(*transition)
        assert transition[5] == before[5]
        for given, kept in zip(self._arrays_of(transition), self._arrays_of(before), strict=True):
            assert given.tobytes() == kept.tobytes(), "what was handed to add() was written to"
        if self.config.arrays != "fresh":
            for array in self._arrays_of(transition):
                array[...] = 1 - array if array.dtype != bool else ~array

    @staticmethod
    def _arrays_of(transition: Transition) -> Iterator[np.ndarray]:
        for value in transition[:5]:
            yield from value.values() if isinstance(value, dict) else [value]
