"""What a prioritized buffer draws, how often and with which weights, against loops over plain numbers."""

import copy
import pickle

import numpy as np
import pytest
import torch as th
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples

from tests.support.priorities import CLASSES, assert_frequencies, filled, plain_weights, priority
from tests.support.stock import ONLY, Stock, assert_same_samples
from tests.support.streams import Part, Stream, StreamConfig


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
) -> None:
    config = StreamConfig(
        parts={key: Part(*part) for key, part in PARTS[parts].items()}, n_envs=2, seed=9, p_interrupt=0.1
    )
    arguments = (26, config.observation_space, config.action_space)
    stock = Stock(*arguments, n_envs=2, n_steps=n_steps, gamma=0.9)
    buffer = cls(*arguments, device="cpu", n_envs=2, n_steps=n_steps, gamma=0.9)
    stream = Stream(config)
    for _ in range(n_adds):
        stream.feed(stock, buffer)
        buffer.check_valid()
    for source in (buffer, pickle.loads(pickle.dumps(buffer)), copy.deepcopy(buffer)):
        samples = source.sample_prioritized(50)
        leaves = samples.indices.numpy()
        assert_same_samples(samples, stock.at(leaves // 2, leaves % 2))
        plain = DictReplayBufferSamples if parts == "dict" else ReplayBufferSamples
        assert set(samples._fields) == {*plain._fields, "weights", "indices"}
        assert type(samples).__name__ == ("DictPrioritizedSamples" if parts == "dict" else "PrioritizedSamples")
