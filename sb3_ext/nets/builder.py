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
from sb3_ext.nets.normalization import EnsembleBatchNorm, EnsembleRMSNorm, InputBatchNorm
from sb3_ext.nets.residual import ResidualBlock

Normalization = Literal["layer", "rms", "batch", "batch_renorm"]
NORMALIZATIONS: tuple[str | None, ...] = (None, *get_args(Normalization))
#: Those that use statistics of the minibatch, for which only stacked networks have layers
BATCH_NORMALIZATIONS = ("batch", "batch_renorm")


class LayerKind(Protocol):
    """The kind of layers in a network. Another kind, such as noisy layers, is another class with these methods."""

    def linear_layers(
        self, sizes: Sequence[tuple[int, int]], has_output: bool, hidden_bias: bool = True
    ) -> list[nn.Module]:
        """
        Hook: return the layers, each initialized as an ``nn.Linear``.

        :param sizes: numbers of inputs and outputs of each layer, from the first to the last
        :param has_output: whether the last one is an output layer, which keeps its precision
        :param hidden_bias: whether the hidden layers have biases
        """

    def normalization(self, name: Normalization, n_features: int) -> nn.Module:
        """Hook: return the normalization of a layer of width ``n_features``."""

    def activation(self, activation_fn: type[nn.Module]) -> nn.Module:
        """Hook: return an activation module, or raise a ValueError if layers of this kind cannot use it."""


@dataclass(frozen=True)
class PlainLayers:
    """Layers of a single network, as in torch."""

    def linear_layers(
        self, sizes: Sequence[tuple[int, int]], has_output: bool, hidden_bias: bool = True
    ) -> list[nn.Module]:
        biases = _biases(len(sizes), has_output, hidden_bias)
        layers: list[nn.Module] = [nn.Linear(*size, bias) for size, bias in zip(sizes, biases, strict=True)]
        return [*layers[:-1], OutputLinear.from_linear(layers[-1])] if has_output else layers

    def normalization(self, name: Normalization, n_features: int) -> nn.Module:
        check_choice("normalization", name, ("layer", "rms"))
        return nn.LayerNorm(n_features) if name == "layer" else nn.RMSNorm(n_features, eps=1e-6)

    def activation(self, activation_fn: type[nn.Module]) -> nn.Module:
        return activation_fn()


@dataclass(frozen=True)
class StackedLayers:
    """Layers of N networks that are evaluated together."""

    n_members: int

    def linear_layers(
        self, sizes: Sequence[tuple[int, int]], has_output: bool, hidden_bias: bool = True
    ) -> list[nn.Module]:
        biases = _biases(len(sizes), has_output, hidden_bias)
        # Build one network after the other, because SB3 draws the random numbers of N critics in this order
        members = [
            [nn.Linear(*size, bias) for size, bias in zip(sizes, biases, strict=True)] for _ in range(self.n_members)
        ]
        is_output = [False] * (len(sizes) - 1) + [has_output]
        return [EnsembleLinear(peers, flag) for peers, flag in zip(zip(*members, strict=True), is_output, strict=True)]

    def normalization(self, name: Normalization, n_features: int) -> nn.Module:
        if name == "layer":
            return EnsembleLayerNorm(self.n_members, n_features)
        if name == "rms":
            return EnsembleRMSNorm(self.n_members, n_features)
        return EnsembleBatchNorm(self.n_members, n_features, renorm=name == "batch_renorm")

    def activation(self, activation_fn: type[nn.Module]) -> nn.Module:
        activation = activation_fn()
        if next(activation.parameters(), None) is not None:
            raise ValueError(f"activation_fn={activation_fn.__name__} has parameters: the critics would share them")
        if isinstance(activation, nn.ReLU):
            # No other layer needs the input, and memory for a copy costs page faults
            activation.inplace = True
        return activation


def _biases(n_layers: int, has_output: bool, hidden_bias: bool) -> list[bool]:
    return [hidden_bias] * (n_layers - has_output) + [True] * has_output


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
    :param normalization: of each hidden layer before its activation: ``"layer"``, ``"rms"``, ``"batch"``,
        ``"batch_renorm"`` or ``None``. The two by batch also normalize the inputs, and need :class:`StackedLayers`
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
    by_batch = normalization in BATCH_NORMALIZATIONS
    # Subtracting the batch's mean makes a bias ineffective, and its gradient mere rounding
    linear_layers = layers.linear_layers(sizes, has_output, hidden_bias=not by_batch)
    modules: list[nn.Module] = [InputBatchNorm(input_dim)] if by_batch else []
    for linear, width in zip(linear_layers, net_arch, strict=False):
        modules.append(linear)
        if dropout > 0:
            modules.append(nn.Dropout(dropout))
        if normalization is not None:
            modules.append(layers.normalization(normalization, width))
        modules.append(layers.activation(activation_fn))
    return nn.Sequential(*modules, *(linear_layers[-1:] if has_output else []))


def build_residual_mlp(
    input_dim: int,
    n_blocks: int,
    width: int,
    expansion: int,
    output_dim: int | None,
    activation_fn: type[nn.Module] = nn.ReLU,
    *,
    layers: LayerKind | None = None,
    normalization: Normalization | None = "batch",
) -> nn.Sequential:
    """
    Build residual blocks between an embedding of the inputs and the output layer.

    The structure is that of FlashSAC's networks (https://arxiv.org/abs/2604.04539). Each block has two layers, of
    ``expansion * width`` and of ``width`` units, and each of these is normalized before its activation. The last block
    is followed by RMS normalization. Hidden layers that are normalized have no biases.

    :param n_blocks: number of blocks, at least 1
    :param width: width of the network between the blocks
    :param expansion: width within a block, in multiples of ``width``
    :param normalization: see :func:`build_mlp`. ``None``: neither the layers nor the last block's result
    :raises ValueError: naming the argument, its value and what is allowed

    The other parameters are those of :func:`build_mlp`.
    """
    check_choice("normalization", normalization, NORMALIZATIONS)
    layers = PlainLayers() if layers is None else layers
    has_output = output_dim is not None
    wide = expansion * width
    sizes = [(input_dim, width), *[(width, wide), (wide, width)] * n_blocks]
    sizes += [(width, output_dim)] if output_dim is not None else []
    linear = iter(layers.linear_layers(sizes, has_output, hidden_bias=normalization is None))
    modules: list[nn.Module] = [InputBatchNorm(input_dim)] if normalization in BATCH_NORMALIZATIONS else []
    modules.append(next(linear))
    for _ in range(n_blocks):
        block: list[nn.Module] = []
        for n_units in (wide, width):
            block.append(next(linear))
            if normalization is not None:
                block.append(layers.normalization(normalization, n_units))
            block.append(layers.activation(activation_fn))
        modules.append(ResidualBlock(*block))
    if normalization is not None:
        modules.append(layers.normalization("rms", width))
    return nn.Sequential(*modules, *linear)
