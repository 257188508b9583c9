"""Layers: stacked ones, each slice by itself, and output layers, which keep float32 where networks run in bfloat16."""

import pytest
import torch as th
from stable_baselines3.common.torch_layers import create_mlp
from torch import nn

from sb3_ext.nets import DuelingMLP, EnsembleLayerNorm, EnsembleMLP, OutputLinear, build_mlp

N, B, INPUTS = 5, 7, 4


def test_layer_norm_is_each_networks_own() -> None:
    norm = EnsembleLayerNorm(N, 6).double()
    x = th.randn(N, B, 6, dtype=th.float64, generator=th.Generator().manual_seed(0))
    plain = norm(x)
    th.testing.assert_close(plain, nn.functional.layer_norm(x, (6,)))
    norm.weight.data[2] = 3.0
    norm.bias.data[2] = -1.0
    changed = norm(x)
    th.testing.assert_close(changed[2], 3 * plain[2] - 1)
    others = [0, 1, 3, 4]
    th.testing.assert_close(changed[others], plain[others])


def test_an_output_layer_is_the_layer_it_is_made_from() -> None:
    layers = nn.Sequential(*create_mlp(5, 3, [7]))
    last, inputs = layers[-1], th.rand(11, 5)
    expected, state = layers(inputs), th.get_rng_state()
    layers[-1] = OutputLinear.from_linear(last)
    assert layers[-1].weight is last.weight and layers[-1].bias is last.bias
    assert th.equal(layers(inputs), expected)
    assert th.equal(th.get_rng_state(), state)
    assert list(layers.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert layers.double()(inputs.double()).dtype == th.float64
    no_bias = OutputLinear.from_linear(nn.Linear(5, 3, bias=False))
    assert no_bias.bias is None and no_bias(inputs).shape == (11, 3)


NETWORKS = {
    "linear": lambda: build_mlp(5, [64, 64], 3),
    "dueling": lambda: DuelingMLP(5, 3, [64, 64]),
    "ensemble": lambda: EnsembleMLP(3, 5, [64, 64]),
    "ensemble of 2 outputs": lambda: EnsembleMLP(3, 5, [64, 64], output_dim=2),
    "ensemble of 51 outputs": lambda: EnsembleMLP(3, 5, [64, 64], output_dim=51),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_values_near_a_thousand_are_told_apart(name: str) -> None:
    """bfloat16 knows 1000 and 1004, and nothing between them."""
    th.manual_seed(0)
    network, inputs = NETWORKS[name](), th.rand(256, 5)
    biases = [module.bias for module in network.modules() if getattr(module, "bias", None) is not None]
    with th.no_grad():
        # The last layer's, of the dueling network that of V: whatever else has a single output is no bias of values
        last = network.value[-1].bias if name == "dueling" else biases[-1]
        last += 1001.5
        exact = network(inputs)
        with th.autocast("cpu", dtype=th.bfloat16):
            lower = network(inputs)
    assert lower.dtype == th.float32
    assert not th.equal(lower, exact), "nothing ran in bfloat16"
    assert (lower - exact).abs().max() < 0.02
    assert (exact.bfloat16().float() - exact).abs().min() > 1.0


def test_gradients_reach_all_parameters_in_float32() -> None:
    network = build_mlp(5, [7], 3)
    with th.autocast("cpu", dtype=th.bfloat16):
        network(th.rand(11, 5)).square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == th.float32 and p.grad.any() for p in network.parameters())
