"""
Windows of consecutive transitions against plain loops.

The oracle keeps every transition in a list for each environment and walks through it. Nothing here knows about slots
that wrap around: the slot of a transition is its number modulo the capacity.
"""

import copy
import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_ext import (
    DeviceReplayBuffer,
    FrameDedupReplayBuffer,
    PrioritizedFrameDedupReplayBuffer,
    PrioritizedReplayBuffer,
)
from sb3_ext.buffers import ArrayReplayBuffer, WindowSamples, sample_windows
from sb3_ext.buffers.samples import minibatch_weights, single_precision, split_minibatches, update_priorities

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


@settings(max_examples=150)
@given(data=st.data(), storage=st.sampled_from(sorted(STORAGES)), space=st.sampled_from(sorted(SPACES)))
def test_windows_of_random_episodes(
    data: st.DataObject, storage: str, space: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    n_envs, capacity = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 12))
    length, n_steps = data.draw(st.integers(1, 15)), data.draw(st.integers(1, 30))
    p_end, seed = data.draw(st.sampled_from([0.0, 0.2, 1.0])), data.draw(st.integers(0, 2**32 - 1))
    buffer = make(storage, space, capacity * n_envs, n_envs, tmp_path_factory.getbasetemp())
    recorder = Recorder(SPACES[space], n_envs, p_end, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one frame may not show what it is a stack of
        recorder.play(n_steps, buffer)
    slots, envs = every_place(buffer)
    order = recorder.rng.permutation(len(slots))
    slots, envs = slots[order], envs[order]
    for source in (buffer, pickle.loads(pickle.dumps(buffer))):
        assert_windows(source.window(slots, envs, length), recorder, slots, envs, length, capacity)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("space", SPACES)
def test_every_storage_over_several_rounds(storage: str, space: str, tmp_path: Path) -> None:
    buffer = make(storage, space, 2 * 11, 2, tmp_path)
    recorder = Recorder(SPACES[space], 2, p_end=0.15, seed=1)
    for n_steps in (1, 4, 6, 1, 25):
        recorder.play(n_steps, buffer)
        slots, envs = every_place(buffer)
        for length in (1, 3, 14):
            assert_windows(buffer.window(slots, envs, length), recorder, slots, envs, length, 11)


@pytest.mark.parametrize(("end", "done"), [("terminated", 1.0), ("truncated", 0.0)])
@pytest.mark.parametrize("storage", ["arrays", "frames"])
def test_the_end_of_an_episode_ends_the_window(storage: str, end: str, done: float, tmp_path: Path) -> None:
    buffer = make(storage, "image", 10, 1, tmp_path)
    recorder = Recorder(IMAGE, 1)
    recorder.play(5, buffer, ends=["", "", end, "", ""])
    window = buffer.window(np.array([1, 2, 3]), np.zeros(3, dtype=int), 4)
    assert window.lengths.tolist() == [2, 1, 2]
    assert window.valid.tolist() == [
        [True, True, False, False],
        [True, False, False, False],
        [True, True, False, False],
    ]
    assert window.ends.tolist() == [[False, True, True, True], [True] * 4, [False, True, True, True]]
    assert window.dones.tolist() == [[0, done, done, done], [done] * 4, [0, 0, 0, 0]]
    # The last observation of the episode, not the first of the next one
    last = recorder.steps[0][2].next_obs
    assert (window.next_observations[0, 1] == last).all() and not (window.observations[2, 0] == last).all()


@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_time_limits_count_as_terminations_if_they_are_not_handled(end: str, tmp_path: Path) -> None:
    buffer = make("arrays", "vector", 10, 1, tmp_path, handle_timeout_termination=False)
    Recorder(VECTOR, 1).play(3, buffer, ends=["", end, ""])
    window = buffer.window(np.array([0]), np.array([0]), 3)
    assert window.lengths.tolist() == [2] and window.dones[0, 1] == 1.0


def test_nothing_is_read_before_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    buffer = make("frames", "image", 10, 1, tmp_path)
    Recorder(IMAGE, 1).play(6, buffer)
    n_reads = 0
    read = buffer.read_observations

    def counted(*args: Any) -> Any:
        nonlocal n_reads
        n_reads += 1
        return read(*args)

    monkeypatch.setattr(buffer, "read_observations", counted)
    window = buffer.window(np.arange(6), np.zeros(6, dtype=int), 3)
    assert window.valid.any() and window.actions.shape == (6, 3, 2) and n_reads == 0
    assert window.observations.shape == window.next_observations.shape == (6, 3, 2, 5, 7)
    assert n_reads == 1


@pytest.mark.parametrize(
    ("slots", "envs", "length", "message"),
    [
        ([0], [0], 0, "length=0 must be an integer of at least 1"),
        ([4], [0], 2, r"slots must be integers in \[0, 4\), shape \(B,\)"),
        ([-1], [0], 2, r"slots must be integers in \[0, 4\)"),
        ([0], [2], 2, r"envs must be integers in \[0, 2\)"),
        ([[0]], [0], 2, r"slots must be integers in \[0, 4\)"),
    ],
)
def test_wrong_places_are_named(slots: Any, envs: Any, length: int, message: str, tmp_path: Path) -> None:
    buffer = make("arrays", "vector", 20, 2, tmp_path)
    with pytest.raises(ValueError, match="ArrayReplayBuffer is empty"):
        buffer.window(np.array([0]), np.array([0]), 2)
    Recorder(VECTOR, 2).play(4, buffer)
    with pytest.raises(ValueError, match=message):
        buffer.window(np.array(slots), np.array(envs), length)
    assert buffer.window([3, 0], [1, 1], 2).valid.shape == (2, 2)


@given(
    n_steps=st.integers(2, 6),
    n_envs=st.integers(1, 3),
    capacity=st.integers(6, 12),
    n_adds=st.integers(1, 30),
    gamma=st.sampled_from([0.99, 0.5, 1.0, 0.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_n_step_returns_formed_from_windows_are_sb3s(
    n_steps: int, n_envs: int, capacity: int, n_adds: int, gamma: float, seed: int
) -> None:
    arguments = (capacity * n_envs, VECTOR, ACTIONS, "cpu", n_envs)
    stock = NStepReplayBuffer(*arguments, n_steps=n_steps, gamma=gamma)
    buffer = ArrayReplayBuffer(*arguments, n_steps=n_steps, gamma=gamma)
    recorder = Recorder(VECTOR, n_envs, seed=seed)
    recorder.play(n_adds, stock, buffer)
    np.random.seed(seed)
    expected, next_number = stock.sample(20), np.random.random()
    np.random.seed(seed)
    samples = sample_windows(buffer, n_steps, 20, None, 1.0)
    # As many random numbers were drawn; the same ones, as the comparisons below show
    assert np.random.random() == next_number
    returns, discounts = th.zeros(20), th.ones(20)
    for b in range(20):
        for k in range(n_steps):
            if samples.valid[b, k]:
                returns[b] += gamma**k * samples.rewards[b, k]
                discounts[b] *= gamma
    th.testing.assert_close(returns, expected.rewards.flatten())
    th.testing.assert_close(discounts, expected.discounts.flatten())
    last = samples.valid.sum(dim=1) - 1
    rows = th.arange(20)
    assert th.equal(samples.observations[:, 0], expected.observations)
    assert th.equal(samples.actions[:, 0], expected.actions)
    assert th.equal(samples.next_observations[rows, last], expected.next_observations)
    assert th.equal(samples.dones[rows, last], expected.dones.flatten())
    # And the buffer's own returns are SB3's to the bit
    np.random.seed(seed)
    own = buffer.sample(20)
    assert own.rewards.numpy().tobytes() == expected.rewards.numpy().tobytes()
    assert own.discounts.numpy().tobytes() == expected.discounts.numpy().tobytes()


@pytest.mark.filterwarnings("ignore:invalid value encountered in multiply")  # SB3's, too
@pytest.mark.parametrize("reward", [1.0, np.inf, np.nan])
def test_odd_transitions_give_sb3s_returns(reward: float, same_samples: Callable[..., None]) -> None:
    """A time limit without ``done``, and numbers that are not finite behind the end of an episode."""
    arguments = (8, VECTOR, ACTIONS, "cpu", 1)
    buffers: list[Any] = [cls(*arguments, n_steps=3, gamma=0.9) for cls in (NStepReplayBuffer, ArrayReplayBuffer)]
    obs, action = np.zeros((1, 3), np.float32), np.zeros((1, 2), np.float32)
    for step in range(11):
        rewards, done = np.array([reward if step == 5 else step]), np.array([step == 9])
        for buffer in buffers:
            buffer.add(obs + step, obs + step + 1, action, rewards, done, [{"TimeLimit.truncated": step in (4, 6)}])
    slots = np.arange(8)
    same_samples(buffers[1].samples_at(slots, np.zeros(8, int)), buffers[0]._get_samples(slots))
    # Steps 8, 9, 10, 3, 4, ... lie in slots 0, 1, 2, 3, 4, ...
    assert buffers[1].window(slots, np.zeros(8, int), 3).lengths.tolist() == [2, 1, 1, 2, 1, 2, 1, 3]


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("space", SPACES)
def test_samples_are_the_windows_as_tensors(storage: str, space: str, tmp_path: Path) -> None:
    buffer = make(storage, space, 3 * 9, 3, tmp_path)
    Recorder(SPACES[space], 3, seed=2).play(14, buffer)
    np.random.seed(4)
    drawn = buffer.draw(16, 1.0)
    after_draw = np.random.random()
    np.random.seed(4)
    samples = sample_windows(buffer, 5, 16, None, 1.0)
    assert np.random.random() == after_draw
    window = buffer.window(drawn.slots, drawn.envs, 5)
    for name, dtype in (("rewards", th.float32), ("dones", th.float32), ("valid", th.bool), ("actions", th.float32)):
        tensor = getattr(samples, name)
        assert tensor.dtype == dtype and (tensor.numpy() == getattr(window, name)).all()
    for name in ("observations", "next_observations"):
        tensors, arrays = getattr(samples, name), getattr(window, name)
        for key in arrays if space == "dict" else [None]:
            tensor, array = (tensors, arrays) if key is None else (tensors[key], arrays[key])
            assert tensor.shape == array.shape and (tensor.numpy() == array).all()
    assert samples.discounts is None
    assert (samples.weights is None) == (samples.indices is None) == ("prioritized" not in storage)


@pytest.mark.parametrize("buffer_class", PRIORITIZED)
def test_windows_are_drawn_by_priority(buffer_class: type) -> None:
    buffer = buffer_class(2 * 8, VECTOR, ACTIONS, "cpu", 2, alpha=1.0, beta=0.5, eps=1e-9)
    recorder = Recorder(VECTOR, 2, seed=3)
    recorder.play(6, buffer)
    errors = np.arange(1.0, 13.0)
    buffer.update_priorities(np.arange(12), errors)
    samples = sample_windows(buffer, 3, 780, None, 1.0)
    assert samples.indices.dtype == th.int64 and samples.indices.shape == (780,)
    assert samples.weights.dtype == th.float32 and samples.weights.shape == (780, 1)
    # 780 draws, one from each equal part of 78: 10 for each unit of priority, up to the two parts at its bounds
    counts = np.bincount(samples.indices.numpy(), minlength=12)
    assert np.abs(counts - 10 * errors).max() <= 2
    for index, weight, obs in zip(samples.indices, samples.weights, samples.observations, strict=True):
        # beta=0.5, and the least likely transition has weight 1
        assert weight.item() == pytest.approx(errors[index] ** -0.5)
        assert (obs[0].numpy() == recorder.steps[int(index) % 2][int(index) // 2].obs).all()
    # beta goes to 1
    samples = sample_windows(buffer, 3, 100, None, 0.0)
    th.testing.assert_close(samples.weights.flatten(), th.as_tensor(1 / errors[samples.indices], dtype=th.float32))
    # The random numbers are those of single transitions
    np.random.seed(5)
    single = buffer.sample_prioritized(30)
    np.random.seed(5)
    windows = sample_windows(buffer, 3, 30, None, 1.0)
    assert th.equal(single.indices, windows.indices) and th.equal(single.weights, windows.weights)


def test_priorities_are_written_back_for_windows() -> None:
    buffer = PrioritizedReplayBuffer(20, VECTOR, ACTIONS, "cpu", 2, alpha=1.0, eps=0.5)
    Recorder(VECTOR, 2, seed=3).play(7, buffer)
    assert buffer.priorities.tolist() == [1.0] * 14
    with pytest.raises(ValueError, match="read-only"):
        buffer.priorities[0] = 2.0
    buffer.update_priorities(np.arange(14), np.arange(14.0))
    minibatches = split_minibatches(sample_windows(buffer, 4, 40, None, 1.0), 2)
    for minibatch in minibatches:
        weights = minibatch_weights(minibatch)
        assert weights.shape == (20,) and weights.max() == 1.0
        th.testing.assert_close(weights, (minibatch.weights / minibatch.weights.max()).flatten())
    expected = buffer.priorities.copy()
    for minibatch in minibatches:
        for index in minibatch.indices.tolist():
            expected[index] = index + 100.5
    update_priorities(buffer, minibatches, [minibatch.indices + 100.0 for minibatch in minibatches])
    assert buffer.priorities.tolist() == expected.tolist()


def test_windows_without_priorities_have_no_weights(tmp_path: Path) -> None:
    buffer = make("arrays", "vector", 20, 2, tmp_path)
    Recorder(VECTOR, 2).play(7, buffer)
    samples = sample_windows(buffer, 3, 10, None, 1.0)
    assert minibatch_weights(samples) is None
    update_priorities(buffer, [samples], [th.zeros(10)])  # without effect, and without an error


def test_minibatches_of_windows() -> None:
    space = spaces.Dict({"image": IMAGE, "vector": spaces.Box(-1, 1, (3,), np.float64)})
    buffer = FrameDedupReplayBuffer(40, space, ACTIONS, "cpu", 2)
    Recorder(space, 2).play(12, buffer)
    samples = sample_windows(buffer, 4, 12, None, 1.0)
    assert samples.observations["vector"].dtype == th.float64
    single = single_precision(samples)
    assert isinstance(single, WindowSamples)
    assert single.observations["vector"].dtype == th.float32 and single.valid.dtype == th.bool
    parts = split_minibatches(single, 3)
    assert [type(part) for part in parts] == [WindowSamples] * 3
    for start, part in enumerate(parts):
        assert part.observations["image"].shape == (4, 4, 2, 5, 7)
        assert th.equal(part.rewards, single.rewards[start::3])
        assert th.equal(part.valid, single.valid[start::3])


class Blank(gym.Env):
    """Only there for its spaces."""

    def __init__(self, observation_space: spaces.Space) -> None:
        self.observation_space, self.action_space = observation_space, ACTIONS


@pytest.mark.parametrize("storage", ["arrays", "frames", "prioritized"])
@pytest.mark.parametrize("space", ["vector", "dict"])
def test_windows_are_normalized(storage: str, space: str, tmp_path: Path) -> None:
    buffer = make(storage, space, 20, 2, tmp_path)
    Recorder(SPACES[space], 2, seed=6).play(9, buffer)
    keys = ["vector"] if space == "dict" else None
    env = VecNormalize(DummyVecEnv([lambda: Blank(SPACES[space])] * 2), norm_obs_keys=keys)
    stats = env.obs_rms["vector"] if keys else env.obs_rms
    stats.mean, stats.var, env.ret_rms.var = stats.mean + 0.3, stats.var * 1.7, np.array(2.5)
    samples = []
    for normalizer in (None, env):
        np.random.seed(7)
        samples.append(sample_windows(buffer, 3, 12, normalizer, 1.0))
    plain, scaled = samples
    for b in range(12):
        for k in range(3):
            expected = env.normalize_reward(plain.rewards[b, k].numpy())
            assert scaled.rewards[b, k].numpy() == pytest.approx(expected)
            for name in ("observations", "next_observations"):
                field, other = getattr(plain, name), getattr(scaled, name)
                if keys:
                    assert th.equal(field["image"][b, k], other["image"][b, k])
                    one = {key: tensor[b, k].numpy() for key, tensor in field.items()}
                    expected = env.normalize_obs(one)["vector"]
                    np.testing.assert_allclose(other["vector"][b, k].numpy(), expected, rtol=1e-6)
                else:
                    expected = env.normalize_obs(field[b, k].numpy())
                    np.testing.assert_allclose(other[b, k].numpy(), expected, rtol=1e-6)
    assert not th.equal(plain.rewards, scaled.rewards)
    for name in ("actions", "dones", "valid"):
        assert th.equal(getattr(plain, name), getattr(scaled, name))


@pytest.mark.parametrize("buffer_class", [ReplayBuffer, NStepReplayBuffer, DictReplayBuffer, DeviceReplayBuffer])
def test_a_stock_buffer_is_refused_with_the_classes_that_can(buffer_class: type) -> None:
    space = SPACES["dict"] if buffer_class is DictReplayBuffer else VECTOR
    buffer = buffer_class(20, space, ACTIONS, "cpu")
    names = r"ArrayReplayBuffer.*FrameDedupReplayBuffer, PrioritizedReplayBuffer or PrioritizedFrameDedupReplayBuffer"
    with pytest.raises(ValueError, match=rf"replay_buffer is a {buffer_class.__name__}, which cannot .* {names}"):
        sample_windows(buffer, 3, 2, None, 1.0)


SETTABLE = [FrameDedupReplayBuffer, *PRIORITIZED, ArrayReplayBuffer]


@pytest.mark.parametrize("buffer_class", SETTABLE)
def test_n_steps_and_gamma_can_be_changed(buffer_class: type, same_samples: Callable[..., None]) -> None:
    arguments = (2 * 9, VECTOR, ACTIONS, "cpu", 2)
    buffer = buffer_class(*arguments)
    stocks: list[Any] = [ReplayBuffer(*arguments), *(NStepReplayBuffer(*arguments, n_steps=n) for n in (3, 5))]
    stocks[2].gamma = 0.7
    Recorder(VECTOR, 2).play(12, buffer, *stocks)
    batch_inds = np.random.default_rng(0).integers(9, size=40)
    for source in (buffer, pickle.loads(pickle.dumps(buffer)), copy.deepcopy(buffer)):
        for stock, n_steps, gamma in ((stocks[0], 1, 0.99), (stocks[1], 3, 0.99), (stocks[2], 5, 0.7)):
            source.n_steps, source.gamma = n_steps, gamma
            for each in (source, pickle.loads(pickle.dumps(source)), copy.deepcopy(source)):
                assert (each.n_steps, each.gamma) == (n_steps, gamma)
                np.random.seed(1)
                expected = stock._get_samples(batch_inds)
                np.random.seed(1)
                envs = np.random.randint(0, high=2, size=40)
                same_samples(each.samples_at(batch_inds, envs), expected)


@pytest.mark.parametrize("buffer_class", SETTABLE)
@pytest.mark.parametrize("n_stored", [0, 3])
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("n_steps", 0, "n_steps=0 must be an integer of at least 1"),
        ("n_steps", 2.5, "n_steps=2.5 must be an integer of at least 1"),
        (
            "n_steps",
            3,
            r"buffer_size=9 with n_envs=4 holds 2 steps of each environment: n_steps=3 is more.*at least 12",
        ),
        ("gamma", 1.5, r"gamma=1.5 must be in \[0, 1\]"),
        ("gamma", float("nan"), r"gamma=nan must be in \[0, 1\]"),
    ],
)
def test_wrong_values_are_refused_later_as_in_the_constructor(
    buffer_class: type, n_stored: int, name: str, value: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        buffer_class(9, VECTOR, ACTIONS, "cpu", 4, **{name: value})
    buffer = buffer_class(9, VECTOR, ACTIONS, "cpu", 4, n_steps=2, gamma=0.5)
    Recorder(VECTOR, 4).play(n_stored, buffer)
    for each in (buffer, pickle.loads(pickle.dumps(buffer))):
        with pytest.raises(ValueError, match=message):
            setattr(each, name, value)
        assert (each.n_steps, each.gamma) == (2, 0.5)


def test_a_buffer_for_playback_takes_any_n_steps() -> None:
    buffer = ArrayReplayBuffer(1, VECTOR, ACTIONS, "cpu", 4)
    buffer.n_steps = 7
    pickle.loads(pickle.dumps(buffer)).n_steps = 8
    small = ArrayReplayBuffer(4, VECTOR, ACTIONS, "cpu", 4)
    with pytest.raises(ValueError, match="buffer_size=4 with n_envs=4 holds 1 steps"):
        small.n_steps = 2


@pytest.mark.parametrize(("buffer_size", "allowed", "refused"), [(12, 3, 4), (1, 9, None)])
def test_files_in_which_n_steps_is_a_plain_attribute_are_read(
    buffer_size: int, allowed: int, refused: int | None
) -> None:
    state = ArrayReplayBuffer(buffer_size, VECTOR, ACTIONS, "cpu", 4, n_steps=2, gamma=0.7).__getstate__()
    state = {{"_n_steps": "n_steps", "_gamma": "gamma"}.get(name, name): value for name, value in state.items()}
    # These had no arrays before the first transition
    for name in ("_requested_size", "actions", "rewards", "dones", "timeouts"):
        del state[name]
    loaded = ArrayReplayBuffer.__new__(ArrayReplayBuffer)
    loaded.__setstate__(state)
    assert (loaded.n_steps, loaded.gamma) == (2, 0.7)
    loaded.n_steps = allowed
    if refused is not None:
        with pytest.raises(ValueError, match="buffer_size=12 with n_envs=4"):
            loaded.n_steps = refused
    Recorder(VECTOR, 4).play(5, loaded)
    loaded.check_valid()


SLOT_ARRAYS = ("actions", "rewards", "dones", "timeouts")


def copies(buffer: Any) -> list[Any]:
    return [buffer, copy.deepcopy(buffer), pickle.loads(pickle.dumps(buffer))]


@pytest.mark.parametrize("buffer_class", [ArrayReplayBuffer, PrioritizedReplayBuffer])
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("n_steps", [0, 3, 13])
def test_arrays_of_observations_are_sb3s(buffer_class: type, space: str, n_steps: int) -> None:
    arguments = (2 * 8, SPACES[space], ACTIONS, "cpu", 2)
    stock = (DictReplayBuffer if space == "dict" else ReplayBuffer)(*arguments)
    buffer = buffer_class(*arguments)
    Recorder(SPACES[space], 2).play(n_steps, stock, buffer)
    for each in copies(buffer):
        for name in ("observations", "next_observations"):
            actual, expected = getattr(each, name), getattr(stock, name)
            assert hasattr(each, name) and isinstance(actual, type(expected))
            for key in expected if space == "dict" else [None]:
                one, other = (actual, expected) if key is None else (actual[key], expected[key])
                assert (one.dtype, one.shape) == (other.dtype, other.shape) and (one == other).all()
                assert not one.flags.writeable
                with pytest.raises(ValueError, match="read-only"):
                    one[0] = 1
        for name in SLOT_ARRAYS:
            assert (getattr(each, name) == getattr(stock, name)).all()


def test_views_show_what_is_stored_later() -> None:
    buffer = ArrayReplayBuffer(20, VECTOR, ACTIONS, "cpu", 2)
    recorder = Recorder(VECTOR, 2)
    recorder.play(1, buffer)
    view = buffer.observations
    recorder.play(1, buffer)
    assert (view[1, 1] == recorder.steps[1][1].obs).all()
    assert np.shares_memory(view, buffer.observations)


@pytest.mark.parametrize("buffer_class", [FrameDedupReplayBuffer, PrioritizedFrameDedupReplayBuffer])
@pytest.mark.parametrize("space", ["image", "dict"])
@pytest.mark.parametrize("n_steps", [0, 5])
def test_single_frames_are_no_array_of_observations(buffer_class: type, space: str, n_steps: int) -> None:
    buffer = buffer_class(20, SPACES[space], ACTIONS, "cpu", 2)
    Recorder(SPACES[space], 2).play(n_steps, buffer)
    for each in copies(buffer):
        for name in ("observations", "next_observations"):
            assert not hasattr(each, name)
            message = rf"{buffer_class.__name__} has no array {name}: call samples_at\(slots, envs\) or window\(slots, "
            with pytest.raises(AttributeError, match=message):
                getattr(each, name)


@pytest.mark.parametrize("buffer_class", SETTABLE)
@pytest.mark.parametrize("space", SPACES)
def test_arrays_are_zeros_without_memory_before_the_first_transition(buffer_class: type, space: str) -> None:
    n_slots = 10**12  # would take terabytes
    empty = buffer_class.__new__(buffer_class)
    assert not hasattr(empty, "rewards")  # nor is there a recursion without a constructor
    if buffer_class not in PRIORITIZED:  # their priorities are allocated at once
        buffer = buffer_class(n_slots * 2, SPACES[space], ACTIONS, "cpu", 2)
        for each in copies(buffer):
            assert each.actions.shape == (n_slots, 2, 2) and each.actions.dtype == np.float32
            for name in SLOT_ARRAYS[1:]:
                array = getattr(each, name)
                assert array.shape == (n_slots, 2) and array.dtype == np.float32
                assert not array[:: n_slots // 3].any() and not array.flags.writeable
            assert len(pickle.dumps(each)) < 20_000
    buffer = buffer_class(20, SPACES[space], ACTIONS, "cpu", 2)
    Recorder(SPACES[space], 2).play(3, buffer)
    assert buffer.rewards.flags.writeable
    buffer.reset()
    for each in copies(buffer):
        assert not each.rewards.any() and not each.rewards.flags.writeable
        Recorder(SPACES[space], 2).play(3, each)
        each.check_valid()


def test_the_example_in_the_documentation_runs() -> None:
    text = (Path(__file__).parents[2] / "docs" / "buffers.md").read_text()
    (example,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "sample_windows" in block)
    names: dict[str, Any] = {}
    exec(example, names)
    samples = names["samples"]
    assert samples.observations.shape == (32, 5, 3)
    assert (samples.rewards * samples.valid).sum(dim=1).max() == 5.0
    assert names["window"].lengths.tolist() == [3, 5]
