"""
The actor's gradients and the temperature's, against loops, quadrature, SB3 and each other.

K samples, B states and A action dimensions always differ.
"""

import math

import numpy as np
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from sb3_ext.functional.policy_gradient import (
    leave_one_out_baseline,
    normalized_advantages,
    reinforce_actor_loss,
    reparam_actor_loss,
    sample_pre_tanh,
    squashed_gaussian_log_prob,
    temperature_loss,
)

K, B, A = 3, 7, 2

# |z| of a correct estimator exceeds the first about once in 150,000 comparisons; a wrong one has to exceed the second
AGREES, DIFFERS = 4.5, 8.0


def randn(*shape: int, seed: int = 0) -> th.Tensor:
    return th.randn(*shape, dtype=th.float64, generator=th.Generator().manual_seed(seed))


# Density


def test_log_prob_against_loops() -> None:
    mean, log_std, pre_tanh = randn(B, A, seed=1), 0.3 * randn(B, A, seed=2) - 0.5, randn(K, B, A, seed=3)
    result = squashed_gaussian_log_prob(mean, log_std, pre_tanh)
    assert result.shape == (K, B)
    for k in range(K):
        for b in range(B):
            expected = 0.0
            for a in range(A):
                u, m, s = pre_tanh[k, b, a].item(), mean[b, a].item(), math.exp(log_std[b, a].item())
                expected += math.log(math.exp(-0.5 * ((u - m) / s) ** 2) / (s * math.sqrt(2 * math.pi)))
                # Change of variables: da = (1 - tanh(u)^2) du = du / cosh(u)^2
                expected += 2 * math.log(math.cosh(u))
            # SB3's 1e-6 inside the logarithm is within the tolerance for these u
            assert result[k, b].item() == pytest.approx(expected, abs=1e-3)


def test_log_prob_by_hand() -> None:
    # One dimension, mean 0, std 1. u = 0: N(0) = 1 / sqrt(2 pi), tanh' = 1: -0.918939.
    # u = 1: -0.5 - 0.918939 - log(1 - tanh(1)^2), 1 - 0.761594^2 = 0.419974, log = -0.867562: -0.551377.
    zero = th.zeros(1, 1, dtype=th.float64)
    result = squashed_gaussian_log_prob(zero, zero, th.tensor([[[0.0]], [[1.0]]], dtype=th.float64))
    assert result.flatten().tolist() == pytest.approx([-0.918939, -0.551377], abs=1e-5)


def test_log_prob_is_sb3s() -> None:
    mean, log_std = randn(B, A, seed=1), 0.3 * randn(B, A, seed=2) - 0.5
    th.manual_seed(0)
    distribution = SquashedDiagGaussianDistribution(A)
    _, from_params = distribution.log_prob_from_params(mean, log_std)
    stored = distribution.gaussian_actions
    assert stored is not None
    th.testing.assert_close(squashed_gaussian_log_prob(mean, log_std, stored.unsqueeze(0))[0], from_params)

    many = sample_pre_tanh(mean, log_std, K)
    ours = squashed_gaussian_log_prob(mean, log_std, many)
    for k in range(K):
        theirs = distribution.proba_distribution(mean, log_std).log_prob(th.tanh(many[k]), many[k])
        th.testing.assert_close(ours[k], theirs)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.4, 0.3), (-1.2, 0.6)])
def test_density_integrates_to_one(mean: float, std: float) -> None:
    actions = th.linspace(-1, 1, 400_001, dtype=th.float64)[1:-1]
    parameters = th.full((1, 1), mean, dtype=th.float64), th.full((1, 1), math.log(std), dtype=th.float64)
    log_density = squashed_gaussian_log_prob(*parameters, th.atanh(actions).reshape(-1, 1, 1))
    integral = th.trapezoid(log_density.flatten().exp(), actions).item()
    assert integral == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("dtype", [th.float32, th.float64])
def test_log_prob_is_finite_where_tanh_has_saturated(dtype: th.dtype) -> None:
    pre_tanh = th.linspace(-20, 20, 81, dtype=dtype).reshape(-1, 1, 1)
    # SB3 clips log_std to [-20, 2]
    for log_std in (-2.0, 0.0, 2.0):
        mean = th.zeros(1, 1, dtype=dtype, requires_grad=True)
        scale = th.full((1, 1), log_std, dtype=dtype, requires_grad=True)
        u = pre_tanh.clone().requires_grad_()
        log_prob = squashed_gaussian_log_prob(mean, scale, u)
        log_prob.sum().backward()
        assert log_prob.isfinite().all()
        for tensor in (mean, scale, u):
            assert tensor.grad is not None and tensor.grad.isfinite().all()


def test_log_prob_distinguishes_actions_that_round_to_one() -> None:
    pre_tanh = th.tensor([12.0, 15.0], dtype=th.float32).reshape(2, 1, 1)
    assert (th.tanh(pre_tanh) == 1).all()
    zero = th.zeros(1, 1)
    near, far = squashed_gaussian_log_prob(zero, zero, pre_tanh).flatten().tolist()
    # The correction is the same, so the Gaussian's difference remains: (15^2 - 12^2) / 2 = 40.5
    assert near - far == pytest.approx(40.5, rel=1e-5)


# Samples


def test_samples_are_the_gaussians() -> None:
    n_samples = 20_000
    mean, log_std = randn(B, A, seed=1), 0.3 * randn(B, A, seed=2) - 0.5
    th.manual_seed(0)
    samples = sample_pre_tanh(mean, log_std, n_samples)
    assert samples.shape == (n_samples, B, A)
    noise = (samples - mean) / log_std.exp()
    assert (noise.mean(dim=0) * math.sqrt(n_samples)).abs().max() < AGREES
    # Var(x^2) = 2 for a standard normal x
    assert ((noise.square().mean(dim=0) - 1) * math.sqrt(n_samples / 2)).abs().max() < AGREES
    # No noise is shared among states and dimensions, nor (below) among the samples
    correlation = (noise.flatten(1).T @ noise.flatten(1)) / n_samples
    off_diagonal = correlation - th.diag(correlation.diagonal())
    assert (off_diagonal * math.sqrt(n_samples)).abs().max() < AGREES
    assert noise.unique().numel() == noise.numel()


def test_samples_are_reparameterized() -> None:
    mean = randn(B, A, seed=1).requires_grad_()
    log_std = (0.3 * randn(B, A, seed=2)).requires_grad_()
    samples = sample_pre_tanh(mean, log_std, K)
    samples.sum().backward()
    # u = m + e^l x: du/dm = 1, du/dl = u - m
    th.testing.assert_close(mean.grad, th.full((B, A), float(K), dtype=th.float64))
    th.testing.assert_close(log_std.grad, (samples - mean).sum(dim=0).detach())


# Baselines and losses


@settings(max_examples=50, deadline=None)
@given(
    hnp.arrays(
        np.float64, st.tuples(st.integers(2, 6), st.integers(1, 7)), elements=st.floats(-1e3, 1e3, allow_nan=False)
    )
)
def test_leave_one_out_against_loops(weights: np.ndarray) -> None:
    n_samples, n_states = weights.shape
    baseline = leave_one_out_baseline(th.as_tensor(weights))
    assert baseline.shape == weights.shape
    for k in range(n_samples):
        for b in range(n_states):
            others = [float(weights[j, b]) for j in range(n_samples) if j != k]
            assert baseline[k, b].item() == pytest.approx(sum(others) / len(others), rel=1e-9, abs=1e-9)


def test_leave_one_out_by_hand() -> None:
    # State 1: samples 1, 5, 9: (5 + 9) / 2 = 7, (1 + 9) / 2 = 5, (1 + 5) / 2 = 3. State 2: 0, 0, 6: 3, 3, 0.
    baseline = leave_one_out_baseline(th.tensor([[1.0, 0.0], [5.0, 0.0], [9.0, 6.0]]))
    th.testing.assert_close(baseline, th.tensor([[7.0, 3.0], [5.0, 3.0], [3.0, 0.0]]))


def test_leave_one_out_does_not_know_its_own_sample() -> None:
    weights = randn(K, B)
    before = leave_one_out_baseline(weights)
    changed = weights.clone()
    changed[1, 4] += 100.0
    difference = leave_one_out_baseline(changed) - before
    expected = th.zeros(K, B, dtype=th.float64)
    # 100 / (K - 1) for the two other samples of that state, nothing anywhere else
    expected[0, 4] = expected[2, 4] = 50.0
    th.testing.assert_close(difference, expected)


def test_leave_one_out_needs_two_samples() -> None:
    with pytest.raises(ValueError, match=r"n_actor_samples >= 2.*1"):
        leave_one_out_baseline(randn(1, B))


def test_reparam_loss_against_loops() -> None:
    log_prob, q_values, alpha = randn(K, B, seed=1).requires_grad_(), randn(K, B, seed=2).requires_grad_(), 0.3
    loss = reparam_actor_loss(log_prob, q_values, alpha)
    loss.backward()
    expected = 0.0
    for k in range(K):
        for b in range(B):
            expected += (alpha * log_prob[k, b].item() - q_values[k, b].item()) / (K * B)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    th.testing.assert_close(log_prob.grad, th.full((K, B), alpha / (K * B), dtype=th.float64))
    th.testing.assert_close(q_values.grad, th.full((K, B), -1 / (K * B), dtype=th.float64))


@pytest.mark.parametrize("baseline_shape", [(K, B), (1, B)])
def test_reinforce_gradient_is_the_weighted_score(baseline_shape: tuple[int, int]) -> None:
    mean = randn(B, A, seed=1).requires_grad_()
    log_std = (0.3 * randn(B, A, seed=2)).requires_grad_()
    weights, baseline = randn(K, B, seed=3), randn(*baseline_shape, seed=4)
    th.manual_seed(0)
    pre_tanh = sample_pre_tanh(mean, log_std, K).detach()
    loss = reinforce_actor_loss(squashed_gaussian_log_prob(mean, log_std, pre_tanh), weights, baseline)
    loss.backward()
    for b in range(B):
        for a in range(A):
            m, s = mean[b, a].item(), math.exp(log_std[b, a].item())
            by_mean = by_log_std = 0.0
            for k in range(K):
                noise = (pre_tanh[k, b, a].item() - m) / s
                own = baseline[k if baseline_shape[0] == K else 0, b].item()
                advantage = weights[k, b].item() - own
                # Score of a Gaussian: x / s for the mean, x^2 - 1 for log s; the tanh's Jacobian has no parameters
                by_mean -= advantage * noise / s / (K * B)
                by_log_std -= advantage * (noise**2 - 1) / (K * B)
            assert mean.grad[b, a].item() == pytest.approx(by_mean, rel=1e-9)
            assert log_std.grad[b, a].item() == pytest.approx(by_log_std, rel=1e-9)


def test_reinforce_lets_no_gradient_through_weights_or_baseline() -> None:
    log_prob, q_values = randn(K, B, seed=1).requires_grad_(), randn(K, B, seed=2).requires_grad_()
    baseline = randn(1, B, seed=3).requires_grad_()
    # As SB3's samples would: the weights depend on log_prob, which has a gradient
    weights = q_values - 0.3 * log_prob
    reinforce_actor_loss(log_prob, weights, baseline).backward()
    assert q_values.grad is None
    assert baseline.grad is None
    th.testing.assert_close(log_prob.grad, -(weights - baseline).detach() / (K * B))


def test_normalized_advantages_by_hand() -> None:
    # Mean 4; deviations -3, -1, 1, 3; their squares sum to 20, over 3: the standard deviation is sqrt(20 / 3)
    advantages = normalized_advantages(th.tensor([[1.0, 3.0], [5.0, 7.0]], dtype=th.float64))
    expected = th.tensor([[-3.0, -1.0], [1.0, 3.0]], dtype=th.float64) / math.sqrt(20 / 3)
    th.testing.assert_close(advantages, expected, rtol=1e-7, atol=0.0)


def test_normalized_reinforce_does_not_know_the_scale_of_rewards() -> None:
    log_prob = randn(K, B, seed=1).requires_grad_()
    weights, baseline = randn(K, B, seed=2), randn(K, B, seed=3)
    losses = [
        reinforce_actor_loss(log_prob, factor * weights + shift, factor * baseline, normalize_advantage=True)
        for factor, shift in ((1.0, 0.0), (10.0, 4.0))
    ]
    first, second = (th.autograd.grad(loss, log_prob)[0] for loss in losses)
    th.testing.assert_close(first, second, rtol=1e-6, atol=1e-9)
    th.testing.assert_close(first, -normalized_advantages(weights - baseline) / (K * B))


def test_reinforce_does_not_rescale() -> None:
    log_prob = randn(K, B, seed=1).requires_grad_()
    weights = randn(K, B, seed=2)
    (small,) = th.autograd.grad(reinforce_actor_loss(log_prob, weights, 0.0), log_prob)
    (large,) = th.autograd.grad(reinforce_actor_loss(log_prob, 10 * weights, 0.0), log_prob)
    # An advantage divided by its standard deviation would not know the factor
    th.testing.assert_close(large, 10 * small)


# Temperature


@settings(max_examples=50, deadline=None)
@given(entropy=st.floats(-10, 10), target_entropy=st.floats(-10, 10), log_alpha=st.floats(-5, 5))
def test_temperature_moves_towards_the_target_entropy(entropy: float, target_entropy: float, log_alpha: float) -> None:
    log_ent_coef = th.full((1,), log_alpha, dtype=th.float64, requires_grad=True)
    log_prob = th.full((K, B), -entropy, dtype=th.float64)
    (gradient,) = th.autograd.grad(temperature_loss(log_ent_coef, log_prob, target_entropy), log_ent_coef)
    step = -gradient.item()
    # Gradient descent raises alpha while the entropy is too low, lowers it while it is too high
    assert step == pytest.approx(target_entropy - entropy, abs=1e-9)


def test_temperature_loss_against_loops() -> None:
    log_prob = randn(K, B).requires_grad_()
    log_ent_coef = th.tensor([-0.7], dtype=th.float64, requires_grad=True)
    loss = temperature_loss(log_ent_coef, log_prob, -2.0)
    loss.backward()
    expected = 0.0
    for k in range(K):
        for b in range(B):
            expected -= -0.7 * (log_prob[k, b].item() - 2.0) / (K * B)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    # It trains the temperature, not the policy
    assert log_prob.grad is None


def test_temperature_grows_when_entropy_is_below_target() -> None:
    log_ent_coef = th.zeros(1, requires_grad=True)
    optimizer = th.optim.SGD([log_ent_coef], lr=0.1)
    # log pi = 1: entropy -1, below the target of 2
    temperature_loss(log_ent_coef, th.ones(K, B), target_entropy=2.0).backward()
    optimizer.step()
    assert log_ent_coef.item() == pytest.approx(0.1 * (1 + 2))


def test_exact_log_prob_is_that_of_torch_also_where_the_tanh_is_saturated() -> None:
    mean, log_std = th.tensor([[0.3, -11.0, 9.0]]).double(), th.tensor([[-1.0, 0.5, -2.0]]).double()
    pre_tanh = th.tensor([[[0.1, -12.0, 8.8]], [[-2.0, -9.0, 9.3]]]).double()
    squashed = TransformedDistribution(Normal(mean, log_std.exp()), [TanhTransform(cache_size=1)])
    expected = squashed.base_dist.log_prob(pre_tanh) - TanhTransform().log_abs_det_jacobian(pre_tanh, None)
    result = squashed_gaussian_log_prob(mean, log_std, pre_tanh, exact=True)
    th.testing.assert_close(result, expected.sum(dim=-1))
    # In float32 1 - tanh(12)^2 would be 0
    single = squashed_gaussian_log_prob(mean.float(), log_std.float(), pre_tanh.float(), exact=True)
    th.testing.assert_close(single, result.float())


@pytest.mark.parametrize("exact", [True, False])
def test_only_the_exact_log_prob_draws_saturated_actions_back(exact: bool) -> None:
    pre_tanh = th.tensor([[[-10.0, 0.0, 10.0]]], requires_grad=True)
    # Far from the mean's influence: the Gaussian is wide
    log_prob = squashed_gaussian_log_prob(th.zeros(1, 3), th.full((1, 3), 8.0), pre_tanh, exact)
    (gradient,) = th.autograd.grad(log_prob.sum(), pre_tanh)
    expected = th.tensor([-2.0, 0.0, 2.0]) if exact else th.zeros(3)
    th.testing.assert_close(gradient[0, 0], expected, atol=0.01, rtol=0)
