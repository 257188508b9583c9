"""Priorities as they are given, changed, lost, copied and refused, against lists of plain numbers."""

import copy
import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3 import DQN, SAC

from tests.support.priorities import CLASSES, SMALL_SPACE, add_to, assert_frequencies, filled, priority, read_priorities


@pytest.mark.parametrize("n_envs", [1, 2])
def test_first_priorities_are_one(n_envs: int) -> None:
    buffer = filled(2, n_envs=n_envs, alpha=1.0, eps=1e-6)
    buffer.update_priorities(np.array([0]), np.array([0.25]))
    assert read_priorities(buffer) == pytest.approx([0.250001] + [1.0] * (2 * n_envs - 1), rel=1e-5)


@pytest.mark.parametrize("n_envs", [1, 2])
def test_new_transitions_get_the_present_maximum(n_envs: int) -> None:
    buffer = filled(3, n_envs=n_envs, alpha=1.0, eps=0.5)
    leaves = np.arange(3 * n_envs)
    buffer.update_priorities(leaves, np.full(len(leaves), 0.5))
    buffer.update_priorities(np.array([1]), np.array([7.5]))
    add_to(buffer, 1)
    expected = [1.0] * (4 * n_envs)
    expected[1] = 8.0
    expected[3 * n_envs :] = [8.0] * n_envs
    assert_frequencies(buffer, expected)

    # At present, not ever: when the large ones have shrunk, they are forgotten
    buffer.update_priorities(np.arange(4 * n_envs), np.full(4 * n_envs, 1.5))
    buffer.update_priorities(np.array([0]), np.array([0.5]))
    add_to(buffer, 1)
    assert_frequencies(buffer, [1.0] + [2.0] * (5 * n_envs - 1))


@pytest.mark.parametrize("n_envs", [1, 3])
def test_overwritten_slots_lose_their_priority(n_envs: int) -> None:
    buffer = filled(4, buffer_size=4 * n_envs, n_envs=n_envs, alpha=1.0, eps=0.1)
    assert buffer.full
    errors = np.full(4 * n_envs, 1.9)
    errors[: 2 * n_envs] = np.linspace(0.0, 0.5, 2 * n_envs)
    buffer.update_priorities(np.arange(4 * n_envs), errors)
    add_to(buffer, 1)
    expected = errors + 0.1
    expected[:n_envs] = 2.0
    assert_frequencies(buffer, expected)
    add_to(buffer, 1)
    assert_frequencies(buffer, [2.0] * (4 * n_envs))


def test_no_priority_is_zero() -> None:
    buffer = filled(4, alpha=0.6, eps=1e-6)
    buffer.update_priorities(np.arange(4), np.zeros(4))
    assert_frequencies(buffer, [1.0] * 4)
    # (1e-6 + 1e-3)^0.6 / (1e-6)^0.6 = 1001^0.6 = 63.13...
    buffer.update_priorities(np.array([2]), np.array([1e-3]))
    assert_frequencies(buffer, [1.0, 1.0, 1001**0.6, 1.0])
    assert read_priorities(buffer) == pytest.approx([1001**-0.6] * 2 + [1.0] + [1001**-0.6], rel=1e-4)


@given(data=st.data(), n_envs=st.integers(1, 3), capacity=st.integers(1, 9), seed=st.integers(0, 2**32 - 1))
def test_adds_and_updates_against_a_list(data: st.DataObject, n_envs: int, capacity: int, seed: int) -> None:
    """The last of duplicate indices wins, and new transitions get the largest priority of the list."""
    buffer = filled(0, buffer_size=capacity * n_envs, n_envs=n_envs, alpha=1.0, eps=0.5)
    rng = np.random.default_rng(seed)
    model: dict[int, float] = {}
    for operation in data.draw(st.lists(st.sampled_from(["add", "update", "raise"]), min_size=1, max_size=15)):
        if operation == "add" or not model:
            first = buffer.pos * n_envs
            kept = {leaf: p for leaf, p in model.items() if not first <= leaf < first + n_envs}
            # Whether the slot that is overwritten still counts is nowhere said: where it matters, make it equal
            if kept and max(kept.values()) < max(model.values()):
                leaf = next(iter(kept))
                buffer.update_priorities(np.array([leaf]), np.array([max(model.values()) - 0.5]))
                model[leaf] = max(model.values())
            elif not kept and model:
                leaves = np.array(list(model))
                buffer.update_priorities(leaves, np.full(len(leaves), 0.5))
                model = dict.fromkeys(model, 1.0)
            largest = max(model.values(), default=1.0)
            add_to(buffer, 1)
            model |= dict.fromkeys(range(first, first + n_envs), largest)
        else:
            indices = rng.integers(len(model), size=rng.integers(1, 12))
            errors = rng.random(len(indices)) * (3 if operation == "update" else 30) - 1
            buffer.update_priorities(indices, errors)
            for index, error in zip(indices.tolist(), errors.tolist(), strict=True):
                model[index] = abs(error) + 0.5
        assert_frequencies(buffer, [model[leaf] for leaf in sorted(model)], batch_size=500)


def assert_leaves(buffer: Any, expected: Any, batch_size: int) -> None:
    """Each sampled leaf to six digits, where they are too many for their frequencies to say much about each."""
    samples = buffer.sample_prioritized(batch_size, progress_remaining=0.0)
    leaves = samples.indices.numpy()
    products = samples.weights.numpy().ravel() * np.asarray(expected)[leaves]
    assert len(np.unique(leaves)) > batch_size / 4
    np.testing.assert_allclose(products, products[0], rtol=1e-5)


def test_a_hundred_thousand_leaves() -> None:
    rng = np.random.default_rng(6)
    n_envs, n_adds = 500, 200
    buffer = filled(n_adds, buffer_size=n_envs * n_adds, n_envs=n_envs, alpha=0.6, eps=1e-3)
    expected = [1.0] * (n_envs * n_adds)
    for _ in range(3):
        indices = rng.integers(len(expected), size=60_000)
        assert len(set(indices.tolist())) < len(indices)
        errors = rng.lognormal(size=len(indices))
        buffer.update_priorities(indices, errors)
        for index, error in zip(indices.tolist(), errors.tolist(), strict=True):
            expected[index] = priority(error, 0.6, 1e-3)
    assert_frequencies(buffer, expected, batch_size=50_000)
    assert_leaves(buffer, expected, batch_size=50_000)
    add_to(buffer, 2)
    expected[: 2 * n_envs] = [max(expected)] * (2 * n_envs)
    assert_frequencies(buffer, expected, batch_size=50_000)
    assert_leaves(buffer, expected, batch_size=50_000)


@pytest.mark.parametrize("as_tensor", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_was_sampled_can_be_updated(as_tensor: bool, dtype: str) -> None:
    buffer = filled(9, alpha=1.0, eps=0.5)
    samples = buffer.sample_prioritized(300)
    assert samples.indices.dtype == th.int64 and samples.indices.shape == (300,)
    assert samples.indices.device.type == "cpu"
    errors = samples.indices.numpy().astype(dtype)
    buffer.update_priorities(samples.indices, th.as_tensor(errors) if as_tensor else errors)
    assert_frequencies(buffer, [leaf + 0.5 for leaf in range(9)])


BAD_UPDATES: dict[str, tuple[Any, Any]] = {
    "nan": ([0, 1], [1.0, np.nan]),
    "infinite": ([0, 1], [1.0, np.inf]),
    "nan in a tensor": ([0, 1], th.tensor([1.0, th.nan])),
    "one error for two": ([0, 1], [1.0]),
    "two errors for one": ([0], [1.0, 2.0]),
    "a column of errors": ([0, 1], [[1.0], [2.0]]),
    "a number": ([0, 1], 1.0),
    "a negative index": ([0, -1], [1.0, 2.0]),
    "an empty leaf": ([0, 6], [1.0, 2.0]),
    "beyond the last leaf": ([0, 32], [1.0, 2.0]),
    "a matrix of indices": ([[0, 1]], [[1.0, 2.0]]),
}


@pytest.mark.parametrize("name", BAD_UPDATES)
def test_bad_updates_are_refused_and_change_nothing(name: str) -> None:
    buffer = filled(3, buffer_size=32, n_envs=2, alpha=1.0, eps=0.5)
    before = np.array([0.5, 1.5, 2.5, 3.5, 4.5, 5.5])
    buffer.update_priorities(np.arange(6), before - 0.5)
    indices, errors = BAD_UPDATES[name]
    with pytest.raises(ValueError):
        buffer.update_priorities(np.array(indices), errors if isinstance(errors, th.Tensor) else np.array(errors))
    assert_frequencies(buffer, before)
    add_to(buffer, 1)
    assert_frequencies(buffer, [*before, 5.5, 5.5])


def test_an_empty_update_changes_nothing() -> None:
    buffer = filled(3, alpha=1.0)
    buffer.update_priorities(np.zeros(0, np.int64), np.zeros(0))
    assert_frequencies(buffer, [1.0] * 3)


@pytest.mark.parametrize("cls", CLASSES)
def test_copies_keep_priorities_and_go_on_by_themselves(cls: type) -> None:
    buffer = filled(7, buffer_size=10, n_envs=2, cls=cls, alpha=1.0, eps=0.5)
    buffer.update_priorities(np.arange(10), np.arange(10.0))
    expected = [leaf + 0.5 for leaf in range(10)]
    for other in (pickle.loads(pickle.dumps(buffer)), copy.deepcopy(buffer)):
        samples = []
        for source in (buffer, other):
            np.random.seed(8)
            samples.append(source.sample_prioritized(20, progress_remaining=0.3))
        assert th.equal(samples[0].indices, samples[1].indices)
        assert th.equal(samples[0].weights, samples[1].weights)
        add_to(other, 1)
        other.update_priorities(np.array([9]), np.array([0.0]))
        assert_frequencies(other, [*expected[:4], 9.5, 9.5, *expected[6:9], 0.5])
        assert_frequencies(buffer, expected)


@pytest.mark.parametrize("cls", CLASSES)
def test_a_half_filled_buffer_is_pickled(cls: type) -> None:
    buffer = filled(3, buffer_size=20, n_envs=2, cls=cls, alpha=1.0, eps=0.5)
    buffer.update_priorities(np.arange(6), np.arange(6.0))
    other = pickle.loads(pickle.dumps(buffer))
    expected = [leaf + 0.5 for leaf in range(6)]
    assert_frequencies(other, expected)
    add_to(other, 9)
    assert_frequencies(other, [5.5] * 4 + expected[4:] + [5.5] * 14)


@pytest.mark.parametrize("cls", CLASSES)
def test_a_reset_buffer_forgets_priorities(cls: type) -> None:
    buffer = filled(5, buffer_size=8, cls=cls, alpha=1.0, eps=0.5)
    buffer.update_priorities(np.arange(5), np.arange(5.0) + 10)
    buffer.reset()
    buffer.check_valid()
    add_to(buffer, 3)
    assert_frequencies(buffer, [1.0] * 3)
    buffer.update_priorities(np.array([1]), np.array([0.0]))
    assert read_priorities(buffer) == pytest.approx([1.0, 0.5, 1.0])


class Still(gym.Env):
    """One observation for ever."""

    observation_space = SMALL_SPACE

    def __init__(self, action_space: spaces.Space) -> None:
        self.action_space = action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        return np.zeros(1, np.float32), 0.0, False, False, {}


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize(
    ("algorithm", "action_space"), [(DQN, spaces.Discrete(2)), (SAC, spaces.Box(-1, 1, (1,), np.float32))]
)
def test_stock_algorithms_are_told_that_they_cannot(algorithm: type, action_space: spaces.Space, cls: type) -> None:
    model = algorithm(
        "MlpPolicy",
        Still(action_space),
        learning_starts=3,
        train_freq=1,
        buffer_size=50,
        replay_buffer_class=cls,
        policy_kwargs=dict(net_arch=[4]),
        device="cpu",
    )
    with pytest.raises(RuntimeError, match="priorit"):
        model.learn(10)
    # When training begins, not before
    assert model.num_timesteps == 4
