"""Training and evaluation mode, set for each kind of layer."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

_DROPOUT = (_DropoutNd,)


def set_dropout_mode(network: nn.Module, active: bool) -> None:
    """
    Switch dropout alone. Every other layer is put into evaluation mode: a batch normalization in a target network
    must neither normalize by the minibatch nor move its statistics.

    :param active: whether dropout drops units
    """
    network.eval()
    for module in network.modules():
        if isinstance(module, _DROPOUT):
            module.train(active)


def has_batch_statistics(network: nn.Module) -> bool:
    """
    :return: whether a layer of it keeps running statistics, which its forward pass changes in place
    """
    return any("running_" in name for name, _ in network.named_buffers())  # the names SB3 goes by, too


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """
    Inside, the network is in evaluation mode: without dropout, and without moving statistics towards what it sees.
    Afterwards each module has its mode back.
    """
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
