"""Layers: stacked ones, for N networks at once, and output layers, which keep their precision."""

from collections.abc import Callable, Sequence

import torch as th
from torch import nn
from torch.nn import functional as F

#: What becomes of a stacked parameter, whose first axis is the network, before a layer uses it
Pick = Callable[[th.Tensor], th.Tensor]


def in_own_precision(layer: Callable[[th.Tensor], th.Tensor], x: th.Tensor, dtype: th.dtype) -> th.Tensor:
    """
    :param layer: a function of ``x``
    :param x: its input; under ``th.autocast`` it may be of lower precision
    :param dtype: of the layer's weights
    :return: ``layer(x)``, computed in ``dtype`` even under ``th.autocast``
    """
    if not th.is_autocast_enabled(x.device.type):
        return layer(x)
    with th.autocast(x.device.type, enabled=False):
        return layer(x.to(dtype))


class OutputLinear(nn.Linear):
    """
    ``nn.Linear`` in the precision of its own weights, even under ``th.autocast``.

    Its outputs are values or parameters of a distribution. bfloat16 has 8 significant bits: near 100 it would round a
    value to a multiple of 0.5, more than actions, temperatures and rewards differ. The layer is small, so this costs
    next to nothing.
    """

    @classmethod
    def from_linear(cls, layer: nn.Module) -> "OutputLinear":
        """
        :param layer: an ``nn.Linear``
        :return: an output layer that shares its parameters
        """
        assert isinstance(layer, nn.Linear)
        # On the meta device no random number is drawn: the stream stays that of SB3
        output = cls(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        output.weight, output.bias = layer.weight, layer.bias
        return output

    def forward(self, x: th.Tensor) -> th.Tensor:
        return in_own_precision(lambda inputs: F.linear(inputs, self.weight, self.bias), x, self.weight.dtype)


def unchanged(parameter: th.Tensor) -> th.Tensor:
    return parameter


class StackedLayer(nn.Module):
    """
    A layer of N networks, whose parameters have the network as first axis.
    """

    weight: nn.Parameter
    bias: nn.Parameter

    def forward(self, x: th.Tensor, pick: Pick = unchanged) -> th.Tensor:
        """
        :param x: shape (M, B, in)
        :param pick: chooses M networks from a parameter, or detaches it; all N networks by default
        :return: shape (M, B, out)
        """
        raise NotImplementedError


class EnsembleLinear(StackedLayer):
    """
    N linear layers side by side.

    :param layers: the layers to stack, all of one shape. Their weights are copied: every slice starts as an
        ``nn.Linear`` of its own, while a fan-in taken over the stacked shape would be wrong
    :param is_output: compute in the precision of the weights, see :class:`OutputLinear`
    """

    def __init__(self, layers: Sequence[nn.Linear], is_output: bool = False) -> None:
        super().__init__()
        # (N, in, out), the transpose of what nn.Linear stores: gradients arrive in this layout, and would have to be
        # copied into the other one at every update
        self.weight = nn.Parameter(th.stack([layer.weight.detach().T for layer in layers]))
        self.bias = nn.Parameter(th.stack([layer.bias.detach() for layer in layers]).unsqueeze(1))
        self.is_output = is_output

    def forward(self, x: th.Tensor, pick: Pick = unchanged) -> th.Tensor:
        weight, bias = pick(self.weight), pick(self.bias)
        if not self.is_output:
            return th.baddbmm(bias, x, weight)
        return in_own_precision(lambda inputs: _affine(inputs, weight, bias), x, weight.dtype)


def _affine(inputs: th.Tensor, weight: th.Tensor, bias: th.Tensor) -> th.Tensor:
    if weight.shape[-1] == 1:  # a dot product, because matrix products with one column are slow
        return th.linalg.vecdot(inputs, weight.mT).unsqueeze(-1) + bias
    return th.baddbmm(bias, inputs, weight)


class EnsembleLayerNorm(StackedLayer):
    """
    N layer normalizations side by side: over the features, with a scale and shift for each network.

    :param n_members: N
    :param n_features: width of the normalized layer
    """

    def __init__(self, n_members: int, n_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(th.ones(n_members, 1, n_features))
        self.bias = nn.Parameter(th.zeros(n_members, 1, n_features))

    def forward(self, x: th.Tensor, pick: Pick = unchanged) -> th.Tensor:
        return th.addcmul(pick(self.bias), F.layer_norm(x, x.shape[-1:]), pick(self.weight))
