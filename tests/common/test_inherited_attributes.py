"""Public attributes of SB3's models: each is there and in use, or says what to use instead."""

import copy
import inspect
import io
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit

from sb3_ext import (
    IQN,
    REDQSAC,
    FrameDedupReplayBuffer,
    PrioritizedFrameDedupReplayBuffer,
    PrioritizedReplayBuffer,
    SoftDQN,
)
from sb3_ext.buffers import ArrayReplayBuffer, DeviceReplayBuffer, Float32ReplayBuffer
from tests.support.models import CLASSES, VALUE_BASED
from tests.support.models import make as make_model


def make(cls: Any, **kwargs: Any) -> Any:
    return make_model(cls, **(dict(gradient_steps=1) | kwargs))


PARTS = ("policy", "actor", "critic", "critic_target", "q_net", "q_net_target", "replay_buffer")
EXPLAINED = ("q_networks", "qf0", "qf1", "q_net", "observations", "next_observations")


@cache
def trained(cls: Any) -> Any:
    """A stock model."""
    env = "Pendulum-v1" if cls is SAC else "CartPole-v1"
    settings: dict[str, Any] = dict(buffer_size=500, learning_starts=20, batch_size=8, device="cpu", seed=0)
    return cls("MlpPolicy", env, policy_kwargs=dict(net_arch=[8]), **settings).learn(60)


def parts(model: Any, stock: Any) -> Iterator[tuple[Any, Any]]:
    yield model, stock
    for name in PARTS:
        if hasattr(stock, name):
            ours, theirs = getattr(model, name), getattr(stock, name)
            yield ours, theirs
            if getattr(theirs, "features_extractor", None) is not None:
                yield ours.features_extractor, theirs.features_extractor


def length(value: Any) -> int | None:
    try:
        return len(value)
    except TypeError:  # also of a tensor without axes
        return None


def assert_alike(ours: Any, theirs: Any) -> list[str]:
    """
    Compare the public attributes of two objects.

    :return: those that ours explains instead
    """
    explained = []
    for name in dir(theirs):
        try:
            expected = None if name.startswith("_") else getattr(theirs, name)
        except (AttributeError, AssertionError):
            continue
        if expected is None:
            continue
        try:
            value = getattr(ours, name)
        except AttributeError as error:
            assert name in EXPLAINED and len(str(error)) > 80 and "has no attribute" not in str(error), (name, error)
            explained.append(name)
            continue
        # SoftDQN's argument, for which None means the final one. Its property `initial_epsilon` is the number
        assert value is not None or name == "exploration_initial_eps", name
        assert callable(value) == callable(expected), name
        if length(expected):
            assert length(value) or isinstance(expected, (dict, str)), f"{name} is empty"
    return explained


@pytest.mark.parametrize("cls", CLASSES)
def test_public_attributes_of_models_are_there(cls: Any) -> None:
    stock = trained(SAC if cls is REDQSAC else DQN)
    model = make(cls).learn(25 if cls is REDQSAC else 60)
    explained = [name for ours, theirs in parts(model, stock) for name in assert_alike(ours, theirs)]
    expected = {REDQSAC: ["q_networks", "qf0", "qf1"] * 2, IQN: ["q_net"] * 2}
    assert explained == expected.get(cls, [])


@pytest.mark.parametrize(
    "cls",
    [
        *(ArrayReplayBuffer, FrameDedupReplayBuffer, DeviceReplayBuffer, Float32ReplayBuffer),
        *(PrioritizedReplayBuffer, PrioritizedFrameDedupReplayBuffer),
    ],
)
def test_public_attributes_of_buffers_are_there(cls: Any) -> None:
    stock = trained(DQN).replay_buffer
    assert type(stock) is ReplayBuffer
    buffer = cls(500, stock.observation_space, stock.action_space, "cpu")
    for _ in range(3):
        buffer.add(np.zeros((1, 4), np.float32), np.ones((1, 4), np.float32), np.ones((1, 1)), [1.0], [True], [{}])
    shown = not isinstance(buffer, FrameDedupReplayBuffer)
    assert assert_alike(buffer, stock) == ([] if shown else ["next_observations", "observations"])
    for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts"):
        if shown or "observations" not in name:
            assert getattr(buffer, name).shape == getattr(stock, name).shape
            assert getattr(buffer, name).dtype == getattr(stock, name).dtype


def test_a_quantile_network_names_its_layers() -> None:
    q_net = make(IQN).q_net
    for network in (q_net, copy.deepcopy(q_net)):
        with pytest.raises(AttributeError, match=r"ImplicitQuantileNetwork has no q_net.*psi, phi and f"):
            _ = network.q_net


#: Another value of each argument from which the set-up derives something, with what it needs
CHANGES: dict[str, tuple[Any, dict[str, Any]]] = {
    "learning_rate": (lambda progress: 0.01 * progress, {}),
    "learning_rate_final": (1e-5, {}),
    "qf_learning_rate": (lambda progress: 0.02 * progress, {}),
    "learning_rate_fraction": (0.5, dict(learning_rate_final=1e-5)),
    "n_steps_final": (2, dict(n_steps=9)),
    "n_steps_fraction": (0.5, dict(n_steps=9, n_steps_final=2)),
    "train_freq": ((7, "step"), {}),
    "ent_coef": ("auto_0.25", {}),
    "target_entropy": (-3, {}),
    "exploration_initial_eps": (0.7, {}),
    "exploration_final_eps": (0.3, {}),
    "exploration_fraction": (0.6, dict(exploration_initial_eps=0.9)),
    "exploration_decay": (
        "exponential",
        dict(exploration_initial_eps=0.9, exploration_final_eps=0.1, exploration_fraction=1.0),
    ),
    "temperature_initial": (0.8, {}),
    "temperature_final": (0.4, {}),
    "temperature_fraction": (0.9, {}),
    "auto_temperature": (True, {}),
    "n_action_quantile_samples": (3, {}),
    "risk_measure": ("wang", {}),
    "risk_eta": (-0.5, dict(risk_measure="wang")),
}


def derived(model: Any) -> list[Any]:
    """What is derived from arguments."""
    facts: list[Any] = [model.train_freq]
    for name in ("lr_schedule", "qf_lr_schedule", "exploration_schedule", "temperature_schedule"):
        if getattr(model, name, None) is not None:
            facts += [getattr(model, name)(progress) for progress in (1.0, 0.85, 0.5, 0.0)]
    before = model._current_progress_remaining
    for progress in (1.0, 0.85, 0.5, 0.0):
        model._current_progress_remaining = progress
        facts.append(model.effective_n_steps)
    model._current_progress_remaining = before
    if isinstance(model, REDQSAC):
        settings, temperature = model._update_settings(), model._temperature()
        facts += [settings.target_entropy, temperature.ent_coef().item(), temperature.optimizer is None]
    if isinstance(model, SoftDQN):
        facts += [model.temperature, list(model._learned_variables())]
    if isinstance(model, IQN):
        for network in (model.q_net, model.q_net_target):
            facts += [network.n_action_quantile_samples, network.risk_measure, network.risk_eta]
    return facts


@pytest.mark.parametrize(
    ("cls", "name"), [(cls, name) for cls in CLASSES for name in cls.derivations if name != "cuda_graphs"]
)
def test_a_changed_argument_has_the_effect_of_a_given_one(cls: Any, name: str) -> None:
    value, needs = CHANGES[name]
    model = make(cls, **needs)
    before = derived(model)
    setattr(model, name, value)
    assert derived(model) == derived(make(cls, **needs, **{name: value})) != before
    # It is in use, and saved
    model.learn(25)
    file = io.BytesIO()
    model.save(file)
    assert derived(cls.load(file, device="cpu"))[:9] == derived(model)[:9]


@pytest.mark.parametrize("cls", CLASSES)
def test_a_learning_rate_reaches_the_optimizers(cls: Any) -> None:
    model = make(cls).learn(25)
    model.learning_rate = 0.0
    before = {name: value.clone() for name, value in model.policy.state_dict().items() if "target" not in name}
    model.learn(25, reset_num_timesteps=False)
    names = {name for name, value in before.items() if not th.equal(value, model.policy.state_dict()[name])}
    assert names <= {"q_net.temperature"}


@pytest.mark.parametrize(
    ("cls", "name", "wrong"),
    [
        *((cls, "learning_rate_final", -1.0) for cls in CLASSES),
        *((cls, "train_freq", (1, "stpe")) for cls in CLASSES),
        *((cls, "exploration_final_eps", 1.5) for cls in VALUE_BASED),
        *((REDQSAC, "ent_coef", value) for value in ("otto", -1.0, "auto_0")),
        *((REDQSAC, "target_entropy", value) for value in ("otto", None)),
        (SoftDQN, "temperature_final", 0.0),
        (SoftDQN, "auto_temperature", "yes"),
        (IQN, "risk_measure", "cvar"),
    ],
)
def test_a_refused_change_changes_nothing(cls: Any, name: str, wrong: Any) -> None:
    model = make(cls)
    before = derived(model), getattr(model, name)
    optimizer = getattr(model, "ent_coef_optimizer", None)
    # SB3 refuses a train_freq, and the measure is allowed but does not fit the other argument
    with pytest.raises(ValueError, match="risk_eta" if name == "risk_measure" else name):
        setattr(model, name, wrong)
    assert (derived(model), getattr(model, name)) == before
    assert getattr(model, "ent_coef_optimizer", None) is optimizer


def test_a_learned_temperature_can_be_fixed_and_learned_again() -> None:
    model = make(REDQSAC).learn(25)
    model.ent_coef = 0.3
    model.learn(25, reset_num_timesteps=False)
    assert model._temperature().ent_coef() == pytest.approx(0.3) and model.log_ent_coef is None
    file = io.BytesIO()
    model.save(file)
    assert REDQSAC.load(file, device="cpu").ent_coef_tensor == pytest.approx(0.3)
    model.ent_coef = "auto_0.2"
    assert model._temperature().ent_coef() == pytest.approx(0.2)
    model.learn(25, reset_num_timesteps=False)
    assert 0.1 < model._temperature().ent_coef() < 0.3 and model._temperature().ent_coef() != pytest.approx(0.2, 1e-6)
    learned = model.log_ent_coef.detach().clone()
    file = io.BytesIO()
    model.save(file)
    assert th.equal(REDQSAC.load(file, device="cpu").log_ent_coef, learned)
    model.target_entropy = "auto"
    assert model.target_entropy == -1.0


@pytest.mark.parametrize(
    ("cls", "name", "same", "needs"),
    [
        (REDQSAC, "ent_coef", "auto_1.0", {}),  # which is what "auto" means
        (SoftDQN, "temperature_initial", 1, dict(auto_temperature=True)),
        (SoftDQN, "auto_temperature", True, dict(auto_temperature=True)),
    ],
)
def test_what_is_learned_goes_on_with_the_same_argument(cls: Any, name: str, same: Any, needs: dict[str, Any]) -> None:
    model = make(cls, **needs).learn(60)
    ((optimizer, variable),) = model._learned_variables().items()
    before = getattr(model, variable), getattr(model, variable).detach().clone(), getattr(model, optimizer)
    setattr(model, name, same)
    assert getattr(model, name) == same
    assert getattr(model, variable) is before[0] and th.equal(before[0].detach(), before[1]) and before[1] != 0.0
    assert getattr(model, optimizer) is before[2]


@pytest.mark.parametrize("cls", CLASSES)
def test_arguments_of_a_buffer_that_exists_warn(cls: Any) -> None:
    model = make(cls)
    for name, value in (("buffer_size", 77), ("replay_buffer_class", DeviceReplayBuffer), ("optimize_memory_usage", 1)):
        setattr(model, name, getattr(model, name))
        with pytest.warns(UserWarning, match=rf"{name}=.* has no effect on the present replay buffer"):
            setattr(model, name, value)
    model.replay_buffer, model.optimize_memory_usage = None, False
    model._setup_model()
    assert isinstance(model.replay_buffer, DeviceReplayBuffer) and model.replay_buffer.buffer_size == 77


def test_both_arguments_of_a_risk_measure_change_together() -> None:
    model = make(IQN)
    model.set_risk("cvar", 0.25)
    assert [(net.risk_measure, net.risk_eta) for net in (model.q_net, model.q_net_target)] == [("cvar", 0.25)] * 2
    with pytest.raises(ValueError, match="risk_eta=2"):
        model.set_risk("cvar", 2.0)
    assert (model.risk_measure, model.risk_eta, model.q_net.risk_eta) == ("cvar", 0.25, 0.25)


@pytest.mark.parametrize("cls", CLASSES)
def test_a_model_can_be_set_up_again(cls: Any) -> None:
    model = make(cls)
    model.train_freq = 7
    model._setup_model()
    assert model.train_freq == TrainFreq(7, TrainFrequencyUnit.STEP)
    assert set(cls.derivations) <= {*inspect.signature(cls).parameters}
