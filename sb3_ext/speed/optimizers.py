"""Defaults of optimisers."""

from typing import Any

import torch as th


def with_fused_adam(
    optimizer_class: type[th.optim.Optimizer], optimizer_kwargs: dict[str, Any] | None
) -> dict[str, Any]:
    """
    :param optimizer_kwargs: left as they are
    :return: a copy in which Adam and AdamW run fused, unless the arguments say otherwise: several times faster
    """
    kwargs = dict(optimizer_kwargs or {})
    if optimizer_class in (th.optim.Adam, th.optim.AdamW) and not {"foreach", "differentiable"} & kwargs.keys():
        kwargs.setdefault("fused", True)
    return kwargs
