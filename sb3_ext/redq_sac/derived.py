"""What ``REDQSAC`` derives from arguments that may change while it learns."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th

from sb3_ext.common.derived import DERIVATIONS, Derivation
from sb3_ext.redq_sac.recorded import recorded_where_possible


def derive_temperature(model: Any) -> None:
    """Fix the temperature, or begin to learn it anew, as SB3's set-up does."""
    is_learned = isinstance(model.ent_coef, str) and model.ent_coef.startswith("auto")
    text = str(model.ent_coef).removeprefix("auto").removeprefix("_")
    alpha = th.full((1,), float(text or 1.0), device=model.device)
    model.log_ent_coef = alpha.log().requires_grad_() if is_learned else None
    model.ent_coef_tensor = None if is_learned else alpha.squeeze(0)
    model.ent_coef_optimizer = None
    if is_learned:
        model.ent_coef_optimizer = th.optim.Adam([model.log_ent_coef], lr=model.lr_schedule(1))


def derive_target_entropy(model: Any) -> None:
    is_automatic = model.target_entropy == "auto"
    target = -np.prod(model.action_space.shape) if is_automatic else model.target_entropy
    model.__dict__["target_entropy"] = float(target)


def derive_recorded(model: Any) -> None:
    model._recorded = recorded_where_possible(model.updater, model._recorder_maker())


REDQ_DERIVATIONS: Mapping[str, Derivation] = {
    **DERIVATIONS,
    "ent_coef": derive_temperature,
    "target_entropy": derive_target_entropy,
    "cuda_graphs": derive_recorded,
}
