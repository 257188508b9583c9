"""
The embedding of quantile levels in an implicit quantile network.

Dabney et al. 2018, https://arxiv.org/abs/1806.06923.
"""

import math

import torch as th
from torch import nn


class CosineEmbedding(nn.Module):
    """
    The embedding ``phi(tau) = ReLU(W [cos(pi i tau)]_{i = 1..n} + b)`` of equation 4.

    The paper lets i begin at 0, where the cosine is constant. The authors' code and other implementations begin at 1.

    The biases start at 1, because the embedding multiplies the features. With biases near 0, as in other layers, each
    level would switch off about half of the features. A small network would have too few left.

    :param n_cosines: n
    :param n_features: number of outputs
    """

    frequencies: th.Tensor

    def __init__(self, n_cosines: int, n_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_cosines, n_features)
        nn.init.ones_(self.linear.bias)
        # Saving it is unnecessary, because it follows from n
        self.register_buffer("frequencies", math.pi * th.arange(1, n_cosines + 1, dtype=th.float32), persistent=False)

    def forward(self, taus: th.Tensor) -> th.Tensor:
        """Embed quantile levels in [0, 1], from any shape (...) to shape (..., n_features)."""
        # In place, because this is the largest tensor of the network
        return self.linear(th.cos(taus.unsqueeze(-1) * self.frequencies)).relu_()
