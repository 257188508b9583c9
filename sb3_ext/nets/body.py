"""The shape of normalized networks: one description for critics and actor."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch as th
from torch import nn

from sb3_ext.checks import check_choice, check_integer
from sb3_ext.nets.builder import (
    NORMALIZATIONS,
    Normalization,
    StackedLayers,
    build_mlp,
    build_residual_mlp,
)
from sb3_ext.nets.ensemble import EnsembleNetwork
from sb3_ext.nets.layers import EnsembleLinear, OutputLinear, StackedLayer
from sb3_ext.nets.walk import walk


@dataclass(frozen=True)
class NormalizedBody:
    """
    The shape of normalized networks, and how their weights start and stay.

    :param normalization: of the hidden layers, see :func:`~sb3_ext.nets.builder.build_mlp`
    :param weight_projection: whether weights start orthogonal with norm 1 and return to it after each update
    :param n_blocks: residual blocks; 0: the hidden layers of ``net_arch`` instead
    :param width: units between the blocks
    :param expansion: units within a block, in multiples of ``width``
    :raises ValueError: naming the argument, its value and what is allowed
    """

    normalization: Normalization | None = "batch"
    weight_projection: bool = True
    n_blocks: int = 2
    width: int = 128
    expansion: int = 4

    def __post_init__(self) -> None:
        check_choice("normalization", self.normalization, NORMALIZATIONS)
        check_choice("weight_projection", self.weight_projection, (True, False))
        check_integer("n_blocks", self.n_blocks, minimum=0)
        check_integer("width", self.width, minimum=1)
        check_integer("expansion", self.expansion, minimum=1)

    def n_features(self, net_arch: list[int], input_dim: int) -> int:
        """Return the width of the last hidden layer."""
        if self.n_blocks > 0:
            return self.width
        return net_arch[-1] if net_arch else input_dim

    def build(
        self,
        n_members: int,
        input_dim: int,
        net_arch: list[int],
        activation_fn: type[nn.Module],
        output_dim: int | None,
    ) -> EnsembleNetwork:
        """
        Build N networks.

        :param net_arch: units of the hidden layers, for ``n_blocks=0``
        :param output_dim: outputs of each network; ``None``: it ends with its last hidden layer
        """
        kind = StackedLayers(n_members)
        if self.n_blocks > 0:
            layers = build_residual_mlp(
                input_dim,
                self.n_blocks,
                self.width,
                self.expansion,
                output_dim,
                activation_fn,
                layers=kind,
                normalization=self.normalization,
            )
        else:
            layers = build_mlp(
                input_dim, net_arch, output_dim, activation_fn, layers=kind, normalization=self.normalization
            )
        network = EnsembleNetwork(n_members, layers)
        if self.weight_projection:
            start_orthogonal(network)
        return network


class LatentNetwork(nn.Module):
    """One normalized network, in the place of SB3's ``latent_pi``."""

    def __init__(self, network: EnsembleNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: th.Tensor) -> th.Tensor:
        """Return features, shape (B, d), by running statistics."""
        return self.network(x).squeeze(0)

    def by_batch(self, x: th.Tensor, statistics: list[th.Tensor]) -> th.Tensor:
        """Return features, shape (B, d), by the statistics of the B rows, see ``EnsembleNetwork.by_batch``."""
        return self.network.by_batch([x], statistics)[0].squeeze(0)


@th.no_grad()
def start_orthogonal(network: nn.Module) -> None:
    """Draw orthogonal weights of linear layers, scaled to norm 1 for each output, and set their biases to 0."""
    for module in network.modules():
        if not isinstance(module, (EnsembleLinear, OutputLinear)):
            continue
        weights = list(module.weight.transpose(-1, -2)) if isinstance(module, EnsembleLinear) else [module.weight]
        for weight in weights:  # of one network, shape (out, in)
            weight.copy_(nn.init.orthogonal_(th.empty(weight.shape, device=weight.device, dtype=weight.dtype)))
        if module.bias is not None:
            module.bias.zero_()
    project_weights(projected_layers(network))


def projected_layers(network: nn.Module, with_frozen: bool = False) -> list[OutputLinear | StackedLayer]:
    """
    Return the layers whose weights :func:`project_weights` brings back to their norms.

    :param with_frozen: whether frozen layers are among them
    """
    return [
        layer
        for layer in walk(network)
        if isinstance(layer, (OutputLinear, StackedLayer))
        and (
            with_frozen or all(parameter is None or parameter.requires_grad for parameter in layer._parameters.values())
        )
    ]


def project_weights(layers: Sequence[OutputLinear | StackedLayer]) -> None:
    """Bring the weights of layers back to their norms, in place, see ``StackedLayer.project_weights``."""
    for layer in layers:
        layer.project_weights()
