"""Spaces that a replay buffer can store, and the error for those that it cannot."""

from collections.abc import Iterator

import numpy as np
from gymnasium import spaces

#: Spaces of which SB3 knows the shape
STORABLE = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


class UnsupportedSpaceError(ValueError, AssertionError):
    """
    A space that cannot be handled. The message names the argument, the space and what helps.

    SB3 raises an AssertionError for some of these spaces. Code that catches that type works here too.
    """


def parts(name: str, space: spaces.Space) -> Iterator[tuple[str, spaces.Space]]:
    """Iterate over the name and space of each key of a ``Dict``, or over the space itself."""
    if isinstance(space, spaces.Dict):
        for key, subspace in space.spaces.items():
            yield f"{name}[{key!r}]", subspace
    else:
        yield name, space


def check_is_space(name: str, space: object) -> None:
    """Raise a ValueError if an argument is no space of gymnasium."""
    if not isinstance(space, spaces.Space):
        raise ValueError(f"{name}={space!r} must be a space of gymnasium, such as gymnasium.spaces.Box(-1, 1, (3,))")


def has_images(space: spaces.Space) -> bool:
    """Tell whether observations are images or contain some: arrays of three axes."""
    return any(isinstance(part, spaces.Box) and len(part.shape) == 3 for _, part in parts("", space))


def has_no_elements(space: spaces.Space) -> bool:
    """Tell whether values of the space are arrays of size zero."""
    return space.shape is not None and 0 in space.shape


def check_storable(observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """
    Check that a replay buffer can store observations and actions of these spaces.

    A buffer stores what it gets. So it also takes spaces that the networks cannot use, such as
    ``Discrete(3, start=1)``.

    :raises UnsupportedSpaceError: naming the argument, the space and what is allowed
    """
    check_is_space("observation_space", observation_space)
    check_is_space("action_space", action_space)
    keys = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {"-": None}
    if not keys or not all(isinstance(key, str) and key for key in keys):
        raise UnsupportedSpaceError(
            f"observation_space={observation_space} must have at least one key, and keys must be strings with at "
            "least one character"
        )
    for name, space in [*parts("observation_space", observation_space), ("action_space", action_space)]:
        is_flat_list = not isinstance(space, spaces.MultiDiscrete) or np.ndim(space.nvec) == 1
        if not isinstance(space, STORABLE) or has_no_elements(space) or not is_flat_list:
            raise UnsupportedSpaceError(
                f"{name}={space} cannot be stored: a replay buffer takes Box, Discrete, MultiDiscrete with one axis "
                "and MultiBinary, of at least one element, and observations that are a Dict of these. "
                "gymnasium.wrappers.FlattenObservation, TransformObservation and TransformAction change the space "
                "of an environment"
            )
    if isinstance(action_space, spaces.MultiBinary) and len(action_space.shape) != 1:
        raise UnsupportedSpaceError(
            f"action_space={action_space} cannot be stored: actions of MultiBinary must have one axis. "
            "gymnasium.wrappers.TransformAction changes the space of an environment"
        )
