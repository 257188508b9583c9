"""
Replay buffers beside Stable-Baselines3's own.

``Stock`` is what SB3 would store and return, ``Stream`` makes transitions up. Nothing here knows how the buffers under
test work: they get the same transitions as SB3's, and the bytes of what they return are compared.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

Obs = np.ndarray | dict[str, np.ndarray]
Transition = tuple[Obs, Obs, np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]
Samples = ReplayBufferSamples | DictReplayBufferSamples

# More than the channels of any stack here: which axis the frames lie along is not ambiguous
WIDTH = 13
# The one observation of spaces that are no dictionaries
ONLY = ""


def assert_same_field(actual: Any, expected: Any, name: str) -> None:
    if expected is None:
        assert actual is None, name
    elif isinstance(expected, dict):
        assert set(actual) == set(expected), name
        for key, value in expected.items():
            assert_same_field(actual[key], value, f"{name}[{key}]")
    else:
        assert isinstance(actual, th.Tensor), name
        assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape), name
        if actual.numpy().tobytes() != expected.numpy().tobytes():
            # Bytes and not values: NaN is itself, -0.0 is not 0.0
            rows = [i for i in range(len(actual)) if actual[i].numpy().tobytes() != expected[i].numpy().tobytes()]
            pytest.fail(f"{name} differs in rows {rows} of {len(actual)}")


def assert_same_samples(actual: Any, expected: Samples) -> None:
    """
    :param actual: a named tuple with at least the fields of the other one
    :param expected: what SB3's buffer returned
    """
    for name in expected._fields:
        assert_same_field(getattr(actual, name), getattr(expected, name), name)


def one_environment(buffer: ReplayBuffer, index: int) -> ReplayBuffer:
    """
    :param buffer: one of SB3's buffers
    :param index: an environment
    :return: a view of the column of that environment, so that SB3 has no choice which environment to draw from
    """
    view = copy.copy(buffer)
    view.n_envs = 1
    for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts"):
        value, column = getattr(buffer, name), np.s_[:, index : index + 1]
        setattr(view, name, {k: v[column] for k, v in value.items()} if isinstance(value, dict) else value[column])
    return view


def gather(parts: list[Any], rows: th.Tensor) -> Any:
    if parts[0] is None:
        return None
    if isinstance(parts[0], dict):
        return {key: gather([part[key] for part in parts], rows) for key in parts[0]}
    return th.cat(parts)[rows]


class Stock:
    """
    SB3's replay buffer for the same arguments. It has none for n-step returns of dictionaries: then one
    ``NStepReplayBuffer`` for every key.

    :param buffer_size: of all environments together
    :param observation_space:
    :param action_space:
    :param n_envs:
    :param n_steps:
    :param gamma: only read for n-step returns
    :param kwargs: further arguments of SB3's buffer
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        n_envs: int = 1,
        n_steps: int = 1,
        gamma: float = 0.99,
        **kwargs: Any,
    ) -> None:
        self.n_envs = n_envs
        n_step_kwargs = dict(n_steps=n_steps, gamma=gamma) if n_steps > 1 else {}

        def build(cls: type[ReplayBuffer], space: spaces.Space) -> ReplayBuffer:
            return cls(buffer_size, space, action_space, "cpu", n_envs=n_envs, **n_step_kwargs, **kwargs)

        self.buffers: dict[str, ReplayBuffer]
        if isinstance(observation_space, spaces.Dict) and n_steps > 1:
            self.buffers = {key: build(NStepReplayBuffer, space) for key, space in observation_space.spaces.items()}
        else:
            box_class = NStepReplayBuffer if n_steps > 1 else ReplayBuffer
            is_dict = isinstance(observation_space, spaces.Dict)
            self.buffers = {ONLY: build(DictReplayBuffer if is_dict else box_class, observation_space)}
        self.first = next(iter(self.buffers.values()))

    def add(self, *transition: Any) -> None:
        for key, buffer in self.buffers.items():
            obs, next_obs, *rest = copy.deepcopy(transition)
            buffer.add(*((obs, next_obs) if key == ONLY else (obs[key], next_obs[key])), *rest)

    def reset(self) -> None:
        for buffer in self.buffers.values():
            buffer.reset()

    def size(self) -> int:
        return self.first.size()

    def every_leaf(self) -> tuple[np.ndarray, np.ndarray]:
        """
        :return: slot and environment of everything stored
        """
        leaves = np.arange(self.size() * self.n_envs)
        return leaves // self.n_envs, leaves % self.n_envs

    def _merged(self, function: Callable[[ReplayBuffer], Samples], env: VecNormalize | None) -> Samples:
        """Every key with the same random numbers."""
        if ONLY in self.buffers:
            return function(self.buffers[ONLY])
        norm_obs = env.norm_obs if env is not None else False
        if env is not None:
            # It normalizes a dictionary, or else an array: the parts get their turn together below
            env.norm_obs = False
        state = np.random.get_state()
        samples = {}
        for key, buffer in self.buffers.items():
            np.random.set_state(state)
            samples[key] = function(buffer)
        if env is not None:
            env.norm_obs = norm_obs

        def together(name: str) -> dict[str, th.Tensor]:
            arrays = {key: getattr(sample, name).numpy() for key, sample in samples.items()}
            return {key: th.as_tensor(array) for key, array in (env.normalize_obs(arrays) if env else arrays).items()}

        first = next(iter(samples.values()))
        return DictReplayBufferSamples(
            observations=together("observations"),
            actions=first.actions,
            next_observations=together("next_observations"),
            dones=first.dones,
            rewards=first.rewards,
            discounts=first.discounts,
        )

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> Samples:
        return self._merged(lambda buffer: buffer.sample(batch_size, env=env), env)

    def at(self, slots: np.ndarray, envs: np.ndarray, env: VecNormalize | None = None) -> Samples:
        """
        :param slots: slot of each row
        :param envs: environment of each row
        :param env: for normalization
        :return: what SB3 would return if it drew these, without touching the global random numbers
        """
        state = np.random.get_state()
        parts = []
        for index in np.unique(envs):
            inds = slots[envs == index]
            parts.append(
                self._merged(lambda buffer, i=index, s=inds: one_environment(buffer, i)._get_samples(s, env), env)
            )
        np.random.set_state(state)
        # The parts are in the order of the environments: back to the order asked for
        rows = th.as_tensor(np.argsort(np.argsort(envs, kind="stable")))
        return type(parts[0])(*(gather(list(column), rows) for column in zip(*parts, strict=True)))


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


@pytest.fixture(scope="session")
def same_samples() -> Callable[[Any, Samples], None]:
    return assert_same_samples


@pytest.fixture(scope="session")
def stock_class() -> type[Stock]:
    return Stock


@pytest.fixture(scope="session")
def part_class() -> type[Part]:
    return Part


@pytest.fixture(scope="session")
def config_class() -> type[StreamConfig]:
    return StreamConfig


@pytest.fixture(scope="session")
def stream_class() -> type[Stream]:
    return Stream


@pytest.fixture(scope="session")
def same_contents() -> Callable[..., None]:
    """Everything a buffer stores, and what it samples, against SB3's."""

    def check(buffer: Any, stock: Stock, env: VecNormalize | None = None) -> None:
        assert (buffer.pos, buffer.full, buffer.size()) == (stock.first.pos, stock.first.full, stock.size())
        buffer.check_valid()
        if stock.size() == 0:
            return
        slots, envs = stock.every_leaf()
        actual, expected = buffer.samples_at(slots, envs, env=env), stock.at(slots, envs, env)
        assert type(actual) is type(expected)
        assert_same_samples(actual, expected)
        state = np.random.get_state()
        samples = []
        for source in (stock, buffer):
            np.random.seed(5)
            samples.append(source.sample(13, env=env))
            # Later draws are the same, too
            samples.append(np.random.random())
        np.random.set_state(state)
        assert_same_samples(samples[2], samples[0])
        assert samples[3] == samples[1]

    return check
