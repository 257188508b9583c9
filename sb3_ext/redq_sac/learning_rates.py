"""A learning rate of the critics of their own."""

from typing import Any

import torch as th
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import FloatSchedule, update_learning_rate

from sb3_ext.common.off_policy import OffPolicyExtension
from sb3_ext.redq_sac.recorded import RecordedUpdate, set_learning_rates
from sb3_ext.redq_sac.update import REDQUpdate


class CriticLearningRate(OffPolicyExtension):
    """Mix-in for ``qf_learning_rate``."""

    qf_learning_rate: float | Schedule | None = None
    qf_lr_schedule: Schedule | None = None
    updater: REDQUpdate
    critic: Any
    _recorded: RecordedUpdate | None

    def _update_learning_rate(self, optimizers: list[th.optim.Optimizer] | th.optim.Optimizer) -> None:
        def set_floats() -> None:
            super(CriticLearningRate, self)._update_learning_rate(optimizers)
            if self.qf_lr_schedule is not None:
                rate = self.qf_lr_schedule(self._current_progress_remaining)
                update_learning_rate(self.critic.optimizer, rate)
                self.logger.record("train/qf_learning_rate", rate)

        set_learning_rates(self.updater.optimizers(), set_floats, self.device, self._recorded is not None)

    def _setup_lr_schedule(self) -> None:
        super()._setup_lr_schedule()
        self.qf_lr_schedule = None if self.qf_learning_rate is None else FloatSchedule(self.qf_learning_rate)
