"""What is given to ``add``, in the shape and dtype that are stored. SB3's buffers leave this to numpy's assignment."""

import math
from itertools import dropwhile
from typing import Any

import numpy as np


def as_stored(what: str, values: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """
    Return observations as an array of a given shape and dtype, if they keep their values.

    With one environment its axis may be missing, and discrete observations may have shape (n_envs,). One environment's
    observation is not repeated for others, and numbers are not cut off to fit an integer. SB3's buffers do both.

    :param what: what they are, for the message
    :param shape: the environments, then the shape of one observation
    :raises ValueError: if the values do not fit
    """
    array = np.asarray(values)
    if array.shape == shape and array.dtype == dtype:
        return array
    if _is_alike(array.shape, shape) and array.dtype.kind in "biuf":
        with np.errstate(invalid="ignore", over="ignore"):
            converted = array.reshape(shape).astype(dtype)
        if np.can_cast(array.dtype, dtype, "safe") or dtype.kind == "f" or (converted == array.reshape(shape)).all():
            return converted
    raise ValueError(
        f"{what} has shape {array.shape} and dtype {array.dtype}: the observation space and n_envs={shape[0]} allow "
        f"{shape} and {dtype} only, or other numbers that are equal to such"
    )


def _is_alike(shape: tuple[int, ...], stored: tuple[int, ...]) -> bool:
    """Tell whether shapes are equal, but for axes of length 1 at the beginning, or anywhere for single numbers."""
    if stored[1:] == (1,):
        return math.prod(shape) == stored[0]
    widths = [list(dropwhile(lambda n: n == 1, each)) for each in (shape, stored)]
    return widths[0] == widths[1]


def one_per_env(what: str, values: Any, n_envs: int) -> np.ndarray:
    """
    Return numbers as an array of shape (n_envs,). A single number counts for every environment.

    :param what: what they are, for the message
    :raises ValueError: if they are not as many
    """
    array = np.asarray(values)
    if array.ndim == 0:
        return np.full(n_envs, array)
    if array.size != n_envs:
        raise ValueError(f"{what} has shape {array.shape}: n_envs={n_envs} allows ({n_envs},) only")
    return array.reshape(-1)
