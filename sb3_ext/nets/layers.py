"""Stacked layers for N networks at once, and output layers that keep their precision."""

from collections.abc import Callable, Sequence

import torch as th
from torch import nn
from torch.nn import functional as F

from sb3_ext.functional.normalization import project_columns

#: Selects networks from a stacked parameter, whose first axis is the network, before a layer uses it
Pick = Callable[[th.Tensor], th.Tensor]


def in_own_precision(layer: Callable[[th.Tensor], th.Tensor], x: th.Tensor, dtype: th.dtype) -> th.Tensor:
    """Return ``layer(x)``, computed in ``dtype``, which is that of the weights, even under ``th.autocast``."""
    if not th.is_autocast_enabled(x.device.type):
        return layer(x)
    with th.autocast(x.device.type, enabled=False):
        return layer(x.to(dtype))


class OutputLinear(nn.Linear):
    """
    An ``nn.Linear`` that computes in the precision of its own weights, even under ``th.autocast``.

    Its outputs are values or parameters of a distribution, which need precision. With its 8 significant bits, bfloat16
    rounds values near 100 to multiples of 0.5. Values of different actions often differ by less. The layer is small, so
    the precision costs next to nothing.
    """

    @classmethod
    def from_linear(cls, layer: nn.Module) -> "OutputLinear":
        """Make an output layer that shares the parameters of an ``nn.Linear``."""
        assert isinstance(layer, nn.Linear)
        # The meta device draws no random number, so the random numbers stay those of SB3
        output = cls(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        output.weight, output.bias = layer.weight, layer.bias
        return output

    def forward(self, x: th.Tensor) -> th.Tensor:
        return in_own_precision(lambda inputs: F.linear(inputs, self.weight, self.bias), x, self.weight.dtype)

    def project_weights(self) -> None:
        """Scale the weights that lead to each output to norm 1. The bias stays."""
        project_columns(self.weight, dim=-1)

    def __prepare_scriptable__(self) -> nn.Linear:
        """Return what ``torch.jit.script`` compiles in place of this layer: it knows no lambda."""
        layer = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        layer.weight, layer.bias = self.weight, self.bias
        return layer


def unchanged(parameter: th.Tensor) -> th.Tensor:
    return parameter


class StackedLayer(nn.Module):
    """A layer of N networks. The first axis of its parameters is the network."""

    weight: nn.Parameter
    bias: nn.Parameter | None

    def forward(self, x: th.Tensor, pick: Pick = unchanged) -> th.Tensor:
        """
        Hook: return the outputs, shape (M, B, out), from inputs of shape (M, B, in).

        :param pick: selects M networks from a parameter, or detaches it; by default it keeps all N networks
        """
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Hook: draw the parameters anew, as torch's layer does."""
        raise NotImplementedError

    def project_weights(self) -> None:
        """Hook: bring the weights of each network back to their norm, in place. Layers without one keep theirs."""


class EnsembleLinear(StackedLayer):
    """
    N linear layers side by side.

    :param layers: the layers to stack, all of one shape. Each slice copies the initial weights of one ``nn.Linear``,
        because the fan-in of the stacked shape would be wrong
    :param is_output: compute in the precision of the weights, see :class:`OutputLinear`
    """

    def __init__(self, layers: Sequence[nn.Linear], is_output: bool = False) -> None:
        super().__init__()
        # The shape is (N, in, out), the transpose of nn.Linear's. Gradients arrive in this layout, so no update has to
        # copy them into another
        self.weight = nn.Parameter(th.stack([layer.weight.detach().T for layer in layers]))
        self.register_parameter("bias", None)
        if layers[0].bias is not None:
            self.bias = nn.Parameter(th.stack([layer.bias.detach() for layer in layers]).unsqueeze(1))
        self.is_output = is_output

    @th.no_grad()
    def reset_parameters(self) -> None:
        """Draw the parameters anew, as ``nn.Linear`` does, for one network after the other."""
        for index, weight in enumerate(self.weight):
            n_inputs, n_outputs = weight.shape
            layer = nn.Linear(n_inputs, n_outputs, self.bias is not None, weight.device, weight.dtype)
            weight.copy_(layer.weight.T)
            if self.bias is not None:
                self.bias[index].copy_(layer.bias)

    def project_weights(self) -> None:
        """Scale the weights that lead to each output to norm 1. Biases stay, and so does a single output: a value."""
        if not self.is_output or self.weight.shape[-1] > 1:  # a norm would limit the values
            project_columns(self.weight, dim=-2)

    def forward(self, x: th.Tensor, pick: Pick = unchanged) -> th.Tensor:
        weight, bias = pick(self.weight), None if self.bias is None else pick(self.bias)
        if not self.is_output:
            return th.bmm(x, weight) if bias is None else th.baddbmm(bias, x, weight)
        return in_own_precision(lambda inputs: _affine(inputs, weight, bias), x, weight.dtype)


def _affine(inputs: th.Tensor, weight: th.Tensor, bias: th.Tensor | None) -> th.Tensor:
    if bias is None:
        return th.bmm(inputs, weight)
    if weight.shape[-1] == 1:  # a dot product is faster than a matrix product with one column
        # Written out, because ONNX knows neither `vecdot` nor `mT`
        return (inputs * weight.transpose(-1, -2)).sum(dim=-1, keepdim=True) + bias
    return th.baddbmm(bias, inputs, weight)


class EnsembleLayerNorm(StackedLayer):
    """N layer normalizations side by side, each with its own scale and shift of the features."""

    bias: nn.Parameter

    def __init__(self, n_members: int, n_features: int) -> None:
        super().__init__()
        # A number of its own and not x.shape[-1], which an exporter takes for a variable
        self.n_features = n_features
        self.weight = nn.Parameter(th.ones(n_members, 1, n_features))
        self.bias = nn.Parameter(th.zeros(n_members, 1, n_features))

    def reset_parameters(self) -> None:
        """Set scale and shift to those of a new layer, as ``nn.LayerNorm`` does."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: th.Tensor, pick: Pick = unchanged) -> th.Tensor:
        return th.addcmul(pick(self.bias), F.layer_norm(x, (self.n_features,)), pick(self.weight))
