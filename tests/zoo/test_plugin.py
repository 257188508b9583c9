"""The plug-in inside one process. What a user types is tested in tests/packaging, from an installed wheel."""

import argparse
import copy
import importlib.util
import inspect
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import get_args

import pytest
import rl_zoo3
import rl_zoo3.exp_manager
import rl_zoo3.hyperparams_opt
import rl_zoo3.utils
import yaml
from gymnasium import spaces
from rl_zoo3.exp_manager import ExperimentManager
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ext import IQN, REDQSAC, DoubleDQN, SoftDQN
from sb3_ext.common.arguments.types import BUFFERS
from sb3_ext.nets import ImpalaConvolutions
from sb3_ext.zoo import ZOO_ALGORITHMS, hyperparams_path, register
from sb3_ext.zoo.__main__ import main
from sb3_ext.zoo.plugin import patch_module

REPOSITORY = Path(__file__).parents[2]
BOXING_RAM = REPOSITORY / "examples" / "boxing_ram.yml"
VALUE_BASED = ("double_dqn", "soft_dqn", "iqn")
ATARI = ("atari", "MsPacmanNoFrameskip-v4")
# What stands for the entries that are for more than one environment
REPRESENTATIVES = {"default": "CartPole-v1", "atari": "BreakoutNoFrameskip-v4"}
if not all(map(importlib.util.find_spec, ("Box2D", "pygame"))):
    # The arguments of the entry can be tested all the same
    REPRESENTATIVES["LunarLander-v3"] = "CartPole-v1"

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


def yaml_entries(algos=tuple(ZOO_ALGORITHMS)):
    return [
        pytest.param(algo, env_id, entry, id=f"{algo}-{env_id}")
        for algo in algos
        for env_id, entry in yaml.safe_load(hyperparams_path(algo).read_text()).items()
    ]


@pytest.mark.parametrize("algo", ["double_dqn", "soft_dqn", "iqn"])
def test_atari_entries_make_an_update_for_four_steps_as_stock_dqn(algo):
    for env_id in ("atari", "MsPacmanNoFrameskip-v4"):
        entry = entries_of(algo)[env_id]
        assert entry["gradient_steps"] / (entry["train_freq"] * entry["n_envs"]) == 0.25


def looks_like_a_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


def make_manager(folder, algo, env_id="Pendulum-v1", **kwargs):
    return ExperimentManager(Namespace(), algo, env_id, str(folder), **kwargs)


def entries_of(algo):
    return yaml.safe_load(hyperparams_path(algo).read_text())


def construct(folder, algo, env_id, entry):
    """The model that rl_zoo3 makes of an entry, with one of its environments."""
    if env_id.startswith("ALE/") or "NoFrameskip" in env_id:
        pytest.importorskip("ale_py")
    manager = make_manager(folder, algo, env_id, verbose=0)
    # rl_zoo3 writes into what it has read
    entry = {**copy.deepcopy(entry), "buffer_size": 100}
    hyperparams, manager.env_wrapper, _, manager.vec_env_wrapper = manager._preprocess_hyperparams(entry)
    env = manager.create_envs(1, no_log=True)
    return ZOO_ALGORITHMS[algo].algorithm_class(env=env, device="cpu", **hyperparams)


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
    ours = {"redq_sac": REDQSAC, "double_dqn": DoubleDQN, "soft_dqn": SoftDQN, "iqn": IQN}
    ours |= {"rainbow": DoubleDQN, "btr": IQN}
    assert {algo: rl_zoo3.ALGOS[algo] for algo in ours} == ours
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
    parameters = inspect.signature(ZOO_ALGORITHMS[algo].algorithm_class.__init__).parameters
    typed_dicts = [get_args(p.annotation)[0] for p in parameters.values() if p.kind is p.VAR_KEYWORD]
    assert arguments <= set(parameters).union(*(typed_dict.__annotations__ for typed_dict in typed_dicts))
    # PyYAML reads 5e-4 as a string: it has to be written as !!float 5e-4.
    misread = {name: value for name, value in entry.items() if isinstance(value, str) and looks_like_a_number(value)}
    assert not misread, env_id


@pytest.mark.parametrize(("algo", "env_id", "entry"), yaml_entries((*VALUE_BASED, "rainbow", "btr")))
def test_yaml_entries_construct_on_their_environment(algo, env_id, entry, tmp_path):
    model = construct(tmp_path, algo, REPRESENTATIVES.get(env_id, env_id), entry)
    for name in set(entry) - ZOO_KEYS - {"policy", "buffer_size", "learning_rate", "train_freq"}:
        value = eval(entry[name], {}) if name == "policy_kwargs" else entry[name]
        expected = BUFFERS[value] if name == "replay_buffer_class" else value
        assert getattr(model, name) == expected, name
    rate = str(entry.get("learning_rate", 1e-4))
    assert model.lr_schedule(1.0) == float(rate.removeprefix("lin_"))
    if rate.startswith("lin_"):
        assert model.lr_schedule(0.5) == 0.5 * model.lr_schedule(1.0)
    assert model.env.num_envs == 1
    if entry["policy"] == "CnnPolicy":
        assert model.observation_space.shape == (4, 84, 84)
        assert model.policy.optimizer.defaults["fused"] is True
    model.env.close()


@pytest.mark.parametrize(("algo", "env_id", "entry"), yaml_entries(["redq_sac", "cem_q", "naf"]))
def test_yaml_entries_are_accepted_by_the_constructor(algo, env_id, entry, tmp_path):
    manager = make_manager(tmp_path, algo, verbose=0)
    hyperparams = manager._preprocess_hyperparams({**entry, "buffer_size": 100})[0]
    # Hindsight replay needs a goal
    has_goals = "HerReplayBuffer" in str(entry.get("replay_buffer_class"))
    env = make_vec_env((lambda: BitFlippingEnv(n_bits=4, continuous=True)) if has_goals else "Pendulum-v1", n_envs=1)
    hyperparams = manager._preprocess_action_noise(hyperparams, {}, env)
    model = ZOO_ALGORITHMS[algo].algorithm_class(env=env, device="cpu", **hyperparams)
    assert model.gamma == entry.get("gamma", 0.99)
    assert (model.action_noise is not None) == ("noise_type" in entry)
    env.close()


@pytest.mark.parametrize(("algo", "env_id", "entry"), yaml_entries(["bc", "dagger"]))
def test_yaml_entries_of_imitation_construct_beside_an_expert(algo, env_id, entry, tmp_path):
    env_id = REPRESENTATIVES.get(env_id, env_id)
    if "NoFrameskip" in env_id:
        pytest.importorskip("ale_py")
    manager = make_manager(tmp_path, algo, env_id, verbose=0)
    hyperparams, manager.env_wrapper, _, _ = manager._preprocess_hyperparams(copy.deepcopy(entry))
    env = manager.create_envs(1, no_log=True)
    algorithm = DQN if isinstance(env.action_space, spaces.Discrete) else SAC
    expert = algorithm(hyperparams["policy"], env, buffer_size=1, device="cpu").policy
    model = ZOO_ALGORITHMS[algo].algorithm_class(env=env, expert=expert, device="cpu", **hyperparams)
    rate = str(entry["learning_rate"])
    assert (model.lr_schedule(1.0), model.batch_size) == (float(rate.removeprefix("lin_")), entry["batch_size"])
    assert model.predict(env.reset(), deterministic=True)[0].shape == (1, *env.action_space.shape)
    assert isinstance(env, VecNormalize) == ("normalize" in entry)
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


def test_value_based_algorithms_have_an_entry_for_every_environment_that_is_promised():
    names = {"default", "CartPole-v1", "Acrobot-v1", "MountainCar-v0", "LunarLander-v3", "ALE/Boxing-v5", "ALE/Pong-v5"}
    for algo in VALUE_BASED:
        assert names.union(ATARI) <= set(entries_of(algo))
    assert "ALE/MsPacman-v5" in entries_of("iqn")


@pytest.mark.parametrize("algo", VALUE_BASED)
def test_frames_are_skipped_once(algo, tmp_path):
    """In training and in evaluation, whatever the id skips itself."""
    for env_id in ("atari", "ALE/Boxing-v5"):
        entry = entries_of(algo)[env_id]
        model = construct(tmp_path, algo, REPRESENTATIVES.get(env_id, env_id), entry)
        manager = make_manager(tmp_path, algo, REPRESENTATIVES.get(env_id, env_id), verbose=0)
        _, manager.env_wrapper, _, manager.vec_env_wrapper = manager._preprocess_hyperparams(copy.deepcopy(entry))
        for env in (model.env, manager.create_envs(1, eval_env=True, no_log=True)):
            env.reset()
            frames = [env.step([0])[-1][0]["frame_number"] for _ in range(2)]
            assert frames[1] - frames[0] == 4, env_id
            stickiness = env.unwrapped._rules.vector_kwargs["repeat_action_probability"]
            assert stickiness == (0.25 if env_id.startswith("ALE/") else 0.0), env_id
            env.close()


def test_classes_of_this_package_can_be_named(tmp_path):
    """On the command line and in the YAML file, which rl_zoo3 evaluates in two of its modules."""
    text = "dict(features_extractor_class=sb3_ext.nets.ImpalaConvolutions)"
    expected = {"features_extractor_class": ImpalaConvolutions}
    parser = argparse.ArgumentParser()
    parser.add_argument("-params", nargs="+", action=rl_zoo3.utils.StoreDict)
    assert parser.parse_args(["-params", f"policy_kwargs:{text}"]).params == {"policy_kwargs": expected}
    entry = {"n_timesteps": 10, "policy": "CnnPolicy", "policy_kwargs": text}
    assert make_manager(tmp_path, "btr")._preprocess_hyperparams(entry)[0]["policy_kwargs"] == expected


def test_every_entry_of_a_preset_has_its_parts():
    """Those that the header of the file names."""
    for entry in entries_of("btr").values():
        assert entry["munchausen_coef"] == 0.9 and "Prioritized" in entry["replay_buffer_class"]
        assert entry["n_steps_final"] < entry["n_steps"] and "normalization='layer'" in entry["policy_kwargs"]
    for entry in entries_of("rainbow").values():
        assert entry["n_steps"] == 3 and "Prioritized" in entry["replay_buffer_class"]
        for part in ("dueling=True", "noisy=True", "head='categorical'", "bound="):
            assert part in entry["policy_kwargs"]


def test_a_sampler_finds_the_arguments_of_the_yaml_with_the_study(tmp_path, monkeypatch):
    """Nothing else tells it that there are images, and rl_zoo3 promises nobody that it stores them."""
    config = tmp_path / "images.yml"
    config.write_text(yaml.safe_dump({"CartPole-v1": {"n_timesteps": 10, "policy": "CnnPolicy", "batch_size": 4}}))

    class Asked(Exception):
        pass

    def converter(params):
        raise Asked(sorted(params))

    monkeypatch.setattr("sb3_ext.zoo.value_samplers.convert_double_dqn_params", converter)
    manager = make_manager(
        *(tmp_path, "double_dqn", "CartPole-v1"), config=str(config), optimize_hyperparameters=True, verbose=0
    )
    manager.setup_experiment()
    with pytest.raises(Asked) as asked:
        manager.hyperparameters_optimization()
    (names,) = asked.value.args
    assert "adam_eps" in names and "n_steps" in names and "net_arch" not in names


@pytest.mark.slow
@pytest.mark.parametrize("algo", VALUE_BASED)
def test_boxing_from_ram(algo, tmp_path):
    pytest.importorskip("ale_py")
    params = ["learning_starts:100", "train_freq:4", "batch_size:8", "buffer_size:1000"]
    if algo == "soft_dqn":
        params += ["temperature_initial:0.05", "temperature_final:0.02"]
    command = [
        *(sys.executable, "-m", "sb3_ext.zoo", "train", "--algo", algo, "--env", "ALE/Boxing-v5", "-n", "300"),
        *("--conf-file", str(BOXING_RAM), "--env-kwargs", "obs_type:'ram'", "frameskip:4", "--seed", "1"),
        *("--eval-freq", "200", "--eval-episodes", "1", "-params", *params),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "logs" / algo / "ALE-Boxing-v5_1"
    model = ZOO_ALGORITHMS[algo].algorithm_class.load(folder / "ALE-Boxing-v5.zip")
    assert model.num_timesteps >= 300 and model._n_updates > 0
    # Bytes, scaled to [0, 1]; with the evaluation's the same, or it would have failed
    space = model.observation_space
    assert (space.shape, str(space.dtype), space.low.max(), space.high.min()) == ((128,), "float32", 0.0, 1.0)
    assert (folder / "evaluations.npz").is_file()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1e-3", r"learning_rate='1e-3' is text.*!!float 1e-3"),
        ("cosine_1e-3", r"learning_rate: 'cosine_1e-3' is no schedule.*lin_1e-3, cos_1e-3_1e-4"),
        ("const_1e-3", r"learning_rate: 'const_1e-3' is no schedule"),
        ("exponential_1e-3_1e-5", r"learning_rate: 'exponential_1e-3_1e-5' is no schedule"),
        ("exp_1e-3", r"learning_rate: 'exp_1e-3' is no schedule"),
    ],
)
def test_texts_that_are_no_schedule_are_named(text, message):
    register()
    with pytest.raises(ValueError, match=message):
        ExperimentManager._preprocess_schedules({"learning_rate": text})


@pytest.mark.parametrize("text", ["lin_1e-3", "linear_1e-3"])
def test_lines_are_left_to_rl_zoo3(text):
    register()
    schedule = ExperimentManager._preprocess_schedules({"learning_rate": text})["learning_rate"]
    assert type(schedule).__name__ == "SimpleLinearSchedule" and schedule(0.5) == 5e-4
