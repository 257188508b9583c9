"""Argument checks whose messages name the argument, its value and what is allowed."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np


def check_choice(name: str, value: Any, allowed: Collection[Any]) -> None:
    """
    :raises ValueError: if ``value`` is not one of ``allowed``
    """
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(repr(choice) for choice in allowed)}")


def check_integer(name: str, value: Any, minimum: int) -> None:
    """
    :raises ValueError: if ``value`` is not an integer of at least ``minimum``
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < minimum:
        raise ValueError(f"{name}={value!r} must be an integer of at least {minimum}")


def check_interval(name: str, value: Any, low: float, high: float, allowed: str) -> None:
    """
    :param allowed: the allowed interval in words, for the message
    :raises ValueError: if ``value`` is not a number between ``low`` and ``high``, both included
    """
    is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:
        raise ValueError(f"{name}={value!r} must be {allowed}")


def check_finite(what: str, value: np.ndarray | Mapping[str, np.ndarray], step: int) -> None:
    """
    :param what: what ``value`` is, for the message
    :param value: array with the environment as first axis, or a dictionary of such arrays
    :param step: number of the time step that produced it
    :raises ValueError: if there is a NaN or an infinity in it
    """
    if isinstance(value, Mapping):
        for key, part in value.items():
            check_finite(f"{what}[{key!r}]", part, step)
        return
    # Images and discrete observations are integers, which are always finite
    if np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(value))[0])
        raise ValueError(
            f"{what} from environment {index[0]} is {value[index]} at index {list(index)}, time step {step}: "
            "only finite numbers are allowed, nothing of this step was stored"
        )
