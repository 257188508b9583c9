"""
Linear layers whose weights are noisy while an agent explores and learns.

Fortunato et al. 2018, https://arxiv.org/abs/1706.10295, with factorised Gaussian noise.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec

import torch as th
from torch import nn
from torch.nn import functional as F

from sb3_ext.nets.builder import PlainLayers
from sb3_ext.nets.layers import OutputLinear, in_own_precision

P = ParamSpec("P")


class NoisyLinear(nn.Linear):
    """
    A linear layer with weights ``W + S * f(e_out) f(e_in)^T`` and biases ``b + s * f(e_out)``, ``f(x) = sign(x)
    sqrt|x|``.

    S and s are learned. The noise e is drawn for each pass within :func:`noise_in`, one for all rows, and is 0 outside.
    So it depends neither on ``train()`` nor on ``eval()``, and nothing of it has to be saved.

    :param layer: the layer whose parameters become W and b
    :param std: sigma_0; S and s start at ``sigma_0 / sqrt(n_inputs)``
    """

    def __init__(self, layer: nn.Linear, std: float = 0.5) -> None:
        # The meta device draws no random number, so W and b are those that the layer would have without noise
        super().__init__(layer.in_features, layer.out_features, device="meta")
        if layer.bias is None:
            raise ValueError("a noisy layer needs a bias")
        self.std, self.is_output, self.is_noisy = std, isinstance(layer, OutputLinear), False
        self.weight, self.bias = layer.weight, layer.bias
        self.weight_std = nn.Parameter(th.empty_like(layer.weight))
        self.bias_std = nn.Parameter(th.empty_like(layer.bias))
        self._reset_std()

    def _reset_std(self) -> None:
        for parameter in (self.weight_std, self.bias_std):
            nn.init.constant_(parameter, self.std / self.in_features**0.5)

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        super().reset_parameters()
        if "weight_std" in self._parameters:  # not yet, while torch's constructor calls this
            self._reset_std()

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, std={self.std}"

    def forward(self, x: th.Tensor) -> th.Tensor:
        weight, bias = self._noisy_parameters() if self.is_noisy else (self.weight, self.bias)
        if not self.is_output:
            return F.linear(x, weight, bias)
        return in_own_precision(lambda inputs: F.linear(inputs, weight, bias), x, weight.dtype)

    def __prepare_scriptable__(self) -> nn.Linear:
        """Return what ``torch.jit.script`` compiles in place of this layer: it has no noise."""
        layer = nn.Linear(self.in_features, self.out_features, device="meta")
        layer.weight, layer.bias = self.weight, self.bias
        return layer

    def _noisy_parameters(self) -> tuple[th.Tensor, th.Tensor]:
        noise_in, noise_out = (_noise(width, self.weight) for width in (self.in_features, self.out_features))
        weight = th.addcmul(self.weight, self.weight_std, th.outer(noise_out, noise_in))
        return weight, th.addcmul(self.bias, self.bias_std, noise_out)


def _noise(width: int, like: th.Tensor) -> th.Tensor:
    noise = th.randn(width, dtype=like.dtype, device=like.device)
    return noise.sign() * noise.abs().sqrt()


@contextmanager
def noise_in(network: nn.Module, is_wanted: bool = True) -> Iterator[None]:
    """Let the noisy layers of a network be noisy, with new noise in each pass, or not at all. Then as before."""
    layers = [(module, module.is_noisy) for module in network.modules() if isinstance(module, NoisyLinear)]
    for layer, _ in layers:
        layer.is_noisy = is_wanted
    try:
        yield
    finally:
        for layer, was_noisy in layers:
            layer.is_noisy = was_noisy


def with_noisy_policy(train: Callable[P, None]) -> Callable[P, None]:
    """Let the networks of ``policy`` be noisy during a method of an algorithm."""

    @wraps(train)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        model: Any = args[0]
        with noise_in(model.policy):
            train(*args, **kwargs)

    return wrapped


@dataclass(frozen=True)
class NoisyLayers(PlainLayers):
    """
    Layers of a single network, all linear ones noisy.

    :param std: see :class:`NoisyLinear`
    """

    std: float = 0.5

    def linear_layers(
        self, sizes: Sequence[tuple[int, int]], has_output: bool, hidden_bias: bool = True
    ) -> list[nn.Module]:
        layers = super().linear_layers(sizes, has_output, hidden_bias)
        return [NoisyLinear(layer, self.std) for layer in layers if isinstance(layer, nn.Linear)]
