"""Two estimators of one gradient of the policy: by the actions and by their log-probabilities."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch as th

from sb3_ext.functional.ensemble import aggregate_q
from sb3_ext.functional.policy_gradient import (
    leave_one_out_baseline,
    reinforce_actor_loss,
    reparam_actor_loss,
    sample_pre_tanh,
    squashed_gaussian_log_prob,
)

K, B, A = 3, 7, 2

# |z| of a correct estimator exceeds the first about once in 150,000 comparisons; a wrong one has to exceed the second
AGREES, DIFFERS = 4.5, 8.0
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
