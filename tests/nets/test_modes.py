"""Training and evaluation mode: set for a while, and for dropout alone."""

import pytest
import torch as th
from torch import nn

from sb3_ext.nets.modes import changes_statistics_in_place, evaluation_mode, named_tensors, set_dropout_mode


def network() -> nn.Sequential:
    """With modes that are not the same everywhere."""
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Sequential(nn.Linear(6, 3), nn.ELU()))
    net[1].eval()
    net[3][1].eval()
    return net


def modes(net: nn.Module) -> list[bool]:
    return [module.training for module in net.modules()]


def test_each_module_gets_its_mode_back() -> None:
    net = network()
    before = modes(net)
    assert before == [True, True, False, True, True, True, False]
    with evaluation_mode(net):
        assert not any(modes(net))
        net(th.randn(5, 4))
    assert modes(net) == before
    assert net[1].num_batches_tracked == 0


def test_one_walk_finds_what_torch_finds() -> None:
    net = network()
    net.append(net[0])  # the same layer at two places
    net[3][0].bias = None
    net.tied = nn.Sequential(nn.Linear(4, 6, bias=False), nn.Module())
    net.tied[0].weight = net[0].weight
    net.register_buffer("own", th.zeros(2))
    net.register_module("none", None)
    for found, expected in zip(named_tensors(net), (net.named_parameters(), net.named_buffers()), strict=True):
        assert [(name, id(tensor)) for name, tensor in found.items()] == [(n, id(tensor)) for n, tensor in expected]


def test_also_after_an_exception() -> None:
    net = network()
    before = modes(net)
    with pytest.raises(KeyError), evaluation_mode(net):
        raise KeyError
    assert modes(net) == before


@pytest.mark.parametrize("active", [True, False])
@pytest.mark.parametrize("dropout", [nn.Dropout, nn.Dropout2d, nn.AlphaDropout])
def test_dropout_alone_is_switched(dropout: type[nn.Module], active: bool) -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), dropout(0.5), nn.Sequential(nn.Linear(6, 3), dropout(0.1)))
    net.train(not active)
    set_dropout_mode(net, active)
    for module in net.modules():
        assert module.training == (active and isinstance(module, dropout)), module


def test_batch_statistics() -> None:
    assert changes_statistics_in_place(network())
    assert not changes_statistics_in_place(nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6)))
    assert not changes_statistics_in_place(nn.BatchNorm1d(6, track_running_stats=False))
