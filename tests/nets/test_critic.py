"""The critic's interface, which is SB3's, and what it does beyond it."""

import pytest
import torch as th
from gymnasium import spaces
from torch import nn

from sb3_ext.redq_sac.policies import CnnPolicy, MultiInputPolicy, REDQSACPolicy
from tests.support.policies import IMAGES, MIXED, OBSERVATIONS, B, K, N, make_policy, random_actions, random_obs

SPACES = pytest.mark.parametrize(
    ("cls", "space"), [(REDQSACPolicy, OBSERVATIONS), (MultiInputPolicy, MIXED), (CnnPolicy, IMAGES)]
)


@SPACES
def test_critic_returns_a_tuple_as_sb3s(cls: type[REDQSACPolicy], space: spaces.Space) -> None:
    critic = make_policy(cls, space).critic
    obs, actions = random_obs(space), random_actions(B)
    values = critic(obs, actions)
    assert isinstance(values, tuple)
    assert [value.shape for value in values] == [(B, 1)] * N
    assert all(not th.allclose(values[0], value) for value in values[1:])
    first = critic.q1_forward(obs, actions)
    assert first.shape == (B, 1)
    th.testing.assert_close(first, values[0])
    th.testing.assert_close(critic.stacked(obs, actions), th.cat(values, dim=1).T)


@SPACES
def test_several_actions_are_several_calls(cls: type[REDQSACPolicy], space: spaces.Space) -> None:
    critic = make_policy(cls, space).critic
    obs, actions = random_obs(space), random_actions(K, B)
    members = th.tensor([4, 1])
    stacked, subset = critic.stacked(obs, actions), critic.stacked(obs, actions, members)
    assert stacked.shape == (N, K, B)
    assert subset.shape == (2, K, B)
    for k in range(K):
        separate = critic.stacked(obs, actions[k])
        assert separate.shape == (N, B)
        th.testing.assert_close(stacked[:, k], separate, rtol=1e-5, atol=1e-6)
        th.testing.assert_close(subset[:, k], separate[members], rtol=1e-5, atol=1e-6)
        th.testing.assert_close(critic.stacked(obs, actions[k], members), separate[members], rtol=1e-5, atol=1e-6)


def test_members_keep_their_order() -> None:
    critic = make_policy().critic
    values = critic(random_obs(), random_actions(B))
    subset = critic.stacked(random_obs(), random_actions(B), th.tensor([3, 0, 2]))
    for row, member in enumerate([3, 0, 2]):
        th.testing.assert_close(subset[row], values[member].flatten())


def gradients(module: nn.Module) -> list[bool]:
    return [parameter.grad is not None for parameter in module.parameters()]


@pytest.mark.parametrize("share_features_extractor", [False, True])
def test_critic_loss_trains_its_own_extractor_only(share_features_extractor: bool) -> None:
    policy = make_policy(CnnPolicy, IMAGES, share_features_extractor=share_features_extractor)
    policy.critic.stacked(random_obs(IMAGES), random_actions(B)).sum().backward()
    assert all(gradients(policy.critic.ensemble))
    own = gradients(policy.critic.features_extractor)
    assert own and all(own) == any(own) == (not share_features_extractor)
    assert not any(gradients(policy.actor))


@pytest.mark.parametrize("members", [None, [3, 1]])
def test_frozen_critic_trains_the_actions_only(members: list[int] | None) -> None:
    critic = make_policy(CnnPolicy, IMAGES).critic
    indices = None if members is None else th.tensor(members)
    frozen_actions = random_actions(K, B).requires_grad_()
    critic.stacked(random_obs(IMAGES), frozen_actions, indices, frozen=True).square().sum().backward()
    assert not any(gradients(critic))

    actions = random_actions(K, B).requires_grad_()
    critic.stacked(random_obs(IMAGES), actions, indices).square().sum().backward()
    assert all(gradients(critic))
    assert frozen_actions.grad is not None and frozen_actions.grad.any()
    th.testing.assert_close(frozen_actions.grad, actions.grad)


def test_no_gradient_where_it_is_switched_off() -> None:
    critic = make_policy(CnnPolicy, IMAGES).critic
    with th.no_grad():
        assert not critic.stacked(random_obs(IMAGES), random_actions(B)).requires_grad


def test_dropout_can_be_active_in_the_target_alone() -> None:
    """
    DroQ's targets are computed with dropout, while SB3 keeps the target network in evaluation mode.
    """
    policy = make_policy(dropout=0.5, net_arch=[64])
    obs, actions = random_obs(), random_actions(B)
    target = policy.critic_target
    assert th.equal(target.stacked(obs, actions), target.stacked(obs, actions))
    target.ensemble.train()
    policy.critic.set_training_mode(False)
    assert not th.equal(target.stacked(obs, actions), target.stacked(obs, actions))
    assert th.equal(policy.critic.stacked(obs, actions), policy.critic.stacked(obs, actions))
