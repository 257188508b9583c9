"""
The actor's gradients and the temperature's, against loops, quadrature, SB3 and each other.

K samples, B states and A action dimensions always differ.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution

from sb3_ext.functional.ensemble import aggregate_q
from sb3_ext.functional.policy_gradient import (
    leave_one_out_baseline,
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


# One gradient, two estimators

ALPHA = 0.4
STATES = th.tensor([[1.0, 0.2], [-0.6, 1.0], [0.5, -0.8]], dtype=th.float64)
MEAN_WEIGHTS = th.tensor([[0.5, -0.3], [0.2, 0.4]], dtype=th.float64)
LOG_STD_WEIGHTS = th.tensor([[-0.4, 0.3], [0.1, -0.5]], dtype=th.float64)


def known_q(states: th.Tensor, actions: th.Tensor) -> th.Tensor:
    """
    Three smooth critics with values far from zero, where a baseline matters.

    :param states: shape (B, 2)
    :param actions: shape (K, B, 2)
    :return: shape (3, K, B)
    """
    x, y = actions[..., 0], actions[..., 1]
    p, q = states[:, 0], states[:, 1]
    return th.stack(
        [
            4.0 - 2.0 * (x - 0.5 * p).square() + th.sin(3.0 * y),
            5.0 + x * y - (y + 0.3 * q).square(),
            3.0 + p * x + q * y + x.square() * y,
        ]
    )


def no_baseline(weights: th.Tensor, mode_values: th.Tensor) -> float:
    return 0.0


def constant_baseline(weights: th.Tensor, mode_values: th.Tensor) -> float:
    return 3.5


def loo_baseline(weights: th.Tensor, mode_values: th.Tensor) -> th.Tensor:
    return leave_one_out_baseline(weights)


def mean_action_baseline(weights: th.Tensor, mode_values: th.Tensor) -> th.Tensor:
    return mode_values


def own_sample_baseline(weights: th.Tensor, mode_values: th.Tensor) -> th.Tensor:
    return weights.mean(dim=0, keepdim=True)


def batch_axis_baseline(weights: th.Tensor, mode_values: th.Tensor) -> th.Tensor:
    # Over the states of one minibatch: its replica's, see ``gradient_replicas``
    by_replica = weights.unflatten(1, (-1, len(STATES)))
    return by_replica.mean(dim=2, keepdim=True).expand_as(by_replica).flatten(1)


Baseline = Callable[[th.Tensor, th.Tensor], th.Tensor | float]


def gradient_replicas(
    n_replicas: int,
    n_samples: int,
    seed: int,
    baseline: Baseline | None = None,
    alpha: float = ALPHA,
    actor_q: str = "mean",
) -> th.Tensor:
    """
    Independent estimates of the policy's gradient, each from one minibatch of ``STATES``.

    Every replica has parameters of its own, so that one backward pass gives all their gradients.

    :param baseline: for REINFORCE; ``None`` is the reparametrised gradient
    :return: shape (n_replicas, 8)
    """
    th.manual_seed(seed)
    parameters = [w.expand(n_replicas, -1, -1).clone().requires_grad_() for w in (MEAN_WEIGHTS, LOG_STD_WEIGHTS)]
    mean, log_std = (th.einsum("ras,bs->rba", w, STATES).flatten(end_dim=1) for w in parameters)
    states = STATES.repeat(n_replicas, 1)
    pre_tanh = sample_pre_tanh(mean, log_std, n_samples)
    if baseline is not None:
        pre_tanh = pre_tanh.detach()
    log_prob = squashed_gaussian_log_prob(mean, log_std, pre_tanh)
    q_values = aggregate_q(known_q(states, th.tanh(pre_tanh)), actor_q)
    if baseline is None:
        loss = reparam_actor_loss(log_prob, q_values, alpha)
    else:
        weights = q_values - alpha * log_prob
        mode_values = aggregate_q(known_q(states, th.tanh(mean).unsqueeze(0)), actor_q)
        loss = reinforce_actor_loss(log_prob, weights, baseline(weights, mode_values))
    # The loss is a mean over the replicas too
    gradients = th.autograd.grad(loss * n_replicas, parameters)
    return th.cat([g.flatten(1) for g in gradients], dim=1)


def largest_z(first: th.Tensor, second: th.Tensor) -> float:
    """
    Largest difference of two means in units of its standard error, over the parameters.
    """
    error = (first.var(dim=0) / len(first) + second.var(dim=0) / len(second)).sqrt()
    return ((first.mean(dim=0) - second.mean(dim=0)) / error).abs().max().item()


@pytest.fixture(scope="module")
def reparam_gradient() -> th.Tensor:
    return gradient_replicas(n_replicas=40_000, n_samples=2, seed=0)


@pytest.mark.parametrize("baseline", [no_baseline, constant_baseline, loo_baseline, mean_action_baseline])
def test_both_gradients_agree(reparam_gradient: th.Tensor, baseline: Baseline) -> None:
    reinforce = gradient_replicas(n_replicas=40_000, n_samples=2, seed=1, baseline=baseline)
    assert largest_z(reparam_gradient, reinforce) < AGREES


@pytest.mark.parametrize("baseline", [no_baseline, mean_action_baseline])
def test_both_gradients_agree_with_one_sample(reparam_gradient: th.Tensor, baseline: Baseline) -> None:
    reinforce = gradient_replicas(n_replicas=60_000, n_samples=1, seed=2, baseline=baseline)
    assert largest_z(reparam_gradient, reinforce) < AGREES


def test_both_gradients_agree_for_the_minimum_of_the_critics(reparam_gradient: th.Tensor) -> None:
    reparam = gradient_replicas(n_replicas=40_000, n_samples=2, seed=3, actor_q="min")
    reinforce = gradient_replicas(n_replicas=40_000, n_samples=2, seed=4, baseline=loo_baseline, actor_q="min")
    assert largest_z(reparam, reinforce) < AGREES
    # ... which is another objective than their mean
    assert largest_z(reparam_gradient, reinforce) > DIFFERS


@pytest.mark.parametrize("baseline", [own_sample_baseline, batch_axis_baseline])
def test_a_baseline_with_the_own_sample_is_found_out(reparam_gradient: th.Tensor, baseline: Baseline) -> None:
    wrong = gradient_replicas(n_replicas=40_000, n_samples=2, seed=1, baseline=baseline)
    assert largest_z(reparam_gradient, wrong) > DIFFERS


@pytest.mark.parametrize("baseline", [no_baseline, loo_baseline])
def test_a_wrong_entropy_sign_is_found_out(reparam_gradient: th.Tensor, baseline: Baseline) -> None:
    wrong = gradient_replicas(n_replicas=40_000, n_samples=2, seed=1, baseline=baseline, alpha=-ALPHA)
    assert largest_z(reparam_gradient, wrong) > DIFFERS


def test_leave_one_out_reduces_the_variance() -> None:
    none = gradient_replicas(n_replicas=20_000, n_samples=3, seed=5, baseline=no_baseline)
    loo = gradient_replicas(n_replicas=20_000, n_samples=3, seed=5, baseline=loo_baseline)
    assert (loo.var(dim=0) < 0.5 * none.var(dim=0)).all()


def quadrature_objective(mean: float, log_std: float) -> float:
    """
    ``E[Q(a) - alpha log pi(a)]`` of one state and one action dimension, Q(a) = 2 + a - 3 a^2.

    Gauss-Hermite: the integral of exp(-t^2) f(t), with u = mean + sqrt(2) std t.
    """
    std = math.exp(log_std)
    total = 0.0
    for node, weight in zip(*np.polynomial.hermite.hermgauss(100), strict=True):
        u = mean + math.sqrt(2) * std * float(node)
        a = math.tanh(u)
        log_gaussian = -(float(node) ** 2) - log_std - 0.5 * math.log(2 * math.pi)
        log_pi = log_gaussian + 2 * math.log(math.cosh(u))
        total += float(weight) / math.sqrt(math.pi) * (2 + a - 3 * a**2 - ALPHA * log_pi)
    return total


@pytest.mark.parametrize("gradient", ["reparam", "reinforce"])
def test_gradient_against_quadrature(gradient: str) -> None:
    mean, log_std, h = 0.6, -0.7, 1e-5
    exact = th.tensor(
        [
            (quadrature_objective(mean + h, log_std) - quadrature_objective(mean - h, log_std)) / (2 * h),
            (quadrature_objective(mean, log_std + h) - quadrature_objective(mean, log_std - h)) / (2 * h),
        ],
        dtype=th.float64,
    )
    n_replicas = 100_000
    th.manual_seed(6)
    means = th.full((n_replicas, 1), mean, dtype=th.float64, requires_grad=True)
    log_stds = th.full((n_replicas, 1), log_std, dtype=th.float64, requires_grad=True)
    pre_tanh = sample_pre_tanh(means, log_stds, 2)
    if gradient == "reinforce":
        pre_tanh = pre_tanh.detach()
    log_prob = squashed_gaussian_log_prob(means, log_stds, pre_tanh)
    action = th.tanh(pre_tanh).squeeze(-1)
    q_values = 2 + action - 3 * action.square()
    if gradient == "reparam":
        loss = reparam_actor_loss(log_prob, q_values, ALPHA)
    else:
        weights = q_values - ALPHA * log_prob
        loss = reinforce_actor_loss(log_prob, weights, leave_one_out_baseline(weights))
    estimates = th.cat(th.autograd.grad(loss * n_replicas, [means, log_stds]), dim=1)
    standard_error = estimates.std(dim=0) / math.sqrt(n_replicas)
    # A loss: the objective's gradient with the other sign
    z_scores = (estimates.mean(dim=0) + exact) / standard_error
    assert z_scores.abs().max() < AGREES
    # The test would see an error of a tenth of the gradient
    assert (0.1 * exact / standard_error).abs().max() > DIFFERS
