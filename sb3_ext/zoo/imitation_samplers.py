"""Search spaces for behavioural cloning and DAgger, in the form that :mod:`sb3_ext.zoo.samplers` explains."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sb3_ext.zoo.samplers import convert_network_params, sample_batch_size, sample_network_params, yaml_arguments

if TYPE_CHECKING:
    import optuna


def _sample_common_params(trial: "optuna.Trial") -> None:
    sample_batch_size(trial, 5, 9)
    trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)
    trial.suggest_float("ent_coef", 1e-8, 1e-2, log=True)
    trial.suggest_float("l2_coef", 1e-8, 1e-3, log=True)
    if "CnnPolicy" not in yaml_arguments(trial).get("policy", ""):  # after NatureCNN there are no layers by default
        sample_network_params(trial)


def _convert_common_params(params: Mapping[str, Any]) -> dict[str, Any]:
    arguments: dict[str, Any] = {name: params[name] for name in ("learning_rate", "ent_coef", "l2_coef")}
    arguments["batch_size"] = 2 ** params["batch_size_pow"]
    arguments["policy_kwargs"] = convert_network_params(params) if "net_arch" in params else {}
    return arguments


def sample_bc_params(
    trial: "optuna.Trial", n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """Draw the hyperparameters of behavioural cloning, as arguments of its constructor."""
    _sample_common_params(trial)
    return convert_bc_params(trial.params)


def convert_bc_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """Turn the parameters of a trial into constructor arguments of ``BC``."""
    return _convert_common_params(sampled_params)


def sample_dagger_params(
    trial: "optuna.Trial", n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """Draw the hyperparameters of DAgger, as arguments of its constructor."""
    _sample_common_params(trial)
    trial.suggest_categorical("gradient_steps", [300, 1000, 3000])
    return convert_dagger_params(trial.params)


def convert_dagger_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """Turn the parameters of a trial into constructor arguments of ``DAgger``."""
    # Epochs of the YAML file would be in place of the steps
    steps = {"gradient_steps": sampled_params["gradient_steps"], "n_epochs": None}
    return {**_convert_common_params(sampled_params), **steps}
