"""Argument checks whose messages name the argument, its value and what is allowed."""

import os
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch as th


def check_choice(name: str, value: Any, allowed: Collection[Any]) -> None:
    """Raise a ValueError if an argument has none of the allowed values."""
    try:
        is_allowed = value in allowed
    except (ValueError, RuntimeError):  # an array or a tensor of several elements
        is_allowed = False
    if not is_allowed:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(repr(choice) for choice in allowed)}")


def check_integer(name: str, value: Any, minimum: int) -> None:
    """Raise a ValueError if an argument is no integer of at least ``minimum``. Booleans do not count as integers."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < minimum:
        raise ValueError(f"{name}={value!r} must be an integer of at least {minimum}")


def check_interval(name: str, value: Any, low: float, high: float, allowed: str) -> None:
    """
    Check that an argument is a number within an interval.

    :param low: the smallest allowed value
    :param high: the largest allowed value
    :param allowed: the interval in words, for the message
    :raises ValueError: if ``value`` is not a number between ``low`` and ``high``
    """
    is_number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:
        raise ValueError(f"{name}={value!r} must be {allowed}")


def check_mapping(name: str, value: Any) -> None:
    """Raise a ValueError if an argument is no dictionary with strings as keys."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        is_text = isinstance(value, str)
        hint = ". Text such as 'dict(a=1)' is evaluated in YAML files of rl_zoo3 only" if is_text else ""
        raise ValueError(f"{name}={value!r} must be a dictionary with strings as keys{hint}")


def check_path(name: str, value: Any) -> None:
    """Raise a ValueError if an argument is no path to a file or folder."""
    if not isinstance(value, (str, os.PathLike)):
        raise ValueError(f"{name}={value!r} must be a path: a string or a pathlib.Path")


def check_device(name: str, value: Any) -> None:
    """Raise a ValueError if an argument names no device that PyTorch has here. ``"cuda"`` may stand for a CPU."""
    try:
        device = th.device("cpu" if isinstance(value, str) and value == "auto" else value)
        # SB3 takes the CPU where there is no CUDA
        if device.type != "cpu" and (device.type != "cuda" or th.cuda.is_available()):
            th.zeros(1, device=device).tolist()
    except Exception as error:
        reason = str(error).partition("\n")[0]
        allowed = "'auto', 'cpu', 'cuda' or another device that PyTorch has here"
        raise ValueError(f"{name}={value!r} must be {allowed}: {reason}") from error


def check_finite(what: str, value: Any, step: int, is_batch: bool = True, dtype: Any = np.float32) -> None:
    """
    Check numbers that are stored or trained with.

    :param what: what ``value`` is, for the message
    :param value: an array, a number, or a dictionary of arrays
    :param step: the time step that produced it
    :param is_batch: whether the first axis is the environment
    :param dtype: the floating-point type in which they must be finite, for a dictionary one for each key
    :raises ValueError: if the value has a NaN or an infinity in it, or a number that becomes one in ``dtype``
    """
    if isinstance(value, Mapping):
        for key, part in value.items():
            part_dtype = dtype.get(key, np.float32) if isinstance(dtype, Mapping) else dtype
            check_finite(f"{what}[{key!r}]", part, step, is_batch, part_dtype)
        return
    array = np.asarray(value)
    if array.dtype == object:  # such as Python integers of over 64 bits
        array = array.astype(np.float64)
    # Images and discrete observations are integers, which are always finite.
    if not np.issubdtype(array.dtype, np.floating):
        return
    with np.errstate(over="ignore"):
        is_finite = np.isfinite(array.astype(dtype, copy=False))
    if not is_finite.all():
        index = tuple(int(i) for i in np.argwhere(~is_finite)[0])
        place = f"index {list(index)}" + (" (environment first)" if is_batch else "")
        becomes = f", which {np.dtype(dtype)} cannot hold," if np.isfinite(array[index]) else ""
        raise ValueError(
            f"{what} is {array[index]}{becomes} at {place}, time step {step}: "
            "only finite numbers are allowed, nothing of this step was stored"
        )


def check_no_text(name: str, value: Any) -> None:
    """Raise a ValueError if an argument is the text of a number, as YAML takes 1e-3 for."""
    if isinstance(value, str) and finite_number(value) is not None:
        raise ValueError(
            f"{name}={value!r} is text, because YAML takes numbers without a dot for text: write !!float {value} there"
        )


def finite_number(value: str | float) -> float | None:
    """Return a number from a number or its text, or ``None`` if it is none, or not finite."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    # float() reads "1_2" as 12, SB3 as something else
    return number if np.isfinite(number) and "_" not in str(value) else None
