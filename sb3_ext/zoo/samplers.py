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
:func:`_yaml_arguments`. Other callers of a sampler get the search space for vectors. A converter does not receive these
arguments, so it infers what depends on them from the names that were drawn.

Each range may depend only on parameters drawn before. Optuna allows numerical ranges to differ between trials, but not
the choices of a categorical parameter.

The number of updates is drawn after what each of them costs, and bounded by it. So pruning compares trials of similar
length.
"""

import math
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

ADAM_EPS = (1e-8, 0.00015, 0.0003125)
"""The values of PyTorch, Rainbow (https://arxiv.org/abs/1710.02298) and IQN (0.01 / 32)."""

QUANTILE_SAMPLES = ("n_quantile_samples", "n_target_quantile_samples", "n_action_quantile_samples")

MAX_GRADIENT_STEPS = 32
"""For value-based algorithms: with many environments, an update per transition would make a vector step slow."""

MAX_ROWS_PER_STEP = 256.0
"""For value-based algorithms: rows of minibatches for each transition, times the network's cost. DQN has 8 to 128."""

MAX_IMAGES_PER_STEP = 16.0
"""The same for images, of which Dopamine's DQN has 8."""

MAX_PASSES = 210.0
"""
For REDQ-SAC: passes of one critic for each environment step, times the size of the minibatch / 256 and the cost of the
network. Those of the paper: 10 critics, 20 updates of them and one of the actor.
"""

MAX_NORMALIZED_UPDATES = 4.0
"""For normalized critics: the same, relative to two critics of width 128 with one update."""

MAX_SUBSET_SIZE = 5
"""Larger subsets make the target too pessimistic to learn, see REDQ (https://arxiv.org/abs/2101.05982), section 4."""


def _sample_learning_params(trial: "optuna.Trial", additional_args: dict[str, Any], max_batch_pow: int = 10) -> None:
    """Draw the discount, the size of the minibatches and the learning rate."""
    # User attributes display the values themselves
    if "gamma" not in _yaml_buffer_kwargs(additional_args):
        # The constructor refuses a discount of the buffer that differs from the algorithm's
        one_minus_gamma = trial.suggest_float("one_minus_gamma", 0.0001, 0.03, log=True)
        trial.set_user_attr("gamma", 1 - one_minus_gamma)
    # From 2**5=32 to 2**10=1024, or less for images
    batch_size_pow = trial.suggest_int("batch_size_pow", 5, max_batch_pow)
    trial.set_user_attr("batch_size", 2**batch_size_pow)
    trial.suggest_float("learning_rate", 1e-5, 0.002, log=True)


def _affordable(most: float, each: float, highest: int) -> int:
    """Return the largest number from 1 to ``highest`` of things that cost ``each``, for at most ``most`` together."""
    return max(min(highest, int(most / each)), 1)


def sample_network_params(trial: "optuna.Trial") -> None:
    """Draw the networks, for vectors."""
    trial.suggest_categorical("net_arch", list(NET_ARCHS))
    trial.suggest_categorical("activation_fn", list(ACTIVATION_FNS))


def convert_network_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a policy that :func:`sample_network_params` has drawn."""
    return {"net_arch": list(NET_ARCHS[params["net_arch"]]), "activation_fn": ACTIVATION_FNS[params["activation_fn"]]}


def _sample_replay_params(trial: "optuna.Trial", additional_args: dict[str, Any]) -> None:
    """Draw the goals of hindsight replay, or the start of learning."""
    if additional_args.get("using_her_replay_buffer"):
        trial.suggest_int("n_sampled_goal", 1, 5)
        trial.suggest_categorical("goal_selection_strategy", ["final", "episode", "future"])
    else:
        # With hindsight replay, sampling before the end of the first episode raises a RuntimeError, which would end the
        # study. So the YAML file sets the start, because it knows the length of episodes.
        trial.suggest_categorical("learning_starts", [100, 1_000, 5_000])


def _yaml_buffer_kwargs(additional_args: dict[str, Any]) -> Mapping[str, Any]:
    """Return ``replay_buffer_kwargs`` of the YAML file, for whatever buffer."""
    return additional_args.get("her_kwargs") or {}


def _convert_common_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Convert what the functions above have drawn."""
    arguments: dict[str, Any] = {
        "batch_size": 2 ** params["batch_size_pow"],
        "learning_rate": params["learning_rate"],
        "gradient_steps": params["gradient_steps"],
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


def _with_her_kwargs(arguments: dict[str, Any], additional_args: dict[str, Any]) -> dict[str, Any]:
    """Keep settings of the hindsight buffer that only the YAML file contains, such as ``copy_info_dict``."""
    if "replay_buffer_kwargs" not in arguments:
        return arguments
    yaml_kwargs = _yaml_buffer_kwargs(additional_args)
    return {**arguments, "replay_buffer_kwargs": {**yaml_kwargs, **arguments["replay_buffer_kwargs"]}}


def sample_redq_sac_params(
    trial: "optuna.Trial", n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """Draw the hyperparameters of REDQ-SAC, as arguments of its constructor."""
    if _yaml_arguments(trial).get("policy", "").startswith("Normalized"):
        _sample_normalized_params(trial, additional_args)
        return _with_her_kwargs(convert_redq_sac_params(trial.params), additional_args)
    _sample_learning_params(trial, additional_args)
    sample_network_params(trial)
    _sample_replay_params(trial, additional_args)
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
    trial.suggest_int("gradient_steps", 1, _affordable(MAX_PASSES, cost, 20), log=True)

    trial.suggest_categorical("layer_norm", [False, True])
    trial.suggest_categorical("dropout", [0.0, 0.001, 0.01, 0.1])

    return _with_her_kwargs(convert_redq_sac_params(trial.params), additional_args)


def _sample_normalized_params(trial: "optuna.Trial", additional_args: dict[str, Any]) -> None:
    """Draw what matters for normalized networks, around the values of the YAML file."""
    if "gamma" not in _yaml_buffer_kwargs(additional_args):
        one_minus_gamma = trial.suggest_float("one_minus_gamma", 0.003, 0.03, log=True)
        trial.set_user_attr("gamma", 1 - one_minus_gamma)
    trial.suggest_float("learning_rate", 1e-4, 1e-3, log=True)
    trial.suggest_int("policy_delay", 1, 4)
    _sample_replay_params(trial, additional_args)
    # Half the width has more than a quarter of the cost, because normalisation and calls do not shrink as much
    cost = {64: 0.4, 128: 1.0, 256: 3.6}[trial.suggest_categorical("width", [64, 128, 256])]
    cost *= trial.suggest_int("n_critics", 2, _affordable(MAX_NORMALIZED_UPDATES, cost / 2, 5)) / 2
    # From 128 rows to 512, the cost of 256 being 1
    highest = 8 + math.floor(math.log2(max(MAX_NORMALIZED_UPDATES / cost, 1.0)))
    cost *= 2.0 ** (trial.suggest_int("batch_size_pow", 7, min(highest, 9)) - 8)
    trial.suggest_int("gradient_steps", 1, _affordable(MAX_NORMALIZED_UPDATES, cost, 4))
    trial.suggest_int("n_blocks", 1, 2)
    trial.suggest_categorical("head", ["categorical", "scalar"])
    if trial.suggest_categorical("target_network", ["none", "ema"]) == "ema":
        trial.suggest_float("tau", 0.003, 0.1, log=True)
    trial.suggest_categorical("noise_repeat", [1, 16])
    trial.suggest_categorical("actor_q", ["mean", "min"])
    trial.suggest_categorical("target_entropy", ["auto", "std_0.1", "std_0.15", "std_0.3"])
    trial.suggest_categorical("actor_average", [None, 0.001])


def _convert_normalized_params(params: Mapping[str, Any]) -> dict[str, Any]:
    arguments = _convert_common_params(params)
    same_name = ("policy_delay", "target_network", "noise_repeat", "actor_q", "target_entropy")
    arguments.update({name: params[name] for name in same_name}, train_freq=1)
    # The YAML file lowers the rate to this fraction, too
    arguments["learning_rate_final"] = 0.3 * params["learning_rate"]
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
    arguments = _convert_common_params(sampled_params)
    arguments["train_freq"] = 1
    same_name = ("tau", "target_backup", "backup_entropy", "ent_coef", "policy_delay", "actor_q", "actor_gradient")
    arguments.update({name: sampled_params[name] for name in same_name})
    arguments["subset_size"] = sampled_params.get("subset_size")
    arguments["reinforce_baseline"] = sampled_params.get("reinforce_baseline")
    arguments["n_actor_samples"] = sampled_params.get("n_actor_samples", 1)
    if sampled_params["actor_gradient"] == "reinforce":
        # State-dependent exploration needs the reparameterized gradient.
        arguments["use_sde"] = False
    arguments["policy_kwargs"].update({name: sampled_params[name] for name in ("n_critics", "layer_norm", "dropout")})
    return arguments


def _yaml_arguments(trial: "optuna.Trial") -> Mapping[str, str]:
    """
    Read the arguments from the YAML file and ``-params``, which rl_zoo3 stores with a study before its first trial.

    A second process that begins meanwhile may miss some or all of them. Its first trial then leaves out what depends on
    them.

    :return: ``str()`` of each argument that was given, always with ``policy``; without rl_zoo3: ``MlpPolicy`` alone
    """
    study = getattr(trial, "study", None)
    stored: dict[str, Any] = {} if study is None else study.user_attrs
    return {"policy": "MlpPolicy"} if not stored else {name: str(value) for name, value in stored.items()}


def _may_sample_n_steps(trial: "optuna.Trial", additional_args: dict[str, Any]) -> bool:
    """Tell whether the argument ``n_steps`` is allowed and has an effect."""
    if additional_args.get("using_her_replay_buffer") or "n_steps" in _yaml_buffer_kwargs(additional_args):
        return False
    yaml_arguments = _yaml_arguments(trial)
    if yaml_arguments.get("replay_buffer_class", "None") != "None":
        return True  # a buffer without it ignores it, and SB3 warns
    # SB3's own buffers have no n-step returns for dictionaries, nor with `optimize_memory_usage`
    compact = yaml_arguments.get("optimize_memory_usage", "False") != "False"
    return yaml_arguments.get("policy") in {"MlpPolicy", "CnnPolicy"} and not compact


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
    has_images = "CnnPolicy" in _yaml_arguments(trial).get("policy", "")
    _sample_learning_params(trial, additional_args, max_batch_pow=7 if has_images else 10)
    rows = row_cost * 2 ** trial.params["batch_size_pow"]
    if not has_images:
        sample_network_params(trial)
        rows *= NET_COSTS[trial.params["net_arch"]]
    rows_per_round = n_envs * (MAX_IMAGES_PER_STEP if has_images else MAX_ROWS_PER_STEP)
    train_freq = trial.suggest_int("train_freq", min(math.ceil(rows / rows_per_round), 10), 10)
    # At most one update per transition, as in rl_zoo3. Not a ratio, because a converter does not know `n_envs`
    most = _affordable(train_freq * rows_per_round, rows, min(train_freq * n_envs, MAX_GRADIENT_STEPS))
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
        _sample_replay_params(trial, additional_args)


def _convert_value_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Convert what :func:`_sample_value_params` has drawn."""
    arguments = _convert_common_params(params)
    same_name = ("train_freq", "target_update_interval", "double_q")
    arguments.update({name: params[name] for name in same_name if name in params})
    # These arguments only fit other values of the YAML file. Its final learning rate may exceed the sampled initial
    # one, and its small tau fits another interval.
    arguments.update(tau=1.0, learning_rate_final=None, learning_rate_fraction=None)
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
    return _with_her_kwargs(convert_double_dqn_params(trial.params), additional_args)


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
    # A value that is not drawn comes from the YAML file
    n_steps = trial.params.get("n_steps", int(_yaml_arguments(trial).get("n_steps", 1)))
    if backup == "soft" and not trial.params["double_q"] and n_steps == 1:
        trial.suggest_categorical("munchausen_coef", [0.0, 0.9])
    return _with_her_kwargs(convert_soft_dqn_params(trial.params), additional_args)


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
    return _with_her_kwargs(convert_iqn_params(trial.params), additional_args)


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
    return _with_her_kwargs(convert_rainbow_params(trial.params), additional_args)


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
    """Draw the hyperparameters of Beyond the Rainbow, as arguments of ``IQN``. All its parts stay."""
    levels = trial.suggest_categorical("n_quantile_samples", [8, 16, 32])
    _sample_value_params(trial, n_envs, additional_args, is_preset=True, row_cost=_row_cost(levels, levels))
    _sample_exploration_params(trial)
    trial.suggest_float("munchausen_temperature", 0.003, 0.3, log=True)
    return _with_her_kwargs(convert_btr_params(trial.params), additional_args)


def convert_btr_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """Turn the parameters of a trial into constructor arguments of ``IQN``."""
    arguments = {**_convert_value_params(sampled_params), **_convert_exploration_params(sampled_params)}
    arguments.update(dict.fromkeys(QUANTILE_SAMPLES, sampled_params["n_quantile_samples"]))
    arguments.update(munchausen_coef=0.9, munchausen_temperature=sampled_params["munchausen_temperature"])
    if "net_arch" in sampled_params:
        arguments["policy_kwargs"]["normalization"] = "layer"
    else:  # images
        extractor = {"features_dim": 512, "normalization": "layer"}
        arguments["policy_kwargs"].update(features_extractor_kwargs=extractor, net_arch=[])
    return arguments
