"""Returns over several steps that are corrected for actions which the policy would not choose."""

from typing import Any, ClassVar

import numpy as np
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise

from sb3_ext.buffers import ArrayReplayBuffer
from sb3_ext.buffers.samples import AnySamples, SupportsWindows, sample_replay, sample_windows
from sb3_ext.buffers.transitions import LOG_PROB_KEY
from sb3_ext.checks import check_choice, check_interval
from sb3_ext.common.off_policy import OffPolicyExtension
from sb3_ext.functional.traces import LAMBDA_CORRECTIONS, N_STEP_CORRECTIONS, RATIO_CORRECTIONS, NStepCorrection


class CorrectedReturns(OffPolicyExtension):
    """
    Mix-in that samples windows of ``n_steps`` transitions if ``n_step_correction`` asks for it.

    For corrections by probability ratios, the replay buffer keeps how likely each action was when it was chosen.
    """

    n_step_correction: NStepCorrection = "none"
    trace_lambda: float | None = None
    #: Corrections that are defined for the algorithm
    allowed_corrections: ClassVar[tuple[NStepCorrection, ...]] = N_STEP_CORRECTIONS
    # Log-probabilities of the actions of the present step, shape (n_envs,)
    _action_log_probs: np.ndarray | None = None

    @property
    def effective_trace_lambda(self) -> float:
        """Lambda, or its default."""
        return 1.0 if self.trace_lambda is None else self.trace_lambda

    @property
    def keeps_log_probs(self) -> bool:
        """Whether the replay buffer keeps log-probabilities of actions, as corrections by ratios need."""
        stores = getattr(getattr(self, "replay_buffer", None), "store_log_probs", False)
        return stores or self.n_step_correction in RATIO_CORRECTIONS

    def action_log_probs(self, actions: np.ndarray, is_random: bool) -> np.ndarray:
        """
        Hook: return the log-probability with which the actions were chosen after the last observations.

        :param actions: as the replay buffer stores them, shape (n_envs, ...)
        :param is_random: whether they were drawn uniformly, before the policy is used
        :return: shape (n_envs,)
        """
        raise NotImplementedError

    def _check_arguments(self) -> None:
        super()._check_arguments()
        correction = self.n_step_correction
        check_choice("n_step_correction", correction, self.allowed_corrections)
        if self.trace_lambda is not None:
            check_interval("trace_lambda", self.trace_lambda, 0.0, 1.0, "in [0, 1]")
            needs = " or ".join(f"n_step_correction={name!r}" for name in LAMBDA_CORRECTIONS)
            self._require_effect("trace_lambda", correction in LAMBDA_CORRECTIONS, needs)
        if correction == "none":
            return
        buffer = getattr(self, "replay_buffer", None)
        given = type(buffer) if buffer is not None else None if self._chose_buffer_class else self.replay_buffer_class
        if given is not None and not (isinstance(given, type) and issubclass(given, SupportsWindows)):
            raise ValueError(
                f"n_step_correction={correction!r} with replay_buffer_class={getattr(given, '__name__', given)}, which "
                "has no windows of transitions: leave replay_buffer_class out, or give ArrayReplayBuffer, "
                "FrameDedupReplayBuffer, PrioritizedReplayBuffer or PrioritizedFrameDedupReplayBuffer"
            )
        is_by_ratio = correction in RATIO_CORRECTIONS
        if buffer is not None and is_by_ratio and not getattr(buffer, "store_log_probs", False):
            raise ValueError(
                f"n_step_correction={correction!r} needs the log-probabilities of actions, which the replay buffer, a "
                f"{type(buffer).__name__}, has not stored: give n_step_correction to the constructor"
            )

    def _default_buffer_class(self) -> type[ReplayBuffer] | None:
        return super()._default_buffer_class() if self.n_step_correction == "none" else ArrayReplayBuffer

    def _buffer_kwargs_with_returns(self) -> dict[str, Any]:
        kwargs = super()._buffer_kwargs_with_returns()
        return {**kwargs, "store_log_probs": True} if self.keeps_log_probs else kwargs

    def sample_transitions(self, n_rows: int) -> AnySamples:
        """Draw transitions, or windows that begin with them if returns are corrected."""
        assert self.replay_buffer is not None
        normalization, progress = self._vec_normalize_env, self._current_progress_remaining
        if self.n_step_correction == "none":
            return sample_replay(self.replay_buffer, n_rows, normalization, progress)
        return sample_windows(self.replay_buffer, self.current_n_steps, n_rows, normalization, progress)

    def _warm_up(self, learning_starts: int) -> int:
        """Hook: return for how many steps actions are drawn uniformly."""
        return learning_starts

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        action, buffer_action = super()._sample_action(learning_starts, action_noise, n_envs)
        if self.keeps_log_probs:
            is_random = self.num_timesteps < self._warm_up(learning_starts)
            self._action_log_probs = self.action_log_probs(buffer_action, is_random)
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
        if self.keeps_log_probs:
            assert self._action_log_probs is not None
            for info, log_prob in zip(infos, self._action_log_probs, strict=True):
                info[LOG_PROB_KEY] = float(log_prob)
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_action_log_probs"]
