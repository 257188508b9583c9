"""Defaults of optimisers."""

from typing import Any

import torch as th


def with_fused_adam(
    optimizer_class: type[th.optim.Optimizer], optimizer_kwargs: dict[str, Any] | None
) -> dict[str, Any]:
    """
    :param optimizer_class: of a policy
    :param optimizer_kwargs: of a policy, left as they are
    :return: the same; Adam and AdamW run fused unless they say otherwise, which is several times faster
    """
    kwargs = dict(optimizer_kwargs or {})
    if optimizer_class in (th.optim.Adam, th.optim.AdamW) and not {"foreach", "differentiable"} & kwargs.keys():
        kwargs.setdefault("fused", True)
    return kwargs
