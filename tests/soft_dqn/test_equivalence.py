"""SoftDQN at its limits must be DoubleDQN."""

from typing import Any

import pytest
import torch as th
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from sb3_ext import DoubleDQN, SoftDQN
from tests.support.environments import Vectors

N_STATES, N_ACTIONS, N_INPUTS = 50, 3, 4


def batch_of(n_states: int) -> ReplayBufferSamples:
    generator = th.Generator().manual_seed(0)
    return ReplayBufferSamples(
        observations=th.randn(n_states, N_INPUTS, generator=generator),
        actions=th.randint(N_ACTIONS, (n_states, 1), generator=generator),
        next_observations=th.randn(n_states, N_INPUTS, generator=generator),
        dones=th.randint(2, (n_states, 1), generator=generator).float(),
        rewards=th.randn(n_states, 1, generator=generator),
    )


def pair(double_q: bool, **kwargs: Any) -> tuple[DoubleDQN, SoftDQN]:
    """Both algorithms, with the same networks: the online and the target network are not alike."""
    settings = dict(policy_kwargs=dict(net_arch=[6]), buffer_size=10, device="cpu", seed=0, double_q=double_q)
    reference, model = (
        DoubleDQN("MlpPolicy", Vectors(), **settings),
        SoftDQN("MlpPolicy", Vectors(), **settings, **kwargs),
    )
    for parameter in reference.policy.parameters():
        parameter.data = th.randn_like(parameter)
    missing = model.policy.load_state_dict(reference.policy.state_dict(), strict=False).missing_keys
    assert sorted(missing) == ["q_net.temperature", "q_net_target.temperature"]
    return reference, model


@pytest.mark.parametrize("double_q", [True, False])
def test_the_max_backup_is_double_dqn(double_q: bool) -> None:
    reference, model = pair(double_q, target_backup="max")
    batch, discounts = batch_of(N_STATES), th.linspace(0.5, 1.0, N_STATES)
    expected, actual = (m.compute_loss(batch, discounts) for m in (reference, model))
    assert th.equal(actual.losses, expected.losses) and th.equal(actual.errors, expected.errors)
    # Not only because double Q-learning makes no difference here
    other, _ = pair(not double_q)
    assert not th.equal(other.compute_loss(batch, discounts).errors, expected.errors)


@pytest.mark.parametrize("double_q", [True, False])
@pytest.mark.parametrize("backup", ["soft", "boltzmann", "mellowmax", "max"])
def test_a_cold_policy_is_dqn(backup: str, double_q: bool) -> None:
    reference, cold = pair(double_q, target_backup=backup, temperature_initial=1e-5)
    _, warm = pair(double_q, target_backup=backup, temperature_initial=1.0)
    batch = batch_of(N_STATES)
    expected = reference.compute_loss(batch, 0.9)
    actual = cold.compute_loss(batch, 0.9)
    th.testing.assert_close(actual.losses, expected.losses, rtol=1e-4, atol=1e-4)
    th.testing.assert_close(actual.errors, expected.errors, rtol=1e-4, atol=1e-4)
    assert th.allclose(warm.compute_loss(batch, 0.9).errors, expected.errors, atol=1e-2) == (backup == "max")
