"""
Search spaces for rl_zoo3's ``-optimize``.

For every algorithm a pair: ``sample_*`` draws the parameters of a trial, ``convert_*`` turns ``trial.params`` into
constructor arguments. The converter is a pure function of ``trial.params``, and the sampler returns what it returns, so
a trial reloaded with ``--trial-id`` is the trial that was measured. (With hindsight replay up to those of the YAML
file's ``replay_buffer_kwargs`` that are not sampled: rl_zoo3 drops them when it reloads a trial.) Both have to be right
for every draw: rl_zoo3 prunes a trial that fails while it learns, but an error in a constructor ends the whole study.

What is conditional is drawn in an order in which each range follows from what was drawn before. Optuna allows numerical
ranges to differ between trials, but not the choices of a categorical parameter.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    import optuna

NET_ARCHS: Mapping[str, list[int]] = {
    "small": [64, 64],
    "medium": [256, 256],
    "big": [400, 300],
    "large": [256, 256, 256],
}

ACTIVATION_FNS: Mapping[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "tanh": nn.Tanh,
}

MAX_SUBSET_SIZE = 5
"""Beyond it the target is so pessimistic that little is learned, REDQ (https://arxiv.org/abs/2101.05982), section 4."""


def _sample_common_params(trial: "optuna.Trial", additional_args: dict[str, Any]) -> None:
    """
    Draw what every off-policy algorithm has.

    :param trial: the trial that stores the values
    :param additional_args: what rl_zoo3 knows of the replay buffer
    """
    one_minus_gamma = trial.suggest_float("one_minus_gamma", 0.0001, 0.03, log=True)
    # From 2**5=32 to 2**10=1024
    batch_size_pow = trial.suggest_int("batch_size_pow", 5, 10)
    trial.suggest_float("learning_rate", 1e-5, 0.002, log=True)
    # The update-to-data ratio, for one environment: rl_zoo3 does not tell a converter how many there are, so that
    # `gradient_steps` itself is sampled and every vector step is followed by that many updates.
    trial.suggest_categorical("gradient_steps", [1, 2, 5, 10, 20])
    trial.suggest_categorical("net_arch", list(NET_ARCHS))
    trial.suggest_categorical("activation_fn", list(ACTIVATION_FNS))
    if additional_args.get("using_her_replay_buffer"):
        trial.suggest_int("n_sampled_goal", 1, 5)
        trial.suggest_categorical("goal_selection_strategy", ["final", "episode", "future"])
    else:
        # Not with hindsight replay: sampling before the first episode has ended is a RuntimeError there, which would
        # end the study. The YAML file knows how long an episode is.
        trial.suggest_categorical("learning_starts", [100, 1_000, 5_000])

    # Display true values
    trial.set_user_attr("gamma", 1 - one_minus_gamma)
    trial.set_user_attr("batch_size", 2**batch_size_pow)


def _convert_common_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """
    The arguments that follow from :func:`_sample_common_params`.

    :param params: ``trial.params``
    :return: constructor arguments, ``policy_kwargs`` and, for hindsight replay, ``replay_buffer_kwargs`` among them
    """
    arguments: dict[str, Any] = {
        "gamma": 1 - params["one_minus_gamma"],
        "batch_size": 2 ** params["batch_size_pow"],
        "learning_rate": params["learning_rate"],
        "train_freq": 1,
        "gradient_steps": params["gradient_steps"],
        "policy_kwargs": {
            "net_arch": list(NET_ARCHS[params["net_arch"]]),
            "activation_fn": ACTIVATION_FNS[params["activation_fn"]],
        },
    }
    if "learning_starts" in params:
        arguments["learning_starts"] = params["learning_starts"]
    her_names = ("n_sampled_goal", "goal_selection_strategy")
    her_kwargs = {name: params[name] for name in her_names if name in params}
    if her_kwargs:
        arguments["replay_buffer_kwargs"] = her_kwargs
    return arguments


def _with_her_kwargs(arguments: dict[str, Any], additional_args: dict[str, Any]) -> dict[str, Any]:
    """
    Keep what the YAML file says of the hindsight buffer and the trial does not, such as ``copy_info_dict``.

    :param arguments: what the converter returned
    :param additional_args: what rl_zoo3 knows of the replay buffer
    :return: the arguments for the trial
    """
    if "replay_buffer_kwargs" not in arguments:
        return arguments
    yaml_kwargs = additional_args.get("her_kwargs") or {}
    return {**arguments, "replay_buffer_kwargs": {**yaml_kwargs, **arguments["replay_buffer_kwargs"]}}


def sample_redq_sac_params(
    trial: "optuna.Trial", n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """
    Sampler for the hyperparameters of REDQ-SAC.

    :param trial: the trial that draws and stores the values
    :param n_actions: number of action dimensions (not used)
    :param n_envs: number of environments (not used)
    :param additional_args: what rl_zoo3 knows of the replay buffer
    :return: arguments for the constructor of ``REDQSAC``
    """
    _sample_common_params(trial, additional_args)
    trial.suggest_float("tau", 0.001, 0.08, log=True)

    # From two on: with a single critic all the backups are the same, and "doubleq" is an error.
    n_critics = trial.suggest_int("n_critics", 2, 10)
    backups = ["vanilla", "doubleq", "min", "mean", "redq", "rem"]
    if trial.suggest_categorical("target_backup", backups) == "redq":
        trial.suggest_int("subset_size", 1, min(n_critics, MAX_SUBSET_SIZE))
    trial.suggest_categorical("backup_entropy", [True, False])
    trial.suggest_categorical("ent_coef", ["auto", "auto_0.1", 0.01, 0.05, 0.2])

    trial.suggest_int("policy_delay", 1, 20, log=True)
    trial.suggest_categorical("actor_q", ["mean", "min"])
    if trial.suggest_categorical("actor_gradient", ["reparam", "reinforce"]) == "reinforce":
        # The baseline first: leaving one out takes two samples.
        baseline = trial.suggest_categorical("reinforce_baseline", ["loo", "mean_action", "none"])
        trial.suggest_int("n_actor_samples", 2 if baseline == "loo" else 1, 8, log=True)

    trial.suggest_categorical("layer_norm", [False, True])
    trial.suggest_categorical("dropout", [0.0, 0.001, 0.01, 0.1])

    return _with_her_kwargs(convert_redq_sac_params(trial.params), additional_args)


def convert_redq_sac_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """
    The constructor arguments of ``REDQSAC`` that belong to the parameters of a trial.

    Everything that depends on something sampled is always in the result, so that a value in the YAML file cannot meet
    a sampled one that it contradicts.

    :param sampled_params: ``trial.params``, left as it is
    :return: arguments for the constructor
    """
    arguments = _convert_common_params(sampled_params)
    same_name = ("tau", "target_backup", "backup_entropy", "ent_coef", "policy_delay", "actor_q", "actor_gradient")
    arguments.update({name: sampled_params[name] for name in same_name})
    arguments["subset_size"] = sampled_params.get("subset_size")
    arguments["reinforce_baseline"] = sampled_params.get("reinforce_baseline")
    arguments["n_actor_samples"] = sampled_params.get("n_actor_samples", 1)
    if sampled_params["actor_gradient"] == "reinforce":
        # State-dependent exploration needs the reparametrised gradient.
        arguments["use_sde"] = False
    arguments["policy_kwargs"].update({name: sampled_params[name] for name in ("n_critics", "layer_norm", "dropout")})
    return arguments
