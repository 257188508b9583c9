"""
Search spaces for rl_zoo3's ``-optimize``.

Every algorithm has a pair of functions. ``sample_*`` draws the parameters of a trial, and ``convert_*`` turns
``trial.params`` into constructor arguments. The converter is a pure function, and the sampler returns the converter's
result. So a trial reloaded with ``--trial-id`` is the trial that was measured.

There is one exception. When rl_zoo3 reloads a trial with hindsight replay, it drops the ``replay_buffer_kwargs`` of the
YAML file that are not sampled.

Every draw must give valid arguments. rl_zoo3 prunes a trial that fails while it learns, but an error in a constructor
ends the whole study.

A sampler receives neither the environment nor the policy, and ``additional_args`` are what rl_zoo3 knows of the replay
buffer. But rl_zoo3 stores the arguments of the YAML file with the study before its first trial, see
:func:`yaml_arguments`. Other callers of a sampler get the search space for vectors. A converter does not receive these
arguments, so it infers what depends on them from the names that were drawn.

Each range may depend only on parameters drawn before. Optuna allows numerical ranges to differ between trials, but not
the choices of a categorical parameter.

The number of updates is drawn after what each of them costs, and bounded by it. So pruning compares trials of similar
length.
"""

import ast
import math
import re
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

NET_COSTS: Mapping[str, float] = {"small": 0.3, "medium": 1.0, "big": 1.8, "large": 2.0}
"""How long an update of each takes, relative to "medium": the parameters, and for small layers what calls cost."""

ACTIVATION_FNS: Mapping[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "tanh": nn.Tanh,
}

MAX_PASSES = 210.0
"""
For REDQ-SAC: passes of one critic for each environment step, times the size of the minibatch / 256 and the cost of the
network. Those of the paper: 10 critics, 20 updates of them and one of the actor.
"""

MAX_NORMALIZED_UPDATES = 4.0
"""For normalized critics: the same, relative to two critics of width 128 with one update."""

MAX_SUBSET_SIZE = 5
"""Larger subsets make the target too pessimistic to learn, see REDQ (https://arxiv.org/abs/2101.05982), section 4."""


def sample_learning_params(trial: "optuna.Trial", additional_args: dict[str, Any], max_batch_pow: int = 10) -> None:
    """Draw the discount, the size of the minibatches and the learning rate."""
    # User attributes display the values themselves
    if "gamma" not in yaml_buffer_kwargs(additional_args):
        # The constructor refuses a discount of the buffer that differs from the algorithm's
        one_minus_gamma = trial.suggest_float("one_minus_gamma", 0.0001, 0.03, log=True)
        trial.set_user_attr("gamma", 1 - one_minus_gamma)
    # From 2**5=32 to 2**10=1024, or less for images
    batch_size_pow = trial.suggest_int("batch_size_pow", 5, max_batch_pow)
    trial.set_user_attr("batch_size", 2**batch_size_pow)
    trial.suggest_float("learning_rate", 1e-5, 0.002, log=True)


def affordable(most: float, each: float, highest: int) -> int:
    """Return the largest number from 1 to ``highest`` of things that cost ``each``, for at most ``most`` together."""
    return max(min(highest, int(most / each)), 1)


def sample_network_params(trial: "optuna.Trial") -> None:
    """Draw the networks, for vectors."""
    trial.suggest_categorical("net_arch", list(NET_ARCHS))
    trial.suggest_categorical("activation_fn", list(ACTIVATION_FNS))


def convert_network_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a policy that :func:`sample_network_params` has drawn."""
    return {"net_arch": list(NET_ARCHS[params["net_arch"]]), "activation_fn": ACTIVATION_FNS[params["activation_fn"]]}


def sample_replay_params(trial: "optuna.Trial", additional_args: dict[str, Any]) -> None:
    """Draw the goals of hindsight replay, or the start of learning."""
    if additional_args.get("using_her_replay_buffer"):
        trial.suggest_int("n_sampled_goal", 1, 5)
        trial.suggest_categorical("goal_selection_strategy", ["final", "episode", "future"])
    else:
        # With hindsight replay, sampling before the end of the first episode raises a RuntimeError, which would end the
        # study. So the YAML file sets the start, because it knows the length of episodes.
        trial.suggest_categorical("learning_starts", [100, 1_000, 5_000])


def yaml_policy_kwargs(trial: "optuna.Trial") -> Mapping[str, Any]:
    """Return ``policy_kwargs`` of the YAML file or ``-params``, with classes as texts: ``"package.module.Name"``."""
    # `str()` of a dictionary is an expression, but for its classes
    text = re.sub(r"<class '([\w.]+)'>", r"'\1'", yaml_arguments(trial).get("policy_kwargs", "None"))
    try:
        kwargs = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {}  # with other objects, of which nothing but their text is known
    return kwargs if isinstance(kwargs, dict) else {}


def yaml_buffer_kwargs(additional_args: dict[str, Any]) -> Mapping[str, Any]:
    """Return ``replay_buffer_kwargs`` of the YAML file, for whatever buffer."""
    return additional_args.get("her_kwargs") or {}


def convert_common_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Convert what the functions above have drawn."""
    arguments: dict[str, Any] = {
        "batch_size": 2 ** params["batch_size_pow"],
        "learning_rate": params["learning_rate"],
        "gradient_steps": params["gradient_steps"],
        # The YAML file's may exceed the rate that was drawn
        "learning_rate_final": None,
        "learning_rate_fraction": None,
        "policy_kwargs": {},
    }
    if "one_minus_gamma" in params:
        arguments["gamma"] = 1 - params["one_minus_gamma"]
    if "net_arch" in params:
        arguments["policy_kwargs"] = convert_network_params(params)
    if "learning_starts" in params:
        arguments["learning_starts"] = params["learning_starts"]
    her_names = ("n_sampled_goal", "goal_selection_strategy")
    her_kwargs = {name: params[name] for name in her_names if name in params}
    if her_kwargs:
        arguments["replay_buffer_kwargs"] = her_kwargs
    return arguments


def with_her_kwargs(arguments: dict[str, Any], additional_args: dict[str, Any]) -> dict[str, Any]:
    """Keep settings of the hindsight buffer that only the YAML file contains, such as ``copy_info_dict``."""
    if "replay_buffer_kwargs" not in arguments:
        return arguments
    yaml_kwargs = yaml_buffer_kwargs(additional_args)
    return {**arguments, "replay_buffer_kwargs": {**yaml_kwargs, **arguments["replay_buffer_kwargs"]}}


def sample_redq_sac_params(
    trial: "optuna.Trial", n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """Draw the hyperparameters of REDQ-SAC, as arguments of its constructor."""
    if yaml_arguments(trial).get("policy", "").startswith("Normalized"):
        _sample_normalized_params(trial, additional_args)
        return with_her_kwargs(convert_redq_sac_params(trial.params), additional_args)
    sample_learning_params(trial, additional_args)
    sample_network_params(trial)
    sample_replay_params(trial, additional_args)
    trial.suggest_float("tau", 0.001, 0.08, log=True)

    # At least two, because with a single critic all the backups are the same, and "doubleq" is an error.
    n_critics = trial.suggest_int("n_critics", 2, 10)
    backups = ["vanilla", "doubleq", "min", "mean", "redq", "rem"]
    if trial.suggest_categorical("target_backup", backups) == "redq":
        trial.suggest_int("subset_size", 1, min(n_critics, MAX_SUBSET_SIZE))
    trial.suggest_categorical("backup_entropy", [True, False])
    trial.suggest_categorical("ent_coef", ["auto", "auto_0.1", 0.01, 0.05, 0.2])

    policy_delay = trial.suggest_int("policy_delay", 1, 20, log=True)
    trial.suggest_categorical("actor_q", ["mean", "min"])
    if trial.suggest_categorical("actor_gradient", ["reparam", "reinforce"]) == "reinforce":
        # The baseline comes first, because leaving one out takes two samples.
        baseline = trial.suggest_categorical("reinforce_baseline", ["loo", "mean_action", "none"])
        trial.suggest_int("n_actor_samples", 2 if baseline == "loo" else 1, 8, log=True)
    # An update-to-data ratio for one environment. rl_zoo3 does not tell a converter the number of environments, so
    # `gradient_steps` itself is sampled, and each vector step is followed by that many updates.
    passes = n_critics * (1 + trial.params.get("n_actor_samples", 1) / policy_delay)
    cost = passes * 2 ** trial.params["batch_size_pow"] / 256 * NET_COSTS[trial.params["net_arch"]]
    trial.suggest_int("gradient_steps", 1, affordable(MAX_PASSES, cost, 20), log=True)

    trial.suggest_categorical("layer_norm", [False, True])
    trial.suggest_categorical("dropout", [0.0, 0.001, 0.01, 0.1])

    return with_her_kwargs(convert_redq_sac_params(trial.params), additional_args)


def _sample_normalized_params(trial: "optuna.Trial", additional_args: dict[str, Any]) -> None:
    """Draw what matters for normalized networks, around the values of the YAML file."""
    if "gamma" not in yaml_buffer_kwargs(additional_args):
        one_minus_gamma = trial.suggest_float("one_minus_gamma", 0.003, 0.03, log=True)
        trial.set_user_attr("gamma", 1 - one_minus_gamma)
    trial.suggest_float("learning_rate", 1e-4, 1e-3, log=True)
    trial.suggest_int("policy_delay", 1, 4)
    sample_replay_params(trial, additional_args)
    # Half the width has more than a quarter of the cost, because normalisation and calls do not shrink as much
    cost = {64: 0.4, 128: 1.0, 256: 3.6}[trial.suggest_categorical("width", [64, 128, 256])]
    cost *= trial.suggest_int("n_critics", 2, affordable(MAX_NORMALIZED_UPDATES, cost / 2, 5)) / 2
    # From 128 rows to 512, the cost of 256 being 1
    highest = 8 + math.floor(math.log2(max(MAX_NORMALIZED_UPDATES / cost, 1.0)))
    cost *= 2.0 ** (trial.suggest_int("batch_size_pow", 7, min(highest, 9)) - 8)
    trial.suggest_int("gradient_steps", 1, affordable(MAX_NORMALIZED_UPDATES, cost, 4))
    trial.suggest_int("n_blocks", 1, 2)
    trial.suggest_categorical("head", ["categorical", "scalar"])
    if trial.suggest_categorical("target_network", ["none", "ema"]) == "ema":
        trial.suggest_float("tau", 0.003, 0.1, log=True)
    trial.suggest_categorical("noise_repeat", [1, 16])
    trial.suggest_categorical("actor_q", ["mean", "min"])
    trial.suggest_categorical("target_entropy", ["auto", "std_0.1", "std_0.15", "std_0.3"])
    trial.suggest_categorical("actor_average", [None, 0.001])


def _convert_normalized_params(params: Mapping[str, Any]) -> dict[str, Any]:
    arguments = convert_common_params(params)
    same_name = ("policy_delay", "target_network", "noise_repeat", "actor_q", "target_entropy")
    arguments.update({name: params[name] for name in same_name}, train_freq=1)
    # The YAML file lowers the rate to this fraction, too
    arguments["learning_rate_final"] = 0.3 * params["learning_rate"]
    del arguments["learning_rate_fraction"]  # which may be the YAML file's
    arguments["tau"] = params.get("tau", 0.005)
    arguments["subset_size"] = None  # the YAML file's may exceed the number of critics
    arguments["policy_kwargs"].update({name: params[name] for name in ("n_critics", "width", "n_blocks", "head")})
    arguments["policy_kwargs"]["actor_width"] = params["width"]
    arguments["policy_kwargs"]["actor_average"] = params.get("actor_average")  # trials of older studies have none
    return arguments


def convert_redq_sac_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """
    Turn the parameters of a trial into constructor arguments of ``REDQSAC``.

    The result sets every argument that depends on a sampled one. So a value in the YAML file cannot contradict a
    sampled one.
    """
    if "width" in sampled_params:
        return _convert_normalized_params(sampled_params)
    arguments = convert_common_params(sampled_params)
    arguments["train_freq"] = 1
    same_name = ("tau", "target_backup", "backup_entropy", "ent_coef", "policy_delay", "actor_q", "actor_gradient")
    arguments.update({name: sampled_params[name] for name in same_name})
    arguments["subset_size"] = sampled_params.get("subset_size")
    arguments["reinforce_baseline"] = sampled_params.get("reinforce_baseline")
    arguments["n_actor_samples"] = sampled_params.get("n_actor_samples", 1)
    if sampled_params["actor_gradient"] == "reinforce":
        # State-dependent exploration needs the reparameterized gradient.
        arguments["use_sde"] = False
    else:
        arguments["normalize_advantage"] = False
    arguments["policy_kwargs"].update({name: sampled_params[name] for name in ("n_critics", "layer_norm", "dropout")})
    return arguments


def yaml_arguments(trial: "optuna.Trial") -> Mapping[str, str]:
    """
    Read the arguments from the YAML file and ``-params``, which rl_zoo3 stores with a study before its first trial.

    A second process that begins meanwhile may miss some or all of them. Its first trial then leaves out what depends on
    them.

    :return: ``str()`` of each argument that was given, always with ``policy``; without rl_zoo3: ``MlpPolicy`` alone
    """
    study = getattr(trial, "study", None)
    stored: dict[str, Any] = {} if study is None else study.user_attrs
    return {"policy": "MlpPolicy"} if not stored else {name: str(value) for name, value in stored.items()}
