"""The plug-in inside one process. What a user types is tested in tests/packaging, from an installed wheel."""

import inspect
from argparse import Namespace
from pathlib import Path

import pytest
import rl_zoo3
import rl_zoo3.exp_manager
import rl_zoo3.hyperparams_opt
import rl_zoo3.utils
import yaml
from rl_zoo3.exp_manager import ExperimentManager
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv

from sb3_ext import REDQSAC
from sb3_ext.zoo import ZOO_ALGORITHMS, hyperparams_path, register
from sb3_ext.zoo.__main__ import main
from sb3_ext.zoo.plugin import patch_module

STOCK = {"a2c", "ars", "crossq", "ddpg", "dqn", "ppo", "ppo_lstm", "qrdqn", "sac", "td3", "tqc", "trpo"}

# What rl_zoo3 takes out of a YAML entry before the rest goes to the constructor.
ZOO_KEYS = {
    "callback",
    "env_kwargs",
    "env_wrapper",
    "frame_stack",
    "monitor_kwargs",
    "n_envs",
    "n_timesteps",
    "noise_std",
    "noise_type",
    "normalize",
    "vec_env_wrapper",
}


@pytest.fixture(autouse=True)
def registered():
    register()


def yaml_entries():
    return [
        pytest.param(algo, env_id, entry, id=f"{algo}-{env_id}")
        for algo in ZOO_ALGORITHMS
        for env_id, entry in yaml.safe_load(hyperparams_path(algo).read_text()).items()
    ]


def looks_like_a_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


def make_manager(folder, algo, **kwargs):
    return ExperimentManager(Namespace(), algo, "Pendulum-v1", str(folder), **kwargs)


def test_registering_again_changes_nothing():
    before = (
        dict(rl_zoo3.ALGOS),
        dict(rl_zoo3.hyperparams_opt.HYPERPARAMS_SAMPLER),
        dict(rl_zoo3.hyperparams_opt.HYPERPARAMS_CONVERTER),
        ExperimentManager.__init__,
    )
    register()
    after = (
        dict(rl_zoo3.ALGOS),
        dict(rl_zoo3.hyperparams_opt.HYPERPARAMS_SAMPLER),
        dict(rl_zoo3.hyperparams_opt.HYPERPARAMS_CONVERTER),
        ExperimentManager.__init__,
    )
    assert before == after


def test_the_tables_of_rl_zoo3_are_completed_in_place():
    assert rl_zoo3.ALGOS is rl_zoo3.utils.ALGOS is rl_zoo3.exp_manager.ALGOS
    assert set(rl_zoo3.ALGOS) == STOCK | set(ZOO_ALGORITHMS)
    assert rl_zoo3.ALGOS["redq_sac"] is REDQSAC
    for algo, entry in ZOO_ALGORITHMS.items():
        assert rl_zoo3.exp_manager.HYPERPARAMS_SAMPLER[algo] is entry.sampler
        assert rl_zoo3.exp_manager.HYPERPARAMS_CONVERTER[algo] is entry.converter


def test_the_stock_algorithms_are_untouched(tmp_path):
    assert rl_zoo3.ALGOS["sac"] is SAC
    for table in (rl_zoo3.hyperparams_opt.HYPERPARAMS_SAMPLER, rl_zoo3.hyperparams_opt.HYPERPARAMS_CONVERTER):
        assert {table[algo].__module__ for algo in STOCK if algo in table} == {"rl_zoo3.hyperparams_opt"}
    stock_yaml = Path(rl_zoo3.__file__).parent / "hyperparams" / "sac.yml"
    assert Path(make_manager(tmp_path, "sac").config) == stock_yaml
    assert make_manager(tmp_path, "sac", config="mine.yml").config == "mine.yml"
    assert inspect.signature(ExperimentManager.__init__).parameters["algo"].annotation is str


@pytest.mark.parametrize("config", [None, ""])
def test_no_configuration_means_our_yaml(tmp_path, config):
    for algo in ZOO_ALGORITHMS:
        assert make_manager(tmp_path, algo, config=config).config == str(hyperparams_path(algo))
    assert make_manager(tmp_path, "redq_sac").config == str(hyperparams_path("redq_sac"))


def test_a_configuration_that_was_named_is_used_also_when_it_does_not_exist(tmp_path):
    manager = make_manager(tmp_path, "redq_sac", config=str(tmp_path / "mistyped.yml"))
    with pytest.raises(FileNotFoundError, match=r"mistyped\.yml"):
        manager.read_hyperparameters()


def test_the_configuration_may_be_given_by_position(tmp_path):
    names = list(inspect.signature(ExperimentManager.__init__).parameters.values())[1:]
    values = {"args": Namespace(), "algo": "redq_sac", "env_id": "Pendulum-v1", "log_folder": str(tmp_path)}
    for config, expected in ((None, str(hyperparams_path("redq_sac"))), ("mine.yml", "mine.yml")):
        values["config"] = config
        assert ExperimentManager(*[values.get(p.name, p.default) for p in names]).config == expected


def test_wrong_arguments_are_reported_as_by_rl_zoo3():
    with pytest.raises(TypeError, match=r"missing \d+ required positional arguments: 'args'"):
        ExperimentManager()


def test_an_id_that_rl_zoo3_has_itself_stays_with_it(tmp_path, monkeypatch):
    monkeypatch.setitem(rl_zoo3.utils.ALGOS, "redq_sac", SAC)
    patch_module(rl_zoo3.utils)
    assert rl_zoo3.utils.ALGOS["redq_sac"] is SAC
    assert make_manager(tmp_path, "redq_sac").config != str(hyperparams_path("redq_sac"))


def test_every_algorithm_has_default_hyperparameters():
    for algo in ZOO_ALGORITHMS:
        assert "default" in yaml.safe_load(hyperparams_path(algo).read_text())


@pytest.mark.parametrize(("algo", "env_id", "entry"), yaml_entries())
def test_yaml_entries_are_read_as_what_they_look_like(algo, env_id, entry):
    assert {"n_timesteps", "policy"} <= set(entry)
    arguments = set(entry) - ZOO_KEYS
    assert arguments <= set(inspect.signature(ZOO_ALGORITHMS[algo].algorithm_class.__init__).parameters)
    # PyYAML reads 5e-4 as a string: it has to be written as !!float 5e-4.
    misread = {name: value for name, value in entry.items() if isinstance(value, str) and looks_like_a_number(value)}
    assert not misread, env_id


@pytest.mark.parametrize(("algo", "env_id", "entry"), yaml_entries())
def test_yaml_entries_are_accepted_by_the_constructor(algo, env_id, entry, tmp_path):
    manager = make_manager(tmp_path, algo, verbose=0)
    hyperparams = manager._preprocess_hyperparams({**entry, "buffer_size": 100})[0]
    # Hindsight replay needs a goal
    has_goals = "HerReplayBuffer" in str(entry.get("replay_buffer_class"))
    env = make_vec_env((lambda: BitFlippingEnv(n_bits=4, continuous=True)) if has_goals else "Pendulum-v1", n_envs=1)
    hyperparams = manager._preprocess_action_noise(hyperparams, {}, env)
    model = ZOO_ALGORITHMS[algo].algorithm_class(env=env, device="cpu", **hyperparams)
    assert model.gamma == entry.get("gamma", 0.99)
    env.close()


def test_redq_sac_has_an_entry_for_every_environment_that_is_promised():
    entries = yaml.safe_load(hyperparams_path("redq_sac").read_text())
    mujoco = ["InvertedPendulum", "InvertedDoublePendulum", "Hopper", "Walker2d", "HalfCheetah", "Ant", "Humanoid"]
    others = ["Pendulum-v1", "MountainCarContinuous-v0", "LunarLanderContinuous-v3", "BipedalWalker-v3"]
    assert {f"{name}-v{version}" for name in mujoco for version in (4, 5)} | {"default", *others} <= set(entries)
    assert all(entries[f"{name}-v4"] == entries[f"{name}-v5"] for name in mujoco)
    assert any("HerReplayBuffer" in str(entry) for entry in entries.values())


@pytest.mark.parametrize("arguments", [[], ["trian", "--algo", "redq_sac"]])
def test_the_fallback_names_the_scripts_it_knows(arguments, monkeypatch):
    monkeypatch.setattr("sys.argv", ["sb3_ext.zoo", *arguments])
    with pytest.raises(SystemExit, match=r"usage: python -m sb3_ext\.zoo \{train,enjoy,record_video,"):
        main()
