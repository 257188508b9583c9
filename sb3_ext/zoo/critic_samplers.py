"""Search spaces for CEMQ and NAF, in the form that :mod:`sb3_ext.zoo.samplers` explains."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sb3_ext.functional.maximizers import FEWEST_SAMPLES_OF_CMA
from sb3_ext.zoo.samplers import (
    convert_conditional_params,
    sample_batch_size,
    sample_discount,
    sample_network_params,
    sample_replay_params,
    with_her_kwargs,
    yaml_arguments,
)

if TYPE_CHECKING:
    import optuna


def _sample_common_params(trial: "optuna.Trial", additional_args: dict[str, Any]) -> None:
    sample_discount(trial, additional_args, 0.001, 0.05)
    has_images = "CnnPolicy" in yaml_arguments(trial).get("policy", "")
    sample_batch_size(trial, 5, 7 if has_images else 9)
    trial.suggest_float("learning_rate", 1e-4, 3e-3, log=True)
    trial.suggest_float("tau", 0.001, 0.05, log=True)
    sample_replay_params(trial, additional_args)
    if not has_images:  # after NatureCNN there are no layers by default
        sample_network_params(trial)


def _convert_common_params(params: Mapping[str, Any]) -> dict[str, Any]:
    arguments: dict[str, Any] = {name: params[name] for name in ("learning_rate", "tau")}
    arguments.update(batch_size=2 ** params["batch_size_pow"], policy_kwargs={})
    return arguments | convert_conditional_params(params)


def sample_cem_q_params(
    trial: "optuna.Trial", n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """Draw the hyperparameters of CEMQ, as arguments of its constructor."""
    _sample_common_params(trial, additional_args)
    # An update costs in proportion to the candidates of its targets
    trial.suggest_categorical("n_target_samples", [8, 16, 32])
    trial.suggest_categorical("n_target_iterations", [1, 2])
    maximizers = ["random", "cem", "cma"]
    # Those of the YAML file, to act
    n_samples = float(yaml_arguments(trial).get("n_samples", FEWEST_SAMPLES_OF_CMA))
    trial.suggest_categorical("maximizer", maximizers if n_samples >= FEWEST_SAMPLES_OF_CMA else maximizers[:2])
    trial.suggest_categorical("target_backup", ["min", "mean"])
    return with_her_kwargs(convert_cem_q_params(trial.params), additional_args)


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
    _sample_common_params(trial, additional_args)
    trial.suggest_float("exploration_scale", 0.01, 10.0, log=True)
    return with_her_kwargs(convert_naf_params(trial.params), additional_args)


def convert_naf_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """Turn the parameters of a trial into constructor arguments of ``NAF``."""
    return {**_convert_common_params(sampled_params), "exploration_scale": sampled_params["exploration_scale"]}
