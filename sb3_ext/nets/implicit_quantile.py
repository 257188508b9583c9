"""
The embedding of quantile levels in an implicit quantile network.

Dabney et al. 2018, https://arxiv.org/abs/1806.06923.
"""

import math

import torch as th
from torch import nn


class CosineEmbedding(nn.Module):
    """
    ``phi(tau) = ReLU(W [cos(pi i tau)]_{i = 1..n} + b)``, equation 4. (The paper lets i begin at 0, where the cosine is
    constant; its authors' code and the reimplementations begin at 1.)

    The biases start at 1: the level modulates the features it is multiplied with. With b around 0, as layers usually
    start, about half of them would be switched off at each level, which leaves a small network too few.

    :param n_cosines: n
    :param n_features: number of outputs
    """

    frequencies: th.Tensor

    def __init__(self, n_cosines: int, n_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_cosines, n_features)
        nn.init.ones_(self.linear.bias)
        # Not saved: it follows from n
        self.register_buffer("frequencies", math.pi * th.arange(1, n_cosines + 1, dtype=th.float32), persistent=False)

    def forward(self, taus: th.Tensor) -> th.Tensor:
        """
        :param taus: quantile levels in [0, 1], any shape (...)
        :return: shape (..., n_features)
        """
        return self.linear(th.cos(taus.unsqueeze(-1) * self.frequencies)).relu()
