"""The value-based algorithms take the arguments of SB3's DQN, by the same names and in the same places."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.policies import BasePolicy

from sb3_ext import (
    SoftDQN,
)
from tests.support.models import VALUE_BASED, each_value_based, make

DQN_PARAMETERS = {
    name: parameter
    for name, parameter in inspect.signature(DQN.__init__).parameters.items()
    if name not in ("self", "policy", "env", "_init_setup_model")
}

#: Others than the defaults, but for those of which one other would rule out another
OTHER_VALUES: dict[str, Any] = dict(
    learning_rate=3e-4,
    buffer_size=123,
    learning_starts=17,
    batch_size=11,
    tau=0.5,
    gamma=0.9,
    train_freq=3,
    gradient_steps=2,
    replay_buffer_class=ReplayBuffer,
    replay_buffer_kwargs=dict(handle_timeout_termination=False),
    optimize_memory_usage=False,
    n_steps=1,
    target_update_interval=77,
    exploration_fraction=0.3,
    exploration_initial_eps=0.8,
    exploration_final_eps=0.1,
    max_grad_norm=2.5,
    stats_window_size=13,
    tensorboard_log="somewhere",
    policy_kwargs=dict(net_arch=[5]),
    verbose=0,
    seed=4,
    device="cpu",
)

#: SoftDQN explores by its temperature
OTHER_DEFAULTS = {SoftDQN: dict(exploration_initial_eps=None, exploration_final_eps=0.0)}


def arguments_of(model: Any) -> dict[str, Any]:
    names = {"stats_window_size": "_stats_window_size"}
    return {name: getattr(model, names.get(name, name)) for name in DQN_PARAMETERS}


def test_arguments_have_the_names_and_types_of_sb3() -> None:
    expected = {name: parameter.annotation for name, parameter in DQN_PARAMETERS.items()}
    defaults = {name: parameter.default for name, parameter in DQN_PARAMETERS.items()}
    for cls in VALUE_BASED:
        parameters = inspect.signature(cls.__init__).parameters
        # In SB3's order, which positional arguments rely on; what is added comes by keyword only
        positional = {n: p for n, p in parameters.items() if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD}
        assert list(positional) == ["self", "policy", "env", *expected, "_init_setup_model"], cls
        annotations = {name: positional[name].annotation for name in expected}
        # Types that SB3 has not
        assert annotations.pop("replay_buffer_class") == expected["replay_buffer_class"] | str
        if cls is SoftDQN:
            assert annotations.pop("exploration_initial_eps") == expected["exploration_initial_eps"] | None
        assert annotations.items() <= expected.items(), cls
        assert {n: positional[n].default for n in defaults} == defaults | OTHER_DEFAULTS.get(cls, {}), cls
        assert not {p.kind for p in parameters.values()} - {
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            inspect.Parameter.KEYWORD_ONLY,
        }, cls
        # And every argument is explained
        explained = set(re.findall(r":param (\w+):", cls.__doc__))
        assert explained == set(parameters) - {"self"}, cls


@each_value_based
def test_defaults_are_those_of_sb3(cls: Any) -> None:
    expected = arguments_of(DQN("MlpPolicy", "CartPole-v1", buffer_size=10)) | OTHER_DEFAULTS.get(cls, {})
    assert arguments_of(cls("MlpPolicy", "CartPole-v1", buffer_size=10)) == expected
    assert cls("MlpPolicy", "CartPole-v1").buffer_size == DQN_PARAMETERS["buffer_size"].default


@each_value_based
def test_arguments_of_sb3_by_keyword(cls: Any) -> None:
    assert OTHER_VALUES.keys() == DQN_PARAMETERS.keys()
    expected = arguments_of(DQN("MlpPolicy", "CartPole-v1", **OTHER_VALUES))
    model = cls("MlpPolicy", "CartPole-v1", **OTHER_VALUES)
    assert arguments_of(model) == expected
    changed = {name for name, value in expected.items() if value != DQN_PARAMETERS[name].default}
    assert len(changed) >= len(DQN_PARAMETERS) - 4


@each_value_based
@pytest.mark.parametrize("n_positional", [1, 14, 15, len(DQN_PARAMETERS)])
def test_arguments_of_sb3_by_position(cls: Any, n_positional: int) -> None:
    values = {name: OTHER_VALUES[name] for name in list(DQN_PARAMETERS)[:n_positional]}
    expected = arguments_of(DQN("MlpPolicy", "CartPole-v1", *values.values()))
    given_elsewhere = {k: v for k, v in OTHER_DEFAULTS.get(cls, {}).items() if k not in values}
    assert arguments_of(cls("MlpPolicy", "CartPole-v1", *values.values())) == expected | given_elsewhere


@each_value_based
def test_runs_are_logged_under_the_name_of_the_class(cls: Any, tmp_path: Path) -> None:
    model = make(cls, tensorboard_log=str(tmp_path))
    model.learn(5)
    model.learn(5, tb_log_name="mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([f"{cls.__name__}_1", "mine_1"])


@each_value_based
def test_policies_have_sb3s_names(cls: Any) -> None:
    assert cls.policy_aliases.keys() == DQN.policy_aliases.keys()
    assert all(issubclass(policy, BasePolicy) for policy in cls.policy_aliases.values())
