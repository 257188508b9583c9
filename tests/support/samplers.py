"""Trials that hypothesis draws instead of Optuna, and what has to hold for the arguments they get."""

import copy
import inspect
from itertools import pairwise
from typing import Any, get_args

import optuna
import pytest
from hypothesis import strategies as st

from sb3_ext.zoo import ZOO_ALGORITHMS

NO_HER = {"using_her_replay_buffer": False, "her_kwargs": {}}

# What a model keeps in another form than it was given
UNCOMPARED = {"policy_kwargs", "train_freq", "ent_coef", "use_sde"}
ALGORITHMS = pytest.mark.parametrize("algo", list(ZOO_ALGORITHMS))
# Those with the common sampler
OFF_POLICY = pytest.mark.parametrize(
    "algo", [algo for algo in ZOO_ALGORITHMS if algo not in ("bc", "dagger", "cem_q", "naf")]
)
VALUE_BASED = pytest.mark.parametrize("algo", ["double_dqn", "soft_dqn", "iqn"])


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

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        assert low <= high and (low > 0 or not log)
        return self._keep(name, st.integers(0, (high - low) // step).map(lambda n: low + n * step))

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        return self._keep(name, st.sampled_from(choices))

    def set_user_attr(self, name: str, value: Any) -> None:
        self.user_attrs[name] = value


def accepted_arguments(algorithm_class: type) -> set[str]:
    """
    :param algorithm_class: any
    :return: the names of its constructor's arguments, those of an annotated ``**kwargs`` included
    """
    parameters = inspect.signature(algorithm_class.__init__).parameters
    typed_dicts = [get_args(p.annotation)[0] for p in parameters.values() if p.kind is p.VAR_KEYWORD]
    return set(parameters).union(*(typed_dict.__annotations__ for typed_dict in typed_dicts))


def study_of(**yaml_arguments: Any) -> optuna.Study:
    """
    :param yaml_arguments: what the YAML file has
    :return: a study as rl_zoo3 begins it: it stores the arguments as strings
    """
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=2))
    for name, value in {"command": "train", **yaml_arguments}.items():
        study.set_user_attr(name, str(value))
    return study


def check_redq_sac(arguments: dict[str, Any]) -> None:
    """
    Which combinations of REDQ-SAC's arguments make sense, written down independently of the sampler.

    :param arguments: the constructor's arguments
    """
    n_critics = arguments["policy_kwargs"]["n_critics"]
    if "width" in arguments["policy_kwargs"]:  # normalized networks
        assert n_critics >= 2 and arguments["subset_size"] is None
        assert arguments["learning_rate_final"] < arguments["learning_rate"]
        assert arguments["train_freq"] == 1 and 1 <= arguments["gradient_steps"] <= 4
        return
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
    assert 1 <= arguments["gradient_steps"] <= 20


def redq_cost(arguments: dict[str, Any]) -> float:
    """
    :param arguments: of REDQ-SAC with ``MlpPolicy`` and ``train_freq=1``, complete
    :return: rows of minibatches that critics and actor see in each step, over all critics, as those of 2x256 units
    """
    delay, samples = arguments["policy_delay"], arguments["n_actor_samples"]
    critics_rows = arguments["gradient_steps"] * arguments["batch_size"] * (1 + samples / delay)
    parts = arguments["policy_kwargs"]
    return parts["n_critics"] * critics_rows * relative_cost(parts["net_arch"])


def relative_cost(net_arch: list[int]) -> float:
    """Return the number of weights between hidden layers relative to those of [256, 256], for small networks 0.3."""
    return max(sum(a * b for a, b in pairwise(net_arch)) / 256**2, 0.3)


def check_value_based(arguments: dict[str, Any]) -> None:
    """
    :param arguments: the constructor's arguments of any value-based algorithm
    """
    assert 1 <= arguments["train_freq"] <= 10
    assert 1 <= arguments["gradient_steps"] <= 32
    assert 1 <= arguments.get("n_steps", 1) <= 5
    assert 1 <= arguments["target_update_interval"] <= 20_000
    # Whatever the YAML file has of these was meant for its own interval and learning rate
    assert arguments["tau"] == 1.0 and arguments["learning_rate_final"] is None
    assert not {"risk_measure", "risk_eta", "kappa"} & set(arguments)  # preferences, no hyperparameters


def check_choices(arguments: dict[str, Any]) -> None:
    """
    :param arguments: the constructor's arguments of an algorithm whose parts are drawn
    """
    check_value_based(arguments)
    assert {arguments["double_q"], arguments["policy_kwargs"]["dueling"]} <= {True, False}


def check_double_dqn(arguments: dict[str, Any]) -> None:
    """
    :param arguments: the constructor's arguments
    """
    check_choices(arguments)
    assert 0 <= arguments["exploration_final_eps"] <= 0.2
    # At 0 there would be no decay at all
    assert 0 < arguments["exploration_fraction"] <= 0.5


def check_soft_dqn(arguments: dict[str, Any]) -> None:
    """
    :param arguments: the constructor's arguments
    """
    check_choices(arguments)
    assert not [name for name in arguments if name.startswith("exploration")]
    if arguments["auto_temperature"]:
        assert 0 < arguments["target_entropy_fraction"] < 1
        assert arguments["temperature_final"] is None and arguments["temperature_fraction"] is None
    else:
        assert arguments["target_entropy_fraction"] is None
        assert 0 < arguments["temperature_final"] <= arguments["temperature_initial"]
        assert 0 < arguments["temperature_fraction"] <= 1
    if arguments["munchausen_coef"] > 0:
        assert (arguments["target_backup"], arguments["double_q"]) == ("soft", False)


def check_iqn(arguments: dict[str, Any]) -> None:
    """
    :param arguments: the constructor's arguments
    """
    check_double_dqn(arguments)
    samples = {arguments[f"n_{what}quantile_samples"] for what in ("", "target_", "action_")}
    assert samples <= {8, 16, 32, 64}
    assert arguments["policy_kwargs"]["n_cosines"] in {32, 64, 128}


def check_rows(arguments: dict[str, Any], n_envs: int) -> None:
    """
    :param arguments: the constructor's arguments of any value-based algorithm
    """
    rows = arguments["batch_size"] * arguments["gradient_steps"] / arguments["train_freq"]
    net_arch = arguments.get("policy_kwargs", {}).get("net_arch")
    if net_arch:
        rows, most = rows * relative_cost(net_arch), 256  # twice those of LunarLander's entry
    else:
        most = 16  # images, of which Dopamine has 8
    levels = arguments.get("n_quantile_samples", 8) + arguments.get("n_target_quantile_samples", 8)
    rows *= (64 + levels) / 80
    is_least = arguments["gradient_steps"] == 1 and arguments["train_freq"] == 10
    assert is_least or rows <= 1.1 * most * n_envs


def check_rainbow(arguments: dict[str, Any]) -> None:
    """
    :param arguments: the constructor's arguments
    """
    check_value_based(arguments)
    parts = arguments["policy_kwargs"]
    assert parts["dueling"] is parts["noisy"] is True and parts["head"] == "categorical"
    assert arguments["exploration_initial_eps"] == arguments["exploration_final_eps"] == 0


def check_btr(arguments: dict[str, Any]) -> None:
    """
    :param arguments: the constructor's arguments
    """
    check_value_based(arguments)
    assert arguments["munchausen_coef"] == 0.9 and "layer" in str(arguments["policy_kwargs"])


def check_imitation(arguments: dict[str, Any]) -> None:
    """
    :param arguments: the constructor's arguments
    """
    assert arguments["ent_coef"] > 0 and arguments["l2_coef"] > 0
    assert 32 <= arguments["batch_size"] <= 512


def check_continuous_q(arguments: dict[str, Any]) -> None:
    """
    :param arguments: the constructor's arguments
    """
    assert 0.95 <= arguments["gamma"] <= 0.999 and 0 < arguments["tau"] <= 0.05
    assert arguments.get("n_target_samples", 8) * arguments.get("n_target_iterations", 1) <= 64


CHECKS = {
    "redq_sac": check_redq_sac,
    "double_dqn": check_double_dqn,
    "soft_dqn": check_soft_dqn,
    "iqn": check_iqn,
    "rainbow": check_rainbow,
    "btr": check_btr,
    "cem_q": check_continuous_q,
    "naf": check_continuous_q,
    "bc": check_imitation,
    "dagger": check_imitation,
}


def sample(algo: str, trial: Any, additional_args: dict[str, Any], n_envs: int = 1) -> dict[str, Any]:
    """
    Sample as rl_zoo3 does, and check what holds for every algorithm.

    :param algo: id of the algorithm
    :param trial: the trial
    :param additional_args: what rl_zoo3 passes on about the replay buffer
    :param n_envs: number of environments
    :return: the sampled arguments
    """
    entry = ZOO_ALGORITHMS[algo]
    kept_args = copy.deepcopy(additional_args)
    arguments = entry.sampler(trial, 1, n_envs, additional_args)
    assert additional_args == kept_args

    params = dict(trial.params)
    kept_params = copy.deepcopy(params)
    converted = entry.converter(params)
    assert params == kept_params
    assert entry.converter(params) == converted
    # Not even a list is shared between two results: rl_zoo3 and Stable-Baselines3 write into these dictionaries.
    if "net_arch" in converted["policy_kwargs"]:
        assert entry.converter(params)["policy_kwargs"]["net_arch"] is not converted["policy_kwargs"]["net_arch"]
    if not additional_args["using_her_replay_buffer"]:
        assert arguments == converted
    assert set(arguments) <= accepted_arguments(entry.algorithm_class)
    CHECKS[algo](arguments)
    if "target_update_interval" in trial.params:
        check_rows(arguments, n_envs)
    return arguments
