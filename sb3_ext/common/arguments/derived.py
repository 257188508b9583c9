"""
Arguments from which the set-up of a model derives something, such as a schedule, and what to do when they change.

SB3 derives it once. A later ``model.learning_rate = 1e-4`` changes nothing there, but is saved with the model.
"""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from stable_baselines3.common.utils import LinearSchedule

from sb3_ext.common.arguments.types import prepared
from sb3_ext.schedules import Cosine, Exponential, Within, is_named_schedule, named_schedule

#: Derives something anew from the present arguments of a model
Derivation = Callable[[Any], None]


def nothing(model: Any) -> None:
    """Derive nothing."""


def derive_learning_rate(model: Any) -> None:
    model._setup_lr_schedule()


def derive_n_steps(model: Any) -> None:
    if model.replay_buffer is not None:
        model._pass_to_buffer("n_steps")


def derive_train_freq(model: Any) -> None:
    model._convert_train_freq()


def derive_exploration(model: Any) -> None:
    ends = model.initial_epsilon, model.exploration_final_eps
    if is_named_schedule(model.exploration_decay):
        model.exploration_schedule = named_schedule(model.exploration_decay)
    elif model.exploration_decay == "linear":
        model.exploration_schedule = LinearSchedule(*ends, model.exploration_fraction)
    else:
        shape = Cosine if model.exploration_decay == "cosine" else Exponential
        model.exploration_schedule = Within(shape(*ends), model.exploration_fraction)


#: For every off-policy algorithm
DERIVATIONS: Mapping[str, Derivation] = {
    "learning_rate": derive_learning_rate,
    "learning_rate_final": derive_learning_rate,
    "learning_rate_fraction": derive_learning_rate,
    "n_steps_final": derive_n_steps,
    "n_steps_fraction": derive_n_steps,
    "train_freq": derive_train_freq,
}
#: For DQN
EXPLORATION_DERIVATIONS: Mapping[str, Derivation] = dict.fromkeys(
    ("exploration_initial_eps", "exploration_final_eps", "exploration_fraction", "exploration_decay"),
    derive_exploration,
)


#: Attributes that the set-up of a model makes, and the arguments that it makes them from
DERIVED: Mapping[str, str] = {
    "lr_schedule": "learning_rate",
    "exploration_schedule": "exploration_initial_eps, exploration_final_eps and exploration_fraction",
    "temperature_schedule": "temperature_initial, temperature_final and temperature_fraction",
    "log_temperature": "temperature_initial",
    "log_ent_coef": "ent_coef",
    "ent_coef_tensor": "ent_coef",
}


def change_arguments(model: Any, values: Mapping[str, Any], derive: Derivation) -> None:
    """
    Set arguments of a model that is set up, check them, and derive what depends on them.

    :param values: by the names of the arguments
    :raises ValueError: if the model cannot have these values; nothing is changed
    """
    values = {name: prepared(name, value) for name, value in values.items()}
    before = {name: getattr(model, name) for name in values}
    is_checked = False
    # Not by `setattr`, which calls this function
    model.__dict__.update(values)
    try:
        model._check_arguments()
        is_checked = True
        derive(model)
    except Exception:
        model.__dict__.update(before)
        if is_checked:
            derive(model)
        raise


#: Arguments of the replay buffer, which is built once
BUILT_ONCE = ("buffer_size", "replay_buffer_class", "replay_buffer_kwargs", "optimize_memory_usage", "buffer_device")


def warn_without_effect(model: Any, name: str, value: Any) -> None:
    """Warn about a new value of an argument of the replay buffer while there is one."""
    if model.replay_buffer is not None and value != getattr(model, name):
        warnings.warn(
            f"{name}={value!r} has no effect on the present replay buffer. For a new and empty one first set "
            "model.replay_buffer=None, then the argument, and call model._setup_model(), which makes new networks, too",
            stacklevel=3,
        )
