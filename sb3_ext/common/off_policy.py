"""What every algorithm of this package adds to its SB3 parent, whatever that parent is."""

import inspect
import io
import pathlib
import warnings
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule, LinearSchedule

from sb3_ext.buffers import DeviceReplayBuffer
from sb3_ext.buffers.saving import load_replay_buffer, save_replay_buffer
from sb3_ext.checks import check_choice, check_finite, check_integer, check_interval
from sb3_ext.speed.allocator import keep_freed_memory
from sb3_ext.speed.evaluation import NetworkEvaluator
from sb3_ext.speed.precision import AUTOCAST_DTYPES

# The buffers that SB3 or this package choose when the user names none
_AUTOMATIC_BUFFER_CLASSES = (ReplayBuffer, DictReplayBuffer, NStepReplayBuffer, DeviceReplayBuffer)
# What a replay buffer needs to know of the algorithm to form returns
_RETURN_SETTINGS = ("n_steps", "gamma")


class OffPolicyExtension(OffPolicyAlgorithm):
    """
    Mix-in for SB3's off-policy algorithms. It checks arguments whenever a model is set up, and raises an error where
    the environment gives NaN. It adds a learning rate that ends at another value, and evaluates networks compiled or in
    lower precision while training.

    The algorithm owns ``gamma`` and ``n_steps``: its replay buffer follows them, when it is made, when another one is
    loaded, and whenever they change.

    Put it before the SB3 class. ``load()`` writes saved arguments into ``__dict__``, past the constructor, so checks
    and everything derived belong into ``_setup_model``.
    """

    learning_rate_final: float | None = None
    learning_rate_fraction: float | None = None
    compile: bool = False
    autocast_dtype: str | None = None
    # Whether SB3 chose the class of the replay buffer. Saved with the model, in which SB3 leaves the class it chose
    _chose_buffer_class: bool = False

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _RETURN_SETTINGS and self.__dict__.get("replay_buffer") is not None:
            _check_returns(**{name: value})
            self._tell_buffer(self.replay_buffer, {name: value})
        elif name == "replay_buffer":
            # (SB3's constructor assigns None before there are any settings)
            known = {setting: self.__dict__[setting] for setting in _RETURN_SETTINGS if setting in self.__dict__}
            self._tell_buffer(value, known)
        super().__setattr__(name, value)

    def _tell_buffer(self, replay_buffer: ReplayBuffer | None, settings: dict[str, Any]) -> None:
        """
        :param settings: ``n_steps`` and ``gamma`` as they are from now on
        :raises ValueError: if the buffer cannot follow
        """
        for name, value in settings.items():
            if hasattr(replay_buffer, name):
                setattr(replay_buffer, name, value)

    def _check_arguments(self) -> None:
        """
        Check the arguments of the algorithm, before anything is built from them.

        :raises ValueError: naming the argument, its value and what is allowed
        """
        smallest, largest = np.finfo(np.float64).tiny, np.finfo(np.float64).max
        if self.learning_rate_final is not None:
            check_interval("learning_rate_final", self.learning_rate_final, 0.0, largest, "None or a number >= 0")
        if self.learning_rate_fraction is not None:
            check_interval("learning_rate_fraction", self.learning_rate_fraction, smallest, 1.0, "in (0, 1]")
            self._refuse(
                "learning_rate_fraction", unless=self.learning_rate_final is not None, needs="learning_rate_final"
            )
        _check_returns(self.gamma, self.n_steps)
        check_integer("buffer_size", self.buffer_size, minimum=1)
        check_integer("batch_size", self.batch_size, minimum=1)
        for name in ("alpha", "beta", "eps"):
            if name in self.replay_buffer_kwargs and not _accepts(self.replay_buffer_class, name):
                raise ValueError(
                    f"replay_buffer_kwargs has {name}={self.replay_buffer_kwargs[name]!r}, which needs a prioritised "
                    "replay_buffer_class: PrioritizedReplayBuffer or PrioritizedFrameDedupReplayBuffer"
                )
        check_integer("gradient_steps", self.gradient_steps, minimum=-1)
        check_choice("compile", self.compile, (True, False))
        check_choice("autocast_dtype", self.autocast_dtype, (None, "auto", *AUTOCAST_DTYPES))

    def _refuse(self, name: str, unless: bool, needs: str) -> None:
        """
        Refuse an argument that would have no effect.

        :param name: of an argument that was given
        :param unless: whether it has an effect with the other arguments
        :param needs: what it has an effect with
        :raises ValueError: if it has none
        """
        if not unless:
            raise ValueError(f"{name}={getattr(self, name)!r} has no effect here: it needs {needs}, or leave it out")

    def _setup_model(self) -> None:
        self._check_arguments()
        # What is saved with the model must be what was asked for, not what SB3 or the lines below make of it: only then
        # can `load(n_steps=...)` or `load(gamma=...)` change it.
        requested_kwargs = self.replay_buffer_kwargs
        if self._chose_buffer_class and self.replay_buffer_class in _AUTOMATIC_BUFFER_CLASSES:
            self.replay_buffer_class = None
        self._chose_buffer_class = self.replay_buffer_class is None
        if self._chose_buffer_class:
            self.replay_buffer_class = self._default_buffer_class()
        self.replay_buffer_kwargs = self._buffer_kwargs_with_returns()
        with warnings.catch_warnings():
            if _accepts(self.replay_buffer_class, "n_steps"):
                # SB3 cannot know that `n_steps` has just been passed on
                warnings.filterwarnings("ignore", message=r"`n_steps=\d+` is ignored because a custom")
            super()._setup_model()
        self.replay_buffer_kwargs = requested_kwargs
        self._evaluator = NetworkEvaluator(self.device)

    def _default_buffer_class(self) -> type[ReplayBuffer] | None:
        """
        Hook: the class of the replay buffer if the user names none.

        :return: ``None`` for SB3's choice
        """
        return None

    def _buffer_kwargs_with_returns(self) -> dict[str, Any]:
        """
        SB3 ignores ``n_steps`` when a ``replay_buffer_class`` is given; here a buffer that knows ``n_steps`` and
        ``gamma`` gets the algorithm's. (With a buffer that does not, SB3's warning says that ``n_steps`` is ignored.)

        :return: the arguments for the buffer, a copy: the dictionary is the caller's
        :raises ValueError: if the buffer's own arguments contradict the algorithm's
        """
        kwargs = dict(self.replay_buffer_kwargs)
        for name in _RETURN_SETTINGS:
            value = getattr(self, name)
            given = kwargs.pop(name, value)
            if given != value:
                raise ValueError(
                    f"replay_buffer_kwargs has {name}={given}, which contradicts {name}={value} of the algorithm: "
                    f"give {name} to the algorithm only, its buffer follows"
                )
            if _accepts(self.replay_buffer_class, name):
                kwargs[name] = value
        return kwargs

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_evaluator"]

    @property
    def evaluate(self) -> NetworkEvaluator:
        """
        :return: evaluates networks as the training does, with the settings as they are now
        """
        return self._evaluator.configure(self.compile, self.autocast_dtype)

    def _begin_updates(self, optimizers: list[th.optim.Optimizer] | th.optim.Optimizer) -> None:
        """
        What comes first in ``train()``: networks in training mode, the learning rate of this moment, and on a CPU
        memory that stays with the process between updates.
        """
        if self.device.type == "cpu":
            keep_freed_memory()
        self.policy.set_training_mode(True)
        self._update_learning_rate(optimizers)

    def save_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """
        Save the replay buffer so that an interruption leaves an earlier file of that name as it was.

        :param path: of the file (``.pkl`` is added where there is no suffix), or an open file
        """
        save_replay_buffer(self, path)

    def load_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase, truncate_last_traj: bool = True) -> None:
        """
        Load a replay buffer; if that fails the model keeps the one it has.

        :param path: of the file, or an open file
        :param truncate_last_traj: for ``HerReplayBuffer``: whether the last episode in it counts as finished
        :raises ValueError: if the file cannot be read, or its buffer does not fit the model
        :raises OSError: if there is no such file
        """
        load_replay_buffer(self, path, truncate_last_traj)

    def _setup_lr_schedule(self) -> None:
        """
        Constant or scheduled as in SB3; with ``learning_rate_final`` a line from ``learning_rate`` to it.
        """
        super()._setup_lr_schedule()
        if self.learning_rate_final is not None:
            constant: Schedule = self.lr_schedule
            initial = constant(1.0)
            if constant(0.5) != initial or constant(0.0) != initial:
                raise ValueError(
                    f"learning_rate_final={self.learning_rate_final} needs a constant learning_rate to start from, "
                    f"not the schedule {self.learning_rate!r}"
                )
            fraction = 1.0 if self.learning_rate_fraction is None else self.learning_rate_fraction
            self.lr_schedule = FloatSchedule(LinearSchedule(initial, self.learning_rate_final, fraction))

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        result = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        first_obs = self._last_obs if self._vec_normalize_env is None else self._vec_normalize_env.get_original_obs()
        assert first_obs is not None
        check_finite("observation", first_obs, self.num_timesteps)
        return result

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: np.ndarray,
        new_obs: np.ndarray | dict[str, np.ndarray],
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        # One NaN in the buffer becomes NaN weights some updates later, when its origin can no longer be seen
        vec_normalize = self._vec_normalize_env
        # Not what VecNormalize makes of them: it clips infinities, and the buffer stores the originals
        check_finite("reward", vec_normalize.get_original_reward() if vec_normalize else reward, self.num_timesteps)
        check_finite("observation", vec_normalize.get_original_obs() if vec_normalize else new_obs, self.num_timesteps)
        for index, info in enumerate(infos):
            if dones[index] and info.get("terminal_observation") is not None:
                name = f"terminal observation of environment {index}"
                check_finite(name, info["terminal_observation"], self.num_timesteps, is_batch=False)
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)


def _check_returns(gamma: Any = 0.99, n_steps: Any = 1) -> None:
    check_interval("gamma", gamma, 0.0, 1.0, "in [0, 1]")
    check_integer("n_steps", n_steps, minimum=1)


def _accepts(buffer_class: type[ReplayBuffer] | None, name: str) -> bool:
    """
    :return: whether one of the constructors that the arguments of a replay buffer pass through takes one of that name
    """
    if buffer_class is None:
        return False
    constructors = (vars(base).get("__init__") for base in buffer_class.__mro__ if base is not object)
    return any(init is not None and name in inspect.signature(init).parameters for init in constructors)
