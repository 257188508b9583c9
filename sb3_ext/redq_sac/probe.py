"""The probe of ``REDQSAC``."""

from typing import TYPE_CHECKING

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_ext.common.actor_critic_probe import SACProbe

if TYPE_CHECKING:
    from sb3_ext.redq_sac.redq_sac import REDQSAC


class REDQSACProbe(SACProbe):
    """
    The probe of SAC, with critics that count the entropy unless ``backup_entropy=False``.

    Values and bonuses are in the units of the environment's rewards, also with ``normalize_returns=True``.
    """

    def __init__(self, model: "REDQSAC") -> None:
        super().__init__(model, [model.critic.ensemble])

    def q_values(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        return super().q_values(obs, actions) * self.model.return_scale

    def _temperature(self) -> float:
        return super()._temperature() * self.model.return_scale if self.model.backup_entropy else 0.0
