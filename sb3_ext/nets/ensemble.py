"""N networks of one shape, stacked: batched matrix products replace a loop over N modules."""

import torch as th
from torch import nn

from sb3_ext.nets.builder import Normalization, StackedLayers, build_mlp
from sb3_ext.nets.layers import StackedLayer


class EnsembleMLP(nn.Module):
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
