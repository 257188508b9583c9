"""Returns, bias, dormant units and ranks, against loops over Python floats and numbers worked out by hand."""

import math
import statistics

import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_ext.functional.diagnosis import (
    discounted_returns,
    dormancy_scores,
    dormant_fraction,
    effective_rank,
    ensemble_disagreement,
    n_known_returns,
    normalized_bias,
    soft_returns,
    tail_length,
)

N, B, H, D = 3, 5, 7, 11


def randn(*shape: int, seed: int = 0) -> th.Tensor:
    return th.randn(*shape, dtype=th.float64, generator=th.Generator().manual_seed(seed))


def return_of(rewards: list[float], bonuses: list[float], gamma: float, n_steps: int, t: int) -> float:
    """The definition, term by term."""
    total = 0.0
    for k in range(len(rewards) - t):
        total += gamma**k * rewards[t + k]
        if k > 0 and k % n_steps == 0:
            total += gamma**k * bonuses[t + k]
    return total


@pytest.mark.parametrize("n_steps", [1, 2, 3, 20])
@pytest.mark.parametrize("gamma", [0.0, 0.9, 1.0])
def test_soft_returns_against_loops(gamma: float, n_steps: int) -> None:
    rewards, bonuses = randn(13), randn(13, seed=1)
    returns = soft_returns(rewards, bonuses, gamma, n_steps)
    expected = [return_of(rewards.tolist(), bonuses.tolist(), gamma, n_steps, t) for t in range(13)]
    assert returns.tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("n_steps", [1, 3])
def test_bonuses_on_rewards_count_once_for_n_steps(n_steps: int) -> None:
    rewards, bonuses, added = randn(8), randn(8, seed=1), randn(8, seed=2)
    returns = soft_returns(rewards, bonuses, 0.9, n_steps, added)
    plain = soft_returns(rewards, bonuses, 0.9, n_steps)
    for t in range(8):
        expected = sum(0.9**k * added[t + k].item() for k in range(0, 8 - t, n_steps))
        assert (returns - plain)[t].item() == pytest.approx(expected, abs=1e-12)
    with pytest.raises(ValueError, match=r"reward_bonuses \(7,\) must have the shape \(8,\)"):
        soft_returns(rewards, bonuses, 0.9, 1, added[:7])


def test_discounted_returns_by_hand() -> None:
    # gamma 1/2: 8; 4 + 1/2 * 8 = 8; 2 + 1/2 * 8 = 6
    assert discounted_returns(th.tensor([2.0, 4.0, 8.0]), 0.5).tolist() == [6.0, 8.0, 8.0]
    assert discounted_returns(th.zeros(0), 0.5).tolist() == []


def test_the_entropy_of_the_first_action_does_not_count() -> None:
    # gamma 1/2, rewards 0, bonuses 100, 4, 8. From the first state: 1/2 * 4 + 1/4 * 8 = 4; from the second: 1/2 * 8
    returns = soft_returns(th.zeros(3), th.tensor([100.0, 4.0, 8.0]), 0.5)
    assert returns.tolist() == [4.0, 4.0, 0.0]
    # Two-step returns bootstrap from the third state, only: 1/4 * 8
    assert soft_returns(th.zeros(3), th.tensor([100.0, 4.0, 8.0]), 0.5, n_steps=2).tolist() == [2.0, 0.0, 0.0]


def test_constant_reward_and_entropy_have_the_closed_form() -> None:
    # 500 steps are as good as endless: r / (1 - gamma) and gamma alpha H / (1 - gamma)
    gamma, reward, bonus = 0.9, 1.0, 0.25
    returns = soft_returns(th.full((500,), reward), th.full((500,), bonus), gamma)
    assert returns[0].item() == pytest.approx((reward + gamma * bonus) / (1 - gamma), rel=1e-12)


@pytest.mark.parametrize(("rewards", "bonuses"), [((5,), (7,)), ((5, 1), (5, 1)), ((), ())])
def test_returns_of_wrong_shapes(rewards: tuple[int, ...], bonuses: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must have one shape \(T,\)"):
        soft_returns(th.zeros(rewards), th.zeros(bonuses), 0.9)


def test_n_steps_below_one() -> None:
    with pytest.raises(ValueError, match="n_steps=0"):
        soft_returns(th.zeros(2), th.zeros(2), 0.9, n_steps=0)


@settings(max_examples=200)
@given(gamma=st.floats(0, 0.999), tolerance=st.floats(1e-6, 1))
def test_tail_is_the_shortest_sufficient(gamma: float, tolerance: float) -> None:
    length = tail_length(gamma, tolerance)
    assert gamma**length <= tolerance
    assert length == 0 or gamma ** (length - 1) > tolerance


def test_tail_by_hand() -> None:
    # Powers of two: 1/2^3 = 1/8 exactly; of 0.99 the 459th is the first below 0.01
    assert tail_length(0.5, 0.125) == 3
    assert tail_length(0.99, 0.01) == 459
    assert tail_length(0.99, 1.0) == 0
    assert tail_length(1.0, 0.01) is None
    for gamma, tolerance, name in ((1.1, 0.1, "gamma=1.1"), (0.9, 0.0, "tolerance=0.0"), (0.9, 2, "tolerance=2")):
        with pytest.raises(ValueError, match=name):
            tail_length(gamma, tolerance)


def test_the_end_of_a_truncated_episode_is_left_out() -> None:
    for tail in (0, 1, 3, 10, 11, None):
        assert n_known_returns(10, True, tail) == 10
        # By counting the rewards from each state on
        known = 0 if tail is None else sum(10 - t >= tail for t in range(10))
        assert n_known_returns(10, False, tail) == known


def test_what_a_truncated_episode_leaves_out_is_below_the_tolerance() -> None:
    gamma, tolerance = 0.9, 0.01
    exact = 1 / (1 - gamma)
    n_known = n_known_returns(100, False, tail_length(gamma, tolerance))
    returns = discounted_returns(th.ones(100), gamma)
    assert 0 < n_known < 100
    assert (exact - returns[:n_known]).max() <= tolerance * exact
    assert exact - returns[n_known] > tolerance * exact


def test_normalized_bias_against_loops() -> None:
    q_values, returns = randn(B), randn(B, seed=1) - 3
    mean = statistics.fmean(returns.tolist())
    expected = [(q - g) / abs(mean) for q, g in zip(q_values.tolist(), returns.tolist(), strict=True)]
    assert normalized_bias(q_values, returns).tolist() == pytest.approx(expected, rel=1e-12)


def test_normalized_bias_by_hand() -> None:
    # Mean return -2: a critic that says 1 more everywhere has a bias of +1/2, also where returns are negative
    bias = normalized_bias(th.tensor([0.0, -2.0]), th.tensor([-1.0, -3.0]))
    assert bias.tolist() == [0.5, 0.5]
    # c times the value is c - 1 on average, whatever the values are
    returns = randn(B) + 4
    assert normalized_bias(1.3 * returns, returns).mean().item() == pytest.approx(0.3)
    assert normalized_bias(th.ones(2), th.zeros(2)).isinf().all()


@pytest.mark.parametrize(("q_values", "returns"), [((B,), (B + 1,)), ((B, 1), (B,)), ((0,), (0,))])
def test_bias_of_wrong_shapes(q_values: tuple[int, ...], returns: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must have one shape \(B,\)"):
        normalized_bias(th.zeros(q_values), th.zeros(returns))


def test_disagreement_against_loops() -> None:
    q_values = randn(N, B)
    expected = statistics.fmean(statistics.pstdev(column) for column in q_values.T.tolist())
    assert ensemble_disagreement(q_values).item() == pytest.approx(expected, rel=1e-12)
    # (0, 2) and (5, 5): 1 and 0
    assert ensemble_disagreement(th.tensor([[0.0, 5.0], [2.0, 5.0]])).item() == 0.5
    for shape in ((1, B), (B,)):
        with pytest.raises(ValueError, match="N >= 2"):
            ensemble_disagreement(th.zeros(shape))


def test_dormancy_against_loops() -> None:
    activations = randn(N, H).abs()
    scores = dormancy_scores(activations)
    for n in range(N):
        average = statistics.fmean(activations[n].tolist())
        assert scores[n].tolist() == pytest.approx([a / average for a in activations[n].tolist()], rel=1e-12)


def test_dormancy_by_hand() -> None:
    # The average is 2: scores 0, 1/20, 39/20, 2. The second layer is dead as a whole
    first, second = dormancy_scores(th.tensor([0.0, 0.1, 3.9, 4.0])), dormancy_scores(th.zeros(2))
    assert first.tolist() == pytest.approx([0.0, 0.05, 1.95, 2.0])
    assert second.tolist() == [0.0, 0.0]
    assert dormant_fraction([first, second], 0.0) == 3 / 6
    assert dormant_fraction([first, second], 0.1) == 4 / 6
    assert dormant_fraction([first], 0.0) == 1 / 4
    with pytest.raises(ValueError, match="hold no unit"):
        dormant_fraction([], 0.0)
    with pytest.raises(ValueError, match=r"threshold=-0\.1"):
        dormant_fraction([first], -0.1)


def rank_of(singular_values: list[float], delta: float) -> int:
    ordered = sorted(singular_values, reverse=True)
    for k in range(1, len(ordered) + 1):
        if math.fsum(ordered[:k]) >= (1 - delta) * math.fsum(ordered):
            return k
    raise AssertionError


@pytest.mark.parametrize("delta", [0.01, 0.1, 0.5])
def test_rank_against_loops(delta: float) -> None:
    left, _ = th.linalg.qr(randn(D, D))
    right, _ = th.linalg.qr(randn(H, H, seed=1))
    values = [0.3, 8.0, 0.04, 2.0, 1.0, 0.002, 0.5]
    features = left[:, :H] @ th.diag(th.tensor(values, dtype=th.float64)) @ right
    assert effective_rank(features, delta) == effective_rank(features.T, delta) == rank_of(values, delta)


def test_rank_by_hand() -> None:
    # 98 + 1 + 1: two of three singular values are 99 % of the sum, and one is 98 %
    features = th.diag(th.tensor([1.0, 98.0, 1.0]))
    assert [effective_rank(features, delta) for delta in (0.0, 0.015, 0.05)] == [3, 2, 1]
    assert effective_rank(th.eye(4)) == 4
    assert effective_rank(th.ones(B, H)) == 1
    assert effective_rank(th.zeros(B, H)) == 0
    for features, delta, message in ((th.zeros(2), 0.1, "features"), (th.eye(2), 1.0, "delta=1.0")):
        with pytest.raises(ValueError, match=message):
            effective_rank(features, delta)
