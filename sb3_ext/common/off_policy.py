"""What every algorithm of this package adds to its parent from SB3."""

import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule, LinearSchedule
from stable_baselines3.common.vec_env import VecEnv

from sb3_ext.buffers import DeviceReplayBuffer, Float32ReplayBuffer
from sb3_ext.buffers.float32 import is_double
from sb3_ext.buffers.interruption import end_last_episodes
from sb3_ext.checks import check_choice, check_integer, check_interval
from sb3_ext.common.arguments.compatibility import check_compatibility
from sb3_ext.common.arguments.derived import (
    BUILT_ONCE,
    DERIVATIONS,
    Derivation,
    change_arguments,
    nothing,
    warn_without_effect,
)
from sb3_ext.common.arguments.keywords import RETURN_SETTINGS
from sb3_ext.common.arguments.normalization import check_original_observations
from sb3_ext.common.arguments.spaces import check_spaces
from sb3_ext.common.arguments.types import check_env, check_learn, check_policy, prepare_attributes, prepared
from sb3_ext.common.divergence import DivergenceCheck
from sb3_ext.common.finite import check_action, check_first_observation, check_transition
from sb3_ext.common.networks import check_learning_rates, set_training_mode
from sb3_ext.common.progress import close_progress_bars
from sb3_ext.common.saved.model import SavedModel
from sb3_ext.functional.schedules import falling_n_steps
from sb3_ext.keywords import declared_names
from sb3_ext.speed.allocator import keep_freed_memory
from sb3_ext.speed.evaluation import NetworkEvaluator
from sb3_ext.speed.float32 import FLOAT32_MATMUL_PRECISIONS
from sb3_ext.speed.precision import AUTOCAST_DTYPES

SelfOffPolicy = TypeVar("SelfOffPolicy", bound="OffPolicyExtension")

# Buffers that SB3 or this package chooses when the user names none
_AUTOMATIC_BUFFER_CLASSES = (ReplayBuffer, DictReplayBuffer, NStepReplayBuffer, DeviceReplayBuffer, Float32ReplayBuffer)


class OffPolicyExtension(SavedModel):
    """
    Mix-in for SB3's off-policy algorithms, to be put before the SB3 class.

    It checks arguments whenever a model is set up, and raises an error where the environment gives NaN. It adds a
    learning rate that ends at another value. While training, it can evaluate networks compiled or in lower precision.

    The algorithm owns ``gamma`` and ``n_steps``. Its replay buffer receives them when it is made or loaded, and
    whenever they change.

    ``load()`` writes saved arguments into ``__dict__`` without the constructor, so ``_setup_model`` is the place for
    checks and derived attributes.
    """

    learning_rate_final: float | None = None
    learning_rate_fraction: float | None = None
    n_steps_final: int | None = None
    n_steps_fraction: float | None = None
    compile: bool = False
    autocast_dtype: str | None = None
    float32_matmul_precision: str | None = "auto"
    #: The kind of action space that the algorithm takes; ``None``: any. Checked like the observations' space
    action_space_type: ClassVar[type[spaces.Space] | None] = None
    #: Evaluates networks as training does: ``self.evaluator(self.q_net, observations)``
    evaluator: NetworkEvaluator
    #: Arguments from which the set-up derives something, and what derives it anew when they change
    derivations: ClassVar[Mapping[str, Derivation]] = DERIVATIONS
    # Whether SB3 chose the class of the replay buffer. Saved with the model, because SB3 overwrites
    # ``replay_buffer_class`` with its choice
    _chose_buffer_class: bool = False
    #: What may help if a training diverges, for the message
    _remedies_of_divergence: ClassVar[str] = "A smaller learning_rate or clipped rewards"
    # Of the present `learn()`. Weak, because a callback may copy the model, and many callbacks cannot be copied
    _callback: Callable[[], BaseCallback | None] | None = None

    def __init__(self, policy: str | type[BasePolicy], env: GymEnv | str, *args: Any, **kwargs: Any) -> None:
        check_policy(policy, self.policy_aliases)
        kwargs = {name: prepared(name, value) for name, value in kwargs.items()}
        # A file of SB3 does not say who chose. There this constructor, which `load` calls without a class, has the word
        self._chose_buffer_class = kwargs.get("replay_buffer_class") is None
        super().__init__(policy, env, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        # For `pickle`, which takes no weak reference, and `copy`. A copy is in no `learn()`
        return {name: value for name, value in vars(self).items() if name != "_callback"}

    def __setattr__(self, name: str, value: Any) -> None:
        if name in RETURN_SETTINGS and self.__dict__.get("replay_buffer") is not None:
            self._change_returns(name, value)
            return
        if name in self.derivations and "evaluator" in self.__dict__:  # which the set-up makes last
            # What is learned goes on with the same start, as with an argument given to `load()`
            continues = name in self._starting_arguments and self._continues_from(name, value)
            change_arguments(self, {name: value}, nothing if continues else self.derivations[name])
            return
        if name in BUILT_ONCE and "evaluator" in self.__dict__:
            warn_without_effect(self, name, value)
            if name == "replay_buffer_class":
                self._chose_buffer_class = False
        super().__setattr__(name, value)
        if name == "replay_buffer" and value is not None:
            for setting in RETURN_SETTINGS:
                self._pass_to_buffer(setting)
        elif name == "policy" and value is not None and hasattr(self, "_create_aliases"):
            self._create_aliases()  # else training would go on with the networks of the old policy

    def _change_returns(self, name: str, value: Any) -> None:
        """Set ``n_steps`` or ``gamma`` of algorithm and buffer. A value that cannot hold raises and changes nothing."""
        before = getattr(self, name)
        super().__setattr__(name, value)
        try:
            self._check_arguments()
            if name == "n_steps" and value > 1 and not _accepts(type(self.replay_buffer), name):
                raise ValueError(
                    f"n_steps={value!r}: the replay buffer, a {type(self.replay_buffer).__name__}, has no n-step "
                    "returns: give n_steps to the constructor, or a replay_buffer_class that knows n_steps"
                )
            self._pass_to_buffer(name)
        except ValueError:
            super().__setattr__(name, before)
            raise

    def _pass_to_buffer(self, name: str) -> None:
        """Pass ``n_steps``, as they are now, or ``gamma`` to a buffer that takes it."""
        if _accepts(type(self.replay_buffer), name):
            setattr(self.replay_buffer, name, self.current_n_steps if name == "n_steps" else getattr(self, name))

    @property
    def current_n_steps(self) -> int:
        """``n_steps``, or where it is on its way to ``n_steps_final``."""
        if self.n_steps_final is None:
            return self.n_steps
        fraction = 1.0 if self.n_steps_fraction is None else self.n_steps_fraction
        return falling_n_steps(self.n_steps, self.n_steps_final, fraction, self._current_progress_remaining)

    @property
    def effective_n_steps(self) -> int:
        """Steps of the returns that are learned from: 1 where the replay buffer forms no n-step returns."""
        return self.current_n_steps if _accepts(type(self.replay_buffer), "n_steps") else 1

    def _check_arguments(self) -> None:
        """Hook: check the arguments before anything is built from them. A wrong one raises a ValueError."""
        smallest, largest = np.finfo(np.float64).tiny, np.finfo(np.float64).max
        if self.learning_rate_final is not None:
            check_interval("learning_rate_final", self.learning_rate_final, 0.0, largest, "None or a number >= 0")
        if self.learning_rate_fraction is not None:
            check_interval("learning_rate_fraction", self.learning_rate_fraction, smallest, 1.0, "in (0, 1]")
            self._require_effect(
                "learning_rate_fraction", has_effect=self.learning_rate_final is not None, needs="learning_rate_final"
            )
        check_interval("gamma", self.gamma, 0.0, 1.0, "in [0, 1]")
        check_integer("n_steps", self.n_steps, minimum=1)
        self._check_falling_n_steps()
        check_integer("buffer_size", self.buffer_size, minimum=1)
        check_integer("batch_size", self.batch_size, minimum=1)
        for name in ("alpha", "beta", "eps"):
            if name in self.replay_buffer_kwargs and not _accepts(self.replay_buffer_class, name):
                raise ValueError(
                    f"replay_buffer_kwargs has {name}={self.replay_buffer_kwargs[name]!r}, which needs a prioritized "
                    "replay_buffer_class: PrioritizedReplayBuffer or PrioritizedFrameDedupReplayBuffer"
                )
        check_integer("gradient_steps", self.gradient_steps, minimum=-1)
        check_choice("compile", self.compile, (True, False))
        check_choice("autocast_dtype", self.autocast_dtype, (None, "auto", *AUTOCAST_DTYPES))
        check_choice("float32_matmul_precision", self.float32_matmul_precision, FLOAT32_MATMUL_PRECISIONS)

    def _check_falling_n_steps(self) -> None:
        final, fraction = self.n_steps_final, self.n_steps_fraction
        if final is not None:
            check_integer("n_steps_final", final, minimum=1)
            if final >= self.n_steps:
                raise ValueError(f"n_steps_final={final!r} must be below n_steps={self.n_steps!r}: returns get shorter")
            given = None if self._chose_buffer_class else self.replay_buffer_class
            if given is not None and not _accepts(given, "n_steps"):
                raise ValueError(
                    f"n_steps_final={final!r} has no effect with replay_buffer_class={given.__name__}, which forms no "
                    "n-step returns"
                )
        if fraction is not None:
            check_interval("n_steps_fraction", fraction, np.finfo(np.float64).tiny, 1.0, "in (0, 1]")
            self._require_effect("n_steps_fraction", has_effect=final is not None, needs="n_steps_final")

    def _require_effect(self, name: str, has_effect: bool, needs: str, otherwise: Any = None) -> None:
        """
        Raise a ValueError if a given argument has no effect.

        :param needs: what would give it an effect
        :param otherwise: the value that stands for "not given". A saved model is loaded with it
        """
        if not has_effect:
            value = getattr(self, name)
            raise ValueError(f"{name}={value!r} has no effect here: it needs {needs}; otherwise {name}={otherwise!r}")

    @classmethod
    def _wrap_env(cls, env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        # Constructor, `load` and `set_env` all call this, before SB3 looks at the spaces
        check_env(env)
        if isinstance(env.observation_space, spaces.Space):  # not those of gym, which SB3 converts
            check_spaces(env.observation_space, env.action_space, cls.action_space_type)
        return super()._wrap_env(env, verbose, monitor_wrapper)

    def _setup_model(self) -> None:
        vars(self).pop("evaluator", None)  # while it is absent, attributes are set without deriving anything
        prepare_attributes(self)
        self._check_arguments()
        if self._chose_buffer_class and self.replay_buffer_class in _AUTOMATIC_BUFFER_CLASSES:
            self.replay_buffer_class = None
        check_compatibility(self)
        # A saved model must contain what was asked for, not what SB3 or the lines below derive from it. Otherwise
        # `load(n_steps=...)` and `load(gamma=...)` could not change it.
        requested_kwargs = self.replay_buffer_kwargs
        self._chose_buffer_class = self.replay_buffer_class is None
        if self._chose_buffer_class:
            self.replay_buffer_class = self._default_buffer_class()
        self.replay_buffer_kwargs = self._buffer_kwargs_with_returns()
        with warnings.catch_warnings():
            if _accepts(self.replay_buffer_class, "n_steps"):
                # SB3 does not notice that the buffer receives `n_steps`
                warnings.filterwarnings("ignore", message=r"`n_steps=\d+` is ignored because a custom")
            super()._setup_model()
        self.replay_buffer_kwargs = requested_kwargs
        self._divergence = DivergenceCheck(self._remedies_of_divergence)
        self.evaluator = NetworkEvaluator(self.device).configure(self.compile, self.autocast_dtype)

    def _default_buffer_class(self) -> type[ReplayBuffer] | None:
        """Hook: return the class of the replay buffer if the user names none, or ``None`` for SB3's choice."""
        has_equal_samples = self.n_steps == 1 and not self.replay_buffer_kwargs and self._vec_normalize_env is None
        return Float32ReplayBuffer if has_equal_samples and is_double(self.observation_space) else None

    def _buffer_kwargs_with_returns(self) -> dict[str, Any]:
        """
        Return the arguments of the buffer, with ``n_steps`` and ``gamma`` if it accepts them.

        SB3 passes no ``n_steps`` to a ``replay_buffer_class``, and warns. The result is a copy, because the dictionary
        belongs to the caller. Arguments that contradict the algorithm's raise a ValueError.
        """
        kwargs = dict(self.replay_buffer_kwargs)
        for name in RETURN_SETTINGS:
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
        # The set-up makes the last two anew
        own = ["evaluator", "_callback", "_divergence", "batch_norm_stats", "batch_norm_stats_target"]
        return [*super()._excluded_save_params(), *own]

    def _begin_updates(self, optimizers: list[th.optim.Optimizer] | th.optim.Optimizer) -> None:
        """Prepare ``train()``: training mode, the learning rate, and on a CPU memory that stays with the process."""
        if self.device.type == "cpu":
            keep_freed_memory()
        set_training_mode(self.policy)
        for setting in RETURN_SETTINGS:  # another model may share the buffer
            self._pass_to_buffer(setting)
        if self.n_steps_final is not None:
            self.logger.record("train/n_steps", self.effective_n_steps)
        self._update_learning_rate(optimizers)
        check_learning_rates(optimizers)

    def _setup_lr_schedule(self) -> None:
        """Set up SB3's schedule, or a line from ``learning_rate`` to ``learning_rate_final``."""
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

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        running = super()._init_callback(callback, progress_bar)
        self._callback = weakref.ref(running)
        return running

    def learn(
        self: SelfOffPolicy,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "run",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfOffPolicy:
        check_learn(total_timesteps, callback, log_interval)
        # Attributes may have been set since the model was made
        self._check_arguments()
        for name in ("learning_starts", "action_noise"):
            prepared(name, getattr(self, name))
        with self._progress_bars_closed():
            return super().learn(
                total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar
            )

    @contextmanager
    def _progress_bars_closed(self) -> Iterator[None]:
        """Close the progress bars of a training that an error or Ctrl-C ends."""
        try:
            yield
        except BaseException:
            if self._callback is not None:
                close_progress_bars(self._callback())
            raise
        finally:
            self._callback = None

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        check_original_observations(self._vec_normalize_env, self.observation_space)
        self._before_learning(resets_envs=reset_num_timesteps or self._last_obs is None)
        result = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        check_first_observation(self)
        self._warn_of_long_warm_up()
        return result

    def _before_learning(self, resets_envs: bool) -> None:
        """
        Hook: prepare a call of ``learn()``.

        :param resets_envs: whether SB3 is about to reset the environments
        """
        if resets_envs and self.replay_buffer is not None:
            end_last_episodes(self.replay_buffer)

    def _warn_of_long_warm_up(self) -> None:
        """
        Warn if less than half of the steps are learned from. An infinite ``learning_starts`` is meant, and some hundred
        steps only try the code.
        """
        n_steps, n_warm_up = self._total_timesteps - self.num_timesteps, self.learning_starts - self.num_timesteps
        if n_steps >= 1000 and n_steps / 2 < n_warm_up < np.inf:
            learned = f"only the last {n_steps - n_warm_up:g}" if n_warm_up < n_steps else "none"
            warnings.warn(
                f"learning_starts={self.learning_starts:g}: of {n_steps} time steps {learned} will be learned from. "
                "Give a smaller learning_starts, or train for longer",
                stacklevel=2,
            )

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        action, buffer_action = super()._sample_action(learning_starts, action_noise, n_envs)
        check_action(action, buffer_action, self.num_timesteps)
        return action, buffer_action

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: np.ndarray,
        new_obs: np.ndarray | dict[str, np.ndarray],
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        # One NaN in the buffer makes the weights NaN some updates later, when its origin is no longer visible
        check_transition(self, new_obs, reward, dones, infos)
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)


def _accepts(buffer_class: type | None, name: str) -> bool:
    """Tell whether a constructor of the class or its bases has an argument of this name."""
    return buffer_class is not None and name in declared_names(buffer_class)
