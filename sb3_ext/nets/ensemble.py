"""
N networks of one shape, stacked: their parameters have the network as first axis, their layers are batched matrix
products, in place of N modules in a loop.
"""

from collections.abc import Callable, Sequence

import torch as th
from stable_baselines3.common.torch_layers import create_mlp
from torch import nn
from torch.nn import functional as F

from sb3_ext.nets.precision import in_own_precision

# What becomes of a stacked parameter, whose first axis is the network, before a layer uses it
Pick = Callable[[th.Tensor], th.Tensor]


def _as_it_is(parameter: th.Tensor) -> th.Tensor:
    return parameter


class StackedLayer(nn.Module):
    """
    A layer whose parameters have the network as first axis.
    """

    weight: nn.Parameter
    bias: nn.Parameter

    def forward(self, x: th.Tensor, pick: Pick = _as_it_is) -> th.Tensor:
        """
        :param x: shape (M, B, in)
        :param pick: chooses M networks from a parameter, or detaches it; all N networks by default
        :return: shape (M, B, out)
        """
        raise NotImplementedError


class EnsembleLinear(StackedLayer):
    """
    N linear layers side by side.

    :param layers: the layers to stack, all of one shape. Their weights are copied, so every slice is initialised
        as an ``nn.Linear`` of its own (a fan-in taken over the stacked shape would be wrong).
    """

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        # (N, in, out), transposed to what nn.Linear stores: the gradient arrives in this layout, and would have to
        # be copied into the other one at every update
        self.weight = nn.Parameter(th.stack([layer.weight.detach().T for layer in layers]))
        self.bias = nn.Parameter(th.stack([layer.bias.detach() for layer in layers]).unsqueeze(1))

    def forward(self, x: th.Tensor, pick: Pick = _as_it_is) -> th.Tensor:
        weight, bias = pick(self.weight), pick(self.bias)
        if weight.shape[-1] == 1:
            # A dot product: matrix products with one column are slow. Its results are values, see `OutputLinear`
            return in_own_precision(
                lambda inputs: th.linalg.vecdot(inputs, weight.mT).unsqueeze(-1) + bias, x, weight.dtype
            )
        return th.baddbmm(bias, x, weight)


class EnsembleLayerNorm(StackedLayer):
    """
    N layer normalisations side by side: over the features, with a scale and shift for each network.

    :param n_members: N
    :param n_features: width of the normalised layer
    """

    def __init__(self, n_members: int, n_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(th.ones(n_members, 1, n_features))
        self.bias = nn.Parameter(th.zeros(n_members, 1, n_features))

    def forward(self, x: th.Tensor, pick: Pick = _as_it_is) -> th.Tensor:
        return th.addcmul(pick(self.bias), F.layer_norm(x, x.shape[-1:]), pick(self.weight))


class EnsembleMLP(nn.Module):
    """
    N multi-layer perceptrons with one output each.

    They are made by SB3's ``create_mlp``, one after the other, then stacked: given the same random state they start
    with the same weights as N SB3 critics.

    :param n_members: N
    :param input_dim: number of inputs
    :param net_arch: units of the hidden layers
    :param activation_fn: activation, without parameters of its own (the networks would share them)
    :param layer_norm: normalise each hidden layer before its activation
    :param dropout: probability with which a hidden unit is dropped, an own mask for every network. Both together are
        DroQ's critic, Linear - Dropout - LayerNorm - ReLU (Hiraoka et al. 2022, https://arxiv.org/abs/2110.02034).
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
    ) -> None:
        super().__init__()
        self.n_members = n_members
        members = [create_mlp(input_dim, 1, net_arch, activation_fn) for _ in range(n_members)]
        layers: list[nn.Module] = []
        for peers in zip(*members, strict=True):
            if not isinstance(peers[0], nn.Linear):
                if next(peers[0].parameters(), None) is not None:
                    raise ValueError(
                        f"activation_fn={activation_fn.__name__} has parameters: the critics would share them"
                    )
                if isinstance(peers[0], nn.ReLU):
                    # Nothing else needs its input, and what the allocator gives for a copy costs page faults
                    peers[0].inplace = True
                layers.append(peers[0])
                continue
            layers.append(EnsembleLinear(peers))
            is_hidden = peers[0] is not members[0][-1]
            if is_hidden and dropout > 0:
                layers.append(nn.Dropout(dropout))
            if is_hidden and layer_norm:
                layers.append(EnsembleLayerNorm(n_members, peers[0].out_features))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: th.Tensor, members: th.Tensor | None = None, frozen: bool = False) -> th.Tensor:
        """
        Evaluate the networks, some of them, or all of them as constants.

        :param x: the input that all networks get, shape (B, in)
        :param members: indices of the M networks to evaluate, all N if ``None``
        :param frozen: let no gradient reach the parameters, and do none of that work; it still flows to ``x``
        :return: shape (M, B)
        """

        def pick(parameter: th.Tensor) -> th.Tensor:
            parameter = parameter.detach() if frozen else parameter
            return parameter if members is None else parameter.index_select(0, members)

        n_members = self.n_members if members is None else len(members)
        x = x.expand(n_members, *x.shape)
        for layer in self.layers:
            x = layer(x, pick) if isinstance(layer, StackedLayer) else layer(x)
        return x.squeeze(-1)
