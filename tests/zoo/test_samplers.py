"""Whatever is drawn, the converters are pure functions of it and the constructors accept what they return."""

import inspect
from collections import defaultdict
from types import SimpleNamespace

import optuna
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import FakeImageEnv, SimpleMultiObsEnv
from torch import nn

from sb3_ext import FrameDedupReplayBuffer, PrioritizedReplayBuffer
from sb3_ext.nets import ImpalaConvolutions, NatureConvolutions
from sb3_ext.zoo import ZOO_ALGORITHMS, hyperparams_path
from sb3_ext.zoo.value_samplers import ADAM_EPS, BTR_NETWORK
from tests.support.samplers import (
    ALGORITHMS,
    NO_HER,
    OFF_POLICY,
    UNCOMPARED,
    VALUE_BASED,
    DrawnTrial,
    redq_cost,
    sample,
    study_of,
)

HER = {"using_her_replay_buffer": True, "her_kwargs": {"copy_info_dict": True, "n_sampled_goal": 4}}

# How long an example takes is a matter of what else the machine does.
UNHURRIED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}


@pytest.fixture(scope="module")
def pendulum():
    env = make_vec_env("Pendulum-v1", n_envs=1)
    yield env
    env.close()


@pytest.fixture(scope="module")
def cartpole():
    env = make_vec_env("CartPole-v1", n_envs=1)
    yield env
    env.close()


@OFF_POLICY
@settings(max_examples=300, **UNHURRIED)
@given(data=st.data())
def test_every_draw_makes_sense(algo, data):
    trial = DrawnTrial(data)
    arguments = sample(algo, trial, NO_HER)
    assert trial.user_attrs == {"gamma": arguments["gamma"], "batch_size": arguments["batch_size"]}


@OFF_POLICY
@settings(max_examples=30, **UNHURRIED)
@given(data=st.data())
def test_every_draw_constructs(algo, data, pendulum, cartpole):
    env = pendulum if algo == "redq_sac" else cartpole
    arguments = sample(algo, DrawnTrial(data), NO_HER)
    model = ZOO_ALGORITHMS[algo].algorithm_class("MlpPolicy", env, buffer_size=100, device="cpu", **arguments)
    assert model.gradient_steps == arguments["gradient_steps"]
    assert model.gamma == arguments["gamma"]
    policy_kwargs = arguments["policy_kwargs"]
    assert {name: model.policy_kwargs[name] for name in policy_kwargs} == policy_kwargs
    # The algorithm may keep more, but changes nothing of what it has been told
    assert {name: getattr(model, name) for name in arguments if name not in UNCOMPARED} == {
        name: value for name, value in arguments.items() if name not in UNCOMPARED
    }


@pytest.mark.parametrize("algo", ["double_dqn", "soft_dqn", "iqn", "rainbow", "btr"])
@settings(max_examples=12, **UNHURRIED)
@given(data=st.data())
def test_every_draw_learns(algo, data, cartpole):
    # (The batch size contradicts nothing, and 1024 times 64 quantiles take a while)
    arguments = sample(algo, DrawnTrial(data), NO_HER) | {"learning_starts": 10, "batch_size": 8}
    model = ZOO_ALGORITHMS[algo].algorithm_class("MlpPolicy", cartpole, buffer_size=100, device="cpu", **arguments)
    model.learn(24)
    n_rounds = sum(step > 10 for step in range(1, model.num_timesteps + 1) if step % arguments["train_freq"] == 0)
    assert model._n_updates == n_rounds * arguments["gradient_steps"] > 0


def test_gsde_in_the_yaml_meets_no_sampled_contradiction(pendulum):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    gradients = set()
    for _ in range(12):
        arguments = {"use_sde": True, **sample("redq_sac", study.ask(), NO_HER)}
        ZOO_ALGORITHMS["redq_sac"].algorithm_class("MlpPolicy", pendulum, buffer_size=100, device="cpu", **arguments)
        gradients.add((arguments["actor_gradient"], arguments["use_sde"]))
    assert gradients == {("reparam", True), ("reinforce", False)}


@pytest.mark.parametrize(
    ("algo", "yaml_arguments", "expected"),
    [
        ("redq_sac", {"learning_rate_final": 1.5e-4, "learning_rate_fraction": 0.5}, {"learning_rate_final": {None}}),
        ("redq_sac", {"normalize_advantage": True}, {"normalize_advantage": {True, False}}),
        ("cem_q", {"subset_size": 2, "target_backup": "redq"}, {"subset_size": {None}}),
        ("soft_dqn", {"n_steps": 1, "n_step_correction": "tree_backup"}, {"munchausen_coef": {0.0}}),
    ],
    ids=str,
)
def test_other_arguments_of_the_yaml_meet_none_either(algo, yaml_arguments, expected, pendulum, cartpole):
    env = cartpole if algo == "soft_dqn" else pendulum
    study, found = study_of(policy="MlpPolicy", **yaml_arguments), defaultdict(set)
    for _ in range(25):
        arguments = {**yaml_arguments, **sample(algo, study.ask(), NO_HER), "buffer_size": 50, "device": "cpu"}
        model = ZOO_ALGORITHMS[algo].algorithm_class("MlpPolicy", env, **arguments)
        for name in expected:
            found[name].add(getattr(model, name))
    assert found == expected


@ALGORITHMS
def test_optuna_takes_the_conditional_ranges(algo):
    """One study over all conditions: Optuna compares each distribution with those of the trials before."""
    # As in rl_zoo3.
    sampler = optuna.samplers.TPESampler(n_startup_trials=5, seed=0, multivariate=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for number in range(40):
        trial = study.ask()
        sample(algo, trial, NO_HER)
        study.tell(trial, float(number % 7))
    assert len(study.trials) == 40
    # A reloaded trial has nothing but these.
    stored = study.trials[3].params
    assert ZOO_ALGORITHMS[algo].converter(stored) == sample(algo, optuna.trial.FixedTrial(stored), NO_HER)


@OFF_POLICY
def test_hindsight_replay_keeps_what_the_yaml_says(algo):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        trial = study.ask()
        arguments = sample(algo, trial, HER)
        # The warm-up has to be as long as an episode, which only the YAML file knows.
        assert "learning_starts" not in arguments
        kwargs = arguments["replay_buffer_kwargs"]
        assert kwargs == {
            "copy_info_dict": True,
            "n_sampled_goal": trial.params["n_sampled_goal"],
            "goal_selection_strategy": trial.params["goal_selection_strategy"],
        }
        assert set(kwargs) <= set(inspect.signature(HerReplayBuffer.__init__).parameters)
        converted = ZOO_ALGORITHMS[algo].converter(trial.params)
        assert converted["replay_buffer_kwargs"].items() <= kwargs.items()


def test_redq_sac_reaches_every_backup_and_gradient():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [SimpleNamespace(**sample("redq_sac", study.ask(), NO_HER)) for _ in range(200)]
    assert {arguments.target_backup for arguments in drawn} == {"vanilla", "doubleq", "min", "mean", "redq", "rem"}
    assert {(arguments.actor_gradient, arguments.reinforce_baseline) for arguments in drawn} == {
        ("reparam", None),
        ("reinforce", "loo"),
        ("reinforce", "mean_action"),
        ("reinforce", "none"),
    }
    assert {arguments.subset_size for arguments in drawn} == {None, 1, 2, 3, 4, 5}


def test_soft_dqn_reaches_every_backup_and_temperature():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [SimpleNamespace(**sample("soft_dqn", study.ask(), NO_HER)) for _ in range(400)]
    backups = {"soft", "boltzmann", "mellowmax", "max"}
    assert {(arguments.target_backup, arguments.auto_temperature) for arguments in drawn} == {
        (backup, auto) for backup in backups for auto in (False, True)
    }
    assert {arguments.munchausen_coef for arguments in drawn} == {0.0, 0.9}


# Of each YAML entry the arguments, and what they cost: written down by hand
COSTS = {
    "Pendulum-v1": 5 * 4 * (1 + 1 / 4) * 256 * 0.3,
    "MountainCarContinuous-v0": 5 * 2 * 512 * 0.3,
    "LunarLanderContinuous-v3": 5 * 4 * (1 + 1 / 4) * 256 * 400 * 300 / 256**2,
    "BipedalWalker-v3": 5 * 2 * 256 * 400 * 300 / 256**2,
    "default": 10 * 20 * (1 + 1 / 20) * 256,
}


@pytest.mark.parametrize(("entry", "cost"), list(COSTS.items()))
@settings(max_examples=40, **UNHURRIED)
@given(data=st.data())
def test_a_trial_costs_a_quarter_to_twice_of_its_entry(entry, cost, data):
    entries = yaml.safe_load(hyperparams_path("redq_sac").read_text())
    trial = DrawnTrial(data)
    arguments = dict(entries[entry])
    if "policy_kwargs" in arguments:  # which rl_zoo3 evaluates; classes and functions are in its text, too
        parts = eval(arguments["policy_kwargs"])
        arguments["policy_kwargs"] = {**parts, "activation_fn": nn.ReLU, "bias_init": lambda bias: bias}
    trial.study = study_of(**arguments)
    drawn = sample("redq_sac", trial, NO_HER)
    assert 0.2 * cost <= redq_cost(drawn) <= 2.04 * cost


@VALUE_BASED
def test_updates_follow_the_number_of_environments(algo):
    """At most one per transition, as in rl_zoo3; with one environment that is one per step."""
    for n_envs, highest in ((1, 1.0), (4, 4.0)):
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        drawn = [sample(algo, study.ask(), NO_HER, n_envs) for _ in range(300)]
        ratios = [arguments["gradient_steps"] / arguments["train_freq"] for arguments in drawn]
        assert max(ratios) == highest


@VALUE_BASED
def test_images_keep_the_network_of_their_policy(algo):
    env = make_vec_env(lambda: FakeImageEnv(screen_height=36, screen_width=36, discrete=True), n_envs=1)
    study = study_of(policy="CnnPolicy", policy_kwargs={"optimizer_kwargs": {"eps": 1e-4}})
    for _ in range(3):
        trial = study.ask()
        arguments = sample(algo, trial, NO_HER)
        assert not {"net_arch", "activation_fn", "learning_starts"} & set(trial.params)
        assert trial.distributions["batch_size_pow"].high == 7
        model = ZOO_ALGORITHMS[algo].algorithm_class("CnnPolicy", env, buffer_size=100, device="cpu", **arguments)
        # That of the papers: 512 units behind the convolutions, which IQN has behind its embedding
        # or, where it is dueling, before V and A
        assert model.q_net.net_arch == ([512] if algo == "iqn" or trial.params["dueling"] else [])
        assert model.q_net.dueling == trial.params["dueling"]
        assert model.policy.optimizer.defaults["eps"] == trial.params["adam_eps"]
    env.close()


def test_presets_keep_their_parts_with_images():
    env = make_vec_env(lambda: FakeImageEnv(screen_height=36, screen_width=36, discrete=True), n_envs=1)
    for algo in ("rainbow", "btr"):
        trial = study_of(policy="CnnPolicy").ask()
        arguments = sample(algo, trial, NO_HER)
        model = ZOO_ALGORITHMS[algo].algorithm_class("CnnPolicy", env, buffer_size=100, device="cpu", **arguments)
        modules = {type(module).__name__ for module in model.q_net.modules()}
        assert {"NoisyLinear", "DuelingMLP"} <= modules if algo == "rainbow" else {"GroupNorm", "LayerNorm"} <= modules
        assert model.policy.optimizer.defaults["eps"] == trial.params["adam_eps"]
    env.close()


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"features_extractor_kwargs": {"features_dim": 512, "normalization": "layer"}, "net_arch": []},
        {
            "features_extractor_class": ImpalaConvolutions,
            "features_extractor_kwargs": {"features_dim": 9, "width": 1, "pool_size": 2, "normalization": "layer"},
            "net_arch": [5],
            "optimizer_kwargs": {"eps": 1e-4},
        },
    ],
    ids=["none", "default", "impala"],
)
def test_a_search_keeps_the_network_that_it_is_given(given):
    env = make_vec_env(lambda: FakeImageEnv(screen_height=40, screen_width=40, discrete=True), n_envs=1)
    study, drawn = study_of(policy="CnnPolicy", policy_kwargs=given), set()
    for _ in range(12):
        trial = study.ask()
        arguments = sample("btr", trial, NO_HER)
        network = {name: value for name, value in arguments["policy_kwargs"].items() if name != "optimizer_kwargs"}
        expected = {name: value for name, value in given.items() if name != "optimizer_kwargs"}
        assert network == (expected or dict(BTR_NETWORK))
        # A study's draws stay as they were where the network does
        assert ("network" in trial.params) == ("features_extractor_class" in given)
        drawn.add(arguments["policy_kwargs"]["optimizer_kwargs"]["eps"])
        study.tell(trial, 0.0)
    assert 8e-5 in drawn <= set(ADAM_EPS)
    model = ZOO_ALGORITHMS["btr"].algorithm_class("CnnPolicy", env, buffer_size=100, device="cpu", **arguments)
    default = NatureConvolutions
    assert type(model.q_net.features_extractor) is given.get("features_extractor_class", default)
    env.close()


def test_a_network_that_cannot_be_read_is_left_to_the_sampler():
    study = study_of(policy="CnnPolicy", policy_kwargs="{'activation_fn': <function f at 0x7f>}")
    arguments = sample("btr", study.ask(), NO_HER)
    assert arguments["policy_kwargs"]["features_extractor_kwargs"] == BTR_NETWORK["features_extractor_kwargs"]


@VALUE_BASED
@pytest.mark.parametrize("buffer_class", [None, FrameDedupReplayBuffer], ids=str)
def test_dictionaries_have_n_steps_only_with_buffers_that_know_them(algo, buffer_class):
    env = make_vec_env(lambda: SimpleMultiObsEnv(discrete_actions=True), n_envs=1)
    yaml_arguments = {"policy": "MultiInputPolicy"}
    if buffer_class is not None:
        yaml_arguments["replay_buffer_class"] = buffer_class
    study = study_of(**yaml_arguments)
    drawn = set()
    for _ in range(8):
        arguments = {**yaml_arguments, **sample(algo, study.ask(), NO_HER), "buffer_size": 50, "device": "cpu"}
        model = ZOO_ALGORITHMS[algo].algorithm_class(env=env, **arguments)
        drawn.add(model.n_steps)
    assert (drawn == {1}) == (buffer_class is None)
    env.close()


def test_a_study_whose_arguments_are_not_yet_stored_has_no_n_steps():
    """Another process has just begun it: the policy may be one for dictionaries."""
    study = study_of(batch_size=32)
    assert not any("n_steps" in sample("double_dqn", study.ask(), NO_HER) for _ in range(20))


@VALUE_BASED
@pytest.mark.parametrize(
    "yaml_arguments",
    [
        {
            "n_steps": 3,
            "tau": 0.005,
            "learning_rate_final": 1e-6,
            "learning_rate_fraction": 0.5,
            "optimize_memory_usage": False,
        },
        {
            "n_steps": 3,
            "gamma": 0.9,
            "replay_buffer_class": PrioritizedReplayBuffer,
            "replay_buffer_kwargs": {"n_steps": 3, "gamma": 0.9},
        },
        {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}},
    ],
    ids="-".join,
)
def test_the_yaml_meets_no_sampled_contradiction(algo, yaml_arguments, cartpole):
    if algo == "soft_dqn":
        yaml_arguments = {**yaml_arguments, "munchausen_coef": 0.5, "munchausen_clip": -2.0}
        yaml_arguments |= {"temperature_final": 2.0, "target_entropy_fraction": 0.5}
    if algo == "iqn":
        yaml_arguments = {**yaml_arguments, "munchausen_coef": 0.9, "munchausen_temperature": 0.1}
    if algo != "soft_dqn":  # of noisy layers, which no draw has
        yaml_arguments = {**yaml_arguments, "exploration_initial_eps": 0.0}
    yaml_arguments = {"policy": "MlpPolicy", **yaml_arguments}
    study = study_of(**yaml_arguments)
    buffer_kwargs = yaml_arguments.get("replay_buffer_kwargs", {})
    for _ in range(25):
        trial = study.ask()
        sampled = sample(algo, trial, {**NO_HER, "her_kwargs": buffer_kwargs})
        for name, param in (("n_steps", "n_steps"), ("gamma", "one_minus_gamma")):
            assert not (name in buffer_kwargs and param in trial.params)
        arguments = {**yaml_arguments, **sampled, "buffer_size": 50, "device": "cpu"}
        model = ZOO_ALGORITHMS[algo].algorithm_class(env=cartpole, **arguments)
        assert model.tau == 1.0 and model.learning_rate_final is None
