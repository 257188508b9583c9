"""Training and evaluation mode for each kind of layer."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch as th
from torch import nn
from torch.nn.modules.dropout import _DropoutNd


def set_dropout_mode(network: nn.Module, active: bool) -> None:
    """
    Switch dropout on or off, and put every other layer into evaluation mode.

    Batch normalization in a target network must neither use the minibatch's statistics nor update its own.
    """
    network.eval()
    for module in network.modules():
        if isinstance(module, _DropoutNd):
            module.train(active)


def running_statistics(network: nn.Module) -> list[th.Tensor]:
    """Return the running statistics of batch normalization, which the forward pass changes in place."""
    return [buffer for name, buffer in network.named_buffers() if "running_" in name]  # SB3 knows them by these names


def has_batch_statistics(network: nn.Module) -> bool:
    """Tell whether the forward pass changes running statistics of a layer in place."""
    return bool(running_statistics(network))


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Evaluate without dropout and updates of running statistics, and restore each module's mode afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
