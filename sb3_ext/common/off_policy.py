"""What every algorithm of this package adds to its SB3 parent, whatever that parent is."""

import inspect
import warnings
from typing import Any

import numpy as np
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule, LinearSchedule

from sb3_ext.common.checks import check_finite, check_interval


class OffPolicyExtension(OffPolicyAlgorithm):
    """
    Mix-in for SB3's off-policy algorithms: arguments checked whenever a model is set up, a learning rate that may end
    at another value, ``n_steps`` for any replay buffer that knows them, and an error where the environment gives NaN.

    Put it before the SB3 class. ``load()`` writes saved arguments into ``__dict__``, past the constructor, so that
    checks and everything derived belong into ``_setup_model``.
    """

    learning_rate_final: float | None
    learning_rate_fraction: float

    def _check_arguments(self) -> None:
        """
        Check the arguments of the algorithm, before anything is built from them.

        :raises ValueError: naming the argument, its value and what is allowed
        """
        if self.learning_rate_final is not None:
            check_interval("learning_rate_final", self.learning_rate_final, 0.0, np.inf, "None or a number >= 0")
        if not 0 < self.learning_rate_fraction <= 1:
            raise ValueError(f"learning_rate_fraction={self.learning_rate_fraction!r} must be in (0, 1]")

    def _setup_model(self) -> None:
        self._check_arguments()
        self._pass_n_steps_to_buffer()
        with warnings.catch_warnings():
            # SB3 cannot know that `n_steps` has just been passed on
            warnings.filterwarnings("ignore", message=r"`n_steps=\d+` is ignored because a custom")
            super()._setup_model()

    def _pass_n_steps_to_buffer(self) -> None:
        """
        SB3 ignores ``n_steps`` when a ``replay_buffer_class`` is given; here the buffer gets it, and ``gamma`` with it.

        :raises ValueError: if the buffer's own arguments contradict the algorithm's, or it knows no n-step returns
        """
        # A copy: the dictionary is the caller's
        self.replay_buffer_kwargs = dict(self.replay_buffer_kwargs)
        if self.replay_buffer_class is None:
            return  # SB3 chooses the buffer and passes both on
        if not _knows_n_steps(self.replay_buffer_class):
            if self.n_steps > 1:
                raise ValueError(
                    f"n_steps={self.n_steps} needs a replay buffer with n-step returns: "
                    f"{self.replay_buffer_class.__name__} has none, so only n_steps=1 is allowed with it"
                )
            return
        wanted = {"n_steps": self.n_steps, "gamma": self.gamma}
        for name, value in wanted.items():
            given = self.replay_buffer_kwargs.setdefault(name, value)
            is_default = name == "n_steps" and value == 1
            if given != value and not is_default:
                raise ValueError(
                    f"replay_buffer_kwargs has {name}={given}, which contradicts {name}={value} of the algorithm: "
                    "give one of them only"
                )

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
            self.lr_schedule = FloatSchedule(
                LinearSchedule(initial, self.learning_rate_final, self.learning_rate_fraction)
            )

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        result = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        assert self._last_obs is not None
        check_finite("observation", self._last_obs, self.num_timesteps)  # type: ignore[arg-type]
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
        check_finite("reward", reward, self.num_timesteps)
        check_finite("observation", new_obs, self.num_timesteps)
        for index, info in enumerate(infos):
            if dones[index] and info.get("terminal_observation") is not None:
                terminal = info["terminal_observation"]
                batched = (
                    {k: v[None] for k, v in terminal.items()}
                    if isinstance(terminal, dict)
                    else np.asarray(terminal)[None]
                )
                check_finite(f"terminal observation of environment {index}, that", batched, self.num_timesteps)
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)


def _knows_n_steps(buffer_class: type[ReplayBuffer]) -> bool:
    """Whether one of the constructors that the arguments pass through takes ``n_steps``."""
    return any("n_steps" in inspect.signature(base.__init__).parameters for base in buffer_class.__mro__)
