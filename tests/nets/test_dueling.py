"""The dueling architecture, against loops. Every dimension of a tensor is different."""

from typing import Any

import pytest
import torch as th
from torch import nn

from sb3_ext.nets import DuelingMLP

B, A, N_INPUTS, T = 5, 3, 4, 7


@pytest.mark.parametrize("net_arch", [[], [6], [6, 8], [6, 8, 10]], ids=str)
def test_dueling_is_value_plus_advantages_minus_their_mean(net_arch: list[int]) -> None:
    th.manual_seed(0)
    network = DuelingMLP(N_INPUTS, A, net_arch, nn.Tanh)
    inputs = th.randn(B, T, N_INPUTS)
    actual = network(inputs)
    assert actual.shape == (B, T, A)
    for b in range(B):
        for t in range(T):
            hidden = network.trunk(inputs[b, t])
            value, advantages = network.value(hidden).item(), network.advantage(hidden).tolist()
            mean = sum(advantages) / A
            for a in range(A):
                assert actual[b, t, a].item() == pytest.approx(value + advantages[a] - mean, abs=1e-5)
    # So that the value of the state is the mean over the actions
    th.testing.assert_close(actual.mean(dim=-1), network.value(network.trunk(inputs)).squeeze(-1))


@pytest.mark.parametrize(
    ("net_arch", "shapes"),
    [
        ([], dict(trunk=[], value=[(1, 4)], advantage=[(3, 4)])),
        ([6], dict(trunk=[], value=[(6, 4), (1, 6)], advantage=[(6, 4), (3, 6)])),
        ([6, 8], dict(trunk=[(6, 4)], value=[(8, 6), (1, 8)], advantage=[(8, 6), (3, 8)])),
    ],
    ids=str,
)
def test_the_last_hidden_layer_is_there_twice(net_arch: list[int], shapes: dict[str, Any]) -> None:
    network = DuelingMLP(N_INPUTS, A, net_arch)
    for name, expected in shapes.items():
        linears = [layer for layer in getattr(network, name).modules() if isinstance(layer, nn.Linear)]
        assert [tuple(layer.weight.shape) for layer in linears] == expected, name
