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

Size and number of REDQ-SAC's updates are drawn so that a trial costs a quarter to twice of what the arguments before
the search cost. So pruning compares trials of similar length. The value-based algorithms have upper bounds only, see
:mod:`sb3_ext.zoo.value_samplers`.
"""

import ast
import math
import re
from collections.abc import Mapping
from itertools import pairwise
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

LEAST_COST, MOST_COST = 0.25, 2.0
"""Range of the cost of REDQ-SAC's trials, relative to that of the arguments that rl_zoo3 has before the search."""

MAX_UPDATES = 20
"""Of REDQ-SAC for each step, as in the paper; with normalized critics :data:`MAX_NORMALIZED_UPDATES`."""

MAX_NORMALIZED_UPDATES = 4

MAX_SUBSET_SIZE = 5
"""Larger subsets make the target too pessimistic to learn, see REDQ (https://arxiv.org/abs/2101.05982), section 4."""


def sample_learning_params(trial: "optuna.Trial", additional_args: dict[str, Any], max_batch_pow: int = 10) -> None:
    """Draw the discount, the size of the minibatches and the learning rate."""
    sample_discount(trial, additional_args, 0.0001)
    # From 2**5=32 to 2**10=1024, or less for images
    sample_batch_size(trial, 5, max_batch_pow)
    trial.suggest_float("learning_rate", 1e-5, 0.002, log=True)


def sample_discount(trial: "optuna.Trial", additional_args: dict[str, Any], least: float, most: float = 0.03) -> None:
    """Draw 1 - gamma from a range, unless the replay buffer of the YAML file has a discount."""
    if "gamma" not in yaml_buffer_kwargs(additional_args):
        # The constructor refuses a discount of the buffer that differs from the algorithm's
        one_minus_gamma = trial.suggest_float("one_minus_gamma", least, most, log=True)
        # User attributes display the values themselves
        trial.set_user_attr("gamma", 1 - one_minus_gamma)


def sample_batch_size(trial: "optuna.Trial", least_pow: int, most_pow: int) -> int:
    """Draw the size of the minibatches, a power of 2."""
    batch_size: int = 2 ** trial.suggest_int("batch_size_pow", least_pow, most_pow)
    trial.set_user_attr("batch_size", batch_size)
    return batch_size


def _sample_updates(
    trial: "optuna.Trial", unit: float, cost: float, pows: tuple[int, int], most_updates: int, log: bool
) -> None:
    """
    Draw the size of the minibatches, then the number of updates, for a quarter to twice of a cost.

    :param unit: what an update of 256 rows costs
    :param cost: of the arguments before the search, see :data:`LEAST_COST`
    :param pows: the smallest and the largest minibatch, as powers of 2
    :param log: whether the number of updates is drawn by its logarithm
    """
    least, most = LEAST_COST * cost / unit, MOST_COST * cost / unit
    lowest = 8 + math.ceil(math.log2(least / most_updates))
    highest = 8 + math.floor(math.log2(most))
    # Where no size fits, the nearest
    first, last = (min(max(power, pows[0]), pows[1]) for power in (lowest, highest))
    rows = sample_batch_size(trial, first, max(first, last)) / 256
    fewest = min(max(math.ceil(least / rows), 1), most_updates)
    trial.suggest_int("gradient_steps", fewest, max(affordable(most, rows, most_updates), fewest), log=log)


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
    return arguments | convert_conditional_params(params)


def convert_conditional_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Convert what the functions above draw in some searches only: discount, networks, goals or start of learning."""
    arguments: dict[str, Any] = {}
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
    given = yaml_arguments(trial)
    if given.get("policy", "").startswith("Normalized"):
        _sample_normalized_params(trial, n_envs, additional_args)
        return with_her_kwargs(convert_redq_sac_params(trial.params), additional_args)
    cost = _cost(given, n_envs)
    sample_discount(trial, additional_args, 0.0001)
    trial.suggest_float("learning_rate", 1e-5, 0.002, log=True)
    sample_network_params(trial)
    sample_replay_params(trial, additional_args)
    trial.suggest_float("tau", 0.001, 0.08, log=True)

    net_cost = NET_COSTS[trial.params["net_arch"]]
    # At least two, because with a single critic all the backups are the same, and "doubleq" is an error. As many as can
    # be afforded with the smallest minibatch, 32, and two samples for each update. As many as cost enough with the
    # largest, 1024
    most = max(affordable(MOST_COST * cost, 3 * net_cost / 8, 10), 2)
    least = min(max(math.ceil(LEAST_COST * cost / (4 * MAX_UPDATES * net_cost)), 2), most)
    n_critics = trial.suggest_int("n_critics", least, most)
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
        least_samples = 2 if baseline == "loo" else 1
        passes_left = MOST_COST * cost / (net_cost / 8) / n_critics - 1
        most_samples = max(affordable(passes_left, 1 / policy_delay, 8), least_samples)
        trial.suggest_int("n_actor_samples", least_samples, most_samples, log=True)
    # An update-to-data ratio for one environment. rl_zoo3 does not tell a converter the number of environments, so
    # `gradient_steps` itself is sampled, and each vector step is followed by that many updates.
    unit = n_critics * (1 + trial.params.get("n_actor_samples", 1) / policy_delay) * net_cost
    _sample_updates(trial, unit, cost, (5, 10), MAX_UPDATES, log=True)

    trial.suggest_categorical("layer_norm", [False, True])
    trial.suggest_categorical("dropout", [0.0, 0.001, 0.01, 0.1])

    return with_her_kwargs(convert_redq_sac_params(trial.params), additional_args)


def _net_cost(net_arch: Any) -> float:
    """Return what :data:`NET_COSTS` says of other layers, given as SB3's ``net_arch``."""
    layers = net_arch.get("qf", []) if isinstance(net_arch, dict) else net_arch
    return max(sum(a * b for a, b in pairwise(layers)) / 256**2, NET_COSTS["small"])


def _width_cost(width: int) -> float:
    """Return how long an update of normalized critics takes, relative to the width 128."""
    # Measured at 64 and 256: normalization and calls do not shrink as much as products
    return float((width / 128) ** (1.3 if width < 128 else 1.85))


def _cost(given: Mapping[str, str], n_envs: int) -> float:
    """
    Return what the updates of each vector step cost, for arguments of ``REDQSAC``.

    The unit is a pass of one critic of 2x256 units with 256 rows; with normalized critics an update of two of width
    128, with one of the actor for two of them.

    :param given: see :func:`yaml_arguments`; what is missing has the default of the class
    """
    networks = stored_value(given, "policy_kwargs", {}) or {}
    updates = float(stored_value(given, "gradient_steps", 20))
    frequency = stored_value(given, "train_freq", 1)
    if updates <= 0 or not isinstance(frequency, (int, float)):  # as many as there were steps
        updates = float(n_envs)
    else:
        updates /= frequency
    delay = stored_value(given, "policy_delay", None) or max(round(updates / n_envs), 1)
    passes = 1 + stored_value(given, "n_actor_samples", 1) / delay
    rows = stored_value(given, "batch_size", 256) / 256
    if given.get("policy", "").startswith("Normalized"):
        cost = networks.get("n_critics", 2) / 2 * _width_cost(networks.get("width", 128)) * passes / 1.5
    else:
        cost = networks.get("n_critics", 10) * _net_cost(networks.get("net_arch", [256, 256])) * passes
    return float(cost * rows * updates)


def _sample_normalized_params(trial: "optuna.Trial", n_envs: int, additional_args: dict[str, Any]) -> None:
    """Draw what matters for normalized networks, around the values of the YAML file."""
    cost = _cost(yaml_arguments(trial), n_envs)
    sample_discount(trial, additional_args, 0.003)
    trial.suggest_float("learning_rate", 1e-4, 1e-3, log=True)
    delay_cost = (1 + 1 / trial.suggest_int("policy_delay", 1, 4)) / 1.5
    sample_replay_params(trial, additional_args)
    # What two critics and the smallest minibatch, 128, leave
    most = MOST_COST * cost / (delay_cost / 2)
    widest = max((width for width in (128, 192, 256) if _width_cost(width) <= most), default=64)
    width_cost = _width_cost(trial.suggest_int("width", 64, widest, step=64))
    most_critics = max(affordable(most, width_cost / 2, 5), 2)
    unit = trial.suggest_int("n_critics", 2, most_critics) / 2 * width_cost * delay_cost
    _sample_updates(trial, unit, cost, (7, 9), MAX_NORMALIZED_UPDATES, log=False)
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
    arguments["target_update_interval"] = 1  # another is refused without a target network
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


def stored_value(given: Mapping[str, str], name: str, default: Any) -> Any:
    """
    Return an argument from what :func:`yaml_arguments` returns.

    :param default: where it is missing or, like a schedule, has no text that can be read
    """
    text, before = given.get(name, ""), None
    # Classes and functions in `policy_kwargs` print as <class ...>, and may contain each other: <function f.<locals>.g>
    while text != before:
        text, before = re.sub(r"<[^<>]*>", "None", text), text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return default
