"""Windows of consecutive transitions against plain loops."""

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.buffers import NStepReplayBuffer

from sb3_ext.buffers import ArrayReplayBuffer, sample_windows
from tests.support.stock import assert_same_samples
from tests.support.windows import ACTIONS, IMAGE, SPACES, STORAGES, VECTOR, Recorder, assert_windows, every_place, make


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
def test_odd_transitions_give_sb3s_returns(reward: float) -> None:
    """A time limit without ``done``, and numbers that are not finite behind the end of an episode."""
    arguments = (8, VECTOR, ACTIONS, "cpu", 1)
    buffers: list[Any] = [cls(*arguments, n_steps=3, gamma=0.9) for cls in (NStepReplayBuffer, ArrayReplayBuffer)]
    obs, action = np.zeros((1, 3), np.float32), np.zeros((1, 2), np.float32)
    for step in range(11):
        rewards, done = np.array([reward if step == 5 else step]), np.array([step == 9])
        for buffer in buffers:
            buffer.add(obs + step, obs + step + 1, action, rewards, done, [{"TimeLimit.truncated": step in (4, 6)}])
    slots = np.arange(8)
    assert_same_samples(buffers[1].samples_at(slots, np.zeros(8, int)), buffers[0]._get_samples(slots))
    # Steps 8, 9, 10, 3, 4, ... lie in slots 0, 1, 2, 3, 4, ...
    assert buffers[1].window(slots, np.zeros(8, int), 3).lengths.tolist() == [2, 1, 1, 2, 1, 2, 1, 3]
