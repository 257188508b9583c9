"""Maxima over actions: each search against loops and numbers by hand, CMA-ES against the package cmaes."""

import math

import numpy as np
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_ext.functional.maximizers import (
    MAXIMIZERS,
    CMAState,
    Maximizer,
    best_of,
    cma_candidates,
    cma_start,
    cma_step,
    cma_weights,
    cross_entropy_method,
    maximize,
    uniform_actions,
)

B, A = 5, 3
PEAKS = th.tensor([[0.5, -0.5, 0.0], [0.9, 0.9, -0.9], [0.0, 0.0, 0.0], [-1.0, 1.0, 0.3], [0.2, 0.1, -0.7]])


def closeness(candidates: th.Tensor) -> th.Tensor:
    """Minus a squared distance, longer in some directions, from the peak of each state."""
    return -((candidates - PEAKS) * th.tensor([1.0, 3.0, 0.5])).square().sum(dim=2)


def test_best_of_by_hand() -> None:
    candidates = th.tensor([[[0.1], [0.2]], [[0.3], [0.4]], [[0.5], [0.6]]])
    best = best_of(candidates, th.tensor([[1.0, 5.0], [3.0, 2.0], [2.0, 4.0]]))
    np.testing.assert_allclose(best.actions, [[0.3], [0.2]])
    assert best.values.tolist() == [3.0, 5.0]
    better = best.or_better(candidates, th.tensor([[0.0, 0.0], [0.0, 6.0], [2.9, 0.0]]))
    np.testing.assert_allclose(better.actions, [[0.3], [0.4]])
    assert better.values.tolist() == [3.0, 6.0]


@pytest.mark.parametrize("maximizer", MAXIMIZERS)
def test_it_comes_close_to_the_peak(maximizer: Maximizer) -> None:
    th.manual_seed(0)
    seen: list[th.Tensor] = []

    def values(candidates: th.Tensor) -> th.Tensor:
        seen.append(candidates)
        return closeness(candidates)

    best = maximize(maximizer, values, 40, 8, 15, th.zeros(B, A))
    assert best.actions.shape == (B, A) and best.values.shape == (B,)
    th.testing.assert_close(best.values, closeness(best.actions.unsqueeze(0))[0])
    every = th.cat(seen)
    assert every.shape == (600, B, A) and every.abs().max() <= 1.0
    # Nothing that was seen was better
    assert (closeness(every).max(dim=0).values == best.values).all()
    distance = (best.actions - PEAKS).norm(dim=1)
    assert (distance < {"random": 0.35, "cem": 0.05, "cma": 0.2}[maximizer]).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(4, 12), st.integers(1, 4))
def test_any_sizes(n_actions: int, n_states: int, n_samples: int, n_iterations: int) -> None:
    for maximizer in MAXIMIZERS:
        like = th.zeros(n_states, n_actions)
        best = maximize(maximizer, lambda a: -a.square().sum(dim=2), n_samples, n_samples, n_iterations, like)
        assert best.actions.shape == like.shape and best.actions.abs().max() <= 1
        assert th.isfinite(best.values).all()


def test_the_same_generator_finds_the_same() -> None:
    for maximizer in MAXIMIZERS:
        found = [
            maximize(maximizer, closeness, 8, 3, 3, th.zeros(B, A), th.Generator().manual_seed(seed)).actions
            for seed in (0, 0, 1)
        ]
        assert th.equal(found[0], found[1]) and not th.equal(found[0], found[2])


def test_the_cross_entropy_method_against_loops() -> None:
    like, n_samples, n_elites = th.zeros(2, 2), 6, 3
    generator = th.Generator().manual_seed(4)
    seen: list[th.Tensor] = []

    def values(candidates: th.Tensor) -> th.Tensor:
        seen.append(candidates)
        return (candidates * th.tensor([1.0, -2.0])).sum(dim=2)

    cross_entropy_method(values, n_samples, n_elites, 2, like, generator)
    again = th.Generator().manual_seed(4)
    first = uniform_actions(n_samples, like, again)
    noise = th.randn(n_samples, 1, 2, generator=again).expand(-1, 2, -1)  # the same for both states
    assert th.equal(seen[0], first)
    for state in range(2):
        order = sorted(range(n_samples), key=lambda k: -(first[k, state, 0] - 2 * first[k, state, 1]).item())
        for action in range(2):
            elites = [first[k, state, action].item() for k in order[:n_elites]]
            mean = sum(elites) / n_elites
            std = math.sqrt(sum((x - mean) ** 2 for x in elites) / n_elites)
            for k in range(n_samples):
                expected = min(max(mean + std * noise[k, state, action].item(), -1.0), 1.0)
                assert seen[1][k, state, action].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("n_actions", [2, 3, 8])
def test_cma_against_the_package_cmaes(n_actions: int) -> None:
    cmaes = pytest.importorskip("cmaes")
    n_samples, n_states = 4 + int(3 * math.log(n_actions)) + 3, 2
    rng = np.random.default_rng(n_actions)
    others = [cmaes.CMA(np.zeros(n_actions), 0.5, population_size=n_samples, seed=0) for _ in range(n_states)]
    state, weights = cma_start(th.zeros(n_states, n_actions, dtype=th.float64)), cma_weights(n_samples, n_actions)
    for _ in range(25):
        candidates = rng.normal(size=(n_samples, n_states, n_actions))
        values = rng.normal(size=(n_samples, n_states))
        state = cma_step(state, th.from_numpy(candidates), th.from_numpy(values), weights)
        for place, other in enumerate(others):
            other.tell([(candidates[k, place], -values[k, place]) for k in range(n_samples)])  # it minimizes
            np.testing.assert_allclose(state.mean[place], other._mean, rtol=1e-6, atol=1e-9)
            np.testing.assert_allclose(state.sigma[place], other._sigma, rtol=1e-6)
            np.testing.assert_allclose(state.covariance[place], other._C, rtol=1e-5, atol=1e-8)
            np.testing.assert_allclose(state.path_sigma[place], other._p_sigma, rtol=1e-6, atol=1e-8)
            np.testing.assert_allclose(state.path_c[place], other._pc, rtol=1e-6, atol=1e-8)


def test_candidates_have_the_covariance() -> None:
    covariance = th.tensor([[1.0, 0.6], [0.6, 0.5]], dtype=th.float64)
    mean, nothing = th.tensor([[0.3, -0.2]], dtype=th.float64), th.zeros(1, 2, dtype=th.float64)
    state = CMAState(mean, th.tensor([0.5], dtype=th.float64), covariance[None], nothing, nothing, 0)
    drawn = cma_candidates(state, 200_000, th.Generator().manual_seed(0))[:, 0]
    np.testing.assert_allclose(drawn.mean(dim=0), mean[0], atol=0.01)
    np.testing.assert_allclose(np.cov(drawn.T), 0.25 * covariance, atol=0.005)


def test_another_name() -> None:
    with pytest.raises(ValueError, match="maximizer='grid' is not one of 'random', 'cem', 'cma'"):
        maximize("grid", closeness, 4, 2, 1, th.zeros(B, A))
