"""
The dueling architecture: a value of the state and advantages of the actions.

Wang et al. 2016, https://arxiv.org/abs/1511.06581.
"""

import torch as th
from stable_baselines3.common.torch_layers import create_mlp
from torch import nn

from sb3_ext.nets.precision import with_output_linear


class DuelingMLP(nn.Module):
    """
    ``Q = V + A - mean_a A`` (equation 9). The hidden layers but the last are shared and evaluated once; the last one is
    there twice, for V and for A. Without hidden layers V and A are linear in the inputs.

    :param input_dim: number of inputs
    :param n_actions: number of actions
    :param net_arch: units of the hidden layers
    :param activation_fn: activation function
    """

    def __init__(
        self, input_dim: int, n_actions: int, net_arch: list[int], activation_fn: type[nn.Module] = nn.ReLU
    ) -> None:
        super().__init__()
        shared, stream = net_arch[:-1], net_arch[-1:]
        trunk_dim = shared[-1] if shared else input_dim
        self.trunk = nn.Sequential(*create_mlp(input_dim, -1, shared, activation_fn))
        self.value = with_output_linear(nn.Sequential(*create_mlp(trunk_dim, 1, stream, activation_fn)))
        self.advantage = with_output_linear(nn.Sequential(*create_mlp(trunk_dim, n_actions, stream, activation_fn)))

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        """
        :param inputs: shape (..., input_dim)
        :return: shape (..., n_actions)
        """
        shared = self.trunk(inputs)
        advantages = self.advantage(shared)
        return self.value(shared) + advantages - advantages.mean(dim=-1, keepdim=True)
