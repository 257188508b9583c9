"""A warning where returns leave the bins of a network that predicts distributions."""

import warnings
from typing import Any, ClassVar

import numpy as np
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_ext.common.off_policy import OffPolicyExtension
from sb3_ext.common.return_scale import ReturnScale


class ReturnBound(OffPolicyExtension):
    """Mix-in that counts discounted returns while transitions are stored, and warns of one that no bin can express."""

    #: What to give for larger returns, for the message
    _remedy_of_bound: ClassVar[str] = "a larger bound in policy_kwargs=dict(head_kwargs=dict(bound=...))"
    _return_scale: ReturnScale | None = None
    _warned_of_bound = False

    def _return_bound(self) -> float | None:
        """Hook: return the largest return that the networks can express, ``None`` for any."""
        return None

    def _counts_returns(self) -> bool:
        """Hook: tell whether returns need to be counted."""
        return self._return_bound() is not None

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

    def _before_learning(self, resets_envs: bool) -> None:
        super()._before_learning(resets_envs)
        if resets_envs and self._return_scale is not None:
            self._return_scale.restart(self.n_envs)

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
        if not self._counts_returns():
            return
        scale = self._fitting_scale()
        scale.update(reward, dones)
        if scale.bound is not None and scale.largest > scale.bound:
            self._warn_of_bound(scale.largest, scale.bound)

    def _warn_of_bound(self, largest: float, bound: float) -> None:
        if not self._warned_of_bound:
            self._warned_of_bound = True
            warnings.warn(
                f"a discounted return of {largest:.3g} after {self.num_timesteps} steps is beyond bound={bound:g}, the "
                f"last bin, so it cannot be expressed: give {self._remedy_of_bound}",
                stacklevel=2,
            )

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_return_scale"]
