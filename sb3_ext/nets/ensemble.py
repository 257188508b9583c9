"""N networks of one shape, stacked: batched matrix products replace a loop over N modules."""

import copy
from collections.abc import Callable
from typing import TypeVar

import torch as th
from torch import nn

from sb3_ext.nets.builder import Normalization, StackedLayers, build_mlp
from sb3_ext.nets.layers import EnsembleLayerNorm, EnsembleLinear, OutputLinear, StackedLayer

SelfEnsemble = TypeVar("SelfEnsemble", bound="EnsembleMLP")


class EnsembleMLP(nn.Module):
    """
    N multi-layer perceptrons. For the same random state they start with the weights of N of SB3's critics.

    To initialize every network anew with a function made for ``nn.Linear``, use :meth:`apply`. To read or change one
    network, use :meth:`member` and :meth:`set_member`.

    ``ensemble.requires_grad_(False)`` freezes all networks. One of them alone cannot be frozen, because each parameter
    holds the weights of all N.

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
        super().__init__()
        self.n_members = n_members
        normalization: Normalization | None = "layer" if layer_norm else None
        self.layers = build_mlp(
            input_dim,
            net_arch,
            output_dim,
            activation_fn,
            layers=StackedLayers(n_members),
            normalization=normalization,
            dropout=dropout,
        )

    def forward(self, x: th.Tensor, members: th.Tensor | None = None, frozen: bool = False) -> th.Tensor:
        """
        Evaluate all networks or some of them.

        :param x: the input of all networks, shape (B, in)
        :param members: indices of the M networks to evaluate; all N if ``None``
        :param frozen: whether gradients reach only ``x`` and not the parameters, which saves their computation
        :return: shape (M, B, output_dim)
        """

        def pick(parameter: th.Tensor) -> th.Tensor:
            parameter = parameter.detach() if frozen else parameter
            return parameter if members is None else parameter.index_select(0, members)

        n_members = self.n_members if members is None else len(members)
        x = x.expand(n_members, *x.shape)
        for layer in self.layers:
            x = layer(x, pick) if isinstance(layer, StackedLayer) else layer(x)
        return x

    def member(self, index: int) -> nn.Sequential:
        """
        Return a copy of one network, made of torch's layers. Changes of the copy leave the ensemble as it is.

        :param index: from 0 to N - 1
        :raises IndexError: if there is no such network
        """
        self._check_index(index)
        layers = [_plain_layer(layer, index) for layer in self.layers]
        return nn.Sequential(*layers).train(self.training)

    @th.no_grad()
    def set_member(self, index: int, network: nn.Module) -> None:
        """
        Copy the parameters of a network like :meth:`member` into the ensemble, in place.

        Optimizers keep their state, and target networks their weights.

        :param index: from 0 to N - 1
        :raises IndexError: if there is no such network
        :raises ValueError: if the parameters have other names or shapes; nothing is changed
        """
        self._check_index(index)
        expected, given = dict(self.member(index).named_parameters()), dict(network.named_parameters())
        shapes, given_shapes = ({name: tuple(p.shape) for name, p in named.items()} for named in (expected, given))
        if shapes != given_shapes:
            raise ValueError(f"network has parameters of shapes {given_shapes}, but a member has {shapes}")
        for name, stacked in self.layers.named_parameters():
            # The weights of a stacked layer are the transpose of torch's, and its vectors are rows
            stacked[index].copy_(given[name].T if given[name].ndim == 2 else given[name].unsqueeze(0))

    def apply(self: SelfEnsemble, fn: Callable[[nn.Module], object]) -> SelfEnsemble:
        """
        Apply a function to every module, as torch does. Of a stacked layer it gets N layers of torch, one by one.

        So what initializes or freezes each ``nn.Linear`` does so here, also through ``policy.apply(fn)``.

        :param fn: may change the parameters, and whether they need a gradient
        :raises ValueError: if it replaces parameters by others
        """
        for index in range(self.n_members):
            member = self.member(index)
            for plain, layer in zip(member, self.layers, strict=True):
                if isinstance(layer, StackedLayer):
                    fn(plain)
            self.set_member(index, member)
        # Each parameter holds the weights of all N
        flags = {name: p.requires_grad for name, p in member.named_parameters()}
        for name, parameter in self.layers.named_parameters():
            parameter.requires_grad_(flags[name])
        for module in (*self.layers, *(child for child in self.children() if child is not self.layers)):
            if not isinstance(module, StackedLayer):
                module.apply(fn)
        fn(self.layers)
        fn(self)
        return self

    def _check_index(self, index: int) -> None:
        if not 0 <= index < self.n_members:
            raise IndexError(f"index={index!r} must be from 0 to {self.n_members - 1}")


def _plain_layer(layer: nn.Module, index: int) -> nn.Module:
    """Return a copy of a layer that is not stacked, or one of the layers in a stacked one."""
    if not isinstance(layer, StackedLayer):
        return copy.deepcopy(layer)
    weight, bias = layer.weight.detach()[index].clone(), layer.bias.detach()[index, 0].clone()
    # The meta device draws no random number
    if isinstance(layer, EnsembleLinear):
        linear_class = OutputLinear if layer.is_output else nn.Linear
        n_inputs, n_outputs = weight.shape
        plain: nn.Linear | nn.LayerNorm = linear_class(n_inputs, n_outputs, device="meta")
        weight = weight.T.contiguous()
    elif isinstance(layer, EnsembleLayerNorm):
        plain, weight = nn.LayerNorm(weight.shape[-1], device="meta"), weight[0]
    else:
        raise TypeError(f"a {type(layer).__name__} has no counterpart among torch's layers")
    plain.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
    plain.bias = nn.Parameter(bias, requires_grad=layer.bias.requires_grad)
    return plain
