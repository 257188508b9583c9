"""Critics one by one: how they are read and initialized anew, and what is said to loops over SB3's ``q_networks``."""

import copy
import pickle
from typing import Any

import pytest
import torch as th
from stable_baselines3 import SAC
from torch import nn

from sb3_ext import REDQSAC
from sb3_ext.nets import EnsembleMLP
from tests.support.models import make
from tests.support.policies import N, make_policy, random_actions, random_obs

VARIANTS: list[dict[str, Any]] = [
    {},
    dict(net_arch=[]),
    dict(layer_norm=True),
    dict(layer_norm=True, dropout=0.3, activation_fn=nn.Tanh),
]


@pytest.mark.parametrize("kwargs", VARIANTS)
def test_a_member_computes_what_its_critic_does(kwargs: dict[str, Any]) -> None:
    critic = make_policy(**kwargs).critic.eval()
    for parameter in critic.ensemble.parameters():
        nn.init.normal_(parameter)  # also scales and shifts, which start equal in all critics
    obs, actions = random_obs(), random_actions(7)
    values, state = critic(obs, actions), th.get_rng_state()
    for index in range(N):
        member = critic.ensemble.member(index)
        th.testing.assert_close(member(th.cat([obs, actions], dim=1)), values[index])
        assert any(isinstance(layer, nn.Linear) for layer in member)
        nn.init.zeros_(next(member.parameters()))  # of a copy
    assert all(th.equal(one, other) for one, other in zip(critic(obs, actions), values, strict=True))
    assert th.equal(th.get_rng_state(), state)


@pytest.mark.parametrize("kwargs", VARIANTS)
def test_each_critic_can_be_replaced(kwargs: dict[str, Any]) -> None:
    critic = make_policy(**kwargs).critic.eval()
    obs, actions = random_obs(), random_actions(7)
    before, storage = critic(obs, actions), [p.data_ptr() for p in critic.ensemble.parameters()]

    def init(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.orthogonal_(module.weight)
            nn.init.constant_(module.bias, 0.7)

    member = critic.ensemble.member(2).apply(init)
    critic.ensemble.set_member(2, member)
    after = critic(obs, actions)
    for index in range(N):
        assert th.equal(after[index], before[index]) == (index != 2)
    th.testing.assert_close(after[2], member(th.cat([obs, actions], dim=1)))
    assert [p.data_ptr() for p in critic.ensemble.parameters()] == storage


def test_what_does_not_fit_is_refused() -> None:
    ensemble = EnsembleMLP(3, 4, [8])
    weights = [p.clone() for p in ensemble.parameters()]
    for index in (-1, 3):
        with pytest.raises(IndexError, match=rf"index={index} must be from 0 to 2"):
            ensemble.member(index)
    with pytest.raises(ValueError, match=r"network has parameters of shapes .*\(9, 4\).* but a member has .*\(8, 4\)"):
        ensemble.set_member(0, EnsembleMLP(1, 4, [9]).member(0))
    assert all(th.equal(p, weight) for p, weight in zip(ensemble.parameters(), weights, strict=True))


def test_freezing_the_ensemble_freezes_every_critic() -> None:
    model = make(REDQSAC)
    model.critic.ensemble.requires_grad_(False)
    weights = copy.deepcopy(model.critic.ensemble.state_dict())
    model.learn(40)
    assert all(th.equal(value, weights[name]) for name, value in model.critic.ensemble.state_dict().items())


def outputs(policy: Any) -> list[th.Tensor]:
    networks = policy.critic, policy.critic_target
    return [value for network in networks for value in network(th.ones(2, 3), th.full((2, 1), 0.3))]


def test_functions_for_torchs_layers_are_applied_as_by_sac() -> None:
    stock = SAC("MlpPolicy", "Pendulum-v1", policy_kwargs=dict(net_arch=[8], n_critics=3), buffer_size=1, device="cpu")
    policies = stock.policy, make(REDQSAC).policy

    def init(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.orthogonal_(module.weight)
            nn.init.uniform_(module.bias)

    for policy in policies:
        th.manual_seed(0)
        assert policy.apply(init) is policy
    th.testing.assert_close(*map(outputs, policies))

    def shrink(module: nn.Module) -> None:
        if hasattr(module, "weight"):
            module.weight.data.mul_(0.5)

    for policy in policies:
        policy.critic.apply(shrink)
    th.testing.assert_close(*map(outputs, policies))

    def freeze(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            module.weight.requires_grad_(False)

    ensemble = policies[1].critic.ensemble
    ensemble.apply(freeze)
    assert {name.rpartition(".")[2]: p.requires_grad for name, p in ensemble.named_parameters()} == {
        "weight": False,
        "bias": True,
    }
    with pytest.raises(ValueError, match=r"network has parameters of shapes .*weight_orig"):
        ensemble.apply(lambda module: nn.utils.spectral_norm(module) if isinstance(module, nn.Linear) else module)


@pytest.mark.parametrize("kwargs", VARIANTS)
def test_layers_can_be_reset(kwargs: dict[str, Any]) -> None:
    ensemble = make_policy(**kwargs).critic.ensemble
    before = {name: p.detach().clone() for name, p in ensemble.named_parameters()}
    with th.no_grad():
        for parameter in ensemble.parameters():
            parameter.fill_(7.0)
    for module in ensemble.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    for name, parameter in ensemble.named_parameters():
        assert parameter.abs().max() <= 2 * before[name].abs().max()
        # Critics that began with other numbers than each other do so again
        assert (parameter[0] == parameter[1]).all() == (before[name][0] == before[name][1]).all()


@pytest.mark.parametrize("name", ["q_networks", "qf0", "qf1", "qf9"])
def test_attributes_of_separate_critics_name_the_ensemble(name: str) -> None:
    critic = make_policy().critic
    for each in (critic, copy.deepcopy(critic), pickle.loads(pickle.dumps(critic))):
        with pytest.raises(AttributeError, match=rf"EnsembleCritic has no {name}.*ensemble\.member\(i\).*set_member"):
            getattr(each, name)
        assert not hasattr(each, name) and getattr(each, name, None) is None
    with pytest.raises(AttributeError, match="'EnsembleCritic' object has no attribute 'q_netwrks'"):
        _ = critic.q_netwrks


def test_the_number_of_critics_cannot_be_changed() -> None:
    critic = make_policy().critic
    with pytest.raises(AttributeError, match=r"n_critics=3 cannot replace 5.*policy_kwargs=dict\(n_critics=\.\.\.\)"):
        critic.n_critics = 3
    critic.n_critics = 5
    assert critic.n_critics == len(critic(random_obs(), random_actions(7))) == 5


def test_values_may_be_changed_in_place_as_those_of_sac() -> None:
    stock = SAC("MlpPolicy", "Pendulum-v1", policy_kwargs=dict(net_arch=[8]), buffer_size=1, device="cpu")
    for critic in (stock.critic, make(REDQSAC).critic):
        values = critic(th.ones(2, 3), th.ones(2, 1))
        before = [value.detach().clone() for value in values]
        loss = values[1].square().sum()
        values[0].sub_(1.0)
        (loss + values[0].sum()).backward()
        assert th.equal(values[0].detach(), before[0] - 1.0) and th.equal(values[1].detach(), before[1])
