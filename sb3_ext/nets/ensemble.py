"""N networks of one shape, stacked: batched matrix products replace a loop over N modules."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch as th
from torch import nn

from sb3_ext.nets.builder import StackedLayers, build_mlp
from sb3_ext.nets.layers import EnsembleLayerNorm, EnsembleLinear, OutputLinear, Pick, StackedLayer
from sb3_ext.nets.normalization import EnsembleBatchNorm, EnsembleRMSNorm, InputBatchNorm
from sb3_ext.nets.residual import ResidualBlock

SelfEnsemble = TypeVar("SelfEnsemble", bound="EnsembleNetwork")


class EnsembleNetwork(nn.Module):
    """
    N networks of one shape.

    To initialize every network anew with a function made for ``nn.Linear``, use :meth:`apply`. To read or change one
    network, use :meth:`member` and :meth:`set_member`.

    ``ensemble.requires_grad_(False)`` freezes all networks. One of them alone cannot be frozen, because each parameter
    holds the weights of all N.

    :param n_members: N
    :param layers: what the builders of ``sb3_ext/nets/builder.py`` make with ``StackedLayers(n_members)``
    """

    def __init__(self, n_members: int, layers: nn.Sequential) -> None:
        super().__init__()
        self.n_members = n_members
        self.layers = layers

    def forward(self, x: th.Tensor, members: th.Tensor | None = None, frozen: bool = False) -> th.Tensor:
        """
        Evaluate all networks or some of them. Batch normalization uses its running statistics.

        :param x: the input of all networks, shape (B, in)
        :param members: indices of the M networks to evaluate; all N if ``None``
        :param frozen: whether gradients reach only ``x`` and not the parameters, which saves their computation
        :return: shape (M, B, output_dim)
        """
        return self._evaluate([x], [_picker(members, frozen)], members, None)[0]

    def by_batch(
        self, groups: Sequence[th.Tensor], statistics: list[th.Tensor], members: th.Tensor | None = None
    ) -> list[th.Tensor]:
        """
        Evaluate groups of rows, which batch normalization normalizes together.

        Gradients flow through the first group only, and from there into the statistics. A single group with all rows
        gives the same values, and gradients through all of them.

        :param groups: each of shape (B_i, in)
        :param statistics: gets mean and variance of each layer with batch normalization, in the order of
            :func:`~sb3_ext.nets.normalization.batch_norm_layers`, detached
        :param members: see :meth:`forward`
        :return: each of shape (M, B_i, output_dim)
        """
        picks = [_picker(members, frozen=index > 0) for index in range(len(groups))]
        return self._evaluate(groups, picks, members, statistics)

    def _evaluate(
        self,
        groups: Sequence[th.Tensor],
        picks: Sequence[Pick],
        members: th.Tensor | None,
        statistics: list[th.Tensor] | None,
    ) -> list[th.Tensor]:
        n_members = self.n_members if members is None else len(members)
        layers: list[nn.Module] = list(self.layers)
        rows = list(groups)
        if layers and isinstance(layers[0], InputBatchNorm):  # before the inputs are repeated
            first = layers.pop(0)
            assert isinstance(first, InputBatchNorm)
            rows = [first(x) for x in rows] if statistics is None else first.by_batch(rows, statistics)
        rows = [x.expand(n_members, *x.shape) for x in rows]
        return _run(layers, rows, picks, statistics)

    def member(self, index: int) -> nn.Sequential:
        """
        Return a copy of one network, made of torch's layers. Changes of the copy leave the ensemble as it is.

        :param index: from 0 to N - 1
        :raises IndexError: if there is no such network
        """
        self._check_index(index)
        return nn.Sequential(*_plain_layers(self.layers, index)).train(self.training)

    @th.no_grad()
    def set_member(self, index: int, network: nn.Module) -> None:
        """
        Copy the parameters of a network like :meth:`member` into the ensemble, in place.

        Optimizers keep their state, and target networks their weights.

        :param index: from 0 to N - 1
        :raises IndexError: if there is no such network
        :raises ValueError: if the parameters have other names or shapes; nothing is changed

        Running statistics of batch normalization are copied, too, except those of the inputs, which all networks share.
        """
        self._check_index(index)
        expected, given = dict(self.member(index).named_parameters()), dict(network.named_parameters())
        shapes, given_shapes = ({name: tuple(p.shape) for name, p in named.items()} for named in (expected, given))
        if shapes != given_shapes:
            raise ValueError(f"network has parameters of shapes {given_shapes}, but a member has {shapes}")
        given_buffers = dict(network.named_buffers())
        statistics = {
            name: buffer
            for name, buffer in self.layers.named_buffers()
            if name in given_buffers and buffer.ndim == 3  # neither those of the inputs nor counters
        }
        for name, stacked in {**dict(self.layers.named_parameters()), **statistics}.items():
            value = given[name] if name in given else given_buffers[name]
            # The weights of a stacked layer are the transpose of torch's, and its vectors are rows
            stacked[index].copy_(value.T if value.ndim == 2 else value.unsqueeze(0))

    def apply(self: SelfEnsemble, fn: Callable[[nn.Module], object]) -> SelfEnsemble:
        """
        Apply a function to every module, as torch does. Of a stacked layer it gets N layers of torch, one by one.

        So what initializes or freezes each ``nn.Linear`` does so here, also through ``policy.apply(fn)``.

        :param fn: may change the parameters, and whether they need a gradient
        :raises ValueError: if it replaces parameters by others
        """
        for index in range(self.n_members):
            member = self.member(index)
            for plain, layer in zip(_leaves(member), _leaves(self.layers), strict=True):
                if isinstance(layer, StackedLayer):
                    fn(plain)
            self.set_member(index, member)
        # Each parameter holds the weights of all N
        flags = {name: p.requires_grad for name, p in member.named_parameters()}
        for name, parameter in self.layers.named_parameters():
            parameter.requires_grad_(flags[name])
        for module in (*_leaves(self.layers), *(child for child in self.children() if child is not self.layers)):
            if not isinstance(module, StackedLayer):
                module.apply(fn)  # type: ignore[arg-type]
        fn(self.layers)
        fn(self)
        return self

    def _check_index(self, index: int) -> None:
        if not 0 <= index < self.n_members:
            raise IndexError(f"index={index!r} must be from 0 to {self.n_members - 1}")


class EnsembleMLP(EnsembleNetwork):
    """
    N multi-layer perceptrons. For the same random state they start with the weights of N of SB3's critics.

    :param n_members: N
    :param net_arch: units of the hidden layers
    :param activation_fn: an activation without parameters, because the networks would share them
    :param layer_norm: normalize each hidden layer before its activation
    :param dropout: probability of dropping a hidden unit, with a separate mask for every network. Together with
        ``layer_norm`` this is DroQ's critic (https://arxiv.org/abs/2110.02034)
    :param output_dim: outputs of each network
    :raises ValueError: if the activation has parameters
    """

    def __init__(
        self,
        n_members: int,
        input_dim: int,
        net_arch: list[int],
        activation_fn: type[nn.Module] = nn.ReLU,
        layer_norm: bool = False,
        dropout: float = 0.0,
        output_dim: int = 1,
    ) -> None:
        layers = build_mlp(
            input_dim,
            net_arch,
            output_dim,
            activation_fn,
            layers=StackedLayers(n_members),
            normalization="layer" if layer_norm else None,
            dropout=dropout,
        )
        super().__init__(n_members, layers)


def _picker(members: th.Tensor | None, frozen: bool) -> Pick:
    def pick(parameter: th.Tensor) -> th.Tensor:
        parameter = parameter.detach() if frozen else parameter
        return parameter if members is None else parameter.index_select(0, members)

    return pick


def _run(
    layers: Iterable[nn.Module], groups: list[th.Tensor], picks: Sequence[Pick], statistics: list[th.Tensor] | None
) -> list[th.Tensor]:
    """
    Evaluate layers on groups of rows, shape (M, B_i, d) each.

    :param picks: selects networks from a parameter, one function for each group
    :param statistics: where to put the statistics of batch normalization. ``None``: running statistics are used
    """
    for layer in layers:
        if isinstance(layer, ResidualBlock):
            results = _run(layer, groups, picks, statistics)
            groups = [x + result for x, result in zip(groups, results, strict=True)]
        elif isinstance(layer, EnsembleBatchNorm) and statistics is not None:
            groups = layer.by_batch(groups, picks, statistics)
        elif isinstance(layer, StackedLayer):
            groups = [layer(x, pick) for x, pick in zip(groups, picks, strict=True)]
        else:
            groups = [layer(x) for x in groups]
    return groups


def _leaves(layers: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """Iterate over layers and, in place of a residual block, over its layers."""
    for layer in layers:
        yield from _leaves(layer) if isinstance(layer, ResidualBlock) else [layer]


def _plain_layers(layers: Iterable[nn.Module], index: int) -> list[nn.Module]:
    return [
        ResidualBlock(*_plain_layers(layer, index)) if isinstance(layer, ResidualBlock) else _plain_layer(layer, index)
        for layer in layers
    ]


def _plain_layer(layer: nn.Module, index: int) -> nn.Module:
    """Return a copy of a layer that is not stacked, or one of the layers in a stacked one, as torch has it."""
    if isinstance(layer, InputBatchNorm):
        inputs = nn.BatchNorm1d(layer.n_features, layer.eps, layer.momentum, affine=False)
        inputs.running_mean, inputs.running_var = layer.running_mean[0].clone(), layer.running_var[0].clone()
        return inputs
    if not isinstance(layer, StackedLayer):
        return copy.deepcopy(layer)
    plain = _made_without_weights(layer)
    weight = layer.weight.detach()[index].clone()
    weight = weight.T.contiguous() if isinstance(layer, EnsembleLinear) else weight[0]
    plain.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
    if layer.bias is not None:
        plain.bias = nn.Parameter(layer.bias.detach()[index, 0].clone(), requires_grad=layer.bias.requires_grad)
    if isinstance(layer, EnsembleBatchNorm):
        plain.running_mean, plain.running_var = (
            buffer[index, 0].clone() for buffer in (layer.running_mean, layer.running_var)
        )
        plain.num_batches_tracked = layer.n_batches.clone()
    return plain


def _made_without_weights(layer: StackedLayer) -> nn.Module:
    """Return torch's counterpart of a stacked layer on the meta device, which draws no random number."""
    if isinstance(layer, EnsembleLinear):
        _, n_inputs, n_outputs = layer.weight.shape
        linear_class = OutputLinear if layer.is_output else nn.Linear
        return linear_class(n_inputs, n_outputs, layer.bias is not None, device="meta")
    if isinstance(layer, EnsembleLayerNorm):
        return nn.LayerNorm(layer.n_features, device="meta")
    if isinstance(layer, EnsembleRMSNorm):
        return nn.RMSNorm(layer.n_features, layer.eps, device="meta")
    if isinstance(layer, EnsembleBatchNorm):
        return nn.BatchNorm1d(layer.n_features, layer.eps, layer.momentum, device="meta")
    raise TypeError(f"a {type(layer).__name__} has no counterpart among torch's layers")
