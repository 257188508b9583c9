"""Normalized networks against torch's own layers, and the norms of their weights."""

from dataclasses import replace

import pytest
import torch as th
from torch import nn

from sb3_ext.nets import EnsembleNetwork, OutputLinear
from sb3_ext.nets.body import LatentNetwork, NormalizedBody, project_weights, projected_layers
from sb3_ext.nets.normalization import EnsembleBatchNorm, batch_norm_layers, move_running_statistics
from sb3_ext.nets.residual import ResidualBlock

N, INPUTS, OUTPUTS = 3, 6, 5
BODY = NormalizedBody(width=8, expansion=2)


def build(body: NormalizedBody = BODY, n_members: int = N, net_arch: list[int] | None = None) -> EnsembleNetwork:
    network = body.build(n_members, INPUTS, net_arch or [], nn.ReLU, OUTPUTS).double()
    generator = th.Generator().manual_seed(0)
    for layer in batch_norm_layers(network):  # nothing may pass because all scales are 1
        layer.running_mean.uniform_(-1, 1, generator=generator)
        layer.running_var.uniform_(0.5, 2, generator=generator)
        if isinstance(layer, EnsembleBatchNorm):
            layer.weight.data.uniform_(0.5, 1.5, generator=generator)
            layer.bias.data.uniform_(-0.5, 0.5, generator=generator)
    return network


def rows(n_rows: int, seed: int = 1) -> th.Tensor:
    return 100 + 3 * th.randn(n_rows, INPUTS, dtype=th.float64, generator=th.Generator().manual_seed(seed))


@pytest.mark.parametrize("normalization", [None, "layer", "rms", "batch"])
@pytest.mark.parametrize("n_blocks", [0, 1, 2])
def test_each_member_is_a_network_of_torch(normalization: str | None, n_blocks: int) -> None:
    network = build(replace(BODY, normalization=normalization, n_blocks=n_blocks), net_arch=[7, 9])
    x = rows(4)
    expected = th.stack([network.member(index).eval()(x) for index in range(N)])
    th.testing.assert_close(network(x), expected)


def test_a_member_can_be_replaced() -> None:
    network, other = build(), build()
    for parameter in other.parameters():
        parameter.data += 0.1
    network.set_member(1, other.member(2))
    x = rows(4)
    expected = other(x)[2]
    # The statistics of the inputs belong to all members, and are the same in both
    th.testing.assert_close(network(x)[1], expected)
    assert not th.equal(network(x)[0], expected)


def test_joint_statistics_are_those_of_torch_on_the_concatenated_rows() -> None:
    network, x, next_x = build(), rows(5), rows(7, seed=2)
    statistics: list[th.Tensor] = []
    first, second = network.by_batch([x, next_x], statistics)
    members = [network.member(index).train() for index in range(N)]
    both = th.stack([member(th.cat([x, next_x])) for member in members])
    th.testing.assert_close(th.cat([first, second], dim=1), both)
    layers = batch_norm_layers(network)
    assert len(layers) == 5  # the inputs, and two in each block
    starts = [layer.running_var.reshape(-1, layer.n_features).clone() for layer in layers]
    move_running_statistics(layers, statistics)
    theirs = [[layer for layer in member.modules() if isinstance(layer, nn.BatchNorm1d)] for member in members]
    for index, (layer, start) in enumerate(zip(layers, starts, strict=True)):
        means, variances = (x.reshape(-1, layer.n_features) for x in (layer.running_mean, layer.running_var))
        for member, (mean, variance) in enumerate(zip(means, variances, strict=True)):
            of_torch = theirs[member][index]
            th.testing.assert_close(mean, of_torch.running_mean)
            # Ours keeps the biased variance, with which the pass itself normalizes, and torch the unbiased one
            biased = (variance - (1 - layer.momentum) * start[member]) / layer.momentum
            expected = (1 - layer.momentum) * start[member] + layer.momentum * biased * 12 / 11
            th.testing.assert_close(expected, of_torch.running_var)


def gradients(network: nn.Module, loss: th.Tensor) -> list[th.Tensor]:
    return list(th.autograd.grad(loss, list(network.parameters())))


def half_pass(member: nn.Sequential, x: th.Tensor, next_x: th.Tensor) -> th.Tensor:
    """The outputs of ``x`` by loops over torch's functions, where everything about ``next_x`` is a constant."""
    for layer in member:
        if isinstance(layer, ResidualBlock):
            before, next_before = x, next_x
            for inner in layer:
                x, next_x = half_layer(inner, x, next_x)
            x, next_x = before + x, next_before + next_x
        else:
            x, next_x = half_layer(layer, x, next_x)
    return x


def half_layer(layer: nn.Module, x: th.Tensor, next_x: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    if not isinstance(layer, nn.BatchNorm1d):
        return layer(x), layer(next_x).detach()
    rows = [*x, *next_x]
    mean = sum(rows, start=th.zeros_like(x[0])) / len(rows)
    variance = sum(((row - mean) ** 2 for row in rows), start=th.zeros_like(x[0])) / len(rows)
    weight, bias = (1, 0) if layer.weight is None else (layer.weight, layer.bias)
    normalized = [(row - mean) / (variance + layer.eps).sqrt() * weight + bias for row in rows]
    return th.stack(normalized[: len(x)]), th.stack(normalized[len(x) :]).detach()


def test_half_gradient_is_that_of_a_loop() -> None:
    network, x, next_x = build(), rows(5), rows(7, seed=2)
    first, second = network.by_batch([x, next_x], [])
    assert not second.requires_grad
    mine = gradients(network, first.square().sum())
    for member in range(N):
        plain = network.member(member)
        expected = gradients(plain, half_pass(plain, x, next_x).square().sum())
        for gradient, other in zip(mine, expected, strict=True):
            th.testing.assert_close(gradient[member], other.T if other.ndim == 2 else other.unsqueeze(0))
    full = gradients(network, network.by_batch([th.cat([x, next_x])], [])[0][:, :5].square().sum())
    assert not th.allclose(full[0], mine[0])


def test_full_gradient_is_that_of_torch() -> None:
    network, x, next_x = build(), rows(5), rows(7, seed=2)
    both = network.by_batch([th.cat([x, next_x])], [])[0]
    mine = gradients(network, both[:, :5].square().sum())
    members = [network.member(index).train() for index in range(N)]
    loss = th.stack([member(th.cat([x, next_x]))[:5].square().sum() for member in members]).sum()
    theirs = [th.autograd.grad(loss, list(member.parameters()), retain_graph=True) for member in members]
    for index, gradient in enumerate(mine):
        for member in range(N):
            expected = theirs[member][index]
            th.testing.assert_close(gradient[member], expected.T if expected.ndim == 2 else expected.unsqueeze(0))


def test_subset_of_members() -> None:
    network, x, next_x = build(), rows(5), rows(7, seed=2)
    members = th.tensor([2, 0])
    th.testing.assert_close(network(x, members), network(x)[members])
    everything = network.by_batch([x, next_x], [])
    for part, whole in zip(network.by_batch([x, next_x], [], members), everything, strict=True):
        th.testing.assert_close(part, whole[members])


@pytest.mark.parametrize("body", [BODY, replace(BODY, normalization="rms"), replace(BODY, normalization=None)])
def test_projection_restores_the_norms(body: NormalizedBody) -> None:
    network = build(body)
    for parameter in network.parameters():
        parameter.data *= 1 + th.rand_like(parameter)
    before = {name: parameter.clone() for name, parameter in network.named_parameters()}
    project_weights(projected_layers(network))
    for name, parameter in network.named_parameters():
        if parameter.shape[-2] > 1:  # (N, in, out)
            for member in range(N):
                for unit in range(parameter.shape[-1]):
                    weights, old = parameter[member, :, unit], before[name][member, :, unit]
                    th.testing.assert_close(weights, old / old.norm())
    for layer in network.modules():
        if isinstance(layer, EnsembleBatchNorm):
            squares = layer.weight.square().sum(dim=-1) + layer.bias.square().sum(dim=-1)
            th.testing.assert_close(squares, th.full_like(squares, layer.n_features))
    again = {name: parameter.clone() for name, parameter in network.named_parameters()}
    project_weights(projected_layers(network))
    th.testing.assert_close(dict(network.named_parameters()), again)


def test_networks_start_orthogonal() -> None:
    network = BODY.build(N, INPUTS, [], nn.ReLU, OUTPUTS)
    first = network.layers[1].weight[0].detach()  # more outputs than inputs: orthogonal rows, scaled by column
    th.testing.assert_close(first.norm(dim=0), th.ones(8))
    wide = network.layers[2][0].weight[1].detach()
    th.testing.assert_close(wide.norm(dim=0), th.ones(16))
    narrow = network.layers[2][3].weight[1].detach()  # 16 inputs, 8 outputs: orthonormal columns
    th.testing.assert_close(narrow.T @ narrow, th.eye(8), atol=1e-5, rtol=0)
    assert not network.layers[-1].bias.any()
    assert not th.equal(network.layers[2][3].weight[0], network.layers[2][3].weight[1])


def test_batch_renormalization_starts_as_batch_normalization() -> None:
    plain, renorm = (build(replace(BODY, normalization=name)) for name in ("batch", "batch_renorm"))
    renorm.load_state_dict(plain.state_dict())
    x, next_x = rows(5), rows(7, seed=2)
    th.testing.assert_close(renorm.by_batch([x, next_x], []), plain.by_batch([x, next_x], []))


def test_latent_network_is_a_single_one() -> None:
    network = build(n_members=1)
    latent = LatentNetwork(network)
    x = rows(5)
    th.testing.assert_close(latent(x), network(x)[0])
    th.testing.assert_close(latent.by_batch(x, []), network.by_batch([x], [])[0][0])


def test_projection_of_an_output_layer() -> None:
    layer = OutputLinear(4, 2)
    layer.weight.data *= 3
    bias = layer.bias.clone()
    project_weights(projected_layers(layer))
    th.testing.assert_close(layer.weight.norm(dim=1), th.ones(2))
    assert th.equal(layer.bias, bias)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            dict(normalization="group"),
            "normalization='group' is not one of None, 'layer', 'rms', 'batch', 'batch_renorm'",
        ),
        (dict(weight_projection=1.5), "weight_projection=1.5"),
        (dict(n_blocks=-1), "n_blocks=-1 must be an integer of at least 0"),
        (dict(width=0), "width=0 must be an integer of at least 1"),
        (dict(expansion=0.5), "expansion=0.5 must be an integer of at least 1"),
    ],
)
def test_arguments_are_checked(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        NormalizedBody(**changes)  # type: ignore[arg-type]
