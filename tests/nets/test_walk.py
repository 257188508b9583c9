"""Quick walks through networks do what those of ``nn.Module`` do."""

import pytest
import torch as th
from torch import nn

from sb3_ext import REDQSAC
from sb3_ext.nets.walk import set_mode, walk


class AlwaysEvaluating(nn.BatchNorm1d):
    """A layer that decides itself about its mode."""

    def train(self, mode: bool = True) -> "AlwaysEvaluating":
        return super().train(False)


def make_network() -> nn.Module:
    shared = nn.Sequential(nn.Linear(3, 3), nn.Dropout())
    network = nn.Sequential(shared, nn.ReLU(), shared, nn.ModuleList([nn.Linear(3, 3), AlwaysEvaluating(3)]))
    network.register_module("missing", None)
    return network


def test_a_walk_finds_each_module_once_and_in_torch_s_order() -> None:
    network = make_network()
    assert walk(network) == list(network.modules())


@pytest.mark.parametrize("policy", ["MlpPolicy", "NormalizedMlpPolicy"])
def test_a_walk_of_a_policy_finds_what_torch_finds(policy: str) -> None:
    model = REDQSAC(policy, "Pendulum-v1", buffer_size=100)
    assert walk(model.policy) == list(model.policy.modules())


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_set_as_torch_sets_it(training: bool) -> None:
    network, expected = make_network(), make_network()
    for each in (network, expected):
        each.train(not training)
    set_mode(network, training)
    expected.train(training)
    assert [module.training for module in network.modules()] == [module.training for module in expected.modules()]
    assert network[3][1].training is False  # type: ignore[index]


def test_a_train_method_of_one_object_is_asked() -> None:
    network = make_network()
    asked: list[bool] = []
    network[1].train = asked.append  # type: ignore[index, method-assign, assignment]
    set_mode(network, False)
    assert asked == [False]


def test_scripted_modules_change_their_mode() -> None:
    network = nn.Sequential(th.jit.script(nn.Dropout()))
    set_mode(network, False)
    assert not network[0].training
    rows = th.ones(8, 5)
    assert th.equal(network(rows), rows)


@pytest.mark.parametrize("policy", ["MlpPolicy", "NormalizedMlpPolicy"])
def test_the_networks_of_a_policy_change_their_mode(policy: str) -> None:
    model = REDQSAC(policy, "Pendulum-v1", buffer_size=100)
    for mode in (True, False, True):
        model.policy.set_training_mode(mode)
        modules = [module for network in (model.actor, model.critic) for module in network.modules()]
        assert {module.training for module in modules} == {mode}
        assert model.policy.training is mode
