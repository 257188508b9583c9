"""Arguments of algorithms that SB3 takes unseen: their types, checked before anything is built from them."""

from collections.abc import Callable, Mapping
from difflib import SequenceMatcher
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.her.goal_selection_strategy import KEY_TO_GOAL_STRATEGY, GoalSelectionStrategy
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from sb3_ext.buffers import (
    DeviceReplayBuffer,
    Float32ReplayBuffer,
    FrameDedupReplayBuffer,
    PrioritizedFrameDedupReplayBuffer,
    PrioritizedReplayBuffer,
)
from sb3_ext.checks import check_choice, check_device, check_integer, check_interval, check_mapping, check_path
from sb3_ext.schedules import is_named_schedule, named_schedule

#: Replay buffers that can be given by name
BUFFERS: dict[str, type[ReplayBuffer]] = {
    buffer_class.__name__: buffer_class
    for buffer_class in (
        PrioritizedReplayBuffer,
        FrameDedupReplayBuffer,
        PrioritizedFrameDedupReplayBuffer,
        DeviceReplayBuffer,
        Float32ReplayBuffer,
        ReplayBuffer,
        DictReplayBuffer,
        NStepReplayBuffer,
        HerReplayBuffer,
    )
}


def prepared(name: str, value: Any) -> Any:
    """
    Check the type of an argument, and return it as SB3 understands it.

    Numpy's numbers become Python's where SB3 needs these. Names of replay buffers become their classes. Arguments
    that this module does not know are returned as they are.

    :param name: of an argument of the constructor, or of the attribute that keeps it
    :raises ValueError: naming the argument, its value and what is allowed
    """
    prepare = _PREPARED.get(name)
    return value if prepare is None else prepare(name, value)


def prepare_attributes(model: Any) -> None:
    """Do the same for the attributes of a model, which ``load()`` may have written."""
    for name in _PREPARED:
        if name in vars(model):
            setattr(model, name, prepared(name, getattr(model, name)))


def check_policy(value: Any, aliases: dict[str, type[BasePolicy]]) -> None:
    """Raise a ValueError if ``policy`` is neither one of the names nor a class."""
    if isinstance(value, str) and value not in aliases:
        raise ValueError(f"policy={value!r} is not one of {nearest_first(value, aliases)}")
    if not isinstance(value, (str, type)):
        raise ValueError(f"policy={value!r} must be one of {nearest_first('', aliases)}, or a class of policies")


def check_env(value: Any) -> None:
    """Raise a ValueError if ``env`` is no environment of gymnasium, gym or SB3."""
    if isinstance(value, gym.vector.VectorEnv):
        raise ValueError(f"env={value} is a VectorEnv of gymnasium: SB3 has its own, from make_vec_env")
    if isinstance(value, str):
        raise ValueError(f"env={value!r} is an id, which only constructors take: give gymnasium.make({value!r})")
    is_env = isinstance(value, (gym.Env, VecEnv)) or callable(getattr(value, "step", None))
    if isinstance(value, type) or not is_env:
        raise ValueError(f"env={value!r} must be an environment (not its class), a VecEnv of SB3, or an id")


def check_learn(total_timesteps: Any, callback: Any, log_interval: Any) -> None:
    """
    Check the types of arguments of ``learn()``.

    :raises ValueError: naming the argument, its value and what is allowed
    """
    check_interval("total_timesteps", total_timesteps, -np.inf, np.inf, "a number of time steps")
    is_class = isinstance(callback, type)
    is_list = isinstance(callback, list) and all(isinstance(entry, BaseCallback) for entry in callback)
    if (
        callback is not None
        and not is_list
        and (is_class or not (isinstance(callback, BaseCallback) or callable(callback)))
    ):
        raise ValueError(
            f"callback={callback!r} must be None, a function, an instance of BaseCallback (not its class), or a list "
            "of such instances"
        )
    if log_interval is not None:
        check_interval("log_interval", log_interval, -np.inf, np.inf, "None or a number of episodes")
        if log_interval == 0:
            raise ValueError("log_interval=0 must be None, to log nothing, or a number of episodes of at least 1")


def check_buffer_arguments(buffer_class: type[ReplayBuffer] | None, kwargs: Mapping[str, Any]) -> None:
    """Check those arguments of SB3's replay buffers that SB3 takes unseen. A ValueError names the wrong one."""
    if buffer_class is not None and buffer_class.__module__.partition(".")[0] != "stable_baselines3":
        return
    for name in ("handle_timeout_termination", "copy_info_dict"):
        if name in kwargs:
            check_choice(name, kwargs[name], (True, False))
    if "n_sampled_goal" in kwargs:
        check_integer("n_sampled_goal", kwargs["n_sampled_goal"], minimum=0)
    strategy = kwargs.get("goal_selection_strategy", "future")
    if not isinstance(strategy, GoalSelectionStrategy):
        name = strategy.lower() if isinstance(strategy, str) else strategy  # as SB3 reads it
        if not isinstance(name, str) or name not in KEY_TO_GOAL_STRATEGY:
            allowed = ", ".join(map(repr, KEY_TO_GOAL_STRATEGY))
            raise ValueError(f"goal_selection_strategy={strategy!r} is not one of {allowed}")


def nearest_first(value: str, names: Any) -> str:
    """List names for a message, those most similar to ``value`` first."""
    ordered = sorted(names, key=lambda name: -SequenceMatcher(None, name.lower(), value.lower()).ratio())
    return ", ".join(repr(name) for name in ordered)


def _replay_buffer_class(name: str, value: Any) -> type[ReplayBuffer] | None:
    if isinstance(value, str):
        package, _, short_name = value.rpartition(".")
        found = BUFFERS.get(short_name)
        if found is None or (package and package.partition(".")[0] != found.__module__.partition(".")[0]):
            raise ValueError(
                f"{name}={value!r} is not one of {nearest_first(value, BUFFERS)}: give other buffers as a class"
            )
        return found
    if value is not None and not (isinstance(value, type) and issubclass(value, ReplayBuffer)):
        raise ValueError(
            f"{name}={value!r} must be None, a subclass of SB3's ReplayBuffer, or one of {nearest_first('', BUFFERS)}"
        )
    return value


def _learning_rate(name: str, value: Any) -> Any:
    allowed = "a number >= 0, or a function that returns one for the remaining progress from 1 to 0"
    if is_named_schedule(value):
        try:
            return named_schedule(value)
        except ValueError as error:
            raise ValueError(f"{name}={error}") from None
    if callable(value) and not isinstance(value, type):
        for progress in (1.0, 0.5, 0.0):
            try:
                result = float(value(progress))
            except Exception as error:
                raise ValueError(
                    f"{name}={value!r} must be {allowed}: at {progress} it fails with {error!r}"
                ) from error
            if not 0 <= result < np.inf:
                raise ValueError(f"{name}={value!r} must be {allowed}: at {progress} it returns {result}")
        return value
    try:
        check_interval(name, value, 0.0, np.finfo(np.float64).max, allowed)
    except ValueError as error:
        hint = ", or the name of a schedule such as 'lin_1e-3' (sb3_ext.schedules)" if isinstance(value, str) else ""
        raise ValueError(f"{error}{hint}") from None
    return float(value)


def _optional_learning_rate(name: str, value: Any) -> Any:
    return None if value is None else _learning_rate(name, value)


def _train_freq(name: str, value: Any) -> Any:
    frequency, unit = value if isinstance(value, tuple) and len(value) == 2 else (value, "step")
    is_unit = isinstance(unit, (str, TrainFrequencyUnit)) and unit in ("step", "episode", *TrainFrequencyUnit)
    is_integer = isinstance(frequency, (int, np.integer)) and not isinstance(frequency, bool)
    if not is_unit or not is_integer or frequency < 1:
        raise ValueError(
            f"{name}={value!r} must be an integer of at least 1, or a tuple of one and its unit, 'step' or 'episode'"
        )
    if isinstance(value, TrainFreq):
        return value
    return (int(frequency), unit) if isinstance(value, tuple) else int(frequency)


def _action_noise(name: str, value: Any) -> Any:
    if value is not None and not isinstance(value, ActionNoise):
        raise ValueError(f"{name}={value!r} must be None or an ActionNoise, such as NormalActionNoise(mean, sigma)")
    return value


def _seed(name: str, value: Any) -> int | None:
    if value is None:
        return None
    check_integer(name, value, minimum=0)
    if value >= 2**32:
        raise ValueError(f"{name}={value!r} must be None or an integer below 2**32")
    return int(value)


def _verbose(name: str, value: Any) -> Any:
    if not isinstance(value, bool):
        check_interval(name, value, -np.inf, np.inf, "0, 1 or 2")
    return value


def _learning_starts(name: str, value: Any) -> Any:
    # Infinity stands for "only collect", and a negative number for "at once"
    check_interval(name, value, -np.inf, np.inf, "a number of time steps")
    return value


def _boolean(name: str, value: Any) -> Any:
    check_choice(name, value, (True, False))
    return value


def _mapping(name: str, value: Any) -> dict[str, Any]:
    """Return a copy, because SB3 adds entries and the original belongs to the caller."""
    if value is not None:
        check_mapping(name, value)
    return dict(value or {})


def _at_least(minimum: int) -> Callable[[str, Any], int]:
    def prepare(name: str, value: Any) -> int:
        check_integer(name, value, minimum)
        return int(value)

    return prepare


def _device(name: str, value: Any) -> Any:
    check_device(name, value)
    return value


def _tensorboard_log(name: str, value: Any) -> Any:
    if value is not None:
        check_path(name, value)
    return value


_PREPARED: dict[str, Callable[[str, Any], Any]] = {
    "learning_rate": _learning_rate,
    "qf_learning_rate": _optional_learning_rate,
    "learning_starts": _learning_starts,
    "train_freq": _train_freq,
    "action_noise": _action_noise,
    "replay_buffer_class": _replay_buffer_class,
    "replay_buffer_kwargs": _mapping,
    "policy_kwargs": _mapping,
    "optimize_memory_usage": _boolean,
    "use_sde": _boolean,
    "use_sde_at_warmup": _boolean,
    "backup_entropy": _boolean,
    "sde_sample_freq": _at_least(-1),
    "stats_window_size": _at_least(0),
    "tensorboard_log": _tensorboard_log,
    "verbose": _verbose,
    "seed": _seed,
    "device": _device,
}
