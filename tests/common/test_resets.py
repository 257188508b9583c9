"""Resets of the last layers."""

from pathlib import Path
from typing import Any

import pytest
import torch as th
from stable_baselines3.common.envs import FakeImageEnv

from sb3_ext import DoubleDQN
from sb3_ext.common.resets import reset_last_layers
from tests.support.models import VALUE_BASED, make
from tests.support.states import assert_trained_alike, reloaded


@pytest.mark.parametrize("cls", VALUE_BASED)
@pytest.mark.parametrize("shrink", [0.0, 0.3])
def test_weights_move_towards_those_of_a_new_network(cls: Any, shrink: float) -> None:
    model = make(cls).learn(40)
    networks = (model.q_net, model.q_net_target)
    before = [{name: p.detach().clone() for name, p in network.named_parameters()} for network in networks]
    th.manual_seed(9)
    fresh = dict(model.policy.make_q_net().named_parameters())
    th.manual_seed(9)
    reset_last_layers(model.policy, shrink)
    for network, old in zip(networks, before, strict=True):
        for name, parameter in network.named_parameters():
            expected = shrink * old[name] + (1 - shrink) * fresh[name]
            th.testing.assert_close(parameter, expected, rtol=1e-5, atol=1e-7)
    assert not model.policy.optimizer.state  # which has only these parameters here
    assert not th.equal(*(th.cat([p.flatten() for p in n.parameters()]) for n in networks)) or shrink == 0


def test_a_features_extractor_stays() -> None:
    env = FakeImageEnv(screen_height=40, screen_width=40, n_channels=1, discrete=True, channel_first=True)
    model = make(DoubleDQN, env, "CnnPolicy", dict(features_extractor_kwargs=dict(features_dim=8))).learn(30)
    before = {name: p.detach().clone() for name, p in model.q_net.named_parameters()}
    n_states = len(model.policy.optimizer.state)
    reset_last_layers(model.policy, 0.0)
    kept = [name for name, p in model.q_net.named_parameters() if th.equal(p, before[name])]
    assert kept and all(name.startswith("features_extractor.") for name in kept)
    assert len(before) - len(kept) == n_states - len(model.policy.optimizer.state) == 4  # of two layers


@pytest.mark.parametrize("cls", VALUE_BASED)
def test_it_happens_after_every_interval(cls: Any, tmp_path: Path) -> None:
    model = make(cls, reset_interval=4, learning_rate=1e-12).learn(21)
    n_updates, weights = model._n_updates, []
    for _ in range(9):
        weights.append(th.cat([p.detach().flatten().clone() for p in model.q_net.parameters()]))
        model.train(1, 16)
    weights.append(th.cat([p.detach().flatten().clone() for p in model.q_net.parameters()]))
    after = range(n_updates + 1, n_updates + 10)
    changed = [n for n, a, b in zip(after, weights, weights[1:], strict=False) if (a - b).abs().max() > 1e-3]
    assert changed == [n for n in after if n % 4 == 0] != []


def test_frozen_layers_stay_and_others_of_a_user_are_an_error() -> None:
    model = make(DoubleDQN).learn(30)
    layer = model.q_net.q_net[0]
    layer.weight.requires_grad_(False)
    before = layer.weight.clone(), model.q_net_target.q_net[0].weight.clone()
    reset_last_layers(model.policy, 0.0)
    assert th.equal(layer.weight, before[0]) and th.equal(model.q_net_target.q_net[0].weight, before[1])
    model.q_net.q_net[0] = th.nn.Linear(4, 9)
    bias = model.q_net.q_net[-1].bias.clone()
    with pytest.raises(ValueError, match=r"reset_interval needs the layers that the policy makes, and q_net.0.weight"):
        reset_last_layers(model.policy, 0.0)
    assert th.equal(model.q_net.q_net[-1].bias, bias)


def test_training_continues_from_a_file_as_without_one(tmp_path: Path) -> None:
    model = make(DoubleDQN, reset_interval=3, reset_shrink=0.2).learn(41)
    assert_trained_alike(model, reloaded(model, tmp_path), 7)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(reset_interval=0), "reset_interval=0 must be an integer of at least 1"),
        (dict(reset_interval=5, reset_shrink=1.0), r"reset_shrink=1.0 must be in \[0, 1\)"),
        (dict(reset_interval=5, reset_shrink=-0.1), r"reset_shrink=-0.1 must be in \[0, 1\)"),
    ],
)
def test_what_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(DoubleDQN, **wrong)
