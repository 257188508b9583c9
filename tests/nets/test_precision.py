"""Values keep float32 where networks run in bfloat16."""

from collections.abc import Iterator

import pytest
import torch as th
from stable_baselines3.common.torch_layers import create_mlp
from torch import nn

from sb3_ext.nets import DuelingMLP, EnsembleMLP, OutputLinear, build_mlp
from sb3_ext.speed.precision import autocast_dtype_on, cpu_capability, cpu_computes_in_bfloat16


def test_it_is_the_same_layer() -> None:
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


@pytest.fixture
def asked_anew() -> Iterator[None]:
    cpu_computes_in_bfloat16.cache_clear()
    yield
    cpu_computes_in_bfloat16.cache_clear()


@pytest.mark.usefixtures("asked_anew")
@pytest.mark.parametrize(("avx", "amx"), [(True, False), (False, True), (False, False)])
def test_auto_asks_the_processor(avx: bool, amx: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(th.cpu, "_is_avx512_bf16_supported", lambda: avx)
    monkeypatch.setattr(th.cpu, "_is_amx_tile_supported", lambda: amx)
    assert autocast_dtype_on("auto", "cpu") == (th.bfloat16 if avx or amx else None)
    assert autocast_dtype_on("bfloat16", "cpu") == th.bfloat16
    assert autocast_dtype_on(None, "cpu") is None
    assert autocast_dtype_on("auto", "cuda") is None
    monkeypatch.setattr(th.backends.cpu, "get_cpu_capability", lambda: "NO AVX")
    assert cpu_capability() == ("NO-AVX+BF16" if avx or amx else "NO-AVX")


@pytest.mark.usefixtures("asked_anew")
def test_a_torch_that_does_not_look_at_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(th.cpu, "_is_avx512_bf16_supported")
    monkeypatch.delattr(th.cpu, "_is_amx_tile_supported")
    assert autocast_dtype_on("auto", "cpu") is None
