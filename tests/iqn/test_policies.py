"""The quantile network of IQN, one level and state at a time. Every dimension of a tensor is different."""

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from torch import nn

from sb3_ext.iqn.policies import CnnPolicy as IQNCnnPolicy
from sb3_ext.iqn.policies import MlpPolicy as IQNPolicy
from sb3_ext.nets import NatureConvolutions
from tests.support.value_policies import IMAGES, N_INPUTS, A, make_policy

B, T, N_COSINES = 5, 7, 9


@pytest.mark.parametrize(
    ("net_arch", "dueling"), [([], False), ([6], False), ([6], True), ([6, 8], False), ([6, 8], True)], ids=str
)
def test_quantiles_one_level_and_state_at_a_time(net_arch: list[int], dueling: bool) -> None:
    policy = make_policy(IQNPolicy, net_arch=net_arch, n_cosines=N_COSINES, dueling=dueling)
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
    policy = make_policy(IQNCnnPolicy, spaces.Box(0, 255, (4, 84, 84), np.uint8))
    network = policy.q_net
    assert isinstance(network.features_extractor, NatureConvolutions)
    assert network.features_dim == 64 * 7 * 7 and not any(isinstance(m, nn.Linear) for m in network.psi.modules())
    assert not any(isinstance(module, nn.Linear) for module in network.features_extractor.modules())
    assert tuple(network.phi.linear.weight.shape) == (3136, 64)
    shapes = [tuple(layer.weight.shape) for layer in network.f.modules() if isinstance(layer, nn.Linear)]
    assert shapes == [(512, 3136), (A, 512)]


def test_images_may_keep_a_small_fully_connected_layer() -> None:
    policy = make_policy(IQNCnnPolicy, IMAGES, net_arch=[6], features_extractor_kwargs=dict(features_dim=8))
    assert policy.q_net.features_dim == 8
    assert policy.q_net(th.randint(256, (B, *IMAGES.shape), dtype=th.uint8)).shape == (B, A)


@pytest.mark.parametrize(("measure", "eta"), [("neutral", 0.0), ("cvar", 0.25), ("wang", -1.0)])
def test_values_are_means_at_distorted_midpoints(measure: str, eta: float) -> None:
    policy = make_policy(IQNPolicy, net_arch=[6], n_action_quantile_samples=T, risk_measure=measure, risk_eta=eta)
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
    assert th.equal(th.as_tensor(policy.predict(observations.numpy(), deterministic=True)[0]), expected.argmax(dim=1))
    # Exploring actions draw their levels
    policy.predict(observations.numpy(), deterministic=False)
    assert not th.equal(th.get_rng_state(), generator)


def test_value_of_a_state_in_a_batch_is_that_of_the_state_alone() -> None:
    policy = make_policy(IQNPolicy, net_arch=[6, 8])
    observations = th.randn(B, N_INPUTS)
    values = policy.q_net(observations)
    for b in range(B):
        th.testing.assert_close(policy.q_net(observations[b : b + 1]), values[b : b + 1])


@pytest.mark.parametrize("value", [0, 2.5, -1])
def test_the_number_of_cosines_is_checked(value: Any) -> None:
    with pytest.raises(ValueError, match=rf"n_cosines={value} must be an integer of at least 1"):
        make_policy(IQNPolicy, n_cosines=value)
