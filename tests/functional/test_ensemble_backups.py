"""
Backups of an ensemble of critics, against loops over Python floats and numbers worked out by hand.

N critics and B samples always differ, so that a reduction over the wrong axis has the wrong shape.
"""

import math
from collections import Counter
from collections.abc import Callable
from itertools import combinations

import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_ext.functional.ensemble import (
    ACTOR_QS,
    TARGET_BACKUPS,
    aggregate_q,
    ensemble_backup,
    random_mixture_weights,
    random_subset,
)

N, B = 5, 7

Matrix = list[list[float]]


def random_q(n_critics: int = N, batch_size: int = B, seed: int = 0) -> th.Tensor:
    return th.randn(n_critics, batch_size, dtype=th.float64, generator=th.Generator().manual_seed(seed))


def oracle_vanilla(q: Matrix) -> Matrix:
    return [[q[i][b] for b in range(len(q[0]))] for i in range(len(q))]


def oracle_doubleq(q: Matrix) -> Matrix:
    n = len(q)
    return [[q[i + 1 if i + 1 < n else 0][b] for b in range(len(q[0]))] for i in range(n)]


def oracle_min(q: Matrix) -> Matrix:
    result: Matrix = []
    for _ in q:
        row = []
        for b in range(len(q[0])):
            smallest = math.inf
            for critic in q:
                smallest = critic[b] if critic[b] < smallest else smallest
            row.append(smallest)
        result.append(row)
    return result


def oracle_mean(q: Matrix) -> Matrix:
    result: Matrix = []
    for _ in q:
        row = []
        for b in range(len(q[0])):
            total = 0.0
            for critic in q:
                total += critic[b]
            row.append(total / len(q))
        result.append(row)
    return result


ORACLES: dict[str, Callable[[Matrix], Matrix]] = {
    "vanilla": oracle_vanilla,
    "doubleq": oracle_doubleq,
    "min": oracle_min,
    "mean": oracle_mean,
}


@pytest.mark.parametrize("backup", ORACLES)
@pytest.mark.parametrize("n_critics", [2, 5, 6])
def test_deterministic_backups_against_loops(backup: str, n_critics: int) -> None:
    next_q = random_q(n_critics)
    result = ensemble_backup(backup, next_q, n_critics)
    expected = th.tensor(ORACLES[backup](next_q.tolist()), dtype=th.float64)
    th.testing.assert_close(result, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    ("backup", "expected"),
    [
        # Q'_1 = (1, 8), Q'_2 = (4, -2), Q'_3 = (-2, 3)
        ("vanilla", [[1.0, 8.0], [4.0, -2.0], [-2.0, 3.0]]),
        # critic 1 learns from 2, 2 from 3, 3 from 1
        ("doubleq", [[4.0, -2.0], [-2.0, 3.0], [1.0, 8.0]]),
        # min(1, 4, -2) = -2, min(8, -2, 3) = -2
        ("min", [[-2.0, -2.0]] * 3),
        # (1 + 4 - 2) / 3 = 1, (8 - 2 + 3) / 3 = 3
        ("mean", [[1.0, 3.0]] * 3),
    ],
)
def test_backups_by_hand(backup: str, expected: Matrix) -> None:
    next_q = th.tensor([[1.0, 8.0], [4.0, -2.0], [-2.0, 3.0]])
    th.testing.assert_close(ensemble_backup(backup, next_q, 3), th.tensor(expected))


def test_redq_by_hand() -> None:
    # The subset is critics 1 and 2: min(1, 4) = 1, min(8, -2) = -2. All three critics learn from it, the third
    # one's -2 and 3 count for nothing.
    next_q = th.tensor([[1.0, 8.0], [4.0, -2.0], [-2.0, 3.0]])
    result = ensemble_backup("redq", next_q[th.tensor([0, 1])], 3)
    th.testing.assert_close(result, th.tensor([[1.0, -2.0]] * 3))


@pytest.mark.parametrize("subset_size", [1, 2, 4])
def test_redq_is_the_minimum_over_its_subset(subset_size: int) -> None:
    next_q = random_q()
    th.manual_seed(subset_size)
    subset = random_subset(N, subset_size)
    assert subset is not None
    members = subset.tolist()
    result = ensemble_backup("redq", next_q[subset], N)
    q = next_q.tolist()
    for i in range(N):
        for b in range(B):
            assert result[i, b].item() == min(q[m][b] for m in members)


@settings(max_examples=50, deadline=None)
@given(n_critics=st.integers(2, 12), seed=st.integers(0, 2**20))
def test_doubleq_never_gives_a_critic_its_own_value(n_critics: int, seed: int) -> None:
    next_q = random_q(n_critics, n_critics + 1, seed)
    result = ensemble_backup("doubleq", next_q, n_critics)
    # A reversal would fail for every odd N
    assert (result != next_q).all()
    # Nothing is lost either: every critic's values are learned by exactly one other
    assert sorted(map(tuple, result.tolist())) == sorted(map(tuple, next_q.tolist()))


@settings(max_examples=50, deadline=None)
@given(n_critics=st.integers(1, 8), seed=st.integers(0, 2**20))
def test_order_of_the_backups(n_critics: int, seed: int) -> None:
    next_q = random_q(n_critics, B + 2, seed)
    low = ensemble_backup("min", next_q, n_critics)
    th.manual_seed(seed)
    subset = random_subset(n_critics, min(2, n_critics))
    redq = ensemble_backup("redq", next_q if subset is None else next_q[subset], n_critics)
    assert (low <= redq).all()
    assert (low <= ensemble_backup("mean", next_q, n_critics) + 1e-12).all()
    assert (low <= ensemble_backup("vanilla", next_q, n_critics)).all()


@pytest.mark.parametrize("backup", TARGET_BACKUPS)
def test_every_backup_gives_a_value_for_each_critic(backup: str) -> None:
    next_q = random_q().float()
    result = ensemble_backup(backup, next_q, N)
    assert result.shape == (N, B)
    assert result.dtype == th.float32


@pytest.mark.parametrize("backup", sorted(set(TARGET_BACKUPS) - {"doubleq"}))
def test_one_critic_is_vanilla(backup: str) -> None:
    next_q = random_q(n_critics=1)
    th.testing.assert_close(ensemble_backup(backup, next_q, 1), next_q, rtol=1e-14, atol=0)


def test_unknown_backup() -> None:
    with pytest.raises(ValueError, match=r"median.*vanilla.*doubleq.*min.*mean.*redq.*rem"):
        ensemble_backup("median", random_q(), N)


def extract_rem_weights(seed: int) -> th.Tensor:
    """
    The mixture that ``rem`` uses after seeding: the target is linear in the values, so unit vectors show it.
    """
    weights = []
    for i in range(N):
        unit = th.zeros(N, B, dtype=th.float64)
        unit[i] = 1.0
        th.manual_seed(seed)
        weights.append(ensemble_backup("rem", unit, N)[0])
    return th.stack(weights)


def test_rem_is_one_convex_combination_per_sample() -> None:
    next_q = random_q()
    weights = extract_rem_weights(seed=3)
    assert (weights >= 0).all()
    th.testing.assert_close(weights.sum(dim=0), th.ones(B, dtype=th.float64))
    # Its own for every sample
    for first, second in combinations(range(B), 2):
        assert not th.allclose(weights[:, first], weights[:, second])

    th.manual_seed(3)
    result = ensemble_backup("rem", next_q, N)
    q, w = next_q.tolist(), weights.tolist()
    for b in range(B):
        mixture = sum(w[i][b] * q[i][b] for i in range(N))
        for i in range(N):
            assert result[i, b].item() == pytest.approx(mixture, rel=1e-12, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(n_critics=st.integers(1, 9), seed=st.integers(0, 2**20), scale=st.floats(1e-3, 1e6))
def test_rem_stays_between_the_critics(n_critics: int, seed: int, scale: float) -> None:
    next_q = scale * random_q(n_critics, B + 3, seed)
    th.manual_seed(seed)
    result = ensemble_backup("rem", next_q, n_critics)
    slack = 1e-12 * scale
    assert (result >= next_q.min(dim=0).values - slack).all()
    assert (result <= next_q.max(dim=0).values + slack).all()
    # All critics learn the same value
    assert (result == result[:1]).all()


def test_rem_takes_the_mixture_that_it_is_given() -> None:
    mixture = th.tensor([[0.25, 1.0], [0.75, 0.0]])
    next_q = th.tensor([[4.0, 5.0], [8.0, 7.0]])
    th.testing.assert_close(ensemble_backup("rem", next_q, 3, mixture), th.tensor([[7.0, 5.0]] * 3))


def test_rem_draws_anew() -> None:
    next_q = random_q()
    th.manual_seed(0)
    assert not th.allclose(ensemble_backup("rem", next_q, N), ensemble_backup("rem", next_q, N))


def test_mixture_weights_prefer_no_critic() -> None:
    th.manual_seed(0)
    n_samples = 20_000
    weights = random_mixture_weights(N, n_samples, dtype=th.float64)
    assert weights.shape == (N, n_samples)
    assert (weights >= 0).all()
    th.testing.assert_close(weights.sum(dim=0), th.ones(n_samples, dtype=th.float64))
    z_scores = (weights.mean(dim=1) - 1 / N) / (weights.std(dim=1) / math.sqrt(n_samples))
    assert z_scores.abs().max() < 4


@settings(max_examples=100, deadline=None)
@given(n_critics=st.integers(1, 12), fraction=st.floats(0, 1), seed=st.integers(0, 2**20))
def test_subset_is_drawn_without_replacement(n_critics: int, fraction: float, seed: int) -> None:
    subset_size = 1 + fraction * (n_critics - 1)
    th.manual_seed(seed)
    subset = random_subset(n_critics, subset_size)
    members = list(range(n_critics)) if subset is None else subset.tolist()
    assert len(members) in {math.floor(subset_size), math.ceil(subset_size)}
    assert len(set(members)) == len(members)
    assert set(members) <= set(range(n_critics))


def test_all_pairs_of_critics_are_equally_likely() -> None:
    th.manual_seed(0)
    n_draws = 5_000
    counts: Counter[tuple[int, ...]] = Counter()
    for _ in range(n_draws):
        subset = random_subset(N, 2)
        assert subset is not None
        counts[tuple(sorted(subset.tolist()))] += 1
    expected = n_draws / 10
    chi_square = sum((counts[pair] - expected) ** 2 / expected for pair in combinations(range(N), 2))
    # 0.999 quantile of the chi-square distribution with 10 - 1 degrees of freedom
    assert chi_square < 27.88


@pytest.mark.parametrize("subset_size", [1.25, 2.8])
def test_fractional_size_is_rounded_up_with_its_fraction(subset_size: float) -> None:
    th.manual_seed(1)
    n_draws = 5_000
    n_rounded_up = 0
    for _ in range(n_draws):
        subset = random_subset(N, subset_size)
        assert subset is not None
        assert len(subset) in {math.floor(subset_size), math.ceil(subset_size)}
        n_rounded_up += len(subset) == math.ceil(subset_size)
    probability = subset_size - math.floor(subset_size)
    standard_error = math.sqrt(probability * (1 - probability) / n_draws)
    assert abs(n_rounded_up / n_draws - probability) < 4 * standard_error


def test_integer_size_is_never_rounded() -> None:
    th.manual_seed(2)
    sizes = {len(subset) for subset in (random_subset(N, 3.0) for _ in range(200)) if subset is not None}
    assert sizes == {3}


@pytest.mark.parametrize("n_critics", [1, 2, 5])
@pytest.mark.parametrize("as_type", [int, float])
def test_redq_with_all_critics_is_min_and_draws_nothing(n_critics: int, as_type: type) -> None:
    next_q = random_q(n_critics)
    before = th.get_rng_state()
    subset = random_subset(n_critics, as_type(n_critics))
    assert subset is None
    result = ensemble_backup("redq", next_q, n_critics)
    assert th.equal(th.get_rng_state(), before)
    assert th.equal(result, ensemble_backup("min", next_q, n_critics))


@pytest.mark.parametrize("how", ACTOR_QS)
def test_aggregate_against_loops(how: str) -> None:
    # (N, K, B)
    q_values = th.randn(5, 3, 7, dtype=th.float64, generator=th.Generator().manual_seed(0))
    result = aggregate_q(q_values, how)
    q = q_values.tolist()
    assert result.shape == (3, 7)
    for k in range(3):
        for b in range(7):
            values = [q[i][k][b] for i in range(5)]
            expected = min(values) if how == "min" else sum(values) / 5
            assert result[k, b].item() == pytest.approx(expected, rel=1e-12)


def test_unknown_aggregate() -> None:
    with pytest.raises(ValueError, match=r"median.*mean.*min"):
        aggregate_q(random_q(), "median")
