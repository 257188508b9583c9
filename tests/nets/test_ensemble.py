"""
The stacked ensemble, slice by slice against separate torch networks.

N networks, B inputs and the widths of all layers always differ.
"""

import math
from typing import Any

import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.torch_layers import create_mlp
from torch import nn

from sb3_ext import nets
from sb3_ext.nets import EnsembleLayerNorm, EnsembleLinear

N, B, INPUTS = 5, 7, 4
NET_ARCH = [6, 3]
FLAVOURS = pytest.mark.parametrize(
    ("net_arch", "activation_fn"), [(NET_ARCH, nn.ReLU), ([6], nn.Tanh), ([6, 3, 8], nn.ELU), ([], nn.ReLU)]
)


class EnsembleMLP(nets.EnsembleMLP):
    """With one output each, as values of shape (M, B)."""

    def forward(self, *args: Any, **kwargs: Any) -> th.Tensor:
        return super().forward(*args, **kwargs).squeeze(-1)


def inputs(batch_size: int = B, seed: int = 0) -> th.Tensor:
    return th.randn(batch_size, INPUTS, dtype=th.float64, generator=th.Generator().manual_seed(seed))


def separate_networks(ensemble: EnsembleMLP, activation_fn: type[nn.Module] = nn.ReLU) -> list[nn.Sequential]:
    """
    N modules of torch's own layers, Linear - (LayerNorm) - activation, with copies of the ensemble's weights.
    """
    linears = [m for m in ensemble.modules() if isinstance(m, EnsembleLinear)]
    norms = [m for m in ensemble.modules() if isinstance(m, EnsembleLayerNorm)]
    networks = []
    for i in range(linears[0].weight.shape[0]):
        layers: list[nn.Module] = []
        for depth, stacked in enumerate(linears):
            linear = nn.Linear(*stacked.weight.shape[1:], dtype=th.float64)
            # The ensemble holds (N, in, out), torch (out, in)
            linear.weight.data.copy_(stacked.weight[i].T)
            linear.bias.data.copy_(stacked.bias[i, 0])
            layers.append(linear)
            if depth == len(linears) - 1:
                continue
            if norms:
                norm = nn.LayerNorm(linear.out_features, dtype=th.float64)
                norm.weight.data.copy_(norms[depth].weight[i, 0])
                norm.bias.data.copy_(norms[depth].bias[i, 0])
                layers.append(norm)
            layers.append(activation_fn())
        networks.append(nn.Sequential(*layers))
    return networks


def randomize(ensemble: EnsembleMLP) -> EnsembleMLP:
    """
    Fill all parameters, so that scales and shifts that start at 1 and 0 count.
    """
    generator = th.Generator().manual_seed(1)
    for parameter in ensemble.parameters():
        parameter.data = th.randn(parameter.shape, dtype=th.float64, generator=generator)
    return ensemble


@FLAVOURS
@pytest.mark.parametrize("layer_norm", [False, True])
def test_forward_and_gradients_of_every_slice(
    net_arch: list[int], activation_fn: type[nn.Module], layer_norm: bool
) -> None:
    ensemble = randomize(EnsembleMLP(N, INPUTS, net_arch, activation_fn, layer_norm))
    networks = separate_networks(ensemble, activation_fn)
    x = inputs().requires_grad_()
    x_separate = inputs().requires_grad_()
    output = ensemble(x)
    assert output.shape == (N, B)
    expected = th.cat([network(x_separate) for network in networks], dim=1).T
    th.testing.assert_close(output, expected)

    # A weight of its own for every output, so that no gradient can stand in for another
    weights = th.randn(N, B, dtype=th.float64, generator=th.Generator().manual_seed(2))
    (weights * output).sum().backward()
    (weights * expected).sum().backward()
    th.testing.assert_close(x.grad, x_separate.grad)
    linears = [m for m in ensemble.modules() if isinstance(m, EnsembleLinear)]
    norms = [m for m in ensemble.modules() if isinstance(m, EnsembleLayerNorm)]
    assert len(norms) == (len(net_arch) if layer_norm else 0)
    for i, network in enumerate(networks):
        for stacked, linear in zip(linears, [m for m in network if isinstance(m, nn.Linear)], strict=True):
            th.testing.assert_close(stacked.weight.grad[i].T, linear.weight.grad)
            th.testing.assert_close(stacked.bias.grad[i, 0], linear.bias.grad)
        for stacked_norm, norm in zip(norms, [m for m in network if isinstance(m, nn.LayerNorm)], strict=True):
            th.testing.assert_close(stacked_norm.weight.grad[i, 0], norm.weight.grad)
            th.testing.assert_close(stacked_norm.bias.grad[i, 0], norm.bias.grad)


@FLAVOURS
@pytest.mark.parametrize(("layer_norm", "dropout"), [(False, 0.0), (True, 0.1)])
def test_slices_start_as_sb3s_networks(
    net_arch: list[int], activation_fn: type[nn.Module], layer_norm: bool, dropout: float
) -> None:
    th.manual_seed(7)
    ensemble = EnsembleMLP(N, INPUTS, net_arch, activation_fn, layer_norm, dropout)
    state_after = th.get_rng_state()
    th.manual_seed(7)
    networks = [create_mlp(INPUTS, 1, net_arch, activation_fn) for _ in range(N)]
    # Whatever is initialised next agrees too
    assert th.equal(state_after, th.get_rng_state())
    linears = [m for m in ensemble.modules() if isinstance(m, EnsembleLinear)]
    for i, network in enumerate(networks):
        for stacked, linear in zip(linears, [m for m in network if isinstance(m, nn.Linear)], strict=True):
            assert th.equal(stacked.weight[i].T, linear.weight)
            assert th.equal(stacked.bias[i, 0], linear.bias)


def test_initial_weights_use_the_fan_in_of_one_network() -> None:
    ensemble = EnsembleMLP(50, 16, [36])
    for layer, fan_in in zip([m for m in ensemble.modules() if isinstance(m, EnsembleLinear)], (16, 36), strict=True):
        # nn.Linear: uniform in +-1/sqrt(fan_in); thousands of numbers come close to the end of the range
        for parameter in (layer.weight, layer.bias):
            bound = 1 / math.sqrt(fan_in)
            assert 0.9 * bound < parameter.abs().max().item() <= bound


def test_networks_start_differently() -> None:
    output = EnsembleMLP(N, INPUTS, NET_ARCH)(inputs().float())
    assert all(not th.allclose(output[i], output[j]) for i in range(N) for j in range(i))


@settings(max_examples=25, deadline=None)
@given(members=st.lists(st.integers(0, N - 1), min_size=1, max_size=N, unique=True), frozen=st.booleans())
def test_members_are_rows_of_the_full_output(members: list[int], frozen: bool) -> None:
    ensemble = randomize(EnsembleMLP(N, INPUTS, NET_ARCH, layer_norm=True))
    subset = ensemble(inputs(), th.tensor(members), frozen)
    assert subset.shape == (len(members), B)
    full = ensemble(inputs())
    for row, member in enumerate(members):
        th.testing.assert_close(subset[row], full[member])


def test_members_train_alone() -> None:
    ensemble = randomize(EnsembleMLP(N, INPUTS, NET_ARCH, nn.Tanh, layer_norm=True))
    ensemble(inputs(), th.tensor([3, 1])).sum().backward()
    for name, parameter in ensemble.named_parameters():
        for member in range(N):
            has_gradient = bool(parameter.grad[member].any())
            assert has_gradient == (member in {1, 3}), (name, member)


@pytest.mark.parametrize("members", [None, [2], [4, 0, 1]])
def test_frozen_trains_the_input_only(members: list[int] | None) -> None:
    ensemble = randomize(EnsembleMLP(N, INPUTS, NET_ARCH, nn.Tanh, layer_norm=True))
    indices = None if members is None else th.tensor(members)
    x, x_trained = inputs().requires_grad_(), inputs().requires_grad_()
    frozen = ensemble(x, indices, frozen=True)
    weights = th.randn(frozen.shape, dtype=th.float64, generator=th.Generator().manual_seed(2))
    (weights * frozen).sum().backward()
    assert all(parameter.grad is None for parameter in ensemble.parameters())

    networks = separate_networks(ensemble, nn.Tanh)
    expected = th.cat([networks[i](x_trained) for i in (members or range(N))], dim=1).T
    (weights * expected).sum().backward()
    th.testing.assert_close(frozen, expected)
    th.testing.assert_close(x.grad, x_trained.grad)
    # The parameters are as trainable as before
    assert all(parameter.requires_grad for parameter in ensemble.parameters())


def test_frozen_without_input_gradient_builds_no_graph() -> None:
    ensemble = randomize(EnsembleMLP(N, INPUTS, NET_ARCH))
    assert not ensemble(inputs(), frozen=True).requires_grad
    assert ensemble(inputs()).requires_grad


def droq_by_hand(ensemble: EnsembleMLP, x: th.Tensor, masks: list[th.Tensor]) -> list[list[float]]:
    """
    Linear - Dropout - LayerNorm - ReLU in loops over Python floats.

    :param masks: what each hidden layer is multiplied with, shape (N, B, width)
    """
    linears = [m for m in ensemble.modules() if isinstance(m, EnsembleLinear)]
    norms = [m for m in ensemble.modules() if isinstance(m, EnsembleLayerNorm)]
    result = []
    for i in range(N):
        row = []
        for b in range(len(x)):
            hidden = x[b].tolist()
            for depth, linear in enumerate(linears):
                weight, bias = linear.weight[i].tolist(), linear.bias[i, 0].tolist()
                hidden = [bias[o] + sum(hidden[j] * weight[j][o] for j in range(len(hidden))) for o in range(len(bias))]
                if depth == len(linears) - 1:
                    continue
                hidden = [h * m for h, m in zip(hidden, masks[depth][i, b].tolist(), strict=True)]
                mean = sum(hidden) / len(hidden)
                variance = sum((h - mean) ** 2 for h in hidden) / len(hidden)
                scale, shift = norms[depth].weight[i, 0].tolist(), norms[depth].bias[i, 0].tolist()
                hidden = [
                    # 1e-5: torch's default
                    max(0.0, scale[j] * (hidden[j] - mean) / math.sqrt(variance + 1e-5) + shift[j])
                    for j in range(len(hidden))
                ]
            row.append(hidden[0])
        result.append(row)
    return result


def test_droq_without_dropout_against_loops() -> None:
    ensemble = randomize(EnsembleMLP(N, INPUTS, NET_ARCH, layer_norm=True, dropout=0.0))
    ones = [th.ones(N, B, width, dtype=th.float64) for width in NET_ARCH]
    expected = th.tensor(droq_by_hand(ensemble, inputs(), ones), dtype=th.float64)
    th.testing.assert_close(ensemble(inputs()), expected)


def test_droq_drops_before_it_normalizes() -> None:
    dropout = 0.4
    ensemble = randomize(EnsembleMLP(N, INPUTS, NET_ARCH, layer_norm=True, dropout=dropout))
    masks: list[th.Tensor] = []
    dropouts = [m for m in ensemble.modules() if isinstance(m, nn.Dropout)]
    assert len(dropouts) == len(NET_ARCH)
    for module in dropouts:
        assert module.p == dropout
        module.register_forward_hook(lambda _module, args, output: masks.append(output / args[0]))
    th.manual_seed(0)
    output = ensemble(inputs())
    for mask, width in zip(masks, NET_ARCH, strict=True):
        assert mask.shape == (N, B, width)
        # Kept units are scaled up, as in nn.Dropout
        kept = mask[mask > 0.5]
        th.testing.assert_close(kept, th.full_like(kept, 1 / (1 - dropout)))
        assert 0 < kept.numel() < mask.numel()
    expected = th.tensor(droq_by_hand(ensemble, inputs(), masks), dtype=th.float64)
    th.testing.assert_close(output, expected)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_every_network_has_its_own_dropout_mask(layer_norm: bool) -> None:
    ensemble = randomize(EnsembleMLP(N, INPUTS, [32], layer_norm=layer_norm, dropout=0.5))
    for parameter in ensemble.parameters():
        parameter.data[:] = parameter.data[:1].clone()
    th.manual_seed(0)
    output = ensemble(inputs())
    # The same weights and input: the masks alone make the difference
    assert all(not th.allclose(output[i], output[j]) for i in range(N) for j in range(i))
    # ... and for every sample
    constant = ensemble(inputs()[:1].expand(B, -1))
    assert constant[0].unique().numel() > 1

    ensemble.eval()
    output = ensemble(inputs())
    th.testing.assert_close(output, output[:1].expand(N, -1))


def test_dropout_stays_active_when_frozen() -> None:
    # The targets and the actor's objective are evaluated this way, in training mode
    ensemble = randomize(EnsembleMLP(N, INPUTS, [32], dropout=0.5))
    first = ensemble(inputs(), th.tensor([1, 2]), frozen=True)
    second = ensemble(inputs(), th.tensor([1, 2]), frozen=True)
    assert not th.allclose(first, second)


def test_activation_with_parameters_is_refused() -> None:
    with pytest.raises(ValueError, match=r"activation_fn=PReLU.*parameters"):
        EnsembleMLP(N, INPUTS, NET_ARCH, nn.PReLU)
