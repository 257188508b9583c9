"""Whatever is drawn, the converters are pure functions of it and the constructors accept what they return."""

import copy
import inspect
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.env_util import make_vec_env

from sb3_ext.zoo import ZOO_ALGORITHMS

NO_HER = {"using_her_replay_buffer": False, "her_kwargs": {}}
HER = {"using_her_replay_buffer": True, "her_kwargs": {"copy_info_dict": True, "n_sampled_goal": 4}}

# How long an example takes is a matter of what else the machine does.
UNHURRIED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}

ALGORITHMS = pytest.mark.parametrize("algo", list(ZOO_ALGORITHMS))


class DrawnTrial:
    """
    A trial whose values Hypothesis chooses: unlike a random sampler, it looks at the ends of the ranges.

    :param data: where to draw from
    """

    def __init__(self, data: st.DataObject):
        self.data = data
        self.params: dict[str, Any] = {}
        self.user_attrs: dict[str, Any] = {}

    def _keep(self, name: str, strategy: st.SearchStrategy) -> Any:
        # Optuna returns the first value when a name is suggested again.
        if name not in self.params:
            self.params[name] = self.data.draw(strategy, label=name)
        return self.params[name]

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        assert low < high and (low > 0 or not log)
        return self._keep(name, st.floats(low, high))

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        assert low <= high and (low > 0 or not log)
        return self._keep(name, st.integers(low, high))

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        return self._keep(name, st.sampled_from(choices))

    def set_user_attr(self, name: str, value: Any) -> None:
        self.user_attrs[name] = value


@pytest.fixture(scope="module")
def pendulum():
    env = make_vec_env("Pendulum-v1", n_envs=1)
    yield env
    env.close()


def check_redq_sac(arguments: dict[str, Any]) -> None:
    """
    Which combinations of REDQ-SAC's arguments make sense, written down independently of the sampler.

    :param arguments: the constructor's arguments
    """
    n_critics = arguments["policy_kwargs"]["n_critics"]
    subset_size = arguments["subset_size"]
    assert (subset_size is None) == (arguments["target_backup"] != "redq")
    assert subset_size is None or 1 <= subset_size <= n_critics
    assert arguments["target_backup"] != "doubleq" or n_critics >= 2
    if arguments["actor_gradient"] == "reparam":
        assert arguments["n_actor_samples"] == 1 and arguments["reinforce_baseline"] is None
    else:
        assert arguments["n_actor_samples"] >= (2 if arguments["reinforce_baseline"] == "loo" else 1)
        assert arguments["use_sde"] is False
    # The update-to-data ratio has to survive: rl_zoo3's own converter sets both to the same number.
    assert arguments["train_freq"] == 1
    assert arguments["gradient_steps"] in {1, 2, 5, 10, 20}


CHECKS = {"redq_sac": check_redq_sac}


def sample(algo: str, trial: Any, additional_args: dict[str, Any]) -> dict[str, Any]:
    """
    Sample as rl_zoo3 does, and check what holds for every algorithm.

    :param algo: id of the algorithm
    :param trial: the trial
    :param additional_args: what rl_zoo3 passes on about the replay buffer
    :return: the sampled arguments
    """
    entry = ZOO_ALGORITHMS[algo]
    kept_args = copy.deepcopy(additional_args)
    arguments = entry.sampler(trial, 1, 1, additional_args)
    assert additional_args == kept_args

    params = dict(trial.params)
    kept_params = copy.deepcopy(params)
    converted = entry.converter(params)
    assert params == kept_params
    assert entry.converter(params) == converted
    # Not even a list is shared between two results: rl_zoo3 and Stable-Baselines3 write into these dictionaries.
    assert entry.converter(params)["policy_kwargs"]["net_arch"] is not converted["policy_kwargs"]["net_arch"]
    if not additional_args["using_her_replay_buffer"]:
        assert arguments == converted
    assert set(arguments) <= set(inspect.signature(entry.algorithm_class.__init__).parameters)
    CHECKS[algo](arguments)
    return arguments


@ALGORITHMS
@settings(max_examples=300, **UNHURRIED)
@given(data=st.data())
def test_every_draw_makes_sense(algo, data):
    trial = DrawnTrial(data)
    arguments = sample(algo, trial, NO_HER)
    assert trial.user_attrs == {"gamma": arguments["gamma"], "batch_size": arguments["batch_size"]}


@ALGORITHMS
@settings(max_examples=30, **UNHURRIED)
@given(data=st.data())
def test_every_draw_constructs(algo, data, pendulum):
    arguments = sample(algo, DrawnTrial(data), NO_HER)
    model = ZOO_ALGORITHMS[algo].algorithm_class("MlpPolicy", pendulum, buffer_size=100, device="cpu", **arguments)
    assert model.gradient_steps == arguments["gradient_steps"]
    assert model.gamma == arguments["gamma"]
    assert model.policy_kwargs["n_critics"] == arguments["policy_kwargs"]["n_critics"]


@ALGORITHMS
def test_gsde_in_the_yaml_meets_no_sampled_contradiction(algo, pendulum):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    gradients = set()
    for _ in range(12):
        arguments = {"use_sde": True, **sample(algo, study.ask(), NO_HER)}
        ZOO_ALGORITHMS[algo].algorithm_class("MlpPolicy", pendulum, buffer_size=100, device="cpu", **arguments)
        gradients.add((arguments["actor_gradient"], arguments["use_sde"]))
    assert gradients == {("reparam", True), ("reinforce", False)}


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


@ALGORITHMS
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
