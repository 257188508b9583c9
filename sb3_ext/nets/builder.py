"""
The one place where fully connected networks are built.

A network is a choice of layer kind (plain or stacked), normalization, dropout, activation and outputs. Weights use the
random numbers of SB3's ``create_mlp``. So a plain network starts as SB3's does, and N stacked ones as N of SB3's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol, get_args

from torch import nn

from sb3_ext.checks import check_choice
from sb3_ext.nets.layers import EnsembleLayerNorm, EnsembleLinear, OutputLinear

Normalization = Literal["layer"]
NORMALIZATIONS: tuple[str | None, ...] = (None, *get_args(Normalization))


class LayerKind(Protocol):
    """The kind of layers in a network. Another kind, such as noisy layers, is another class with these methods."""

    def linear_layers(self, sizes: Sequence[tuple[int, int]], has_output: bool) -> list[nn.Module]:
        """
        Hook: return the layers, each initialized as an ``nn.Linear``.

        :param sizes: numbers of inputs and outputs of each layer, from the first to the last
        :param has_output: whether the last one is an output layer, which keeps its precision
        """

    def normalization(self, name: Normalization, n_features: int) -> nn.Module:
        """Hook: return the normalization of a layer of width ``n_features``."""

    def activation(self, activation_fn: type[nn.Module]) -> nn.Module:
        """Hook: return an activation module, or raise a ValueError if layers of this kind cannot use it."""


@dataclass(frozen=True)
class PlainLayers:
    """Layers of a single network, as in torch."""

    def linear_layers(self, sizes: Sequence[tuple[int, int]], has_output: bool) -> list[nn.Module]:
        layers: list[nn.Module] = [nn.Linear(*size) for size in sizes]
        return [*layers[:-1], OutputLinear.from_linear(layers[-1])] if has_output else layers

    def normalization(self, name: Normalization, n_features: int) -> nn.Module:
        return nn.LayerNorm(n_features)

    def activation(self, activation_fn: type[nn.Module]) -> nn.Module:
        return activation_fn()


@dataclass(frozen=True)
class StackedLayers:
    """Layers of N networks that are evaluated together."""

    n_members: int

    def linear_layers(self, sizes: Sequence[tuple[int, int]], has_output: bool) -> list[nn.Module]:
        # Build one network after the other, because SB3 draws the random numbers of N critics in this order
        members = [[nn.Linear(*size) for size in sizes] for _ in range(self.n_members)]
        is_output = [False] * (len(sizes) - 1) + [has_output]
        return [EnsembleLinear(peers, flag) for peers, flag in zip(zip(*members, strict=True), is_output, strict=True)]

    def normalization(self, name: Normalization, n_features: int) -> nn.Module:
        return EnsembleLayerNorm(self.n_members, n_features)

    def activation(self, activation_fn: type[nn.Module]) -> nn.Module:
        activation = activation_fn()
        if next(activation.parameters(), None) is not None:
            raise ValueError(f"activation_fn={activation_fn.__name__} has parameters: the critics would share them")
        if isinstance(activation, nn.ReLU):
            # No other layer needs the input, and memory for a copy costs page faults
            activation.inplace = True
        return activation


def declare_output(network: nn.Sequential) -> None:
    """Make the last layer of a network that SB3 built an output layer, in place. Its weights stay."""
    network[-1] = OutputLinear.from_linear(network[-1])


def build_mlp(
    input_dim: int,
    net_arch: list[int],
    output_dim: int | None,
    activation_fn: type[nn.Module] = nn.ReLU,
    *,
    layers: LayerKind | None = None,
    normalization: Normalization | None = None,
    dropout: float = 0.0,
) -> nn.Sequential:
    """
    Build hidden layers of linear, dropout, normalization and activation, followed by the output layer.

    The order is that of DroQ's critic (Hiraoka et al. 2022, https://arxiv.org/abs/2110.02034).

    :param net_arch: units of the hidden layers
    :param output_dim: width of the output layer, which keeps the precision of its weights under ``th.autocast``.
        ``None``: the network ends with its last hidden layer
    :param layers: the kind of layers, :class:`PlainLayers` by default
    :param normalization: ``"layer"`` or ``None``, for each hidden layer before its activation
    :param dropout: probability of dropping a hidden unit
    :raises ValueError: naming the argument, its value and what is allowed
    """
    check_choice("normalization", normalization, NORMALIZATIONS)
    layers = PlainLayers() if layers is None else layers
    has_output = output_dim is not None
    widths = [input_dim, *net_arch, *([output_dim] if output_dim is not None else [])]
    sizes = list(pairwise(widths))
    if not sizes:  # neither hidden layers nor outputs
        return nn.Sequential()
    linear_layers = layers.linear_layers(sizes, has_output)
    modules: list[nn.Module] = []
    for linear, width in zip(linear_layers, net_arch, strict=False):
        modules.append(linear)
        if dropout > 0:
            modules.append(nn.Dropout(dropout))
        if normalization is not None:
            modules.append(layers.normalization(normalization, width))
        modules.append(layers.activation(activation_fn))
    return nn.Sequential(*modules, *(linear_layers[-1:] if has_output else []))
