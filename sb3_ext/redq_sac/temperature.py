"""What the arguments ``ent_coef`` and ``target_entropy`` mean."""

import math

import numpy as np
from gymnasium import spaces

from sb3_ext.checks import finite_number


def starting_temperature(ent_coef: str | float) -> tuple[bool, float]:
    """
    Return whether the temperature is learned, and its first value.

    :param ent_coef: a number >= 0, ``"auto"``, or ``"auto_"`` and a number > 0
    :raises ValueError: if it is anything else
    """
    text = str(ent_coef)
    head, _, tail = text.partition("_")
    is_learned = head == "auto"
    value = 1.0 if text == "auto" else finite_number(tail if is_learned else text)
    if value is None or value < 0 or (is_learned and value == 0):
        raise ValueError(f"ent_coef={ent_coef!r} must be a number >= 0, 'auto', or 'auto_' and a number > 0")
    return is_learned, value


def continues_learning(saved: str | float, given: str | float) -> bool:
    """Tell whether a learned temperature that was started from ``saved`` goes on with the argument ``given``."""
    starts = [starting_temperature(ent_coef) for ent_coef in (saved, given)]
    return starts[0] == starts[1] and starts[0][0]


def is_automatic(target_entropy: str | float) -> bool:
    # An array is compared element by element
    return isinstance(target_entropy, str) and target_entropy == "auto"


def _standard_deviation(target_entropy: str | float) -> float | None:
    """Return the number in ``"std_<number>"``; ``None`` for anything else, and for a number that is not positive."""
    if not isinstance(target_entropy, str) or not target_entropy.startswith("std_"):
        return None
    value = finite_number(target_entropy.removeprefix("std_"))
    return value if value is not None and value > 0 else None


def check_target_entropy(target_entropy: str | float) -> None:
    """Raise a ValueError if the target is none of those that :func:`effective_target_entropy` knows."""
    if is_automatic(target_entropy) or _standard_deviation(target_entropy) is not None:
        return
    if finite_number(target_entropy) is None:
        raise ValueError(f"target_entropy={target_entropy!r} must be a number, 'auto', or 'std_' and a number > 0")


def effective_target_entropy(target_entropy: str | float, action_space: spaces.Space) -> float:
    """
    Return the target entropy as a number.

    :param target_entropy: a number; ``"auto"`` for minus the number A of action dimensions; or ``"std_<s>"`` for the
        entropy of A independent Gaussians of standard deviation s, ``A / 2 log(2 pi e s^2)``
    """
    # SB3 asks the environment for the number of dimensions, but a loaded model may lack one
    assert action_space.shape is not None
    n_actions = int(np.prod(action_space.shape))
    std = _standard_deviation(target_entropy)
    if std is not None:
        # Written so that the square of a tiny or huge number is not needed
        return n_actions * (0.5 * math.log(2 * math.pi * math.e) + math.log(std))
    return -float(n_actions) if is_automatic(target_entropy) else float(target_entropy)
