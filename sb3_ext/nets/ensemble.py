"""N networks of one shape, stacked: their layers are batched matrix products in place of N modules in a loop."""

import torch as th
from torch import nn

from sb3_ext.nets.builder import Normalization, StackedLayers, build_mlp
from sb3_ext.nets.layers import StackedLayer


class EnsembleMLP(nn.Module):
    """
    N multi-layer perceptrons. Given the same random state they start with the weights of N of SB3's critics.

    :param n_members: N
    :param net_arch: units of the hidden layers
    :param activation_fn: activation, without parameters of its own (the networks would share them)
    :param layer_norm: normalize each hidden layer before its activation
    :param dropout: probability with which a hidden unit is dropped, with a mask of its own for every network. Together
        with ``layer_norm`` this is DroQ's critic (https://arxiv.org/abs/2110.02034)
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
        Evaluate all networks or some of them, and on request as constants.

        :param x: the input that all networks get, shape (B, in)
        :param members: indices of the M networks to evaluate, all N if ``None``
        :param frozen: let no gradient reach the parameters, and do none of that work; it still flows to ``x``
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
