"""Soft Bellman targets and the critics' loss, against loops over Python floats and numbers worked out by hand."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.buffers import ReplayBuffer
from torch.nn import functional as F

from sb3_ext.functional.bellman import ensemble_critic_loss, ensemble_td_errors, soft_td_target, value_loss

N, B = 5, 7


def randn(*shape: int, seed: int = 0) -> th.Tensor:
    return th.randn(*shape, dtype=th.float64, generator=th.Generator().manual_seed(seed))


@pytest.mark.parametrize("n_step", [False, True])
@pytest.mark.parametrize("with_entropy", [False, True])
def test_target_against_loops(n_step: bool, with_entropy: bool) -> None:
    rewards, next_values, log_prob = randn(B, seed=1), randn(N, B, seed=2), randn(B, seed=3)
    dones = th.tensor([0, 1, 0, 0, 1, 0, 1], dtype=th.float64)
    gamma, alpha = 0.97, 0.3
    steps = [1, 2, 3, 3, 1, 2, 3]
    discounts = th.tensor([gamma**k for k in steps], dtype=th.float64)

    if with_entropy:
        target = soft_td_target(rewards, dones, discounts if n_step else gamma, next_values, -alpha * log_prob)
    else:
        target = soft_td_target(rewards, dones, discounts if n_step else gamma, next_values)

    assert target.shape == (N, B)
    for i in range(N):
        for b in range(B):
            g = gamma ** steps[b] if n_step else gamma
            bonus = -alpha * log_prob[b].item() if with_entropy else 0.0
            expected = rewards[b].item()
            if dones[b].item() == 0:
                expected += g * (next_values[i, b].item() + bonus)
            assert target[i, b].item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_target_by_hand() -> None:
    # Two critics, three samples; alpha log pi = (2, -4, 1), so the bonus is (-2, 4, -1).
    # Sample 1: r = 1, g = 0.5, goes on:      1 + 0.5 (10 - 2) = 5       1 + 0.5 (6 - 2) = 3
    # Sample 2: r = 2, g = 0.25, goes on:     2 + 0.25 (0 + 4) = 3       2 + 0.25 (-8 + 4) = 1
    # Sample 3: r = -3, terminal:            -3                         -3
    target = soft_td_target(
        rewards=th.tensor([1.0, 2.0, -3.0]),
        dones=th.tensor([0.0, 0.0, 1.0]),
        discounts=th.tensor([0.5, 0.25, 0.5]),
        next_values=th.tensor([[10.0, 0.0, 7.0], [6.0, -8.0, 9.0]]),
        entropy_bonus=-th.tensor([2.0, -4.0, 1.0]),
    )
    th.testing.assert_close(target, th.tensor([[5.0, 3.0, -3.0], [3.0, 1.0, -3.0]]))


def test_truncation_bootstraps_and_termination_does_not() -> None:
    """
    With the ``dones`` that SB3's buffer really gives for an episode cut by a time limit.
    """
    buffer = ReplayBuffer(
        3, spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (1,)), device="cpu", handle_timeout_termination=True
    )
    rows = [(1.0, False, {}), (2.0, True, {}), (3.0, True, {"TimeLimit.truncated": True})]
    for reward, done, info in rows:
        obs = np.full((1, 2), reward, dtype=np.float32)
        action = np.zeros((1, 1), dtype=np.float32)
        buffer.add(obs, obs, action, np.array([reward]), np.array([done]), [info])
    samples = buffer._get_samples(np.arange(3))

    next_values = th.tensor([[10.0, 20.0, 40.0]])
    target = soft_td_target(samples.rewards.flatten(), samples.dones.flatten(), 0.5, next_values)
    # 1 + 5; 2 alone; 3 + 20
    th.testing.assert_close(target, th.tensor([[6.0, 2.0, 23.0]]))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**20), alpha=st.floats(0.01, 10), discount=st.floats(0.01, 1))
def test_more_entropy_raises_the_target(seed: int, alpha: float, discount: float) -> None:
    rewards, next_values, log_prob = randn(B, seed=seed), randn(N, B, seed=seed + 1), randn(B, seed=seed + 2)
    dones = th.tensor([0, 1, 0, 0, 1, 0, 1], dtype=th.float64)
    # A less likely action: more entropy
    target = soft_td_target(rewards, dones, discount, next_values, -alpha * log_prob)
    wider = soft_td_target(rewards, dones, discount, next_values, -alpha * (log_prob - 0.5))
    difference = wider - target
    assert (difference[:, dones == 0] > 0).all()
    assert (difference[:, dones == 1] == 0).all()
    th.testing.assert_close(
        difference[:, dones == 0], th.full((N, 4), 0.5 * alpha * discount, dtype=th.float64), rtol=1e-6, atol=1e-9
    )


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**20))
def test_target_of_terminal_states_ignores_the_next_value(seed: int) -> None:
    rewards = randn(B, seed=seed)
    next_values = 1e8 * randn(N, B, seed=seed + 1)
    target = soft_td_target(rewards, th.ones(B, dtype=th.float64), 0.99, next_values, next_values[0])
    assert th.equal(target, rewards.expand(N, B))


def test_critic_loss_by_hand() -> None:
    # Critic 1: errors (2, -1, 0), mean square (4 + 1 + 0) / 3 = 5/3; critic 2: errors (1, 1, 2), (1 + 1 + 4) / 3 = 2.
    # 0.5 (5/3 + 2) = 11/6
    q_values = th.tensor([[3.0, 0.0, 5.0], [1.0, 2.0, 3.0]], dtype=th.float64)
    targets = th.tensor([[1.0, 1.0, 5.0], [0.0, 1.0, 1.0]], dtype=th.float64)
    assert ensemble_critic_loss(q_values, targets).item() == pytest.approx(11 / 6)


def test_critic_loss_is_sb3s() -> None:
    q_values, targets = randn(N, B, seed=1), randn(N, B, seed=2)
    # SB3's SAC: 0.5 * sum(F.mse_loss(current_q, target_q_values) for current_q in current_q_values)
    expected = 0.5 * sum(F.mse_loss(q, y) for q, y in zip(q_values, targets, strict=True))
    th.testing.assert_close(ensemble_critic_loss(q_values, targets), expected)


@pytest.mark.parametrize("n_critics", [1, 2, 5])
def test_critic_loss_and_gradient_against_loops(n_critics: int) -> None:
    q_values = randn(n_critics, B, seed=1).requires_grad_()
    targets = randn(n_critics, B, seed=2)
    loss = ensemble_critic_loss(q_values, targets)
    loss.backward()
    expected_loss = 0.0
    for i in range(n_critics):
        mean_square = 0.0
        for b in range(B):
            error = q_values[i, b].item() - targets[i, b].item()
            mean_square += error**2 / B
            # d/dQ of 0.5 (Q - y)^2 / B: the number of critics is not in it
            assert q_values.grad[i, b].item() == pytest.approx(error / B, rel=1e-12)
        expected_loss += 0.5 * mean_square
    assert loss.shape == ()
    assert loss.item() == pytest.approx(expected_loss, rel=1e-12)


@pytest.mark.parametrize("shape", [(1, B), (B,), (N, 1), (B, N), (N, B, 1), (1, N, B), ()])
def test_critic_loss_does_not_broadcast(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(5, 7\)"):
        ensemble_critic_loss(randn(N, B), th.zeros(shape, dtype=th.float64))


def test_weighted_loss_and_errors_against_plain_loops():
    q_values, targets, weights = randn(N, B), randn(N, B), randn(B).abs()
    loss, errors = 0.0, [0.0] * B
    for i in range(N):
        for b in range(B):
            delta = q_values[i, b].item() - targets[i, b].item()
            loss += 0.5 * weights[b].item() * delta**2 / B
            errors[b] += abs(delta) / N
    assert ensemble_critic_loss(q_values, targets, weights).item() == pytest.approx(loss)
    assert ensemble_td_errors(q_values, targets).tolist() == pytest.approx(errors)
    ones = th.ones(B, dtype=weights.dtype)
    assert th.equal(ensemble_critic_loss(q_values, targets, ones), ensemble_critic_loss(q_values, targets))


@pytest.mark.parametrize("shape", [(B, 1), (1,), (N,)])
def test_weights_of_another_shape_do_not_broadcast(shape):
    with pytest.raises(ValueError, match="weights"):
        ensemble_critic_loss(randn(N, B), randn(N, B), th.ones(shape, dtype=th.float64))


def test_huber_loss_by_hand() -> None:
    # Errors 0, 1/2, -1/2, 1, -3, 100: delta^2 / 2 up to 1, then |delta| - 1/2
    targets = th.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], dtype=th.float64)
    q_values = targets + th.tensor([0.0, 0.5, -0.5, 1.0, -3.0, 100.0])
    assert value_loss(q_values, targets).tolist() == pytest.approx([0, 1 / 8, 1 / 8, 1 / 2, 5 / 2, 99.5])


def test_losses_with_another_delta_by_hand() -> None:
    # delta = 2: e^2 / 2 up to 2, then 2 (|e| - 1)
    targets = th.tensor([1.0, 2.0, 3.0, 4.0], dtype=th.float64)
    q_values = targets + th.tensor([0.5, -2.0, 3.0, -100.0])
    assert value_loss(q_values, targets, huber_delta=2.0).tolist() == pytest.approx([1 / 8, 2, 4, 198])
    assert value_loss(q_values, targets, "mse").tolist() == pytest.approx([1 / 4, 4, 9, 10_000])
    with pytest.raises(ValueError, match="loss='mae' is not one of 'huber', 'mse'"):
        value_loss(q_values, targets, "mae")


def test_huber_loss_and_gradient_against_loops() -> None:
    q_values, targets = (2 * randn(B, seed=1)).requires_grad_(), 2 * randn(B, seed=2)
    losses = value_loss(q_values, targets)
    # SB3's DQN: F.smooth_l1_loss(current_q_values, target_q_values), its mean over the batch
    th.testing.assert_close(losses.mean(), F.smooth_l1_loss(q_values, targets))
    losses.sum().backward()
    assert losses.shape == (B,)
    n_linear = 0
    for b in range(B):
        delta = q_values[b].item() - targets[b].item()
        is_linear = abs(delta) > 1
        n_linear += is_linear
        assert losses[b].item() == pytest.approx(abs(delta) - 0.5 if is_linear else delta**2 / 2, rel=1e-12)
        assert q_values.grad[b].item() == pytest.approx(max(-1.0, min(1.0, delta)), rel=1e-12)
    assert 0 < n_linear < B


@pytest.mark.parametrize("shape", [(B, 1), (1,), (N, B)])
def test_huber_loss_does_not_broadcast(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"q_values \(7,\) and targets"):
        value_loss(randn(B), th.zeros(shape, dtype=th.float64))
