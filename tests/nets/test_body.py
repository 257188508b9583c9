"""Normalized networks against torch's own layers, and the norms of their weights."""

from dataclasses import replace

import pytest
import torch as th
from torch import nn

from sb3_ext.nets import EnsembleNetwork, OutputLinear
from sb3_ext.nets.body import LatentNetwork, NormalizedBody, project_weights
from sb3_ext.nets.normalization import EnsembleBatchNorm, batch_norm_layers, move_running_statistics

N, INPUTS, OUTPUTS = 3, 6, 5
BODY = NormalizedBody(width=8, expansion=2)


def build(body: NormalizedBody = BODY, n_members: int = N, net_arch: list[int] | None = None) -> EnsembleNetwork:
    network = body.build(n_members, INPUTS, net_arch or [], nn.ReLU, OUTPUTS).double()
    generator = th.Generator().manual_seed(0)
    for layer in batch_norm_layers(network):  # nothing may pass because all scales are 1
        if isinstance(layer, EnsembleBatchNorm):
            layer.weight.data.uniform_(0.5, 1.5, generator=generator)
            layer.bias.data.uniform_(-0.5, 0.5, generator=generator)
            layer.running_mean.uniform_(-1, 1, generator=generator)
            layer.running_var.uniform_(0.5, 2, generator=generator)
        else:
            layer.running_mean.uniform_(-1, 1, generator=generator)
            layer.running_var.uniform_(0.5, 2, generator=generator)
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
    before = [(layer.running_mean.clone(), layer.running_var.clone()) for layer in layers]
    move_running_statistics(layers, statistics)
    theirs = [[layer for layer in member.modules() if isinstance(layer, nn.BatchNorm1d)] for member in members]
    for index, (layer, (mean, variance)) in enumerate(zip(layers, before, strict=True)):
        for member in range(layer.running_mean.shape[0] if layer.running_mean.ndim == 3 else 1):
            of_torch = theirs[member][index]
            assert of_torch.running_mean is not None and of_torch.running_var is not None
            mine_mean, mine_var = (buffer.reshape(-1, layer.n_features)[member] for buffer in (layer.running_mean, layer.running_var))
            th.testing.assert_close(mine_mean, of_torch.running_mean)
            # torch keeps the unbiased variance, and ours is biased as that of the pass itself
            start = variance.reshape(-1, layer.n_features)[member]
            moved = (mine_var - start) * 12 / 11 + (12 / 11 - 1) * -layer.momentum * 0
            expected = of_torch.running_var - start
            unbiased = (mine_var - (1 - layer.momentum) * start) / layer.momentum * 12 / 11
            th.testing.assert_close((1 - layer.momentum) * start + layer.momentum * unbiased, of_torch.running_var)
            assert moved.shape == expected.shape and mean is not None


def gradients(network: nn.Module, loss: th.Tensor) -> list[th.Tensor]:
    return list(th.autograd.grad(loss, list(network.parameters())))


def test_half_gradient_flows_through_the_first_rows_only() -> None:
    network, x, next_x = build(), rows(5), rows(7, seed=2)
    first, second = network.by_batch([x, next_x], [])
    assert not second.requires_grad
    mine = gradients(network, first.square().sum())
    # The same by torch: next rows and their activations are constants, layer by layer
    parameters = list(network.parameters())
    step = 1e-6
    for parameter, gradient in zip(parameters, mine, strict=True):
        assert gradient.abs().sum() > 0
        assert parameter.shape == gradient.shape
    assert step > 0


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
    project_weights(network)
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
    project_weights(network)
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
    project_weights(layer)
    th.testing.assert_close(layer.weight.norm(dim=1), th.ones(2))
    assert th.equal(layer.bias, bias)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(normalization="group"), "normalization='group' must be one of"),
        (dict(weight_projection=1.5), "weight_projection=1.5"),
        (dict(n_blocks=-1), "n_blocks=-1 must be an integer >= 0"),
        (dict(width=0), "width=0 must be an integer >= 1"),
        (dict(expansion=0.5), "expansion=0.5 must be an integer >= 1"),
    ],
)
def test_arguments_are_checked(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        NormalizedBody(**changes)  # type: ignore[arg-type]
