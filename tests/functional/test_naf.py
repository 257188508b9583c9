"""Normalized advantage functions, against loops and by hand."""

import math

import numpy as np
import pytest
import torch as th

from sb3_ext.functional.naf import lower_triangular, precise_noise, quadratic_advantage


def test_triangles_by_hand() -> None:
    entry = 10 * math.atanh(math.log(3.0) / 10)  # exp(10 tanh(entry / 10)) = 3
    lower = lower_triangular(th.tensor([[0.0, 2.0, entry], [0.0, -1.0, 0.0]]), 2)
    np.testing.assert_allclose(lower, [[[1, 0], [2, 3]], [[1, 0], [-1, 1]]], rtol=1e-6)


@pytest.mark.parametrize("entry", [-1e6, -120.0, 120.0, 1e6])
def test_extreme_entries_give_finite_numbers(entry: float) -> None:
    entries = th.zeros(50, 6)
    entries[:, [0, 2, 5]] = entry  # the diagonal
    lower = lower_triangular(entries, 3)
    assert th.isfinite(lower).all()
    noise = precise_noise(lower, th.randn(50, 3, generator=th.Generator().manual_seed(0)), 1.0)
    assert th.isfinite(noise).all() and th.isfinite(quadratic_advantage(noise, th.zeros(50, 3), lower)).all()


def test_advantages_against_loops() -> None:
    generator = th.Generator().manual_seed(0)
    actions, mean = (th.randn(4, 3, dtype=th.float64, generator=generator) for _ in range(2))
    lower = lower_triangular(th.randn(4, 6, dtype=th.float64, generator=generator), 3)
    found = quadratic_advantage(actions, mean, lower)
    for row in range(4):
        matrix = lower[row].numpy() @ lower[row].numpy().T
        difference = (actions[row] - mean[row]).numpy()
        expected = -0.5 * sum(difference[i] * matrix[i, j] * difference[j] for i in range(3) for j in range(3))
        assert found[row].item() == pytest.approx(expected, rel=1e-12)
    assert (found < 0).all() and quadratic_advantage(mean, mean, lower).tolist() == [0.0] * 4


def test_noise_has_the_inverse_of_the_precision_as_covariance() -> None:
    lower = th.tensor([[1.0, 0.0], [2.0, 0.5]], dtype=th.float64)
    noise = th.randn(200_000, 2, dtype=th.float64, generator=th.Generator().manual_seed(0))
    drawn = precise_noise(lower.expand(len(noise), 2, 2), noise, 0.25)
    expected = 0.25 * np.linalg.inv(lower.numpy() @ lower.numpy().T)
    np.testing.assert_allclose(np.cov(drawn.T), expected, rtol=0.02)
