"""
Search spaces for rl_zoo3's ``-optimize``.

Every algorithm has a pair of functions: ``sample_*`` draws the parameters of a trial, ``convert_*`` turns
``trial.params`` into constructor arguments. The converter is a pure function of ``trial.params``, and the sampler
returns what the converter returns. So a trial reloaded with ``--trial-id`` is the trial that was measured.

There is one exception. When rl_zoo3 reloads a trial with hindsight replay, it drops the ``replay_buffer_kwargs`` of the
YAML file that are not sampled.

Both functions have to be right for every draw. rl_zoo3 prunes a trial that fails while it learns, but an error in a
constructor ends the whole study.

A sampler is told nothing of the environment and the policy. But rl_zoo3 stores the arguments of the YAML file with the
study before its first trial, see :func:`_yaml_arguments`. Other callers of a sampler get the search space for vectors.
A converter does not see these arguments. It sees what depends on them in which names were drawn.

Conditional parameters are drawn in an order in which each range follows from what was drawn before. Optuna allows
numerical ranges to differ between trials, but not the choices of a categorical parameter.
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

ADAM_EPS = (1e-8, 0.00015, 0.0003125)
"""PyTorch's, Rainbow's (https://arxiv.org/abs/1710.02298) and IQN's (0.01 / 32)."""

QUANTILE_SAMPLES = ("n_quantile_samples", "n_target_quantile_samples", "n_action_quantile_samples")

MAX_GRADIENT_STEPS = 32
"""Of the value-based algorithms: with many environments, an update per transition would make one vector step long."""

MAX_SUBSET_SIZE = 5
"""Beyond it the target is so pessimistic that little is learned, REDQ (https://arxiv.org/abs/2101.05982), section 4."""


def _sample_learning_params(trial: "optuna.Trial", additional_args: dict[str, Any], max_batch_pow: int = 10) -> None:
    """
    Draw how fast the algorithm learns, and towards what.

    :param additional_args: what rl_zoo3 knows of the replay buffer
    :param max_batch_pow: the largest minibatch, as a power of two
    """
    # User attributes: the values as they are, for display
    if "gamma" not in _yaml_buffer_kwargs(additional_args):
        # (A discount of the buffer that is not the algorithm's is an error of the constructor)
        one_minus_gamma = trial.suggest_float("one_minus_gamma", 0.0001, 0.03, log=True)
        trial.set_user_attr("gamma", 1 - one_minus_gamma)
    # From 2**5=32, to 2**10=1024 unless it is less
    batch_size_pow = trial.suggest_int("batch_size_pow", 5, max_batch_pow)
    trial.set_user_attr("batch_size", 2**batch_size_pow)
    trial.suggest_float("learning_rate", 1e-5, 0.002, log=True)


def _sample_network_params(trial: "optuna.Trial") -> None:
    """
    Draw the networks, for vectors.
    """
    trial.suggest_categorical("net_arch", list(NET_ARCHS))
    trial.suggest_categorical("activation_fn", list(ACTIVATION_FNS))


def _sample_replay_params(trial: "optuna.Trial", additional_args: dict[str, Any]) -> None:
    """
    Draw how hindsight replay works, or when learning starts.
    """
    if additional_args.get("using_her_replay_buffer"):
        trial.suggest_int("n_sampled_goal", 1, 5)
        trial.suggest_categorical("goal_selection_strategy", ["final", "episode", "future"])
    else:
        # Not with hindsight replay: sampling before the first episode has ended is a RuntimeError there, which would
        # end the study. The YAML file knows how long an episode is.
        trial.suggest_categorical("learning_starts", [100, 1_000, 5_000])


def _yaml_buffer_kwargs(additional_args: dict[str, Any]) -> Mapping[str, Any]:
    """
    :return: ``replay_buffer_kwargs`` of the YAML file, whichever buffer they are for
    """
    return additional_args.get("her_kwargs") or {}


def _convert_common_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """
    Convert what the functions above have drawn.

    :return: constructor arguments, with ``policy_kwargs`` and, for hindsight replay, ``replay_buffer_kwargs``
    """
    arguments: dict[str, Any] = {
        "batch_size": 2 ** params["batch_size_pow"],
        "learning_rate": params["learning_rate"],
        "gradient_steps": params["gradient_steps"],
        "policy_kwargs": {},
    }
    if "one_minus_gamma" in params:
        arguments["gamma"] = 1 - params["one_minus_gamma"]
    if "net_arch" in params:
        arguments["policy_kwargs"] = {
            "net_arch": list(NET_ARCHS[params["net_arch"]]),
            "activation_fn": ACTIVATION_FNS[params["activation_fn"]],
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
    """
    if "replay_buffer_kwargs" not in arguments:
        return arguments
    yaml_kwargs = _yaml_buffer_kwargs(additional_args)
    return {**arguments, "replay_buffer_kwargs": {**yaml_kwargs, **arguments["replay_buffer_kwargs"]}}


def sample_redq_sac_params(
    trial: "optuna.Trial", n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """
    Draw the hyperparameters of REDQ-SAC.

    :param n_actions: not used
    :param n_envs: not used
    :param additional_args: what rl_zoo3 knows of the replay buffer
    :return: arguments for the constructor of ``REDQSAC``
    """
    _sample_learning_params(trial, additional_args)
    # The update-to-data ratio, for one environment: rl_zoo3 does not tell a converter how many there are, so that
    # `gradient_steps` itself is sampled and every vector step is followed by that many updates.
    trial.suggest_categorical("gradient_steps", [1, 2, 5, 10, 20])
    _sample_network_params(trial)
    _sample_replay_params(trial, additional_args)
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
    Turn the parameters of a trial into constructor arguments of ``REDQSAC``.

    Everything that depends on something sampled is always in the result. So a value in the YAML file cannot contradict
    a sampled one.

    :param sampled_params: ``trial.params``, left as it is
    """
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
    Read what rl_zoo3 stores with a study before its first trial: the arguments from the YAML file and ``-params``.

    If a second process begins while the first one stores them, it may miss some or all of them. Its first trial then
    leaves out what they decide.

    :return: ``str()`` of each argument that was given, always with ``policy``; without rl_zoo3: ``MlpPolicy`` alone
    """
    study = getattr(trial, "study", None)
    stored: dict[str, Any] = {} if study is None else study.user_attrs
    return {"policy": "MlpPolicy"} if not stored else {name: str(value) for name, value in stored.items()}


def _may_sample_n_steps(trial: "optuna.Trial", additional_args: dict[str, Any]) -> bool:
    """
    :return: whether the argument ``n_steps`` has an effect, and is no error
    """
    if additional_args.get("using_her_replay_buffer") or "n_steps" in _yaml_buffer_kwargs(additional_args):
        return False
    yaml_arguments = _yaml_arguments(trial)
    if yaml_arguments.get("replay_buffer_class", "None") != "None":
        return True  # with a buffer that does not know it, SB3 warns and ignores it
    # SB3's own has none for dictionaries, nor with `optimize_memory_usage`
    compact = yaml_arguments.get("optimize_memory_usage", "False") != "False"
    return yaml_arguments.get("policy") in {"MlpPolicy", "CnnPolicy"} and not compact


def _sample_value_params(trial: "optuna.Trial", n_envs: int, additional_args: dict[str, Any]) -> None:
    """
    Draw what every value-based algorithm has, from ranges like those of rl_zoo3's DQN.

    For images neither layers nor activations nor the warm-up are drawn. The policy's own network is that of the papers,
    and the widths for vectors would put a bottleneck into it. Adam's epsilon is drawn, because sampled
    ``policy_kwargs`` replace those of the YAML file. Minibatches have at most 128 images, to save time.

    :param n_envs: number of environments
    :param additional_args: what rl_zoo3 knows of the replay buffer
    """
    has_images = "CnnPolicy" in _yaml_arguments(trial).get("policy", "")
    _sample_learning_params(trial, additional_args, max_batch_pow=7 if has_images else 10)
    train_freq = trial.suggest_int("train_freq", 1, 10)
    # As in rl_zoo3 one update per transition at most. Drawn itself, and not as a ratio: a converter does not know
    # `n_envs`
    trial.suggest_int("gradient_steps", 1, min(train_freq * n_envs, MAX_GRADIENT_STEPS), log=True)
    trial.suggest_int("target_update_interval", 1, 20_000, log=True)
    if _may_sample_n_steps(trial, additional_args):
        trial.suggest_int("n_steps", 1, 5)
    trial.suggest_categorical("double_q", [False, True])
    trial.suggest_categorical("dueling", [False, True])
    if has_images:
        trial.suggest_categorical("adam_eps", list(ADAM_EPS))
    else:
        _sample_network_params(trial)
        _sample_replay_params(trial, additional_args)


def _convert_value_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """
    Convert what :func:`_sample_value_params` has drawn.
    """
    arguments = _convert_common_params(params)
    same_name = ("train_freq", "target_update_interval", "double_q")
    arguments.update({name: params[name] for name in same_name})
    # What makes sense with values of the YAML file only: its end of the learning rate may be above the sampled
    # beginning, and a small tau is for another interval.
    arguments.update(tau=1.0, learning_rate_final=None, learning_rate_fraction=None)
    if "n_steps" in params:
        arguments["n_steps"] = params["n_steps"]
    arguments["policy_kwargs"]["dueling"] = params["dueling"]
    if "adam_eps" in params:
        arguments["policy_kwargs"]["optimizer_kwargs"] = {"eps": params["adam_eps"], "fused": True}
    return arguments


def _sample_exploration_params(trial: "optuna.Trial") -> None:
    """
    Draw the epsilon-greedy exploration, as rl_zoo3 does for DQN. Its fraction begins above 0, which would be no decay.
    """
    trial.suggest_float("exploration_final_eps", 0.0, 0.2)
    trial.suggest_float("exploration_fraction", 0.005, 0.5)


def _convert_exploration_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """
    Convert what :func:`_sample_exploration_params` has drawn.
    """
    return {name: params[name] for name in ("exploration_final_eps", "exploration_fraction")}


def sample_double_dqn_params(
    trial: "optuna.Trial", n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """
    Draw the hyperparameters of Double DQN.

    :param n_actions: not used
    :param n_envs: number of environments
    :param additional_args: what rl_zoo3 knows of the replay buffer
    :return: arguments for the constructor of ``DoubleDQN``
    """
    _sample_value_params(trial, n_envs, additional_args)
    _sample_exploration_params(trial)
    return _with_her_kwargs(convert_double_dqn_params(trial.params), additional_args)


def convert_double_dqn_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """
    Turn the parameters of a trial into constructor arguments of ``DoubleDQN``.

    :param sampled_params: ``trial.params``, left as it is
    """
    return {**_convert_value_params(sampled_params), **_convert_exploration_params(sampled_params)}


def sample_soft_dqn_params(
    trial: "optuna.Trial", n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """
    Draw the hyperparameters of soft Q-learning.

    Temperatures are in units of the reward, and their range fits rewards around 1. The Boltzmann policy explores, so
    that epsilon is not drawn: it is what the YAML file says, or 0.

    :param n_actions: not used
    :param n_envs: number of environments
    :param additional_args: what rl_zoo3 knows of the replay buffer
    :return: arguments for the constructor of ``SoftDQN``
    """
    _sample_value_params(trial, n_envs, additional_args)
    backup = trial.suggest_categorical("target_backup", ["soft", "boltzmann", "mellowmax", "max"])
    trial.suggest_float("temperature_initial", 0.01, 10.0, log=True)
    if trial.suggest_categorical("auto_temperature", [False, True]):
        trial.suggest_float("target_entropy_fraction", 0.01, 0.5, log=True)
    else:
        # A ratio, so that it ends no hotter than it begins, and the range is the same in every trial
        trial.suggest_float("temperature_ratio", 0.01, 1.0, log=True)
        trial.suggest_float("temperature_fraction", 0.05, 1.0)
    # Where it is not drawn it is the YAML file's
    n_steps = trial.params.get("n_steps", int(_yaml_arguments(trial).get("n_steps", 1)))
    if backup == "soft" and not trial.params["double_q"] and n_steps == 1:
        trial.suggest_categorical("munchausen_coef", [0.0, 0.9])
    return _with_her_kwargs(convert_soft_dqn_params(trial.params), additional_args)


def convert_soft_dqn_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """
    Turn the parameters of a trial into constructor arguments of ``SoftDQN``.

    :param sampled_params: ``trial.params``, left as it is
    """
    arguments = _convert_value_params(sampled_params)
    arguments.update(
        {name: sampled_params[name] for name in ("target_backup", "temperature_initial", "auto_temperature")}
    )
    # All of them, with None for those that have no effect: the YAML file's values are refused there
    for name in ("target_entropy_fraction", "temperature_fraction"):
        arguments[name] = sampled_params.get(name)
    ratio = sampled_params.get("temperature_ratio")
    arguments["temperature_final"] = None if ratio is None else sampled_params["temperature_initial"] * ratio
    arguments["munchausen_coef"] = sampled_params.get("munchausen_coef", 0.0)
    arguments["munchausen_clip"] = None
    return arguments


def sample_iqn_params(
    trial: "optuna.Trial", n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """
    Draw the hyperparameters of IQN.

    ``risk_measure`` and ``risk_eta`` are not sampled. They say what somebody wants of an agent, and a study compares
    mean returns. ``kappa`` is 1 in all of the literature. The YAML file may set all three.

    :param n_actions: not used
    :param n_envs: number of environments
    :param additional_args: what rl_zoo3 knows of the replay buffer
    :return: arguments for the constructor of ``IQN``
    """
    _sample_value_params(trial, n_envs, additional_args)
    _sample_exploration_params(trial)
    for name in QUANTILE_SAMPLES:
        trial.suggest_categorical(name, [8, 16, 32, 64])
    trial.suggest_categorical("n_cosines", [32, 64, 128])
    return _with_her_kwargs(convert_iqn_params(trial.params), additional_args)


def convert_iqn_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """
    Turn the parameters of a trial into constructor arguments of ``IQN``.

    :param sampled_params: ``trial.params``, left as it is
    """
    arguments = {**_convert_value_params(sampled_params), **_convert_exploration_params(sampled_params)}
    arguments.update({name: sampled_params[name] for name in QUANTILE_SAMPLES})
    arguments["policy_kwargs"]["n_cosines"] = sampled_params["n_cosines"]
    return arguments
