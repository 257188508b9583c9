"""What ``REDQSAC`` derives from arguments that may change while it learns."""

from collections.abc import Mapping
from typing import Any

import torch as th

from sb3_ext.common.arguments.derived import DERIVATIONS, Derivation, derive_learning_rate
from sb3_ext.redq_sac.recorded import recorded_where_possible
from sb3_ext.redq_sac.temperature import effective_target_entropy, starting_temperature


def derive_temperature(model: Any) -> None:
    """Fix the temperature, or begin to learn it anew, as SB3's set-up does."""
    is_learned, start = starting_temperature(model.ent_coef)
    alpha = th.full((1,), start, device=model.device)
    model.log_ent_coef = alpha.log().requires_grad_() if is_learned else None
    model.ent_coef_tensor = None if is_learned else alpha.squeeze(0)
    model.ent_coef_optimizer = None
    if is_learned:
        model.ent_coef_optimizer = th.optim.Adam([model.log_ent_coef], lr=model.lr_schedule(1))


def derive_target_entropy(model: Any) -> None:
    model.__dict__["target_entropy"] = effective_target_entropy(model.target_entropy, model.action_space)


def derive_recorded(model: Any) -> None:
    model._recorded = recorded_where_possible(model.updater, model._recorder_maker())


REDQ_DERIVATIONS: Mapping[str, Derivation] = {
    **DERIVATIONS,
    "ent_coef": derive_temperature,
    "target_entropy": derive_target_entropy,
    "cuda_graphs": derive_recorded,
    "qf_learning_rate": derive_learning_rate,
}
