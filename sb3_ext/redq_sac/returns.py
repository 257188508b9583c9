"""The scale of returns as ``REDQSAC`` keeps it, and a warning where returns leave the critics' bound."""

import warnings
from typing import TYPE_CHECKING

from sb3_ext.common.return_scale import ReturnScale

if TYPE_CHECKING:
    from sb3_ext.redq_sac.redq_sac import REDQSAC


def fitting_scale(model: "REDQSAC") -> ReturnScale:
    """Return the scale of a model, or a new one, with the model's present settings and number of environments."""
    bound, scale = model.critic.head.bound, model._return_scale
    if scale is None:
        return ReturnScale(model.n_envs, model.gamma, bound)
    scale.gamma, scale.bound = model.gamma, bound
    if len(scale.returns) != model.n_envs:
        scale.restart(model.n_envs)
    return scale


def warn_of_bound(model: "REDQSAC") -> None:
    """Warn, once for each model, of returns that the bins of its critics cannot express."""
    bound, scale = model.critic.head.bound, model._return_scale
    if model._warned_of_bound or model.normalize_returns or bound is None or scale is None or scale.largest <= bound:
        return
    model._warned_of_bound = True
    warnings.warn(
        f"a discounted return of {scale.largest:.3g} after {model.num_timesteps} steps is beyond bound={bound:g}, the "
        "last bin of the critics, which cannot express it: give normalize_returns=True, or a larger bound in "
        "policy_kwargs=dict(head_kwargs=dict(bound=...))",
        stacklevel=2,
    )
