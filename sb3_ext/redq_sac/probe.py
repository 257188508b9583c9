"""The probe of ``REDQSAC``."""

from typing import TYPE_CHECKING

from sb3_ext.common.actor_critic_probe import SACProbe

if TYPE_CHECKING:
    from sb3_ext.redq_sac.redq_sac import REDQSAC


class REDQSACProbe(SACProbe):
    """The probe of SAC, with critics that count the entropy unless ``backup_entropy=False``."""

    def __init__(self, model: "REDQSAC") -> None:
        super().__init__(model, [model.critic.ensemble])

    def _temperature(self) -> float:
        return super()._temperature() if self.model.backup_entropy else 0.0
