"""
rl_zoo3's ``ParallelTrainCallback`` with the algorithms of this package.

It trains a second model in a thread, which it loads as SB3's ``SAC`` whatever subclass of it the first one is.
"""

import functools
from types import FunctionType
from typing import Any

from stable_baselines3 import SAC
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_ext.buffers.samples import SupportsPriorities
from sb3_ext.common.off_policy import OffPolicyExtension

# What only the model knows that acts: how far the run is, what it counted of rewards and the noise that it holds. The
# last two are shared and not copied, since rl_zoo3 also hands the parameters back
_OF_THE_ACTING_MODEL = (
    "num_timesteps",
    "_total_timesteps",
    "_num_timesteps_at_start",
    "_current_progress_remaining",
    "_return_scale",
    "_held_noise",
)
# What callbacks may change
_LEARNING_RATES = ("learning_rate", "qf_learning_rate")


def complete_parallel_training(callback_class: Any) -> None:
    """
    Let the callback train models of this package as what they are. Other models are trained as before.

    :param callback_class: ``rl_zoo3.callbacks.ParallelTrainCallback``
    """
    init_callback, on_rollout_end = callback_class._init_callback, callback_class._on_rollout_end
    train_thread, on_training_end = callback_class._train_thread, callback_class._on_training_end
    if getattr(init_callback, "_knows_sb3_ext", False):
        return

    @functools.wraps(init_callback)
    def init_callback_as_own_class(self: Any) -> None:
        if isinstance(self.model, OffPolicyExtension):
            _start(self, init_callback)
        else:
            init_callback(self)

    @functools.wraps(on_rollout_end)
    def on_rollout_end_with_state(self: Any) -> None:
        if isinstance(self.model, OffPolicyExtension):
            _raise_error(self)
            _follow(self._model, self.model)
        on_rollout_end(self)

    @functools.wraps(train_thread)
    def train_thread_with_error(self: Any) -> None:
        if not isinstance(self.model, OffPolicyExtension):
            train_thread(self)
            return
        try:
            train_thread(self)
        except Exception as error:
            self._error = error  # for the thread that acts: an error in this one would end nothing

    @functools.wraps(on_training_end)
    def on_training_end_with_error(self: Any) -> None:
        on_training_end(self)
        if isinstance(self.model, OffPolicyExtension):
            _raise_error(self)

    init_callback_as_own_class._knows_sb3_ext = True  # type: ignore[attr-defined]
    callback_class._init_callback = init_callback_as_own_class
    callback_class._on_rollout_end = on_rollout_end_with_state
    callback_class._train_thread = train_thread_with_error
    callback_class._on_training_end = on_training_end_with_error


def _raise_error(callback: Any) -> None:
    if callback._error is not None:
        raise callback._error


def _start(callback: Any, init_callback: FunctionType) -> None:
    model = callback.model
    if getattr(callback, "process", None) is not None:
        callback.process.join()  # of an earlier training
    callback.process = None  # rl_zoo3 reads it at the end, even if no thread was started
    callback._error, callback._model_ready = None, True  # an error leaves it False
    if not isinstance(model, SAC):
        raise ValueError(
            f"ParallelTrainCallback with a {type(model).__name__}: of this package only REDQSAC and its subclasses are "
            "allowed. Leave the callback out"
        )
    if isinstance(model.replay_buffer, SupportsPriorities):
        raise ValueError(
            f"ParallelTrainCallback with replay_buffer_class={type(model.replay_buffer).__name__}: it trains on copies "
            "of the replay buffer, so priorities would be lost. Leave one of the two out"
        )
    # The function looks up the name SAC to choose the class. It gets names of its own, because rl_zoo3 may train
    # another model in another thread
    names = {**init_callback.__globals__, "SAC": type(model)}
    code, defaults, closure = init_callback.__code__, init_callback.__defaults__, init_callback.__closure__
    FunctionType(code, names, init_callback.__name__, defaults, closure)(callback)
    # The model is loaded without an environment, and would train on what is not normalized
    callback._model._vec_normalize_env = model._vec_normalize_env

    save = model.save  # rl_zoo3's, which saves the model that is trained

    @functools.wraps(save)
    def save_between_updates(*args: Any, **kwargs: Any) -> None:
        if callback.process is not None:
            callback.process.join()
        _follow(callback._model, model)
        save(*args, **kwargs)

    model.save = save_between_updates  # type: ignore[method-assign]


def _follow(trained: Any, acting: OffPolicyAlgorithm) -> None:
    """Give the model that is trained what it cannot know by itself."""
    for name in _OF_THE_ACTING_MODEL:
        setattr(trained, name, getattr(acting, name))
    for name in _LEARNING_RATES:
        if getattr(trained, name) is not getattr(acting, name):
            setattr(trained, name, getattr(acting, name))
