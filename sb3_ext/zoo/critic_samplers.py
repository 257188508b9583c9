"""Search spaces for CEMQ and NAF, in the form that :mod:`sb3_ext.zoo.samplers` explains."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sb3_ext.zoo.samplers import convert_network_params, sample_network_params

if TYPE_CHECKING:
    import optuna


def _sample_common_params(trial: "optuna.Trial") -> None:
    one_minus_gamma = trial.suggest_float("one_minus_gamma", 0.001, 0.05, log=True)
    # User attributes display the values themselves
    trial.set_user_attr("gamma", 1 - one_minus_gamma)
    batch_size_pow = trial.suggest_int("batch_size_pow", 5, 9)
    trial.set_user_attr("batch_size", 2**batch_size_pow)
    trial.suggest_float("learning_rate", 1e-4, 3e-3, log=True)
    trial.suggest_float("tau", 0.001, 0.05, log=True)
    trial.suggest_categorical("learning_starts", [100, 1_000])
    sample_network_params(trial)


def _convert_common_params(params: Mapping[str, Any]) -> dict[str, Any]:
    arguments: dict[str, Any] = {name: params[name] for name in ("learning_rate", "tau", "learning_starts")}
    arguments["gamma"] = 1 - params["one_minus_gamma"]
    arguments["batch_size"] = 2 ** params["batch_size_pow"]
    arguments["policy_kwargs"] = convert_network_params(params)
    return arguments


def sample_cem_q_params(
    trial: "optuna.Trial", n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """Draw the hyperparameters of CEMQ, as arguments of its constructor."""
    _sample_common_params(trial)
    # An update costs in proportion to the candidates of its targets
    trial.suggest_categorical("n_target_samples", [8, 16, 32])
    trial.suggest_categorical("n_target_iterations", [1, 2])
    trial.suggest_categorical("maximizer", ["random", "cem", "cma"])
    trial.suggest_categorical("target_backup", ["min", "mean"])
    return convert_cem_q_params(trial.params)


def convert_cem_q_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """Turn the parameters of a trial into constructor arguments of ``CEMQ``."""
    names = ("n_target_samples", "n_target_iterations", "maximizer", "target_backup")
    drawn = {name: sampled_params[name] for name in names}
    # An argument without effect is None, because the YAML file's value would be refused
    return {**_convert_common_params(sampled_params), **drawn, "n_elites": None, "subset_size": None}


def sample_naf_params(
    trial: "optuna.Trial", n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """Draw the hyperparameters of NAF, as arguments of its constructor."""
    _sample_common_params(trial)
    trial.suggest_float("exploration_scale", 0.01, 10.0, log=True)
    return convert_naf_params(trial.params)


def convert_naf_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """Turn the parameters of a trial into constructor arguments of ``NAF``."""
    return {**_convert_common_params(sampled_params), "exploration_scale": sampled_params["exploration_scale"]}
