"""Defaults of optimizers."""

from typing import Any

import torch as th

from sb3_ext.checks import check_mapping


def with_fused_adam(
    optimizer_class: type[th.optim.Optimizer], optimizer_kwargs: dict[str, Any] | None
) -> dict[str, Any]:
    """Return a copy of the arguments in which Adam and AdamW run fused, several times faster, unless told otherwise."""
    if optimizer_kwargs is not None:
        check_mapping("optimizer_kwargs", optimizer_kwargs)
    kwargs = dict(optimizer_kwargs or {})
    if optimizer_class in (th.optim.Adam, th.optim.AdamW) and not {"foreach", "differentiable"} & kwargs.keys():
        kwargs.setdefault("fused", True)
    return kwargs
