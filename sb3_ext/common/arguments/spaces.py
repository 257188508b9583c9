"""
Checks of spaces before anything is built from them. Each error names a wrapper that helps.

What a message says after ``wrap each environment in`` is Python code, after ``from gymnasium import spaces``.
"""

from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_ext.buffers.spaces import UnsupportedSpaceError, check_is_space, has_no_elements

_FLOATS = (np.float32, np.float64)
# With more joint actions than this a network with one output for each makes no sense
_MOST_JOINT_ACTIONS = 2**16


def check_spaces(
    observation_space: spaces.Space, action_space: spaces.Space, action_type: type[spaces.Space] | None = None
) -> None:
    """
    Check that networks and replay buffers can handle both spaces.

    :param action_type: the kind of action space that the algorithm takes, ``Box`` or ``Discrete``; ``None``: any
    :raises UnsupportedSpaceError: naming the argument, the space and a wrapper that helps
    """
    check_is_space("observation_space", observation_space)
    check_is_space("action_space", action_space)
    _check_observations(observation_space)
    if action_type is spaces.Box:
        _check_continuous(action_space)
    elif action_type is spaces.Discrete:
        _check_discrete(action_space)


def _refuse(name: str, space: spaces.Space, reason: str, wrapper: str, note: str = "") -> UnsupportedSpaceError:
    return UnsupportedSpaceError(
        f"{name}={space} {reason}{note}: wrap each environment in gymnasium.wrappers.{wrapper}"
    )


def _check_observations(space: spaces.Space) -> None:
    name = "observation_space"
    if isinstance(space, spaces.Dict):
        if not space.spaces:
            raise _refuse(name, space, "has no keys", _constant_observation(None))
        for key, subspace in space.spaces.items():
            _check_observation(f"{name}[{key!r}]", subspace, key, space)
    else:
        _check_observation(name, space, None, space)


def _check_observation(name: str, space: spaces.Space, key: Any, whole: spaces.Space) -> None:
    """
    Check one observation space without keys.

    :param key: its key, or ``None`` if it is the whole observation space
    :param whole: the whole observation space
    """
    if isinstance(space, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        if has_no_elements(space):
            raise _refuse(name, space, "has no elements", _constant_observation(key))
        if isinstance(space, spaces.Box) and space.shape == ():
            target = f"spaces.Box({_number(space.low)}, {_number(space.high)}, (1,), np.{space.dtype})"
            raise _refuse(name, space, "has no axis", transformed(key, "np.reshape({}, (1,))", target))
        if isinstance(space, spaces.Discrete) and space.start != 0:
            expression = f"{{}} - {int(space.start)}"
            raise _refuse(
                name, space, "must start at 0", transformed(key, expression, f"spaces.Discrete({int(space.n)})")
            )
        if isinstance(space, spaces.MultiDiscrete) and (np.any(space.start != 0) or space.nvec.ndim != 1):
            target = f"spaces.MultiDiscrete({space.nvec.ravel().tolist()})"
            expression = f"np.ravel({{}} - np.array({space.start.tolist()}))"
            raise _refuse(name, space, "must start at 0 and have one axis", transformed(key, expression, target))
    elif whole.is_np_flattenable:
        raise _refuse(name, space, "cannot be handled", "FlattenObservation(env)", " (MlpPolicy takes what this makes)")
    else:
        raise UnsupportedSpaceError(
            f"{name}={space} cannot be handled, because its values have no fixed size. "
            "gymnasium.wrappers.TransformObservation(env, function, space) can turn them into a Box, padded with zeros"
        )


def _number(value: np.ndarray) -> str:
    """Return Python code of a number."""
    return repr(value.item()).replace("inf", "np.inf")


def transformed(key: Any, expression: str, space: str) -> str:
    """
    Return Python code of a wrapper that changes the observations.

    :param key: the key to change; ``None``: the observation itself
    :param expression: the new value, ``{}`` standing for the old one
    :param space: code of the new space
    """
    if key is None:
        return f"TransformObservation(env, lambda obs: {expression.format('obs')}, {space})"
    value = f"{{**obs, {key!r}: {expression.format(f'obs[{key!r}]')}}}"
    return (
        f"TransformObservation(env, lambda obs: {value}, "
        f"spaces.Dict({{**env.observation_space.spaces, {key!r}: {space}}}))"
    )


def _constant_observation(key: Any) -> str:
    return transformed(key, "np.zeros(1, np.float32)", "spaces.Box(0, 1, (1,))")


def _check_discrete(space: spaces.Space) -> None:
    name = "action_space"
    if isinstance(space, spaces.Discrete):
        if space.start != 0:
            wrapper = (
                f"TransformAction(env, lambda action: action + {int(space.start)}, spaces.Discrete({int(space.n)}))"
            )
            raise _refuse(name, space, "must start at 0", wrapper)
    elif isinstance(space, spaces.Box):
        raise _refuse(name, space, "must be Discrete, or the algorithm REDQSAC", "DiscretizeAction(env, bins=5)")
    elif isinstance(space, (spaces.MultiDiscrete, spaces.MultiBinary)):
        raise _joint_actions(space, "must be Discrete")
    else:
        raise _other_actions(space, "must be Discrete", "Discrete")


def _joint_actions(space: spaces.MultiDiscrete | spaces.MultiBinary, reason: str) -> UnsupportedSpaceError:
    """Refuse a product of discrete spaces, with the wrapper that makes one Discrete of it."""
    if isinstance(space, spaces.MultiBinary):
        sizes, start = np.full(space.shape, 2), np.zeros(space.shape, dtype=int)
    else:
        sizes, start = space.nvec, space.start
    n_actions = int(np.prod(sizes, dtype=np.float64))
    if n_actions > _MOST_JOINT_ACTIONS:
        return UnsupportedSpaceError(
            f"action_space={space} {reason}, and {n_actions:.3g} joint actions are too many for one Discrete space. "
            "SB3's PPO and A2C take this space"
        )
    joint = f"np.reshape(np.unravel_index(action, {tuple(sizes.ravel().tolist())}), {sizes.shape})"
    shifted = f"{joint} + np.array({start.tolist()})" if start.any() else joint
    return _refuse(
        "action_space", space, reason, f"TransformAction(env, lambda action: {shifted}, spaces.Discrete({n_actions}))"
    )


def _other_actions(space: spaces.Space, reason: str, target: str) -> UnsupportedSpaceError:
    return UnsupportedSpaceError(
        f"action_space={space} {reason}. gymnasium.wrappers.TransformAction(env, function, space) can make actions of "
        f"this space from those of a {target}"
    )


def _check_continuous(space: spaces.Space) -> None:
    if isinstance(space, spaces.Box):
        _check_box_of_actions(space)
    elif isinstance(space, spaces.Discrete):
        raise UnsupportedSpaceError(f"action_space={space} must be a Box. DoubleDQN, SoftDQN and IQN take Discrete")
    elif isinstance(space, (spaces.MultiDiscrete, spaces.MultiBinary)):
        raise _joint_actions(space, "must be a Box. DoubleDQN, SoftDQN and IQN take Discrete, so for them")
    elif space.is_np_flattenable and all(isinstance(leaf, spaces.Box) for leaf in _leaves(space)):
        unflattened = "spaces.unflatten(env.action_space, action)"
        flat = "spaces.flatten_space(env.action_space)"
        wrapper = f"TransformAction(env, lambda action: {unflattened}, {flat})"
        raise _refuse("action_space", space, "must be a Box", wrapper)
    else:
        raise _other_actions(space, "must be a Box", "Box")


def _leaves(space: spaces.Space) -> list[spaces.Space]:
    """Return the spaces at the ends of nested Dict and Tuple."""
    if isinstance(space, spaces.Dict):
        return [leaf for subspace in space.spaces.values() for leaf in _leaves(subspace)]
    if isinstance(space, spaces.Tuple):
        return [leaf for subspace in space.spaces for leaf in _leaves(subspace)]
    return [space]


def _check_box_of_actions(space: spaces.Box) -> None:
    """Check that actions can be scaled to [-1, 1] and back, and stored in between."""
    name = "action_space"
    if has_no_elements(space):
        wrapper = (
            f"TransformAction(env, lambda action: np.zeros({space.shape}, np.{space.dtype}), spaces.Box(-1, 1, (1,)))"
        )
        raise _refuse(name, space, "has no elements", wrapper)
    low, high = (bound.astype(np.float64) for bound in (space.low, space.high))
    with np.errstate(over="ignore"):
        width = space.high.astype(space.dtype if space.dtype in _FLOATS else np.float32) - space.low
    if not np.isfinite(width).all():
        low, high = np.where(np.isfinite(width), (low, high), _finite_bounds(low, high))
        wrapper = _box_wrapper(f"action.astype(np.{space.dtype})", low, high)
        reason = "must have finite bounds, because actions are scaled to them. With bounds that suit the environment"
        raise _refuse(name, space, reason, wrapper)
    if (width <= 0).any():
        clipped = f"np.clip(action, env.action_space.low, env.action_space.high).astype(np.{space.dtype})"
        wrapper = _box_wrapper(clipped, low, np.where(high > low, high, low + 1))
        raise _refuse(name, space, "must have low below high everywhere", wrapper)
    if space.dtype not in _FLOATS:
        rounded = "action" if np.issubdtype(space.dtype, np.floating) else "np.rint(action)"
        wrapper = _box_wrapper(f"{rounded}.astype(np.{space.dtype})", low, high)
        raise _refuse(name, space, "must be of float32 or float64, as actions are scaled to [-1, 1]", wrapper)


def _finite_bounds(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return bounds at most 2 apart that lie inside the given ones, around 0 where that is possible."""
    center = np.clip(0.0, low, high)
    return np.maximum(low, center - 1), np.minimum(high, center + 1)


def _box_wrapper(expression: str, low: np.ndarray, high: np.ndarray) -> str:
    """Return Python code of a wrapper with a Box of float32 as action space."""
    if low.size and (low == low.flat[0]).all() and (high == high.flat[0]).all():
        box = f"spaces.Box({float(low.flat[0])}, {float(high.flat[0])}, {low.shape})"
    else:
        box = f"spaces.Box(np.float32({low.tolist()}), np.float32({high.tolist()}))"
    return f"TransformAction(env, lambda action: {expression}, {box})"
