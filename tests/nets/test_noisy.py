"""Noisy linear layers, and when their noise is there."""

import math
from typing import Any

import numpy as np
import pytest
import torch as th
from torch import nn

from sb3_ext import IQN, DoubleDQN, SoftDQN
from sb3_ext.nets import NoisyLayers, NoisyLinear, OutputLinear, build_mlp, noise_in
from tests.support.models import make
from tests.support.states import assert_equal, assert_trained_alike, reloaded
from tests.support.value_policies import IMAGES, make_policy

B, N_IN, N_OUT = 5, 3, 4
SILENT: dict[str, Any] = dict(exploration_initial_eps=0.0, exploration_final_eps=0.0)
each_class = pytest.mark.parametrize("cls", [DoubleDQN, SoftDQN, IQN])


def layer_with_random_parameters() -> NoisyLinear:
    th.manual_seed(0)
    layer = NoisyLinear(nn.Linear(N_IN, N_OUT))
    for parameter in layer.parameters():
        parameter.data = th.randn_like(parameter)
    return layer


def f(x: float) -> float:
    return math.copysign(math.sqrt(abs(x)), x)


def test_outputs_against_loops() -> None:
    layer, x = layer_with_random_parameters(), th.randn(B, N_IN)
    th.manual_seed(3)
    noise_of_inputs, noise_of_outputs = th.randn(N_IN).tolist(), th.randn(N_OUT).tolist()
    th.manual_seed(3)
    with noise_in(layer):
        actual = layer(x)
    for b in range(B):
        for o in range(N_OUT):
            expected = layer.bias[o].item() + layer.bias_std[o].item() * f(noise_of_outputs[o])
            for i in range(N_IN):
                std = layer.weight_std[o, i].item() * f(noise_of_outputs[o]) * f(noise_of_inputs[i])
                expected += (layer.weight[o, i].item() + std) * x[b, i].item()
            assert actual[b, o].item() == pytest.approx(expected, abs=1e-5)


def test_mean_and_variance_of_the_outputs() -> None:
    """``Var y = c (c sum_i S^2 x^2 + s^2)`` with ``c = E f(e)^2 = E |e| = sqrt(2 / pi)``."""
    layer, x = layer_with_random_parameters(), th.tensor([[0.5, -1.0, 2.0]])
    with noise_in(layer), th.no_grad():
        outputs = th.cat([layer(x) for _ in range(40_000)])
    c = math.sqrt(2 / math.pi)
    variance = c * (c * (layer.weight_std**2 * x**2).sum(dim=1) + layer.bias_std**2)
    th.testing.assert_close(outputs.var(dim=0), variance.detach(), rtol=0.05, atol=0)
    with th.no_grad():
        th.testing.assert_close(outputs.mean(dim=0), layer(x)[0], rtol=0, atol=0.05 * variance.max().sqrt().item())


def test_noise_is_drawn_for_each_pass_and_only_where_it_is_wanted() -> None:
    layer, x = layer_with_random_parameters(), th.randn(B, N_IN)
    for mode in (True, False):
        layer.train(mode)
        plain = nn.functional.linear(x, layer.weight, layer.bias)
        assert th.equal(layer(x), plain)
        with noise_in(layer):
            first, second = layer(x), layer(x)
        assert not th.allclose(first, second) and not th.allclose(first, plain)
        with noise_in(layer, is_wanted=False):
            assert th.equal(layer(x), plain)
        with noise_in(layer):  # one within another
            with noise_in(layer, is_wanted=False):
                assert th.equal(layer(x), plain)
            with noise_in(layer):
                pass
            assert not th.allclose(layer(x), plain)
        with pytest.raises(KeyError), noise_in(layer):
            raise KeyError
        assert th.equal(layer(x), plain)


def test_it_starts_as_the_layer_that_it_replaces() -> None:
    th.manual_seed(0)
    plain = build_mlp(4, [16, 9], 3)
    th.manual_seed(0)
    noisy = build_mlp(4, [16, 9], 3, layers=NoisyLayers(0.4))
    x = th.randn(B, 4)
    assert th.equal(plain(x), noisy(x))
    layers = [layer for layer in noisy if isinstance(layer, NoisyLinear)]
    assert [(layer.in_features, layer.is_output) for layer in layers] == [(4, False), (16, False), (9, True)]
    for layer in layers:  # sigma_0 / sqrt(inputs)
        expected = pytest.approx(0.4 / math.sqrt(layer.in_features))
        assert all(std == expected for std in [*layer.weight_std.flatten().tolist(), *layer.bias_std.tolist()])
    weight = layers[1].weight.clone()
    layers[1].weight_std.data.zero_()
    layers[1].reset_parameters()
    assert not th.equal(layers[1].weight, weight) and layers[1].weight_std.min().item() == pytest.approx(0.1)


def test_outputs_keep_their_precision() -> None:
    layer = NoisyLinear(OutputLinear(N_IN, N_OUT))
    with noise_in(layer), th.autocast("cpu", th.bfloat16):
        assert layer(th.randn(B, N_IN, dtype=th.bfloat16)).dtype == th.float32
    with pytest.raises(ValueError, match="needs a bias"):
        NoisyLinear(nn.Linear(2, 3, bias=False))


@each_class
def test_a_policy_is_noisy_while_it_explores_and_learns(cls: Any) -> None:
    model = make(cls, policy_kwargs=dict(net_arch=[8], noisy=True), **SILENT)
    observations = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    same = [model.predict(observations, deterministic=True)[0] for _ in range(5)]
    assert all((actions == same[0]).all() for actions in same)
    explored = np.stack([model.predict(observations, deterministic=False)[0] for _ in range(20)])
    assert (explored != explored[0]).any()
    before = {name: value.clone() for name, value in model.q_net.named_parameters()}
    model.learn(60)
    changed = {name for name, value in model.q_net.named_parameters() if not th.equal(value, before[name])}
    assert {name.split(".")[-1] for name in changed} >= {"weight", "bias", "weight_std", "bias_std"}
    layers = [layer for layer in model.policy.modules() if isinstance(layer, NoisyLinear)]
    assert len(layers) >= 4 and not any(layer.is_noisy for layer in layers)


@each_class
def test_training_continues_from_a_file_as_without_one(cls: Any, tmp_path: Any) -> None:
    model = make(cls, policy_kwargs=dict(net_arch=[8], noisy=True, noisy_std=0.3, dueling=True), **SILENT).learn(41)
    assert_trained_alike(model, reloaded(model, tmp_path), 3)


def test_without_variance_it_is_the_network_without_noise() -> None:
    states = []
    for options in ({}, dict(noisy=True, noisy_std=0.0)):
        model = make(DoubleDQN, policy_kwargs=dict(net_arch=[8], dueling=True, **options), learning_rate=1e-2, **SILENT)
        for parameter, name in ((p, n) for n, p in model.policy.named_parameters() if "std" not in n):
            parameter.data = th.linspace(-1, 1, parameter.numel()).reshape(parameter.shape) * (1 + 0.1 * len(name))
        for name, parameter in model.policy.named_parameters():
            parameter.requires_grad_("std" not in name)
        model.seed = 0
        model.set_random_seed(0)
        states.append({n: v for n, v in model.learn(80).policy.state_dict().items() if "std" not in n})
    assert_equal(states[1], states[0])


@each_class
def test_images_have_noise_in_the_large_layer_too(cls: Any) -> None:
    policy = make_policy(cls.policy_aliases["CnnPolicy"], IMAGES, noisy=True)
    layers = [layer for layer in policy.q_net.modules() if isinstance(layer, NoisyLinear)]
    assert [layer.out_features for layer in layers][:1] == [512]
    assert not any(type(m) is nn.Linear for m in policy.q_net.features_extractor.modules())


@each_class
@pytest.mark.parametrize(
    ("options", "settings", "message"),
    [
        (dict(noisy=1), dict(exploration_final_eps=0.5), "exploration_"),
        (dict(network_kwargs=dict(noisy=True)), dict(exploration_final_eps=0.5), "exploration_"),
        (dict(noisy=True), dict(exploration_final_eps=0.0, exploration_initial_eps=0.5), "exploration_initial_eps=0.5"),
        (
            dict(noisy=True),
            dict(exploration_final_eps=0.1, exploration_initial_eps=0.1),
            "only exploration_initial_eps",
        ),
        (dict(noisy="yes"), SILENT, "noisy='yes' is not one of True, False, 'with_epsilon'"),
        (dict(noisy=True, noisy_std=-1.0), SILENT, r"noisy_std=-1.0 must be in \[0, 100\]"),
        (dict(noisy_std=0.5), SILENT, r"noisy_std=0.5 has no effect here: it needs noisy=True"),
        (dict(normalization="batch"), {}, "normalization='batch' is not one of None, 'layer'"),
        (dict(normalization="layer", net_arch=[]), {}, r"normalization='layer' has no effect with net_arch=\[\]"),
        (dict(dueling=True, net_arch=[]), {}, r"dueling=True has no effect with net_arch=\[\]"),
    ],
)
def test_what_is_refused(cls: Any, options: dict[str, Any], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(cls, policy_kwargs=dict(net_arch=[8]) | options, **settings)


@each_class
def test_random_actions_as_well_if_they_are_wanted(cls: Any) -> None:
    settings = dict(exploration_final_eps=0.5, exploration_initial_eps=0.5)
    model = make(cls, policy_kwargs=dict(net_arch=[8], noisy="with_epsilon"), **settings).learn(40)
    assert model.exploration_rate == 0.5 and model._n_updates > 0


@each_class
def test_normalized_hidden_layers(cls: Any) -> None:
    model = make(cls, policy_kwargs=dict(net_arch=[6, 8], normalization="layer", dueling=True)).learn(40)
    modules = list(model.q_net.modules())
    norms = [m for m in modules if isinstance(m, nn.LayerNorm)]
    assert [m.normalized_shape for m in norms] == [(6,), (8,), (8,)]  # the second one of V and of A
    for norm in norms:
        after = modules[modules.index(norm) + 1]
        assert isinstance(after, nn.ReLU)
