"""Checks of the Munchausen arguments, which two algorithms have."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from sb3_ext.checks import check_interval


def check_munchausen(model: Any, allowed: Mapping[str, Any]) -> None:
    """
    Check ``munchausen_coef`` and ``munchausen_clip``.

    :param allowed: the only values of other arguments with which the bonus is defined
    :raises ValueError: naming the argument, its value and what is allowed
    """
    coef, clip = model.munchausen_coef, model.munchausen_clip
    check_interval("munchausen_coef", coef, 0.0, 1.0, "in [0, 1]")
    for name, value in allowed.items() if coef > 0 else ():
        found = getattr(model, name)
        if found != value:
            raise ValueError(f"munchausen_coef={coef} with {name}={found!r}: only {name}={value!r} is allowed")
    if clip is not None:
        check_interval("munchausen_clip", clip, -float(np.finfo(np.float32).max), 0.0, "a number <= 0")
        model._require_effect("munchausen_clip", coef > 0, needs="munchausen_coef above 0")
