"""Soft values, policies and the Munchausen bonus, against loops over Python floats and numbers worked out by hand."""

import math

import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_ext.functional.soft_value import (
    SOFT_BACKUPS,
    boltzmann_log_policy,
    munchausen_bonus,
    policy_entropy,
    soft_state_value,
)

B, A = 5, 11
FLOAT32_EPSILON = th.finfo(th.float32).eps
LN2, LN3 = math.log(2), math.log(3)

numbers = st.floats(-1e3, 1e3)
temperatures = st.floats(1e-3, 1e3)


def randn(*shape: int, seed: int = 0) -> th.Tensor:
    return th.randn(*shape, dtype=th.float64, generator=th.Generator().manual_seed(seed))


def row(values: list[float]) -> th.Tensor:
    return th.tensor([values], dtype=th.float64)


def log_policy_of(q_values: list[float], alpha: float) -> list[float]:
    largest = max(q_values)
    total = math.fsum(math.exp((q - largest) / alpha) for q in q_values)
    return [(q - largest) / alpha - math.log(total) for q in q_values]


def entropy_of(log_policy: list[float]) -> float:
    return -math.fsum(math.exp(log_pi) * log_pi for log_pi in log_policy)


def value_of(backup: str, q_values: list[float], alpha: float, policy_q_values: list[float] | None = None) -> float:
    others = q_values if policy_q_values is None else policy_q_values
    if backup == "max":
        return q_values[others.index(max(others))]
    value = 0.0
    for q, log_pi in zip(q_values, log_policy_of(others, alpha), strict=True):
        value += math.exp(log_pi) * (q if backup == "boltzmann" else q - alpha * log_pi)
    return value - alpha * math.log(len(q_values)) if backup == "mellowmax" else value


def logsumexp_of(q_values: list[float], alpha: float) -> float:
    largest = max(q_values)
    return largest + alpha * math.log(math.fsum(math.exp((q - largest) / alpha) for q in q_values))


def test_policy_and_entropy_against_loops() -> None:
    q_values = randn(B, A)
    for alpha in (0.03, 1.0, 7.0):
        log_policy = boltzmann_log_policy(q_values, alpha)
        entropy = policy_entropy(log_policy)
        assert log_policy.shape == (B, A)
        assert entropy.shape == (B,)
        for b in range(B):
            expected = log_policy_of(q_values[b].tolist(), alpha)
            assert log_policy[b].tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)
            assert entropy[b].item() == pytest.approx(entropy_of(expected), rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("backup", SOFT_BACKUPS)
def test_values_against_loops(backup: str) -> None:
    q_values, policy_q_values = randn(B, A, seed=1), randn(B, A, seed=2)
    for alpha in (0.03, 0.5, 7.0):
        alone = soft_state_value(backup, q_values, alpha)
        doubled = soft_state_value(backup, q_values, alpha, policy_q_values)
        assert alone.shape == doubled.shape == (B,)
        for b in range(B):
            q, others = q_values[b].tolist(), policy_q_values[b].tolist()
            assert alone[b].item() == pytest.approx(value_of(backup, q, alpha), rel=1e-12, abs=1e-12)
            assert doubled[b].item() == pytest.approx(value_of(backup, q, alpha, others), rel=1e-12, abs=1e-12)


def test_values_by_hand() -> None:
    cases = [
        # alpha = 2 and Q = (0, 2 ln 3): Q / alpha = (0, ln 3), pi = (1/4, 3/4).
        # The other network has Q = (2 ln 3, 0): pi = (3/4, 1/4).
        # Both entropies: 1/4 ln 4 + 3/4 (ln 4 - ln 3) = 2 ln 2 - 3/4 ln 3; times alpha: 4 ln 2 - 3/2 ln 3.
        # Expected Q: 3/4 * 2 ln 3 = 3/2 ln 3, and doubled 1/4 * 2 ln 3 = 1/2 ln 3.
        ("boltzmann", 1.5 * LN3, 0.5 * LN3),
        # The sums; alone it is alpha ln(1 + 3) = 4 ln 2, too. A minus gives 3 ln 3 - 4 ln 2, doubled 2 ln 3 - 4 ln 2.
        ("soft", 4 * LN2, 4 * LN2 - LN3),
        # alpha log A = 2 ln 2 less
        ("mellowmax", 2 * LN2, 2 * LN2 - LN3),
        # The other network prefers the first action, whose value is 0
        ("max", 2 * LN3, 0.0),
    ]
    q_values, policy_q_values = row([0.0, 2 * LN3]), row([2 * LN3, 0.0])
    for backup, alone, doubled in cases:
        assert soft_state_value(backup, q_values, 2.0).item() == pytest.approx(alone, rel=1e-12)
        assert soft_state_value(backup, q_values, 2.0, policy_q_values).item() == pytest.approx(doubled, rel=1e-12)


@settings(max_examples=100)
@given(q_values=st.lists(numbers, min_size=2, max_size=9), alpha=temperatures)
def test_bounds_and_order_without_double(q_values: list[float], alpha: float) -> None:
    values = {backup: soft_state_value(backup, row(q_values), alpha).item() for backup in SOFT_BACKUPS}
    largest, rounding = max(q_values), 1e-9 * (1 + alpha)
    assert values["max"] == largest
    assert largest - rounding <= values["soft"] <= largest + alpha * math.log(len(q_values)) + rounding
    assert values["soft"] == pytest.approx(logsumexp_of(q_values, alpha), rel=1e-12, abs=rounding)
    # The entropy is at most log A, so that mellowmax is at most the expected value, and at least the mean
    assert sum(q_values) / len(q_values) - rounding <= values["mellowmax"] <= values["boltzmann"] + rounding
    assert values["boltzmann"] <= largest + rounding


@settings(max_examples=100)
@given(pairs=st.lists(st.tuples(numbers, numbers), min_size=2, max_size=9), alpha=temperatures, doubled=st.booleans())
def test_soft_is_expected_value_plus_entropy(pairs: list[tuple[float, float]], alpha: float, doubled: bool) -> None:
    q_values, policy_q_values = row([q for q, _ in pairs]), row([p for _, p in pairs]) if doubled else None
    soft, expected, mellowmax = (
        soft_state_value(backup, q_values, alpha, policy_q_values).item()
        for backup in ("soft", "boltzmann", "mellowmax")
    )
    rounding = 1e-9 * (1 + alpha)
    log_policy = log_policy_of((q_values if policy_q_values is None else policy_q_values)[0].tolist(), alpha)
    assert soft - expected == pytest.approx(alpha * entropy_of(log_policy), abs=rounding)
    assert soft - mellowmax == pytest.approx(alpha * math.log(len(pairs)), abs=rounding)


def test_uncertainty_is_worth_something() -> None:
    # Two actions of the same Q = 3: the entropy is ln 2, and soft is 3 + alpha ln 2, not 3 - alpha ln 2
    for policy_q_values in (None, row([8.0, 8.0])):
        value = soft_state_value("soft", row([3.0, 3.0]), 0.5, policy_q_values)
        assert value.item() == pytest.approx(3 + 0.5 * LN2)


def test_doubled_value_of_the_same_network_is_the_single_one() -> None:
    q_values = randn(B, A)
    for backup in SOFT_BACKUPS:
        alone, doubled = (soft_state_value(backup, q_values, 0.3, policy) for policy in (None, q_values.clone()))
        th.testing.assert_close(alone, doubled, rtol=1e-12, atol=1e-12)


def test_limit_of_a_cold_policy_is_the_greedy_value() -> None:
    q_values, policy_q_values = randn(B, A, seed=1), randn(B, A, seed=2)
    # Double DQN: the other network's choice at this one's value
    choices = policy_q_values.argmax(dim=1).tolist()
    greedy = [max(q) for q in q_values.tolist()]
    double_greedy = [q[choice] for q, choice in zip(q_values.tolist(), choices, strict=True)]
    assert all(chosen < largest for chosen, largest in zip(double_greedy, greedy, strict=True))
    for alpha in (1e-4, 1e-6):
        tolerance = 1.01 * alpha * math.log(A)
        for backup in SOFT_BACKUPS:
            alone = soft_state_value(backup, q_values, alpha)
            doubled = soft_state_value(backup, q_values, alpha, policy_q_values)
            assert alone.tolist() == pytest.approx(greedy, rel=0, abs=tolerance)
            assert doubled.tolist() == pytest.approx(double_greedy, rel=0, abs=tolerance)


@settings(max_examples=50)
@given(seed=st.integers(0, 2**20), alpha=st.floats(0.01, 100), shift=numbers, policy_shift=numbers)
def test_a_constant_moves_values_and_not_policies(seed: int, alpha: float, shift: float, policy_shift: float) -> None:
    q_values, policy_q_values = randn(B, A, seed=seed), randn(B, A, seed=seed + 1)
    for backup in SOFT_BACKUPS:
        for others, moved in ((None, None), (policy_q_values, policy_q_values + policy_shift)):
            expected = soft_state_value(backup, q_values, alpha, others) + shift
            value = soft_state_value(backup, q_values + shift, alpha, moved)
            th.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)


def test_gradient_is_the_policy() -> None:
    for backup in ("soft", "mellowmax"):
        q_values = randn(B, A).requires_grad_()
        soft_state_value(backup, q_values, 0.7).sum().backward()
        for b in range(B):
            policy = [math.exp(log_pi) for log_pi in log_policy_of(q_values[b].tolist(), 0.7)]
            assert q_values.grad[b].tolist() == pytest.approx(policy, rel=1e-12)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_float32_is_finite_and_exact(scale: float) -> None:
    """
    Also where neighbouring float32 numbers are 1 / 16 apart, so that a division before the subtraction loses them.
    """
    q_values = scale * (2 * th.rand(B, A, generator=th.Generator().manual_seed(1)) - 1)
    q_values[0] = scale
    q_values[1, : A // 2], q_values[1, A // 2 :] = -scale, scale
    q_values[2] = th.nextafter(th.full((A,), scale), th.zeros(()))
    q_values[2, 3] = scale
    policy_q_values = q_values.roll(4, dims=1)
    assert q_values.dtype == th.float32
    # The temperatures as float32 numbers, too
    for alpha in th.tensor([1e-4, 0.05, 1.0]).tolist():
        tolerance = 4 * FLOAT32_EPSILON * (scale + alpha * math.log(A))
        for others in (None, policy_q_values):
            for backup in SOFT_BACKUPS:
                values = soft_state_value(backup, q_values, alpha, others)
                expected = [
                    value_of(backup, q_values[b].tolist(), alpha, None if others is None else others[b].tolist())
                    for b in range(B)
                ]
                assert values.dtype == th.float32
                assert values.tolist() == pytest.approx(expected, rel=0, abs=tolerance), (backup, others is not None)
        log_policy = boltzmann_log_policy(q_values, alpha)
        entropy = policy_entropy(log_policy)
        for b in range(B):
            expected = log_policy_of(q_values[b].tolist(), alpha)
            assert log_policy[b].tolist() == pytest.approx(expected, rel=1e-6, abs=1e-6)
            assert entropy[b].item() == pytest.approx(entropy_of(expected), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("backup", ["soft", "boltzmann", "mellowmax"])
def test_huge_temperature(backup: str) -> None:
    """
    The policy is uniform: expected Q and mellowmax are the mean, to the precision of the Q-values and not to that of
    the temperature.
    """
    # Their mean is 7 / 16
    q_values = th.tensor([[0.0, 0.25, 0.5, 1.0]])
    for alpha in (1e4, 1e6, 1e8):
        for others in (None, q_values.flip(1)):
            value = soft_state_value(backup, q_values, alpha, others).item()
            if backup == "soft":
                assert value == pytest.approx(7 / 16 + alpha * math.log(4), rel=1e-6)
            else:
                assert value == pytest.approx(7 / 16, abs=1e-4), f"temperature {alpha:g}"


def test_single_action() -> None:
    q_values, actions = th.tensor([[-3.0], [0.0], [1e6]]), th.zeros(3, 1, dtype=th.int64)
    for alpha in (1e-4, 1.0, 1e4):
        for backup in SOFT_BACKUPS:
            assert th.equal(soft_state_value(backup, q_values, alpha), q_values.squeeze(1))
            assert th.equal(soft_state_value(backup, q_values, alpha, -q_values), q_values.squeeze(1))
        log_policy = boltzmann_log_policy(q_values, alpha)
        assert th.equal(log_policy, th.zeros(3, 1))
        assert th.equal(policy_entropy(log_policy), th.zeros(3))
        assert th.equal(munchausen_bonus(q_values, actions, alpha, 0.9, -1.0), th.zeros(3))


@pytest.mark.parametrize("shape", [(), (1,)])
def test_temperature_as_a_tensor_with_one_element(shape: tuple[int, ...]) -> None:
    q_values, policy_q_values, actions = randn(B, A, seed=1), randn(B, A, seed=2), th.arange(B).unsqueeze(1)
    alpha = 0.3
    tensor = th.full(shape, alpha, dtype=th.float64)
    assert th.equal(boltzmann_log_policy(q_values, tensor), boltzmann_log_policy(q_values, alpha))
    bonus = munchausen_bonus(q_values, actions, alpha, 0.9, -5.0)
    assert th.equal(munchausen_bonus(q_values, actions, tensor, 0.9, -5.0), bonus)
    for backup in SOFT_BACKUPS:
        for others in (None, policy_q_values):
            value, expected = (soft_state_value(backup, q_values, number, others) for number in (tensor, alpha))
            assert th.equal(value, expected), f"{backup}: {tuple(value.shape)} and not {tuple(expected.shape)}"


def test_munchausen_bonus_against_loops() -> None:
    q_values = randn(B, A, seed=3)
    # Likely actions, whose bonus is not clipped, and unlikely ones
    actions = th.where(th.arange(B) < 2, q_values.argmax(dim=1), q_values.argmin(dim=1)).unsqueeze(1)
    coef, alpha, clip = 0.8, 0.3, -0.5
    bonus = munchausen_bonus(q_values, actions, alpha, coef, clip)
    assert bonus.shape == (B,)
    clipped = 0
    for b in range(B):
        scaled = alpha * log_policy_of(q_values[b].tolist(), alpha)[actions[b].item()]
        clipped += scaled < clip
        assert bonus[b].item() == pytest.approx(coef * min(max(scaled, clip), 0.0), rel=1e-12)
    assert 0 < clipped < B


def test_munchausen_clips_the_scaled_log_policy_by_hand() -> None:
    # alpha = 2, Q = (0, 2 ln 3), pi = (1/4, 3/4), m = 1/2, l0 = -1.
    # Action 0: alpha ln(1/4) = -4 ln 2 = -2.77, clipped to -1: -1/2. Clipped before alpha: 2 * -1 / 2 = -1.
    # Action 1: alpha ln(3/4) = -0.575, within: ln 3 - 2 ln 2 after the factor m
    q_values = row([0.0, 2 * LN3]).expand(2, -1)
    bonus = munchausen_bonus(q_values, th.tensor([[0], [1]]), 2.0, 0.5, -1.0)
    assert bonus.tolist() == pytest.approx([-0.5, LN3 - 2 * LN2])
    # alpha = 1/32, Q = (0, 1/4): log pi of action 0 is -8 - ln(1 + e^-8), far below l0; scaled it is -0.25, within
    bonus = munchausen_bonus(row([0.0, 0.25]), th.tensor([[0]]), 1 / 32, 0.9, -1.0)
    assert bonus.item() == pytest.approx(-0.9 * (8 + math.log1p(math.exp(-8))) / 32)


@settings(max_examples=100)
@given(
    q_values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=9),
    alpha=st.floats(1e-4, 1e3),
    coef=st.floats(0, 1),
    clip=st.floats(-10, 0),
    data=st.data(),
)
def test_munchausen_bonus_is_bounded(
    q_values: list[float], alpha: float, coef: float, clip: float, data: st.DataObject
) -> None:
    action = data.draw(st.integers(0, len(q_values) - 1))
    bonus = munchausen_bonus(th.tensor([q_values]), th.tensor([[action]]), alpha, coef, clip).item()
    scaled = alpha * log_policy_of(q_values, alpha)[action]
    # Relative to the gap in Q, no wider than l0 where it is not clipped, and to the logarithm of the sum
    tolerance = 8 * FLOAT32_EPSILON * (10 + alpha * math.log(9))
    assert bonus == pytest.approx(coef * max(scaled, clip), rel=0, abs=tolerance)
    # l0 as a float32 number may be a little lower, and round more if it is below the normal ones
    assert coef * clip * (1 + 2 * FLOAT32_EPSILON) - 1e-37 <= bonus <= 0


def test_unknown_backup() -> None:
    with pytest.raises(ValueError, match=r"backup='hard' is not one of 'soft', 'boltzmann', 'mellowmax', 'max'"):
        soft_state_value("hard", randn(B, A), 1.0)
