"""Rewards divided by a running scale of returns when they are sampled."""

import io
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import MaybeCallback

from sb3_ext.buffers.samples import AnySamples
from sb3_ext.common.off_policy import OffPolicyExtension
from sb3_ext.common.return_scale import ReturnScale


class ScaledReturns(OffPolicyExtension):
    """
    Mix-in that divides sampled rewards by a :class:`~sb3_ext.common.return_scale.ReturnScale`.

    The replay buffer has the rewards as they came, since the scale moves while the training goes on.
    """

    normalize_returns: bool = False
    # Saved with the model
    _return_scale: ReturnScale | None = None
    _warned_of_bound = False

    def _return_bound(self) -> float | None:
        """Hook: return the largest return that the critics can express, ``None`` for any."""
        return None

    @property
    def return_scale(self) -> float:
        """What rewards are divided by before the critics learn from them. Values times it are returns again."""
        return self._return_scale.scale if self.normalize_returns and self._return_scale is not None else 1.0

    def _fitting_scale(self) -> ReturnScale:
        """Return the scale, made anew if need be, with the present settings and number of environments."""
        bound = self._return_bound()
        if self._return_scale is None:
            self._return_scale = ReturnScale(self.n_envs, self.gamma, bound)
        scale = self._return_scale
        scale.gamma, scale.bound = self.gamma, bound
        if len(scale.returns) != self.n_envs:
            scale.restart(self.n_envs)
        return scale

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        if self._return_scale is not None and (reset_num_timesteps or self._last_obs is None):
            self._return_scale.restart(self.n_envs)  # SB3 resets the environments
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: np.ndarray,
        new_obs: np.ndarray | dict[str, np.ndarray],
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)
        bound = self._return_bound()
        if self.normalize_returns or bound is not None:
            scale = self._fitting_scale()
            scale.update(reward, dones)
            if bound is not None and not self.normalize_returns and scale.largest > bound:
                self._warn_of_bound(scale.largest, bound)

    def load_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase, truncate_last_traj: bool = True) -> None:
        """
        See SB3. A model that has seen no rewards yet counts those of the buffer for the scale.

        A buffer has no mark where ``learn()`` began anew within an episode, so such returns are counted too large.
        """
        super().load_replay_buffer(path, truncate_last_traj)
        if self.normalize_returns and self._fitting_scale().count == 0:
            self._count_stored_returns()

    def _count_stored_returns(self) -> None:
        buffer, scale = self.replay_buffer, self._fitting_scale()
        if buffer is None or buffer.size() == 0:
            return
        ended = np.logical_or(buffer.dones, buffer.timeouts)
        first = buffer.pos if buffer.full else 0
        scale.restart(buffer.n_envs)
        for slot in (first + np.arange(buffer.size())) % buffer.buffer_size:
            scale.update(buffer.rewards[slot], ended[slot])
        scale.restart(self.n_envs)

    def _warn_of_bound(self, largest: float, bound: float) -> None:
        if not self._warned_of_bound:
            self._warned_of_bound = True
            warnings.warn(
                f"a discounted return of {largest:.3g} after {self.num_timesteps} steps is beyond bound={bound:g}, the "
                "last bin of the critics, which cannot express it: give normalize_returns=True, or a larger bound in "
                "policy_kwargs=dict(head_kwargs=dict(bound=...))",
                stacklevel=2,
            )

    def _excluded_save_params(self) -> list[str]:
        # The scale is among the parameters
        return [*super()._excluded_save_params(), "_return_scale"]

    def _with_scaled_rewards(self, replay_data: AnySamples) -> AnySamples:
        if not self.normalize_returns:
            return replay_data
        self.logger.record("train/return_scale", self.return_scale)
        return replay_data._replace(rewards=replay_data.rewards / self.return_scale)

    def _plain_state(self) -> dict[str, Any]:
        own = {} if self._return_scale is None else {"return_scale": self._return_scale.state()}
        return {**super()._plain_state(), **own}

    def _set_plain_state(self, state: Mapping[str, Any]) -> None:
        super()._set_plain_state(state)
        if "return_scale" in state:
            self._fitting_scale().set_state(state["return_scale"])
