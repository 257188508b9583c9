"""The temperature of REDQSAC among what is trained, saved and continued."""

from typing import Any, ClassVar

import torch as th

from sb3_ext.common.off_policy import OffPolicyExtension
from sb3_ext.common.saved.state import Parameters
from sb3_ext.redq_sac.plan import Temperature
from sb3_ext.redq_sac.temperature import continues_learning


class LearnedTemperature(OffPolicyExtension):
    """Mix-in for ``ent_coef``."""

    ent_coef: str | float
    log_ent_coef: th.Tensor | None
    ent_coef_optimizer: th.optim.Adam | None
    _starting_arguments: ClassVar[tuple[str, ...]] = ("ent_coef",)

    def _temperature(self) -> Temperature:
        return Temperature(self.log_ent_coef, self.ent_coef_optimizer, getattr(self, "ent_coef_tensor", None))

    def _learned_variables(self) -> dict[str, str]:
        return {} if self.ent_coef_optimizer is None else {"ent_coef_optimizer": "log_ent_coef"}

    def _continues_from(self, name: str, value: Any) -> bool:
        if name == "ent_coef":
            return self.log_ent_coef is not None and continues_learning(self.ent_coef, value)
        return super()._continues_from(name, value)

    def _state_for_arguments(self, state: Parameters, changed: set[str]) -> Parameters:
        if "ent_coef" in changed:
            state.pop("ent_coef_optimizer", None)
        return super()._state_for_arguments(state, changed)
