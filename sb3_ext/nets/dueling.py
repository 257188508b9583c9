"""
The dueling architecture: a value of the state and advantages of the actions.

Wang et al. 2016, https://arxiv.org/abs/1511.06581.
"""

from functools import partial

import torch as th
from torch import nn

from sb3_ext.nets.builder import LayerKind, Normalization, build_mlp


class DuelingMLP(nn.Module):
    """
    A network of the form ``Q = V + A - mean_a A`` (equation 9).

    V and A share all hidden layers but the last, of which each has its own. Without hidden layers V and A are linear in
    the inputs, and so is Q: nothing is gained.

    :param net_arch: units of the hidden layers
    :param layers: the kind of layers, see :func:`~sb3_ext.nets.builder.build_mlp`, as ``normalization``
    :param n_outputs: outputs K of each action, such as the atoms of a distribution; each has a V and an A of its own
    """

    def __init__(
        self,
        input_dim: int,
        n_actions: int,
        net_arch: list[int],
        activation_fn: type[nn.Module] = nn.ReLU,
        layers: LayerKind | None = None,
        normalization: Normalization | None = None,
        n_outputs: int = 1,
    ) -> None:
        super().__init__()
        shared, stream = net_arch[:-1], net_arch[-1:]
        trunk_dim = shared[-1] if shared else input_dim
        build = partial(build_mlp, activation_fn=activation_fn, layers=layers, normalization=normalization)
        self.n_outputs = n_outputs
        self.trunk = build(input_dim, shared, None)
        self.value = build(trunk_dim, stream, n_outputs)
        self.advantage = build(trunk_dim, stream, n_actions * n_outputs)

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        """
        Return the outputs of all actions, from inputs of shape (..., input_dim).

        :return: shape (..., n_actions), or (..., n_actions, n_outputs) with several outputs
        """
        shared = self.trunk(inputs)
        advantages, value = self.advantage(shared), self.value(shared)
        if self.n_outputs == 1:
            return value + advantages - advantages.mean(dim=-1, keepdim=True)
        advantages = advantages.unflatten(-1, (-1, self.n_outputs))
        return value.unsqueeze(-2) + advantages - advantages.mean(dim=-2, keepdim=True)


def build_action_values(
    input_dim: int,
    n_actions: int,
    net_arch: list[int],
    activation_fn: type[nn.Module] = nn.ReLU,
    dueling: bool = False,
    layers: LayerKind | None = None,
    normalization: Normalization | None = None,
    n_outputs: int = 1,
) -> nn.Module:
    """
    Build a network from shape (..., input_dim) to shape (..., n_actions), or (..., n_actions, n_outputs).

    :param dueling: build a :class:`DuelingMLP` instead of a plain network
    :param n_outputs: outputs of each action; more than one have an axis of their own
    """
    if dueling:
        return DuelingMLP(input_dim, n_actions, net_arch, activation_fn, layers, normalization, n_outputs)
    n_units = n_actions * n_outputs
    network = build_mlp(input_dim, net_arch, n_units, activation_fn, layers=layers, normalization=normalization)
    return network if n_outputs == 1 else nn.Sequential(*network, nn.Unflatten(-1, (n_actions, n_outputs)))
