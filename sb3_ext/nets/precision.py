"""Layers that keep their precision where the rest of a network runs in a lower one."""

from collections.abc import Callable

import torch as th
from torch import nn
from torch.nn import functional as F


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

    For layers whose outputs are values or the parameters of a distribution: bfloat16 has 8 bits, so that near 100 it
    would round a value to a multiple of 0.5, more than actions, temperatures and rewards differ. As these layers are
    small, this costs next to nothing.
    """

    @classmethod
    def of(cls, layer: nn.Module) -> "OutputLinear":
        """
        :param layer: an ``nn.Linear``
        :return: the same one, with the same parameters, in its own precision
        """
        assert isinstance(layer, nn.Linear)
        # On the meta device nothing is drawn: random numbers stay those of SB3
        output = cls(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        output.weight, output.bias = layer.weight, layer.bias
        return output

    def forward(self, x: th.Tensor) -> th.Tensor:
        return in_own_precision(lambda inputs: F.linear(inputs, self.weight, self.bias), x, self.weight.dtype)


def with_output_linear(layers: nn.Sequential) -> nn.Sequential:
    """
    :param layers: the last of which is an ``nn.Linear``
    :return: the same object, its last layer an :class:`OutputLinear`
    """
    layers[-1] = OutputLinear.of(layers[-1])
    return layers
