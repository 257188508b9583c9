"""Resets of the last layers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch as th
from stable_baselines3.common.envs import FakeImageEnv, SimpleMultiObsEnv

from sb3_ext import IQN, DoubleDQN
from sb3_ext.common.resets import encoder_parameters, is_reset_due, reset_last_layers
from sb3_ext.nets import ImpalaConvolutions, NatureConvolutions
from tests.support.environments import StopAt
from tests.support.models import VALUE_BASED, make
from tests.support.states import assert_trained_alike, reloaded


def check_reset(model: Any, shrink: float, share: Callable[[str], float]) -> None:
    """Assert that a reset leaves each parameter the share of its weights that belongs to its name, in both networks."""
    networks = (model.q_net, model.q_net_target)
    before = [{name: p.detach().clone() for name, p in network.named_parameters()} for network in networks]
    th.manual_seed(9)
    fresh = dict(model.policy.make_q_net().named_parameters())
    th.manual_seed(9)
    reset_last_layers(model.policy, shrink)
    for network, old in zip(networks, before, strict=True):
        for name, parameter in network.named_parameters():
            expected = share(name) * old[name] + (1 - share(name)) * fresh[name]
            th.testing.assert_close(parameter, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("cls", VALUE_BASED)
@pytest.mark.parametrize("shrink", [0.0, 0.3])
def test_weights_move_towards_those_of_a_new_network(cls: Any, shrink: float) -> None:
    model = make(cls).learn(40)
    networks = (model.q_net, model.q_net_target)
    check_reset(model, shrink, lambda name: shrink)
    assert not model.policy.optimizer.state  # which has only these parameters here
    assert not th.equal(*(th.cat([p.flatten() for p in n.parameters()]) for n in networks)) or shrink == 0


@pytest.mark.parametrize(
    ("cls", "kwargs", "last"),
    [
        # The extractor's last layer, that of NatureCNN, and the outputs
        (DoubleDQN, dict(net_arch=[]), ["features_extractor.linear.0", "q_net.0"]),
        (DoubleDQN, dict(net_arch=[5]), ["features_extractor.linear.0", "q_net.0", "q_net.2"]),
        (
            IQN,
            dict(net_arch=[], features_extractor_class=NatureConvolutions),
            ["features_extractor.linear.0", "features_extractor.linear.1", "phi.linear", "f.0"],
        ),
        (
            IQN,
            dict(net_arch=[], features_extractor_class=ImpalaConvolutions),
            ["features_extractor.cnn.15", "phi.linear", "f.0"],
        ),
    ],
)
@pytest.mark.parametrize("shrink", [0.0, 0.8])
def test_convolutions_move_less(cls: Any, kwargs: dict[str, Any], last: list[str], shrink: float) -> None:
    env = FakeImageEnv(screen_height=40, screen_width=40, n_channels=1, discrete=True, channel_first=True)
    extractor_kwargs: dict[str, Any] = dict(features_dim=8)
    if kwargs.get("features_extractor_class") is ImpalaConvolutions:
        extractor_kwargs |= dict(width=1, pool_size=2)
    elif cls is IQN:
        extractor_kwargs |= dict(normalization="layer")
    model = make(cls, env, "CnnPolicy", dict(features_extractor_kwargs=extractor_kwargs) | kwargs).learn(26)
    names = {f"{layer}.{kind}" for layer in last for kind in ("weight", "bias")}
    all_names = {name for name, _ in model.q_net.named_parameters()}
    assert names < all_names and encoder_parameters(model.q_net) == all_names - names
    check_reset(model, shrink, lambda name: shrink if name in names else max(shrink, 0.5))
    # The optimizer goes on with the convolutions alone
    kept = {name for name, p in model.q_net.named_parameters() if p in model.policy.optimizer.state}
    assert kept == all_names - names


def test_in_dictionaries_each_image_has_a_last_layer() -> None:
    model = make(DoubleDQN, SimpleMultiObsEnv(discrete_actions=True, channel_last=False), "MultiInputPolicy")
    extractor = "features_extractor.extractors"
    last = {name for name, _ in model.q_net.named_parameters()} - encoder_parameters(model.q_net)
    assert {name for name in last if name.startswith(extractor)} == {
        f"{extractor}.img.linear.0.weight",
        f"{extractor}.img.linear.0.bias",
    }


@pytest.mark.parametrize("cls", VALUE_BASED)
def test_it_happens_after_every_interval(cls: Any, tmp_path: Path) -> None:
    model = make(cls, reset_interval=4, reset_fraction=1.0, learning_rate=1e-12).learn(21)
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


@pytest.mark.parametrize(
    ("n_updates", "fraction", "remaining", "expected"),
    [
        (8, 0.5, 1.0, True),
        (8, 0.5, 0.5, True),
        (8, 0.5, 0.49, False),
        (9, 0.5, 1.0, False),
        (8, 1.0, 0.0, True),
        (8, 1.0, -0.1, True),
        (8, 0.1, 0.9, True),
        (8, 0.1, 0.89, False),
    ],
)
def test_when_there_is_one(n_updates: int, fraction: float, remaining: float, expected: bool) -> None:
    assert is_reset_due(n_updates, 4, fraction, remaining) is expected


@pytest.mark.parametrize("fraction", [None, 0.8])
def test_a_training_does_not_end_with_a_reset(fraction: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    model = make(DoubleDQN, reset_interval=20, reset_shrink=0.0, reset_fraction=fraction)
    monkeypatch.setattr(
        "sb3_ext.common.value_based.reset_last_layers", lambda policy, shrink: seen.append(model.num_timesteps)
    )
    model.learn(100)  # 40 updates
    assert model._n_updates == 40 and seen == ([] if fraction is None else [60])


def test_training_continues_from_a_file_as_without_one(tmp_path: Path) -> None:
    model = make(DoubleDQN, reset_interval=3, reset_shrink=0.2)
    model.learn(100, callback=StopAt(41))
    loaded = reloaded(model, tmp_path)
    weights = model.q_net.q_net[0].weight.detach().clone()
    assert_trained_alike(model, loaded, 7)
    assert (model.q_net.q_net[0].weight - weights).abs().max() > 0.1  # there were resets
    for each in (model, loaded):
        each._total_timesteps = 41
        each._update_current_progress_remaining(41, 41)
    weights = model.q_net.q_net[0].weight.detach().clone()
    assert_trained_alike(model, loaded, 7)
    assert (model.q_net.q_net[0].weight - weights).abs().max() < 0.1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(reset_interval=0), "reset_interval=0 must be an integer of at least 1"),
        (dict(reset_interval=5, reset_shrink=1.0), r"reset_shrink=1.0 must be in \[0, 1\)"),
        (dict(reset_interval=5, reset_fraction=0.0), r"reset_fraction=0.0 must be in \(0, 1\]"),
        (dict(reset_interval=5, reset_fraction=1.5), r"reset_fraction=1.5 must be in \(0, 1\]"),
        (dict(reset_interval=5, reset_shrink=-0.1), r"reset_shrink=-0.1 must be in \[0, 1\)"),
    ],
)
def test_what_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(DoubleDQN, **wrong)
