"""Masked actions in every function that weights or averages over actions, against loops over the other actions."""

import math
from typing import Any

import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_ext.functional.action_masks import count_allowed, gaps_to_best, is_masked, may_be_masked
from sb3_ext.functional.bellman import soft_td_target
from sb3_ext.functional.diagnosis import ensemble_disagreement
from sb3_ext.functional.ensemble import TARGET_BACKUPS, ensemble_backup
from sb3_ext.functional.q_learning import double_q_learning, q_learning
from sb3_ext.functional.soft_value import (
    SOFT_BACKUPS,
    boltzmann_log_policy,
    munchausen_bonus,
    policy_entropy,
    soft_state_value,
)

LOWEST = th.finfo(th.float32).min
ALPHAS = (1e-4, 0.3, 7.0)
#: Which of 5 actions each of 4 states allows: one, some, all but one, all
ALLOWED = th.tensor([[0, 0, 1, 0, 0], [1, 0, 0, 1, 1], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]).bool()
B, A = ALLOWED.shape

mask_given = pytest.mark.parametrize("mask", [-math.inf, LOWEST, -1e8], ids=["inf", "lowest", "-1e8"])
double_q_given = pytest.mark.parametrize("double_q", [False, True], ids=["alone", "double_q"])


def randn(seed: int, scale: float = 1.0) -> th.Tensor:
    return scale * th.randn(B, A, generator=th.Generator().manual_seed(seed))


def masked(q_values: th.Tensor, mask: float) -> th.Tensor:
    return th.where(ALLOWED, q_values, mask)


def allowed_rows(q_values: th.Tensor) -> list[list[float]]:
    """The values of the allowed actions alone."""
    return [row[allowed].tolist() for row, allowed in zip(q_values, ALLOWED, strict=True)]


def log_policy_of(q_values: list[float], alpha: float) -> list[float]:
    largest = max(q_values)
    total = math.fsum(math.exp((q - largest) / alpha) for q in q_values)
    return [(q - largest) / alpha - math.log(total) for q in q_values]


def value_of(backup: str, q_values: list[float], selector: list[float], alpha: float) -> float:
    if backup == "max":
        return q_values[selector.index(max(selector))]
    value = 0.0
    for q, log_pi in zip(q_values, log_policy_of(selector, alpha), strict=True):
        value += math.exp(log_pi) * (q if backup == "boltzmann" else q - alpha * log_pi)
    return value - alpha * math.log(len(q_values)) if backup == "mellowmax" else value


@mask_given
def test_policy_and_entropy_of_the_allowed_actions(mask: float) -> None:
    q_values = randn(0)
    for alpha in ALPHAS:
        log_policy = boltzmann_log_policy(masked(q_values, mask), alpha)
        entropy = policy_entropy(log_policy)
        assert (log_policy[~ALLOWED] == -math.inf).all()
        for b, row in enumerate(allowed_rows(q_values)):
            expected = log_policy_of(row, alpha)
            assert log_policy[b][ALLOWED[b]].tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)
            of_loop = -math.fsum(math.exp(log_pi) * log_pi for log_pi in expected)
            assert entropy[b].item() == pytest.approx(of_loop, rel=1e-5, abs=1e-6)


@mask_given
@double_q_given
@pytest.mark.parametrize("backup", SOFT_BACKUPS)
def test_values_of_the_allowed_actions(backup: str, double_q: bool, mask: float) -> None:
    q_values, selector_q = randn(1), randn(2) if double_q else randn(1)
    for alpha in ALPHAS:
        selector = masked(selector_q, mask) if double_q else None
        values = soft_state_value(backup, masked(q_values, mask), alpha, selector)
        rows = zip(allowed_rows(q_values), allowed_rows(selector_q), strict=True)
        expected = [value_of(backup, row, others, alpha) for row, others in rows]
        assert values.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-5)


@mask_given
def test_a_hot_policy_does_not_take_masked_actions(mask: float) -> None:
    """Where a temperature of the size of the mask would make it likely."""
    log_policy = boltzmann_log_policy(masked(randn(0), mask), 1e9)
    for b in range(B):
        expected = -math.log(int(ALLOWED[b].sum()))
        assert log_policy[b][ALLOWED[b]].tolist() == pytest.approx([expected] * int(ALLOWED[b].sum()))
    assert (log_policy[~ALLOWED] == -math.inf).all()


@settings(max_examples=60)
@given(
    pairs=st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=1, max_size=6),
    places=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    mask=st.sampled_from([-math.inf, -1e8]),
    alpha=st.floats(1e-3, 1e3),
    doubled=st.booleans(),
    backup=st.sampled_from(SOFT_BACKUPS),
)
def test_masked_actions_are_as_absent(
    pairs: list[tuple[float, float]], places: list[int], mask: float, alpha: float, doubled: bool, backup: str
) -> None:
    with_masks = list(pairs)
    for place in places:
        with_masks.insert(place, (mask, mask))

    def value(rows: list[tuple[float, float]]) -> float:
        q_values, selector_q = (th.tensor([values], dtype=th.float64) for values in zip(*rows, strict=True))
        return soft_state_value(backup, q_values, alpha, selector_q if doubled else None).item()

    assert value(with_masks) == pytest.approx(value(pairs), rel=1e-9, abs=1e-9 * (1 + alpha))


@mask_given
@double_q_given
@pytest.mark.parametrize("backup", SOFT_BACKUPS)
def test_gradients_are_finite_and_zero_for_masked_actions(backup: str, double_q: bool, mask: float) -> None:
    q_values, selector_q = masked(randn(1), mask).requires_grad_(), masked(randn(2), mask).requires_grad_()
    value = soft_state_value(backup, q_values, 0.3, selector_q if double_q else None)
    (value.sum() + policy_entropy(boltzmann_log_policy(q_values, 0.3)).sum()).backward()
    for leaf in (q_values, selector_q) if double_q and backup != "max" else (q_values,):
        assert th.isfinite(leaf.grad).all()
        assert (leaf.grad[~ALLOWED] == 0).all()
        assert (leaf.grad[1:][ALLOWED[1:]] != 0).any()


@mask_given
def test_munchausen_bonus_of_masked_and_other_actions(mask: float) -> None:
    q_values, actions = randn(3), th.tensor([[2], [1], [0], [3]])
    bonus = munchausen_bonus(masked(q_values, mask), actions, 0.3, 0.9, -1.0)
    assert bonus[0] == 0  # nothing else was possible
    assert bonus[1].item() == pytest.approx(-0.9)  # it was masked: the bonus is clipped
    for b in (2, 3):
        row, place = allowed_rows(q_values)[b], int(ALLOWED[b, : actions[b, 0]].sum())
        assert bonus[b].item() == pytest.approx(0.9 * max(0.3 * log_policy_of(row, 0.3)[place], -1.0), rel=1e-5)


@mask_given
def test_a_state_without_allowed_actions(mask: float) -> None:
    """It is terminal, and nothing of it reaches the target."""
    q_values = th.full((1, A), mask)
    assert q_learning(q_values) == double_q_learning(q_values, q_values) == mask
    log_policy = boltzmann_log_policy(q_values, 0.3)
    assert th.isfinite(log_policy).all() and th.isfinite(policy_entropy(log_policy)).all()
    rewards, done = th.tensor([1.5]), th.ones(1)
    for backup in SOFT_BACKUPS:
        for selector_q in (None, q_values):
            value = soft_state_value(backup, q_values, 0.3, selector_q)
            assert value <= -1e8 + 10
            assert soft_td_target(rewards, done, 0.99, value) == 1.5
            assert soft_td_target(rewards, 1 - done, 0.0, value, 0.1) == 1.5
    # Where rewards follow, there is no value, and training must notice
    assert soft_td_target(rewards, 1 - done, 0.99, th.tensor([-math.inf])) == -math.inf


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_divergence_is_not_taken_for_a_mask(bad: float) -> None:
    q_values = masked(randn(1), -math.inf)
    q_values[3, 1] = bad
    for backup in SOFT_BACKUPS:
        for selector_q in (None, q_values):
            value = soft_state_value(backup, q_values, 0.3, selector_q)
            assert not math.isfinite(value[3]) and th.isfinite(value[:3]).all()
    assert policy_entropy(boltzmann_log_policy(q_values, 0.3))[3].isnan()
    assert soft_td_target(th.zeros(1), th.ones(1), 0.99, th.tensor([bad])).isnan()


@mask_given
@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_is_masked(mask: float, scale: float) -> None:
    q_values = masked(randn(0, scale), mask)
    for action in range(A):
        assert th.equal(is_masked(q_values[:, action], q_values), ~ALLOWED[:, action])
    assert th.equal(count_allowed(gaps_to_best(q_values)).squeeze(1), ALLOWED.sum(dim=1).float())
    nowhere = th.full((1, A), -math.inf)
    assert [may_be_masked(q_values[:, action]) for action in range(A)] == (~ALLOWED).any(dim=0).tolist()
    assert not may_be_masked(q_values[:0]) and boltzmann_log_policy(q_values[:0], 0.3).shape == (0, A)
    for diverged in (nowhere, th.full((1, A), math.nan), th.full((1, A), math.inf)):
        assert not is_masked(diverged[:, 0], diverged)


@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_low_values_are_no_mask(scale: float) -> None:
    q_values = randn(0, scale)
    assert th.equal(gaps_to_best(q_values), q_values - q_values.max(dim=1, keepdim=True).values)
    assert not is_masked(q_values.min(dim=1).values, q_values).any()
    # Both are worth 1e8 in some task
    for row in ([1e8, 0.0, 5e7], [1e8, -1e8, 0.0], [3e7, -2e8, -1e8], [-1e8, -3e8, -2e8]):
        values = th.tensor([row])
        assert th.equal(gaps_to_best(values), values - values.max())
        assert not is_masked(values[0], values.expand(3, -1)).any()
    # A network whose values are all as low masks nothing
    assert (count_allowed(gaps_to_best(q_values - 1e8)) == A).all()


def test_disagreement_leaves_masked_actions_out() -> None:
    q_values = th.tensor([[1.0, -math.inf, 4.0], [3.0, -math.inf, 8.0]])
    # Standard deviations 1 and 2
    assert ensemble_disagreement(q_values) == 1.5
    q_values[0, 1] = math.nan
    assert ensemble_disagreement(q_values).isnan()


@pytest.mark.parametrize("backup", TARGET_BACKUPS)
def test_ensembles_of_which_a_critic_is_minus_infinity(backup: Any) -> None:
    next_q = th.tensor([[-math.inf, 1.0], [2.0, 3.0]])
    mixture = th.tensor([[0.0, 0.5], [1.0, 0.5]])
    value = ensemble_backup(backup, next_q, 2, mixture)
    assert not value.isnan().any()
    if backup == "rem":
        assert value.tolist() == [[2.0, 2.0]] * 2
