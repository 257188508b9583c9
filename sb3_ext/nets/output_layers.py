"""The last layers of a network."""

from torch import nn

from sb3_ext.nets.dueling import DuelingMLP
from sb3_ext.nets.layers import EnsembleLinear


def output_layers(network: nn.Module) -> list[nn.Module]:
    """
    Find the last linear layers, whose inputs together determine the output of the network linearly.

    :return: one layer, or two for a dueling network; none if the network has no linear layer
    """
    dueling = [module for module in network.modules() if isinstance(module, DuelingMLP)]
    streams: list[nn.Module] = [stream for module in dueling for stream in (module.value, module.advantage)]
    linear = [
        [module for module in stream.modules() if isinstance(module, (nn.Linear, EnsembleLinear))]
        for stream in streams or [network]
    ]
    return [layers[-1] for layers in linear if layers]
