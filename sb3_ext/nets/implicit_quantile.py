"""
The parts of an implicit quantile network.

Dabney et al. 2018, https://arxiv.org/abs/1806.06923.
"""

import math

import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import NatureCNN
from torch import nn


class CosineEmbedding(nn.Module):
    """
    ``phi(tau) = ReLU(W [cos(pi i tau)]_{i = 1..n} + b)``, equation 4. (The paper lets i begin at 0, where the cosine is
    constant; its authors' code and the reimplementations begin at 1.)

    :param n_cosines: n
    :param n_features: number of outputs
    """

    frequencies: th.Tensor

    def __init__(self, n_cosines: int, n_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_cosines, n_features)
        # Not saved: it follows from n
        self.register_buffer("frequencies", math.pi * th.arange(1, n_cosines + 1, dtype=th.float32), persistent=False)

    def forward(self, taus: th.Tensor) -> th.Tensor:
        """
        :param taus: quantile levels in [0, 1], any shape (...)
        :return: shape (..., n_features)
        """
        return self.linear(th.cos(taus.unsqueeze(-1) * self.frequencies)).relu()


class NatureConvolutions(NatureCNN):
    """
    SB3's ``NatureCNN`` without its fully connected layer, which belongs behind the embedding of the quantile levels.

    :param observation_space: of images, channels first
    :param features_dim: keep the fully connected layer, with so many units: less work behind the embedding, but not
        the paper's network
    :param normalized_image: whether the images are already in [0, 1]
    """

    def __init__(
        self, observation_space: spaces.Box, features_dim: int | None = None, normalized_image: bool = False
    ) -> None:
        n_units = 1 if features_dim is None else features_dim
        super().__init__(observation_space, n_units, normalized_image)
        if features_dim is None:
            fully_connected = self.linear[0]
            assert isinstance(fully_connected, nn.Linear)
            self._features_dim = fully_connected.in_features
            self.linear = nn.Sequential()
