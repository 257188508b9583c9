"""Layers that keep their precision where the rest of a network runs in a lower one."""

import torch as th
from torch import nn


class OutputLinear(nn.Linear):
    """
    ``nn.Linear`` in the precision of its own weights, even under ``th.autocast``.

    For the layer whose outputs are values: bfloat16 has 8 bits, so that near 100 it would round a value to a multiple
    of 0.5, more than the actions differ, than a temperature, and than a reward. As the layer is small, this costs next
    to nothing.
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
        with th.autocast(x.device.type, enabled=False):
            return super().forward(x.to(self.weight.dtype))


def with_output_linear(layers: nn.Sequential) -> nn.Sequential:
    """
    :param layers: the last of which is an ``nn.Linear``
    :return: the same object, its last layer an :class:`OutputLinear`
    """
    layers[-1] = OutputLinear.of(layers[-1])
    return layers
