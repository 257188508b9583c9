"""Search spaces for the value-based algorithms, in the form that :mod:`sb3_ext.zoo.samplers` explains."""

import copy
import importlib
import json
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sb3_ext.zoo.samplers import (
    NET_COSTS,
    affordable,
    convert_common_params,
    sample_learning_params,
    sample_network_params,
    sample_replay_params,
    with_her_kwargs,
    yaml_arguments,
    yaml_buffer_kwargs,
    yaml_policy_kwargs,
)

if TYPE_CHECKING:
    import optuna

ADAM_EPS = (1e-8, 0.00008, 0.00015, 0.0003125)
"""
The values of PyTorch, BTR (https://arxiv.org/abs/2411.03820: 0.005 / batch size, here 64), Rainbow
(https://arxiv.org/abs/1710.02298) and IQN (0.01 / 32).
"""

BTR_NETWORK = MappingProxyType(
    {"features_extractor_kwargs": {"features_dim": 512, "normalization": "layer"}, "net_arch": []}
)
"""The network of ``btr.yml``'s entries for images, which a study has unless it is given another one."""

QUANTILE_SAMPLES = ("n_quantile_samples", "n_target_quantile_samples", "n_action_quantile_samples")

MAX_GRADIENT_STEPS = 32
"""With many environments, an update per transition would make a vector step slow."""

MAX_ROWS_PER_STEP = 256.0
"""Rows of minibatches for each transition, times the network's cost. DQN has 8 to 128."""

MAX_IMAGES_PER_STEP = 16.0
"""The same for images, of which Dopamine's DQN has 8."""


def _may_sample_n_steps(trial: "optuna.Trial", additional_args: dict[str, Any]) -> bool:
    """Tell whether the argument ``n_steps`` is allowed and has an effect."""
    if additional_args.get("using_her_replay_buffer") or "n_steps" in yaml_buffer_kwargs(additional_args):
        return False
    given = yaml_arguments(trial)
    if given.get("replay_buffer_class", "None") != "None":
        return True  # a buffer without it ignores it, and SB3 warns
    # SB3's own buffers have no n-step returns for dictionaries, nor with `optimize_memory_usage`
    compact = given.get("optimize_memory_usage", "False") != "False"
    return given.get("policy") in {"MlpPolicy", "CnnPolicy"} and not compact


def _sample_value_params(
    trial: "optuna.Trial",
    n_envs: int,
    additional_args: dict[str, Any],
    is_preset: bool = False,
    row_cost: float = 1.0,
) -> None:
    """
    Draw what every value-based algorithm has, from ranges like those of rl_zoo3's DQN.

    For images, layers, activations and the warm-up are not drawn. The policy's own network is that of the papers, and
    the widths for vectors would put a bottleneck into it. Adam's epsilon is drawn, because sampled ``policy_kwargs``
    replace those of the YAML file. Minibatches have at most 128 images, to save time.

    :param is_preset: whether the parts of the algorithm are given, and are not to be drawn
    :param row_cost: what a row of a minibatch costs, relative to DQN's
    """
    has_images = "CnnPolicy" in yaml_arguments(trial).get("policy", "")
    sample_learning_params(trial, additional_args, max_batch_pow=7 if has_images else 10)
    rows = row_cost * 2 ** trial.params["batch_size_pow"]
    if not has_images:
        sample_network_params(trial)
        rows *= NET_COSTS[trial.params["net_arch"]]
    rows_per_round = n_envs * (MAX_IMAGES_PER_STEP if has_images else MAX_ROWS_PER_STEP)
    train_freq = trial.suggest_int("train_freq", min(math.ceil(rows / rows_per_round), 10), 10)
    # At most one update per transition, as in rl_zoo3. Not a ratio, because a converter does not know `n_envs`
    most = affordable(train_freq * rows_per_round, rows, min(train_freq * n_envs, MAX_GRADIENT_STEPS))
    trial.suggest_int("gradient_steps", 1, most, log=True)
    trial.suggest_int("target_update_interval", 1, 20_000, log=True)
    if not is_preset:
        if _may_sample_n_steps(trial, additional_args):
            trial.suggest_int("n_steps", 1, 5)
        trial.suggest_categorical("double_q", [False, True])
        trial.suggest_categorical("dueling", [False, True])
    if has_images:
        trial.suggest_categorical("adam_eps", list(ADAM_EPS))
    else:
        sample_replay_params(trial, additional_args)


def _convert_value_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Convert what :func:`_sample_value_params` has drawn."""
    arguments = convert_common_params(params)
    same_name = ("train_freq", "target_update_interval", "double_q")
    arguments.update({name: params[name] for name in same_name if name in params})
    arguments["tau"] = 1.0  # that of the YAML file fits another interval
    if "n_steps" in params:
        arguments.update(n_steps=params["n_steps"], n_steps_final=None, n_steps_fraction=None)
    if "dueling" in params:
        arguments["policy_kwargs"]["dueling"] = params["dueling"]
    if "adam_eps" in params:
        arguments["policy_kwargs"]["optimizer_kwargs"] = {"eps": params["adam_eps"], "fused": True}
    return arguments


def _sample_exploration_params(trial: "optuna.Trial") -> None:
    """Draw the epsilon-greedy exploration, as rl_zoo3 does for DQN. The fraction is never 0, which means no decay."""
    trial.suggest_float("exploration_final_eps", 0.0, 0.2)
    trial.suggest_float("exploration_fraction", 0.005, 0.5)


def _convert_exploration_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Convert what :func:`_sample_exploration_params` has drawn."""
    # The policy_kwargs that are drawn have no noisy layers, for which the YAML file's value may be 0
    initial = {"exploration_initial_eps": 1.0}
    return initial | {name: params[name] for name in ("exploration_final_eps", "exploration_fraction")}


def sample_double_dqn_params(
    trial: "optuna.Trial", n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """Draw the hyperparameters of Double DQN, as arguments of its constructor."""
    _sample_value_params(trial, n_envs, additional_args)
    _sample_exploration_params(trial)
    return with_her_kwargs(convert_double_dqn_params(trial.params), additional_args)


def convert_double_dqn_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """Turn the parameters of a trial into constructor arguments of ``DoubleDQN``."""
    return {**_convert_value_params(sampled_params), **_convert_exploration_params(sampled_params)}


def sample_soft_dqn_params(
    trial: "optuna.Trial", n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """
    Draw the hyperparameters of soft Q-learning, as arguments of its constructor.

    Temperatures are in units of the reward, and their range fits rewards around 1. The Boltzmann policy explores, so
    epsilon is not drawn. It is the YAML file's, or 0.
    """
    _sample_value_params(trial, n_envs, additional_args)
    backup = trial.suggest_categorical("target_backup", ["soft", "boltzmann", "mellowmax", "max"])
    trial.suggest_float("temperature_initial", 0.01, 10.0, log=True)
    if trial.suggest_categorical("auto_temperature", [False, True]):
        trial.suggest_float("target_entropy_fraction", 0.01, 0.5, log=True)
    else:
        # The final temperature is drawn as a ratio, so that it never exceeds the initial one and the range is always
        # the same
        trial.suggest_float("temperature_ratio", 0.01, 1.0, log=True)
        trial.suggest_float("temperature_fraction", 0.05, 1.0)
    # It is not drawn, so it is the YAML file's
    is_corrected = yaml_arguments(trial).get("n_step_correction", "none") != "none"
    if backup == "soft" and not trial.params["double_q"] and not is_corrected:
        trial.suggest_categorical("munchausen_coef", [0.0, 0.9])
    return with_her_kwargs(convert_soft_dqn_params(trial.params), additional_args)


def convert_soft_dqn_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """Turn the parameters of a trial into constructor arguments of ``SoftDQN``."""
    arguments = _convert_value_params(sampled_params)
    arguments.update(
        {name: sampled_params[name] for name in ("target_backup", "temperature_initial", "auto_temperature")}
    )
    # Arguments without effect are None, because the YAML file's values would be refused
    for name in ("target_entropy_fraction", "temperature_fraction"):
        arguments[name] = sampled_params.get(name)
    ratio = sampled_params.get("temperature_ratio")
    arguments["temperature_final"] = None if ratio is None else sampled_params["temperature_initial"] * ratio
    arguments["munchausen_coef"] = sampled_params.get("munchausen_coef", 0.0)
    if arguments["munchausen_coef"] == 0:
        arguments["munchausen_clip"] = None
    return arguments


def _row_cost(n_quantiles: int, n_target_quantiles: int) -> float:
    """Return what a row costs with so many levels, relative to the YAML file's 8 and 8."""
    # 64 and 64 took about three times as long on Atari (benchmarks/results/atari_speed.csv)
    return (1 + (n_quantiles + n_target_quantiles) / 64) / 1.25


def sample_iqn_params(
    trial: "optuna.Trial", n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """
    Draw the hyperparameters of IQN, as arguments of its constructor.

    ``risk_measure`` and ``risk_eta`` are not sampled. They express what a user wants of an agent, and a study compares
    mean returns. ``kappa`` is 1 in all of the literature. The YAML file may set all three.
    """
    levels = {name: trial.suggest_categorical(name, [8, 16, 32, 64]) for name in QUANTILE_SAMPLES}
    row_cost = _row_cost(levels["n_quantile_samples"], levels["n_target_quantile_samples"])
    _sample_value_params(trial, n_envs, additional_args, row_cost=row_cost)
    _sample_exploration_params(trial)
    trial.suggest_categorical("n_cosines", [32, 64, 128])
    return with_her_kwargs(convert_iqn_params(trial.params), additional_args)


def convert_iqn_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """Turn the parameters of a trial into constructor arguments of ``IQN``."""
    arguments = {**_convert_value_params(sampled_params), **_convert_exploration_params(sampled_params)}
    arguments.update({name: sampled_params[name] for name in QUANTILE_SAMPLES})
    if sampled_params["double_q"]:  # which has no Munchausen bonus, even if the YAML file has one
        arguments.update(munchausen_coef=0.0, munchausen_temperature=None, munchausen_clip=None)
    arguments["policy_kwargs"]["n_cosines"] = sampled_params["n_cosines"]
    return arguments


def sample_rainbow_params(
    trial: "optuna.Trial", n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """Draw the hyperparameters of Rainbow, as arguments of ``DoubleDQN``. All its parts stay."""
    _sample_value_params(trial, n_envs, additional_args, is_preset=True)
    trial.suggest_float("noisy_std", 0.1, 1.0, log=True)
    # The largest return: 10 in the paper, for clipped rewards
    trial.suggest_float("bound", 5.0, 500.0, log=True)
    return with_her_kwargs(convert_rainbow_params(trial.params), additional_args)


def convert_rainbow_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """Turn the parameters of a trial into constructor arguments of ``DoubleDQN``."""
    arguments = _convert_value_params(sampled_params)
    arguments.update(exploration_initial_eps=0.0, exploration_final_eps=0.0)
    parts = {"dueling": True, "noisy": True, "noisy_std": sampled_params["noisy_std"], "head": "categorical"}
    arguments["policy_kwargs"].update(parts, head_kwargs={"bound": sampled_params["bound"]})
    return arguments


def sample_btr_params(
    trial: "optuna.Trial", n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """
    Draw the hyperparameters of Beyond the Rainbow, as arguments of ``IQN``. All its parts stay.

    So does, for images, the network of the YAML file or ``-params``: features extractor, its arguments, ``net_arch``,
    ``normalization`` and ``dueling``. A converter knows nothing but what was drawn, therefore a network other than
    :data:`BTR_NETWORK` is drawn as the only choice.
    """
    levels = trial.suggest_categorical("n_quantile_samples", [8, 16, 32])
    _sample_value_params(trial, n_envs, additional_args, is_preset=True, row_cost=_row_cost(levels, levels))
    _sample_exploration_params(trial)
    trial.suggest_float("munchausen_temperature", 0.003, 0.3, log=True)
    if "net_arch" not in trial.params:  # images
        names = ("features_extractor_class", "features_extractor_kwargs", "net_arch", "normalization", "dueling")
        network = {name: value for name, value in yaml_policy_kwargs(trial).items() if name in names}
        if network and network != BTR_NETWORK:
            trial.suggest_categorical("network", [json.dumps(network, sort_keys=True)])
    return with_her_kwargs(convert_btr_params(trial.params), additional_args)


def convert_btr_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """Turn the parameters of a trial into constructor arguments of ``IQN``."""
    arguments = {**_convert_value_params(sampled_params), **_convert_exploration_params(sampled_params)}
    arguments.update(dict.fromkeys(QUANTILE_SAMPLES, sampled_params["n_quantile_samples"]))
    arguments.update(munchausen_coef=0.9, munchausen_temperature=sampled_params["munchausen_temperature"])
    if "net_arch" in sampled_params:
        arguments["policy_kwargs"]["normalization"] = "layer"
    else:  # images
        is_given = "network" in sampled_params
        network: dict[str, Any] = json.loads(sampled_params["network"]) if is_given else dict(BTR_NETWORK)
        if "features_extractor_class" in network:
            module, _, name = network["features_extractor_class"].rpartition(".")
            network["features_extractor_class"] = getattr(importlib.import_module(module), name)
        arguments["policy_kwargs"].update(copy.deepcopy(network))
    return arguments
