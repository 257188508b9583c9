"""
The networks of the value-based algorithms, against loops and formulas written out.

Every dimension of a tensor is different.
"""

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from torch import nn

from sb3_ext.double_dqn.policies import CnnPolicy as DoubleDQNCnnPolicy
from sb3_ext.double_dqn.policies import MlpPolicy as DoubleDQNPolicy
from sb3_ext.iqn.policies import CnnPolicy as IQNCnnPolicy
from sb3_ext.iqn.policies import MlpPolicy as IQNPolicy
from sb3_ext.nets import CosineEmbedding, DuelingMLP, NatureConvolutions
from sb3_ext.soft_dqn.policies import MlpPolicy as SoftDQNPolicy

B, A, N_INPUTS, T, N_COSINES = 5, 3, 4, 7, 9
OBSERVATIONS = spaces.Box(-np.inf, np.inf, (N_INPUTS,), np.float32)
IMAGES = spaces.Box(0, 255, (2, 36, 40), np.uint8)
ACTIONS = spaces.Discrete(A)


def make(cls: Any, observations: gym.Space = OBSERVATIONS, **kwargs: Any) -> Any:
    th.manual_seed(0)
    policy = cls(observations, ACTIONS, lambda _: 1e-3, **kwargs)
    for parameter in policy.parameters():
        parameter.data = th.randn_like(parameter) / math.sqrt(parameter.shape[-1])
    return policy


def count_calls(module: nn.Module) -> list[int]:
    calls: list[int] = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


# -- Dueling -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("net_arch", [[], [6], [6, 8], [6, 8, 10]], ids=str)
def test_dueling_is_value_plus_advantages_minus_their_mean(net_arch: list[int]) -> None:
    th.manual_seed(0)
    network = DuelingMLP(N_INPUTS, A, net_arch, nn.Tanh)
    inputs = th.randn(B, T, N_INPUTS)
    actual = network(inputs)
    assert actual.shape == (B, T, A)
    for b in range(B):
        for t in range(T):
            hidden = network.trunk(inputs[b, t])
            value, advantages = network.value(hidden).item(), network.advantage(hidden).tolist()
            mean = sum(advantages) / A
            for a in range(A):
                assert actual[b, t, a].item() == pytest.approx(value + advantages[a] - mean, abs=1e-5)
    # So that the value of the state is the mean over the actions
    th.testing.assert_close(actual.mean(dim=-1), network.value(network.trunk(inputs)).squeeze(-1))


@pytest.mark.parametrize(
    ("net_arch", "shapes"),
    [
        ([], dict(trunk=[], value=[(1, 4)], advantage=[(3, 4)])),
        ([6], dict(trunk=[], value=[(6, 4), (1, 6)], advantage=[(6, 4), (3, 6)])),
        ([6, 8], dict(trunk=[(6, 4)], value=[(8, 6), (1, 8)], advantage=[(8, 6), (3, 8)])),
    ],
    ids=str,
)
def test_the_last_hidden_layer_is_there_twice(net_arch: list[int], shapes: dict[str, Any]) -> None:
    network = DuelingMLP(N_INPUTS, A, net_arch)
    for name, expected in shapes.items():
        linears = [layer for layer in getattr(network, name).modules() if isinstance(layer, nn.Linear)]
        assert [tuple(layer.weight.shape) for layer in linears] == expected, name


@pytest.mark.parametrize("cls", [DoubleDQNPolicy, SoftDQNPolicy, IQNPolicy])
@pytest.mark.parametrize("dueling", [False, True])
def test_shared_parts_are_evaluated_once(cls: Any, dueling: bool) -> None:
    policy = make(cls, net_arch=[6, 8], dueling=dueling)
    heads = [module for module in policy.q_net.modules() if isinstance(module, DuelingMLP)]
    assert len(heads) == dueling
    parts = [policy.q_net.features_extractor, *(part for h in heads for part in (h.trunk, h.value, h.advantage))]
    calls = [count_calls(part) for part in parts]
    assert policy.q_net(th.randn(B, N_INPUTS)).shape == (B, A)
    assert [len(c) for c in calls] == [1] * len(parts)


def test_dueling_images_share_their_convolutions() -> None:
    policy = make(
        DoubleDQNCnnPolicy, IMAGES, dueling=True, net_arch=[6], features_extractor_kwargs=dict(features_dim=8)
    )
    calls = count_calls(policy.q_net.features_extractor)
    observation = th.randint(256, (B, *IMAGES.shape), dtype=th.uint8)
    q_values = policy.q_net(observation)
    assert len(calls) == 1
    (head,) = policy.q_net.q_net
    features = policy.q_net.extract_features(observation, policy.q_net.features_extractor)
    value, advantages = head.value(features), head.advantage(features)
    th.testing.assert_close(q_values, value + advantages - advantages.sum(dim=1, keepdim=True) / A)


# -- Implicit quantiles ------------------------------------------------------------------------------------------------


def test_no_feature_is_switched_off_at_the_start() -> None:
    factors = CosineEmbedding(64, n_features=500)(th.rand(40))
    assert 0.9 < factors.mean() < 1.1
    assert (factors > 0).float().mean() > 0.97


def test_cosine_embedding() -> None:
    th.manual_seed(0)
    embedding, taus = CosineEmbedding(N_COSINES, n_features=6), th.rand(B, T)
    weight, bias = embedding.linear.weight.tolist(), embedding.linear.bias.tolist()
    actual = embedding(taus)
    assert actual.shape == (B, T, 6)
    expected = np.empty((B, T, 6))
    for b in range(B):
        for t in range(T):
            # From 1: the cosine of 0 times anything is constant
            cosines = [math.cos(math.pi * i * taus[b, t].item()) for i in range(1, N_COSINES + 1)]
            for feature in range(6):
                total = sum(w * c for w, c in zip(weight[feature], cosines, strict=True)) + bias[feature]
                expected[b, t, feature] = max(total, 0.0)
    assert (expected == 0).any() and (expected > 0).any()
    np.testing.assert_allclose(actual.detach().numpy(), expected, atol=2e-6)


@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("net_arch", [[], [6], [6, 8]], ids=str)
def test_quantiles_one_level_and_state_at_a_time(net_arch: list[int], dueling: bool) -> None:
    policy = make(IQNPolicy, net_arch=net_arch, n_cosines=N_COSINES, dueling=dueling)
    network, observations, taus = policy.q_net, th.randn(B, N_INPUTS), th.rand(B, T)
    actual = network.quantiles(observations, taus)
    assert actual.shape == (B, T, A)
    for b in range(B):
        psi = network.psi(observations[b])
        assert psi.shape == (net_arch[0] if len(net_arch) > 1 else N_INPUTS,)
        for t in range(T):
            expected = network.f(psi * network.phi(taus[b, t]))
            th.testing.assert_close(actual[b, t], expected, rtol=1e-5, atol=1e-6)
    # The levels matter
    assert (actual.std(dim=1) > 1e-4).all()


def test_images_have_the_papers_network() -> None:
    policy = make(IQNCnnPolicy, spaces.Box(0, 255, (4, 84, 84), np.uint8))
    network = policy.q_net
    assert isinstance(network.features_extractor, NatureConvolutions)
    assert network.features_dim == 64 * 7 * 7 and not any(isinstance(m, nn.Linear) for m in network.psi.modules())
    assert not any(isinstance(module, nn.Linear) for module in network.features_extractor.modules())
    assert tuple(network.phi.linear.weight.shape) == (3136, 64)
    shapes = [tuple(layer.weight.shape) for layer in network.f.modules() if isinstance(layer, nn.Linear)]
    assert shapes == [(512, 3136), (A, 512)]


def test_images_may_keep_a_small_fully_connected_layer() -> None:
    policy = make(IQNCnnPolicy, IMAGES, net_arch=[6], features_extractor_kwargs=dict(features_dim=8))
    assert policy.q_net.features_dim == 8
    assert policy.q_net(th.randint(256, (B, *IMAGES.shape), dtype=th.uint8)).shape == (B, A)


@pytest.mark.parametrize(("measure", "eta"), [("neutral", 0.0), ("cvar", 0.25), ("wang", -1.0)])
def test_values_are_means_at_distorted_midpoints(measure: str, eta: float) -> None:
    policy = make(IQNPolicy, net_arch=[6], n_action_quantile_samples=T, risk_measure=measure, risk_eta=eta)
    observations = th.randn(B, N_INPUTS)
    midpoints = th.tensor([(k + 0.5) / T for k in range(T)])
    levels = {
        "neutral": midpoints,
        "cvar": eta * midpoints,
        "wang": th.distributions.Normal(0.0, 1.0).cdf(th.distributions.Normal(0.0, 1.0).icdf(midpoints) + eta),
    }[measure]
    expected = policy.q_net.quantiles(observations, levels.repeat(B, 1)).mean(dim=1)
    generator = th.get_rng_state()
    values = policy.q_net(observations)
    assert values.shape == (B, A)
    th.testing.assert_close(values, expected)
    assert th.equal(policy.q_net(observations), values) and th.equal(th.get_rng_state(), generator)
    assert th.equal(policy._predict(observations, deterministic=True), expected.argmax(dim=1))
    # Exploring actions draw their levels
    policy._predict(observations, deterministic=False)
    assert not th.equal(th.get_rng_state(), generator)


def test_value_of_a_state_in_a_batch_is_that_of_the_state_alone() -> None:
    policy = make(IQNPolicy, net_arch=[6, 8])
    observations = th.randn(B, N_INPUTS)
    values = policy.q_net(observations)
    for b in range(B):
        th.testing.assert_close(policy.q_net(observations[b : b + 1]), values[b : b + 1])


@pytest.mark.parametrize("value", [0, 2.5, -1])
def test_the_number_of_cosines_is_checked(value: Any) -> None:
    with pytest.raises(ValueError, match=rf"n_cosines={value} must be an integer of at least 1"):
        make(IQNPolicy, n_cosines=value)
