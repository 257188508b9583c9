"""
What the value-based algorithms make of a minibatch, in plain loops over what their networks return.

B transitions, A actions, T and T' quantile samples of the two networks, K at which actions are valued: all different.
"""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.logger import configure
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from sb3_ext.common.update_loop import TransitionLosses
from sb3_ext.common.value_based import ValueBasedAlgorithm
from tests.support.models import make

B, A, N_INPUTS, T, T_TARGET, K = 5, 3, 4, 7, 11, 13
GAMMA = 0.9
IQN_SIZES = dict(n_quantile_samples=T, n_target_quantile_samples=T_TARGET, n_action_quantile_samples=K)


class NormalVectors(gym.Env):
    """Random observations and rewards; a true end every seventh step."""

    observation_space = spaces.Box(-np.inf, np.inf, (N_INPUTS,), np.float32)
    action_space = spaces.Discrete(A)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self.np_random.normal(size=N_INPUTS).astype(np.float32), {}

    def step(self, action: int) -> Any:
        self.steps += 1
        observation, reward = self.np_random.normal(size=N_INPUTS).astype(np.float32), float(self.np_random.normal())
        return observation, reward, self.steps == 7, False, {}


def unlike_networks(cls: type[ValueBasedAlgorithm], policy_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    """A model whose two networks have nothing in common."""
    settings = dict(buffer_size=100, gamma=GAMMA, seed=0, target_update_interval=10**6) | kwargs
    model = make(cls, NormalVectors(), policy_kwargs=dict(net_arch=[6, 8]) | (policy_kwargs or {}), **settings)
    for parameter in model.policy.parameters():
        parameter.data = th.randn_like(parameter)
    model.set_logger(configure(None, []))
    return model


def make_batch() -> ReplayBufferSamples:
    generator = th.Generator().manual_seed(1)
    return ReplayBufferSamples(
        observations=th.randn(B, N_INPUTS, generator=generator),
        actions=th.tensor([[0], [2], [1], [2], [0]]),
        next_observations=th.randn(B, N_INPUTS, generator=generator),
        dones=th.tensor([[0.0], [1.0], [0.0], [0.0], [1.0]]),
        rewards=3 * th.randn(B, 1, generator=generator),
    )


#: What ``discounts`` may be: one for all transitions, or gamma^k with another number of steps for each of them
DISCOUNTS = [GAMMA, [GAMMA, GAMMA**3, GAMMA**2, GAMMA**3, GAMMA]]

discounts_given = pytest.mark.parametrize("discounts", DISCOUNTS, ids=["one discount", "discounts"])

double_q_given = pytest.mark.parametrize("double_q", [False, True], ids=["target", "double_q"])


def loss_of(model: Any, batch: ReplayBufferSamples, discounts: Any) -> TransitionLosses:
    return model.compute_loss(batch, th.tensor(discounts) if isinstance(discounts, list) else discounts)


def discount_of(discounts: Any, row: int) -> float:
    return discounts[row] if isinstance(discounts, list) else discounts


def rows_of(network: Any, observations: th.Tensor) -> list[list[float]]:
    with th.no_grad():
        return [network(observation.unsqueeze(0))[0].tolist() for observation in observations]


def huber(delta: th.Tensor, kappa: float = 1.0) -> th.Tensor:
    return 0.5 * delta**2 if abs(delta.item()) <= kappa else kappa * (delta.abs() - 0.5 * kappa)


def assert_gradient_is_that_of(model: Any, actual: th.Tensor, expected: th.Tensor) -> None:
    """
    :param actual: losses of the algorithm, shape (B,)
    :param expected: the same from the loops, differentiable too
    """
    assert actual.shape == expected.shape == (B,)
    th.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    parameters = list(model.q_net.parameters())
    gradients = th.autograd.grad(expected.mean(), parameters)
    model.policy.optimizer.zero_grad()
    actual.mean().backward()
    largest = max(gradient.abs().max().item() for gradient in gradients)
    assert largest > 1e-3
    for parameter, gradient in zip(parameters, gradients, strict=True):
        # Sums of hundreds of terms in float32, which partly cancel
        th.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-5 * largest)
    # Nothing flows into the network that makes the targets
    assert all(parameter.grad is None for parameter in model.q_net_target.parameters())


def check_scalar_values(model: Any, terms: TransitionLosses, batch: ReplayBufferSamples, targets: list[float]) -> None:
    """Losses, gradients and errors of an algorithm that learns one number for each action."""
    q_values = [model.q_net(batch.observations[b : b + 1])[0, int(batch.actions[b])] for b in range(B)]
    deltas = [q - y for q, y in zip(q_values, targets, strict=True)]
    assert {abs(delta.item()) <= 1 for delta in deltas} == {True, False}  # both branches of the Huber loss
    assert not terms.errors.requires_grad
    th.testing.assert_close(terms.errors, th.stack(deltas).detach().abs(), rtol=1e-5, atol=1e-5)
    assert terms.metrics["q_value"].item() == pytest.approx(sum(q.item() for q in q_values) / B, rel=1e-5)
    assert_gradient_is_that_of(model, terms.losses, th.stack([huber(delta) for delta in deltas]))


def losses_of(model: Any, reference: Any) -> tuple[Any, Any]:
    """Of both models for one batch and the same networks and quantile levels."""
    model.policy.load_state_dict(reference.policy.state_dict())
    batch = reference.replay_buffer.sample(16)
    terms = []
    for agent in (reference, model):
        th.manual_seed(3)
        terms.append(agent.compute_loss(batch, 0.9))
    return terms[0], terms[1]


def gradients_of(model: Any, losses: th.Tensor) -> th.Tensor:
    model.policy.optimizer.zero_grad()
    losses.mean().backward()
    return th.cat([parameter.grad.flatten() for parameter in model.q_net.parameters()])
