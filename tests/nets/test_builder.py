"""The one place where networks are built: sizes, order, outputs, and random numbers as SB3 draws them."""

from typing import Any

import pytest
import torch as th
from stable_baselines3.common.torch_layers import create_mlp
from torch import nn

from sb3_ext.nets import EnsembleLayerNorm, EnsembleLinear, OutputLinear, PlainLayers, StackedLayers, build_mlp

N, B, INPUTS, OUTPUTS = 5, 7, 4, 2


def names_of(network: nn.Sequential) -> list[str]:
    return [type(module).__name__ for module in network]


@pytest.mark.parametrize(
    ("net_arch", "output_dim", "sizes"),
    [
        ([6, 3], OUTPUTS, [(4, 6), (6, 3), (3, 2)]),
        ([6, 3], None, [(4, 6), (6, 3)]),
        ([], OUTPUTS, [(4, 2)]),
        ([], None, []),
    ],
    ids=str,
)
def test_sizes(net_arch: list[int], output_dim: int | None, sizes: list[tuple[int, int]]) -> None:
    plain = build_mlp(INPUTS, net_arch, output_dim)
    linears = [module for module in plain if isinstance(module, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linears] == sizes
    stacked = build_mlp(INPUTS, net_arch, output_dim, layers=StackedLayers(N))
    assert [tuple(layer.weight.shape) for layer in stacked if isinstance(layer, EnsembleLinear)] == [
        (N, *size) for size in sizes
    ]
    assert plain(th.rand(B, INPUTS)).shape == (B, sizes[-1][1] if sizes else INPUTS)


def test_the_order_of_the_layers_is_that_of_droq() -> None:
    hidden = ["Linear", "Dropout", "LayerNorm", "Tanh"]
    network = build_mlp(INPUTS, [6, 3], OUTPUTS, nn.Tanh, normalization="layer", dropout=0.3)
    assert names_of(network) == [*hidden, *hidden, "OutputLinear"]
    assert [layer.normalized_shape for layer in network if isinstance(layer, nn.LayerNorm)] == [(6,), (3,)]
    stacked = build_mlp(INPUTS, [6], None, nn.Tanh, layers=StackedLayers(N), normalization="layer", dropout=0.3)
    assert names_of(stacked) == ["EnsembleLinear", "Dropout", "EnsembleLayerNorm", "Tanh"]
    assert isinstance(stacked[2], EnsembleLayerNorm) and stacked[2].weight.shape == (N, 1, 6)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_dropout(dropout: float) -> None:
    probabilities = [m.p for m in build_mlp(INPUTS, [6, 3], OUTPUTS, dropout=dropout) if isinstance(m, nn.Dropout)]
    assert probabilities == ([dropout] * 2 if dropout else [])


@pytest.mark.parametrize("name", ["group", "", True])
def test_another_normalization_is_refused(name: Any) -> None:
    with pytest.raises(ValueError, match=rf"normalization={name!r} is not one of None, 'layer', 'rms', 'batch'"):
        build_mlp(INPUTS, [6], OUTPUTS, normalization=name)


@pytest.mark.parametrize("name", ["batch", "batch_renorm"])
def test_plain_layers_have_no_batch_statistics(name: Any) -> None:
    with pytest.raises(ValueError, match=f"normalization='{name}' is not one of 'layer', 'rms'"):
        build_mlp(INPUTS, [6], OUTPUTS, normalization=name)


@pytest.mark.parametrize("output_dim", [OUTPUTS, None])
def test_only_a_declared_output_keeps_its_precision(output_dim: int | None) -> None:
    has_output = output_dim is not None
    plain = [m for m in build_mlp(INPUTS, [6, 3], output_dim) if isinstance(m, nn.Linear)]
    assert [isinstance(layer, OutputLinear) for layer in plain] == [False, False, *([True] if has_output else [])]
    stacked = build_mlp(INPUTS, [6, 3], output_dim, layers=StackedLayers(N))
    flags = [layer.is_output for layer in stacked if isinstance(layer, EnsembleLinear)]
    assert flags == [False, False, *([True] if has_output else [])]


@pytest.mark.parametrize("normalization", [None, "layer"])
@pytest.mark.parametrize("output_dim", [OUTPUTS, None])
@pytest.mark.parametrize("net_arch", [[], [6], [6, 3]], ids=str)
def test_plain_layers_start_as_sb3s(net_arch: list[int], output_dim: int | None, normalization: Any) -> None:
    th.manual_seed(7)
    network = build_mlp(INPUTS, net_arch, output_dim, nn.ELU, layers=PlainLayers(), normalization=normalization)
    state_after = th.get_rng_state()
    th.manual_seed(7)
    expected = nn.Sequential(*create_mlp(INPUTS, output_dim or -1, net_arch, nn.ELU))
    # Whatever is initialised next agrees too
    assert th.equal(state_after, th.get_rng_state())
    pairs = [[m for m in net if isinstance(m, nn.Linear)] for net in (network, expected)]
    for ours, sb3s in zip(*pairs, strict=True):
        assert th.equal(ours.weight, sb3s.weight) and th.equal(ours.bias, sb3s.bias)
    if normalization is None:
        inputs = th.rand(B, INPUTS)
        assert th.equal(network(inputs), expected(inputs))
