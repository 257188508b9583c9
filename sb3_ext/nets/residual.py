"""Layers whose result is added to their input."""

import torch as th
from torch import nn


class ResidualBlock(nn.Sequential):
    """Layers in sequence. Their result, of the width of their input, is added to it."""

    def forward(self, x: th.Tensor) -> th.Tensor:
        return x + super().forward(x)
