"""Networks, layers and optimizers that are replaced between updates: what stock SB3 trains is trained, or refused."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch as th
from stable_baselines3 import DQN, SAC
from torch import nn

from sb3_ext import IQN, REDQSAC, DoubleDQN, SoftDQN
from tests.support.models import CLASSES, make
from tests.support.recording import Recorded

each = pytest.mark.parametrize("cls", CLASSES)


def trained_model(cls: Any, **settings: Any) -> Any:
    """All of whose networks move within 8 steps."""
    often: dict[str, Any] = dict(target_update_interval=1, tau=0.1)
    if issubclass(cls, REDQSAC):
        often |= dict(gradient_steps=2, policy_delay=1)
    if cls in (DQN, SAC):
        env = "CartPole-v1" if cls is DQN else "Pendulum-v1"
        settings |= dict(policy_kwargs=dict(net_arch=[8]), learning_starts=20, batch_size=8, buffer_size=500, seed=0)
        return cls("MlpPolicy", env, **often, **settings, device="cpu").learn(24)
    return make(cls, **often, **settings).learn(24)


def names_of(model: Any) -> tuple[str, str]:
    return ("q_net", "q_net_target") if hasattr(model, "q_net") else ("critic", "critic_target")


def moved(model: Any) -> set[str]:
    """The parts of the networks of which training moves everything."""
    before = copy.deepcopy(model.policy.state_dict())
    model.learn(8, reset_num_timesteps=False)
    after = model.policy.state_dict()
    parts: dict[str, list[bool]] = {}
    for name, value in after.items():
        if not name.endswith("temperature"):
            parts.setdefault(name.partition(".")[0], []).append(not th.equal(value, before[name]))
    return {part for part, changes in parts.items() if all(changes)}


def replace_first_layer(network: nn.Module) -> nn.Module:
    for module in network.modules():
        for name, child in module.named_children():
            if list(child.parameters(recurse=False)):
                layer = copy.deepcopy(child)
                setattr(module, name, layer)
                return layer
    raise AssertionError


def with_new_optimizers(model: Any) -> None:
    owners = [(model.policy, model.q_net)] if hasattr(model, "q_net") else [(n, n) for n in (model.actor, model.critic)]
    for owner, network in owners:
        owner.optimizer = th.optim.Adam(network.parameters(), lr=1e-3)


def a_layer(model: Any) -> None:
    replace_first_layer(getattr(model, names_of(model)[0]))
    with_new_optimizers(model)


def a_layer_of_both(model: Any) -> None:
    for name in names_of(model):
        replace_first_layer(getattr(model, name))
    with_new_optimizers(model)


def a_layer_of_the_target(model: Any) -> None:
    replace_first_layer(getattr(model, names_of(model)[1]))


def a_layer_in_a_new_group(model: Any) -> None:
    optimizer = model.policy.optimizer if hasattr(model, "q_net") else model.critic.optimizer
    layer = replace_first_layer(getattr(model, names_of(model)[0]))
    optimizer.add_param_group(dict(params=list(layer.parameters())))


def whole_networks(model: Any) -> None:
    for name in (*names_of(model), *(() if hasattr(model, "q_net") else ("actor",))):
        network = copy.deepcopy(getattr(model, name))
        setattr(model, name, network)
        setattr(model.policy, name, network)
    with_new_optimizers(model)


def thawed(model: Any) -> None:
    parameter = next(getattr(model, names_of(model)[0]).parameters())
    parameter.requires_grad_(False)
    model.train(1, 8)
    parameter.requires_grad_(True)


def moved_in_memory(model: Any) -> None:
    model.policy.double().float()
    model.policy.share_memory()
    model.policy.load_state_dict(copy.deepcopy(model.policy.state_dict()))


SURGERIES = [a_layer, a_layer_of_both, a_layer_of_the_target, a_layer_in_a_new_group, whole_networks, thawed]


@each
@pytest.mark.parametrize("surgery", [*SURGERIES, moved_in_memory])
def test_what_stock_trains_is_trained(cls: Any, surgery: Callable[[Any], None]) -> None:
    stock = trained_model(SAC if cls is REDQSAC else DQN)
    ours = trained_model(cls)
    for model in (stock, ours):
        surgery(model)
    expected = {"actor", "critic", "critic_target"} if cls is REDQSAC else {"q_net", "q_net_target"}
    assert moved(stock) == expected
    assert moved(ours) == expected
    # The targets follow the networks of now
    ours.tau = 1.0
    ours.train(1, 8)
    ours._on_step()
    online, target = (dict(getattr(ours, name).named_parameters()) for name in names_of(ours))
    assert all(th.equal(value, target[name]) for name, value in online.items())


@pytest.mark.parametrize("surgery", [a_layer, whole_networks])
def test_recorded_training_follows(surgery: Callable[[Any], None]) -> None:
    model = trained_model(Recorded, cuda_graphs=True)
    surgery(model)
    assert moved(model) == {"actor", "critic", "critic_target"}


def test_a_recording_ends_with_another_activation_or_dropout_rate() -> None:
    model = trained_model(Recorded, cuda_graphs=True, policy_kwargs=dict(dropout=0.1))
    layers = model.critic.ensemble.layers
    (activation,) = [index for index, layer in enumerate(layers) if isinstance(layer, nn.ReLU)]
    (dropout,) = [layer for layer in layers if isinstance(layer, nn.Dropout)]
    changes = [lambda: layers.__setitem__(activation, nn.Tanh()), lambda: setattr(dropout, "p", 0.2)]
    for change in changes:
        before = model.tape.records
        change()
        for _ in range(4):
            model.train(2, 8)
        assert model.tape.records == before + 1


@pytest.mark.slow
@pytest.mark.usefixtures("traced_only", "no_excuses")
def test_compiled_training_follows() -> None:
    model = trained_model(REDQSAC, compile=True)
    for surgery in (a_layer, whole_networks):
        surgery(model)
        assert moved(model) == {"actor", "critic", "critic_target"}


@each
def test_another_policy_is_trained(cls: Any) -> None:
    """Where stock SB3 goes on with the networks of the old one."""
    model = trained_model(cls)
    model.policy = copy.deepcopy(model.policy)
    assert moved(model) == ({"actor", "critic", "critic_target"} if cls is REDQSAC else {"q_net", "q_net_target"})


@each
def test_a_compiled_network_in_place_of_the_original(cls: Any) -> None:
    """Two modules, but the same parameters."""
    model = trained_model(cls)
    name = names_of(model)[0]
    compiled = th.compile(getattr(model, name))
    setattr(model, name, compiled)
    with th.compiler.set_stance("force_eager"):
        assert {name, names_of(model)[1]} <= moved(model)
    assert getattr(model, name) is compiled


@each
def test_a_layer_that_nothing_trains_is_refused(cls: Any) -> None:
    model = trained_model(cls)
    layer = replace_first_layer(getattr(model, names_of(model)[0]))
    with pytest.raises(ValueError, match=r"no optimizer has .*Was a layer replaced"):
        model.train(1, 8)
    layer.requires_grad_(False)
    model.train(1, 8)


@each
def test_another_network_in_the_model_than_in_the_policy_is_refused(cls: Any) -> None:
    for index in (0, 1):
        model = trained_model(cls)
        name = names_of(model)[index]
        setattr(model.policy, name, copy.deepcopy(getattr(model, name)))
        with pytest.raises(ValueError, match=f"model.{name} and model.policy.{name} are two networks"):
            model.train(1, 8)


def test_another_temperature_needs_another_optimizer() -> None:
    model = trained_model(REDQSAC)
    model.log_ent_coef = th.zeros(1, requires_grad=True)
    with pytest.raises(ValueError, match=r"the optimizer of model\.log_ent_coef has another tensor"):
        model.train(1, 8)
    model = trained_model(SoftDQN, auto_temperature=True)
    model.log_temperature = th.zeros(1, requires_grad=True)
    with pytest.raises(ValueError, match=r"the optimizer of model\.log_temperature has another tensor"):
        model.train(1, 8)


def test_target_critics_of_another_shape_are_refused() -> None:
    model = trained_model(REDQSAC)
    layer = model.critic.ensemble.layers[0]
    layer.weight = nn.Parameter(layer.weight[:1].detach().clone())
    with_new_optimizers(model)
    with pytest.raises(ValueError, match="critic_target has parameters of the shapes"):
        model.train(1, 8)


def test_a_new_network_acts_by_the_settings_of_iqn() -> None:
    model = trained_model(IQN, risk_measure="cvar", risk_eta=0.3)
    model.q_net = model.policy.q_net = model.policy.make_q_net()
    model.q_net.choose_actions_by(2, "neutral", 0.0)
    with_new_optimizers(model)
    model.train(1, 8)
    assert (model.q_net.risk_measure, model.q_net.n_action_quantile_samples) == ("cvar", 5)


def with_batch_normalization(model: Any) -> None:
    for network in (model.q_net, model.q_net_target):
        network.q_net.insert(1, nn.BatchNorm1d(8))
    with_new_optimizers(model)


def test_running_statistics_of_a_new_layer_reach_the_target() -> None:
    model = trained_model(DoubleDQN)
    with_batch_normalization(model)
    model.learn(8, reset_num_timesteps=False)
    model.train(1, 8)
    model._on_step()
    online, target = model.q_net.q_net[1], model.q_net_target.q_net[1]
    assert not th.equal(online.running_mean, th.zeros(8))
    assert th.equal(target.running_mean, online.running_mean)


@each
def test_what_cannot_be_trained_is_named(cls: Any) -> None:
    model = trained_model(cls)
    model.policy.to("meta")
    with pytest.raises(ValueError, match="is on the device meta, but only networks on cpu are trained"):
        model.train(1, 8)


def test_an_exported_network_is_refused() -> None:
    model = trained_model(DoubleDQN)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = th.export.export(model.q_net, (th.zeros(16, 4),)).module()
        model.q_net.q_net = th.export.export(model.q_net.q_net, (th.zeros(16, 4),)).module()
    with_new_optimizers(model)
    with pytest.raises(ValueError, match="cannot be trained, because it was exported"):
        model.train(1, 8)
    model.q_net = model.policy.q_net = whole
    with pytest.raises(ValueError, match=r"model\.policy\.q_net is a GraphModule, which cannot be trained"):
        model.train(1, 8)


@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.usefixtures("traced_only", "no_excuses")
def test_frozen_networks_of_redq(compile: bool) -> None:
    """The others still learn."""
    for frozen, learning in (("critic", "actor"), ("actor", "critic")):
        model = trained_model(REDQSAC, compile=compile)
        getattr(model, frozen).requires_grad_(False)
        before = copy.deepcopy(getattr(model, frozen).state_dict())
        assert learning in moved(model)
        assert all(th.equal(value, before[key]) for key, value in getattr(model, frozen).state_dict().items())


@each
def test_with_everything_frozen_there_is_nothing_to_train(cls: Any) -> None:
    model = trained_model(cls, **(dict(ent_coef=0.1) if cls is REDQSAC else {}))
    model.policy.requires_grad_(False)
    with pytest.raises(ValueError, match="there is nothing to train"):
        model.train(1, 8)


def test_gradients_of_what_no_optimizer_has_do_not_count() -> None:
    """Stock SB3 adds them up from update to update, and clips by their sum."""
    model = trained_model(DoubleDQN, max_grad_norm=0.1)
    model.policy.optimizer = th.optim.Adam(model.q_net.q_net[-1].parameters(), lr=0.0)
    norms = []
    for _ in range(2):
        model.train(30, 8)
        norms.append(model.logger.name_to_value["train/grad_norm"])
    gradients = [parameter.grad for parameter in model.q_net.q_net[-1].parameters()]
    assert norms[1] < 2 * norms[0]
    assert th.nn.utils.get_total_norm(gradients).item() == pytest.approx(0.1, rel=0.5)
