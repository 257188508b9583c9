"""What the arguments ``ent_coef`` and ``target_entropy`` mean."""

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


def check_target_entropy(target_entropy: str | float) -> None:
    """Raise a ValueError if the target is neither a number nor ``"auto"``."""
    if not is_automatic(target_entropy) and finite_number(target_entropy) is None:
        raise ValueError(f"target_entropy={target_entropy!r} must be a number or 'auto'")


def automatic_target_entropy(action_space: spaces.Space) -> float:
    """Return minus the number of action dimensions. SB3 asks the environment, which a loaded model may lack."""
    assert action_space.shape is not None
    return -float(np.prod(action_space.shape))
