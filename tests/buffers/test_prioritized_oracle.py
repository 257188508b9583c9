"""
Prioritized replay against loops over plain numbers.

Nothing here looks into the tree of priorities: they are read off what is sampled. Sampling is stratified, which makes
frequencies nearly deterministic: if B draws have one of B equal parts of the sum of all priorities each, a leaf with
probability P is drawn more than B P - 2 and less than B P + 2 times.
"""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples

from sb3_ext import PrioritizedFrameDedupReplayBuffer, PrioritizedReplayBuffer

ONLY = ""
CLASSES = [PrioritizedReplayBuffer, PrioritizedFrameDedupReplayBuffer]
SMALL_SPACE = spaces.Box(-np.inf, np.inf, (1,), np.float32)


def filled(
    n_adds: int, buffer_size: int = 16, n_envs: int = 1, cls: type = PrioritizedReplayBuffer, **kwargs: Any
) -> Any:
    """
    :param n_adds: how many transitions of each environment
    :param buffer_size:
    :param n_envs:
    :param cls: class of the buffer
    :param kwargs: further arguments of it
    :return: a buffer whose observations do not matter
    """
    buffer = cls(buffer_size, SMALL_SPACE, spaces.Discrete(2), device="cpu", n_envs=n_envs, **kwargs)
    add_to(buffer, n_adds)
    return buffer


def add_to(buffer: Any, n_adds: int) -> None:
    for step in range(n_adds):
        obs = np.full((buffer.n_envs, 1), step, np.float32)
        zeros = np.zeros(buffer.n_envs)
        buffer.add(obs, obs + 1, zeros.astype(np.int64), zeros, zeros.astype(bool), [{}] * buffer.n_envs)
    buffer.check_valid()


def n_leaves(buffer: Any) -> int:
    return buffer.size() * buffer.n_envs


def priority(error: float, alpha: float, eps: float) -> float:
    return (abs(float(error)) + eps) ** alpha


def assert_frequencies(buffer: Any, expected: Any, batch_size: int = 5000) -> None:
    """
    :param buffer:
    :param expected: the priority of every leaf, perhaps times a constant
    :param batch_size: of the one sample
    """
    buffer.check_valid()
    indices = buffer.sample_prioritized(batch_size).indices.numpy()
    assert len(expected) == n_leaves(buffer)
    assert indices.min() >= 0 and indices.max() < len(expected)
    counts = np.bincount(indices, minlength=len(expected))
    total = sum(float(p) for p in expected)
    wanted = np.array([batch_size * float(p) / total for p in expected])
    # A little more than 2 for rounding
    wrong = np.flatnonzero(np.abs(counts - wanted) > 2 + 1e-6 * batch_size)
    assert wrong.size == 0, [(int(i), int(counts[i]), float(wanted[i])) for i in wrong]


def read_priorities(buffer: Any, batch_size: int = 2000) -> list[float]:
    """
    :param buffer:
    :param batch_size: enough for every leaf to be drawn
    :return: the priority of every leaf, divided by the largest: with beta = 1 the weights are inversely proportional
    """
    samples = buffer.sample_prioritized(batch_size, progress_remaining=0.0)
    weights = dict(zip(samples.indices.tolist(), samples.weights.flatten().tolist(), strict=True))
    assert sorted(weights) == list(range(n_leaves(buffer))), "not every leaf was drawn"
    smallest = min(weights.values())
    return [smallest / weights[leaf] for leaf in sorted(weights)]


def plain_weights(priorities: list[float], beta: float) -> list[float]:
    """
    :param priorities: of every leaf
    :param beta:
    :return: the weight of every leaf, (n P)^-beta, largest 1
    """
    total = 0.0
    for p in priorities:
        total += p
    weights = [(len(priorities) * p / total) ** -beta for p in priorities]
    largest = max(weights)
    return [weight / largest for weight in weights]


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize(
    ("progress_remaining", "expected"),
    [
        # |error| + eps = 1, 4, 16; to the power of alpha: p = 1, 2, 4; P = 1/7, 2/7, 4/7; n P = 3/7, 6/7, 12/7.
        # beta = 0.5: (n P)^-0.5 = 1.527525, 1.080123, 0.763763; divided by the first
        (1.0, [1.0, 0.70710678, 0.5]),
        # beta = 0.75: (n P)^-0.75 = 1.887991, 1.122580, 0.667507
        (0.5, [1.0, 0.59460356, 0.35355339]),
        # beta = 1: 7/3, 7/6, 7/12
        (0.0, [1.0, 0.5, 0.25]),
    ],
)
def test_weights_worked_out_by_hand(cls: type, progress_remaining: float, expected: list[float]) -> None:
    buffer = filled(3, cls=cls, alpha=0.5, beta=0.5, eps=1.0)
    buffer.update_priorities(np.array([0, 1, 2]), np.array([0.0, -3.0, 15.0]))
    samples = buffer.sample_prioritized(70, progress_remaining=progress_remaining)
    assert samples.weights.dtype == th.float32 and samples.weights.shape == (70, 1)
    wanted = th.tensor(expected)[samples.indices].unsqueeze(1)
    th.testing.assert_close(samples.weights, wanted, rtol=1e-6, atol=0)
    # 70 draws: 10, 20 and 40, and these bounds of parts are bounds of strata, too
    counts = np.bincount(samples.indices.numpy(), minlength=3)
    assert np.abs(counts - [10, 20, 40]).max() <= 1


@given(
    errors=st.lists(st.floats(0.05, 4.0) | st.floats(-4.0, -0.05), min_size=1, max_size=12),
    alpha=st.floats(0.0, 1.0),
    beta=st.floats(0.0, 1.0),
    progress=st.floats(0.0, 1.0),
    eps=st.sampled_from([1e-6, 0.1]),
    batch_size=st.sampled_from([1, 3, 1500]),
)
def test_weights_against_a_loop(
    errors: list[float], alpha: float, beta: float, progress: float, eps: float, batch_size: int
) -> None:
    buffer = filled(len(errors), alpha=alpha, beta=beta, eps=eps)
    buffer.update_priorities(np.arange(len(errors)), np.array(errors))
    annealed = beta * progress + 1.0 * (1 - progress)
    weights = plain_weights([priority(error, alpha, eps) for error in errors], annealed)
    samples = buffer.sample_prioritized(batch_size, progress_remaining=progress)
    drawn = [weights[leaf] for leaf in samples.indices.tolist()]
    wanted = th.tensor([weight / max(drawn) for weight in drawn]).unsqueeze(1)
    th.testing.assert_close(samples.weights, wanted, rtol=1e-5, atol=1e-7)
    assert samples.weights.max().item() == 1.0


def test_weights_are_inverse_to_frequencies() -> None:
    """What beta = 1 is for: the weighted mean over a sample is the plain mean over the buffer."""
    rng = np.random.default_rng(0)
    buffer = filled(40, buffer_size=50, alpha=0.7)
    buffer.update_priorities(np.arange(40), rng.lognormal(size=40))
    values = th.as_tensor(rng.normal(size=40))
    samples = buffer.sample_prioritized(200_000, progress_remaining=0.0)
    weights = samples.weights.flatten().double()
    mean = (weights * values[samples.indices]).sum() / weights.sum()
    th.testing.assert_close(mean, values.mean(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_frequencies_follow_priorities(alpha: float, n_envs: int) -> None:
    rng = np.random.default_rng(1)
    buffer = filled(11, buffer_size=17 * n_envs, n_envs=n_envs, alpha=alpha, eps=1e-3)
    errors = rng.lognormal(sigma=2, size=11 * n_envs)
    errors[[0, 4, 7]] = 0.0, 100.0, 0.0
    buffer.update_priorities(np.arange(len(errors)), errors)
    assert_frequencies(buffer, [priority(error, alpha, 1e-3) for error in errors])


@pytest.mark.parametrize(("batch_size", "n_batches"), [(1, 3000), (7, 600)])
def test_frequencies_over_many_batches(batch_size: int, n_batches: int) -> None:
    """
    Chi-square: single draws are independent, and draws of one from each part only vary less. With 7 degrees of freedom
    more than 33 has a probability of less than 3e-5, and the seed is fixed.
    """
    errors = [0.3, 2.0, 1.0, 0.05, 4.0, 0.7, 0.7, 1.2]
    buffer = filled(len(errors), alpha=0.6)
    buffer.update_priorities(np.arange(len(errors)), np.array(errors))
    np.random.seed(2)
    counts = np.zeros(len(errors))
    for _ in range(n_batches):
        counts += np.bincount(buffer.sample_prioritized(batch_size).indices.numpy(), minlength=len(errors))
    priorities = np.array([priority(error, 0.6, 1e-6) for error in errors])
    expected = batch_size * n_batches * priorities / priorities.sum()
    assert counts.sum() == batch_size * n_batches
    assert ((counts - expected) ** 2 / expected).sum() < 33


def test_alpha_zero_is_uniform_and_unweighted() -> None:
    buffer = filled(10, alpha=0.0)
    buffer.update_priorities(np.arange(10), np.logspace(-3, 3, 10))
    assert_frequencies(buffer, [1.0] * 10)
    samples = buffer.sample_prioritized(64)
    assert th.equal(samples.weights, th.ones(64, 1))


def test_samples_depend_on_numpys_seed_only() -> None:
    buffer = filled(100, buffer_size=100, alpha=0.5)
    buffer.update_priorities(np.arange(100), np.arange(100))
    samples = []
    for seed in (3, 3, 4):
        np.random.seed(seed)
        samples.append(buffer.sample_prioritized(16))
    assert th.equal(samples[0].indices, samples[1].indices)
    assert th.equal(samples[0].weights, samples[1].weights)
    assert not th.equal(samples[0].indices, samples[2].indices)


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


@pytest.mark.parametrize("n_adds", [1, 3, 5, 9])
def test_only_what_is_stored_is_drawn(n_adds: int) -> None:
    """Also at the edges of the sum and after huge priorities: rounding must not lead to an empty leaf."""
    buffer = filled(n_adds, buffer_size=13, alpha=1.0)
    rng = np.random.default_rng(5)
    for magnitude in (1e12, 1e-6, 1e6, 1.0):
        buffer.update_priorities(np.arange(n_adds), magnitude * rng.random(n_adds))
        for batch_size in (1, 2, 1000):
            indices = buffer.sample_prioritized(batch_size).indices
            assert indices.min() >= 0 and indices.max() < n_adds
        # Rounding errors of the large ones are not left behind in the sum
        errors = rng.random(n_adds)
        buffer.update_priorities(np.arange(n_adds), errors)
        assert_frequencies(buffer, errors + 1e-6)


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


PARTS = {
    "image": {ONLY: ("transposed", 4, 1)},
    "vector": {ONLY: ("vector", 1, 3, "float32")},
    "dict": {"image": ("last", 3, 1), "vector": ("vector", 2, 2, "float64")},
}


@pytest.mark.parametrize("n_adds", [1, 6, 30])
@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("cls", CLASSES)
def test_samples_are_sb3s_at_the_indices(
    cls: type,
    parts: str,
    n_steps: int,
    n_adds: int,
    stock_class: Any,
    part_class: Any,
    config_class: Any,
    stream_class: Any,
    same_samples: Callable[..., None],
) -> None:
    config = config_class(
        parts={key: part_class(*part) for key, part in PARTS[parts].items()}, n_envs=2, seed=9, p_interrupt=0.1
    )
    arguments = (26, config.observation_space, config.action_space)
    stock = stock_class(*arguments, n_envs=2, n_steps=n_steps, gamma=0.9)
    buffer = cls(*arguments, device="cpu", n_envs=2, n_steps=n_steps, gamma=0.9)
    stream = stream_class(config)
    for _ in range(n_adds):
        stream.feed(stock, buffer)
        buffer.check_valid()
    for source in (buffer, pickle.loads(pickle.dumps(buffer)), copy.deepcopy(buffer)):
        samples = source.sample_prioritized(50)
        leaves = samples.indices.numpy()
        same_samples(samples, stock.at(leaves // 2, leaves % 2))
        plain = DictReplayBufferSamples if parts == "dict" else ReplayBufferSamples
        assert set(samples._fields) == {*plain._fields, "weights", "indices"}
        assert type(samples).__name__ == ("DictPrioritizedSamples" if parts == "dict" else "PrioritizedSamples")


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
