"""
The dueling architecture: a value of the state and advantages of the actions.

Wang et al. 2016, https://arxiv.org/abs/1511.06581.
"""

import torch as th
from torch import nn

from sb3_ext.nets.builder import LayerKind, build_mlp


class DuelingMLP(nn.Module):
    """
    A network of the form ``Q = V + A - mean_a A`` (equation 9).

    V and A share all hidden layers but the last, of which each has its own. Without hidden layers V and A are linear in
    the inputs.

    :param net_arch: units of the hidden layers
    :param layers: the kind of layers, see :func:`~sb3_ext.nets.builder.build_mlp`
    """

    def __init__(
        self,
        input_dim: int,
        n_actions: int,
        net_arch: list[int],
        activation_fn: type[nn.Module] = nn.ReLU,
        layers: LayerKind | None = None,
    ) -> None:
        super().__init__()
        shared, stream = net_arch[:-1], net_arch[-1:]
        trunk_dim = shared[-1] if shared else input_dim
        self.trunk = build_mlp(input_dim, shared, None, activation_fn, layers=layers)
        self.value = build_mlp(trunk_dim, stream, 1, activation_fn, layers=layers)
        self.advantage = build_mlp(trunk_dim, stream, n_actions, activation_fn, layers=layers)

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        """Return the values of all actions, shape (..., n_actions), from inputs of shape (..., input_dim)."""
        shared = self.trunk(inputs)
        advantages = self.advantage(shared)
        return self.value(shared) + advantages - advantages.mean(dim=-1, keepdim=True)


def build_action_values(
    input_dim: int,
    n_actions: int,
    net_arch: list[int],
    activation_fn: type[nn.Module] = nn.ReLU,
    dueling: bool = False,
    layers: LayerKind | None = None,
) -> nn.Module:
    """
    Build a network with one output for each action, from shape (..., input_dim) to shape (..., n_actions).

    :param dueling: build a :class:`DuelingMLP` instead of a plain network
    """
    if dueling:
        return DuelingMLP(input_dim, n_actions, net_arch, activation_fn, layers)
    return build_mlp(input_dim, net_arch, n_actions, activation_fn, layers=layers)
