"""Rewards divided by a running scale of returns when they are sampled."""

import io
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from sb3_ext.buffers.samples import AnySamples
from sb3_ext.common.return_bound import ReturnBound


class ScaledReturns(ReturnBound):
    """
    Mix-in that divides sampled rewards by a :class:`~sb3_ext.common.return_scale.ReturnScale`, saved with the model.

    The replay buffer has the rewards as they came, since the scale moves while the training goes on.
    """

    normalize_returns: bool = False
    _remedy_of_bound = f"normalize_returns=True, or {ReturnBound._remedy_of_bound}"

    @property
    def return_scale(self) -> float:
        """What rewards are divided by before the critics learn from them. Values times it are returns again."""
        return self._return_scale.scale if self.normalize_returns and self._return_scale is not None else 1.0

    def _counts_returns(self) -> bool:
        return self.normalize_returns or super()._counts_returns()

    def _warn_of_bound(self, largest: float, bound: float) -> None:
        # The scale keeps returns within the bins. Where the entropy leaves them, `train/target_mass_at_bound` tells
        if not self.normalize_returns:
            super()._warn_of_bound(largest, bound)

    def load_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase, truncate_last_traj: bool = True) -> None:
        """
        See SB3. A model that has seen no rewards yet counts those of the buffer for the scale.

        A stock algorithm leaves no mark where ``learn()`` began anew within an episode, so such returns are counted too
        large.
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
