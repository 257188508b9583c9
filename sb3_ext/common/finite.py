"""
Checks of what a replay buffer stores and networks read, in the precision in which they do.

Rewards and actions are stored in float32. Observations are stored in the type of their space, and read in float32.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_ext.checks import check_finite


def observation_dtype(space: spaces.Space) -> Any:
    """Return the floating-point type with the smallest range that observations pass, for ``Dict`` one for each key."""
    if isinstance(space, spaces.Dict):
        return {key: observation_dtype(part) for key, part in space.spaces.items()}
    return np.float16 if space.dtype == np.float16 else np.float32


def check_first_observation(model: OffPolicyAlgorithm) -> None:
    """Check the observations of a reset, original and normalized. A ValueError names the first that is not finite."""
    assert model._last_obs is not None
    _check_observation(model, model._last_obs)


def check_action(action: np.ndarray, buffer_action: np.ndarray, step: int) -> None:
    """
    Check actions before the environment gets them. A ValueError tells the first that is not finite.

    :param action: for the environment, B rows
    :param buffer_action: for the replay buffer, scaled to [-1, 1]
    """
    check_finite("action", buffer_action, step)
    check_finite("action", action, step)


def check_transition(
    model: OffPolicyAlgorithm,
    new_obs: np.ndarray | Mapping[str, np.ndarray],
    reward: np.ndarray,
    dones: np.ndarray,
    infos: list[dict[str, Any]],
) -> None:
    """
    Check a transition before it is stored. A ValueError names the first value that is not finite.

    ``VecNormalize`` would clip infinities. So its original values are checked, which the buffer stores, and the
    normalized ones, which are trained with.

    :param new_obs: observations after the step, and after the reset where an episode ended
    """
    vec_normalize, step = model._vec_normalize_env, model.num_timesteps
    if vec_normalize is not None:
        check_finite("reward", vec_normalize.get_original_reward(), step)
    check_finite("reward" if vec_normalize is None else "normalized reward", reward, step)
    _check_observation(model, new_obs)
    for index, info in enumerate(infos):
        if dones[index] and info.get("terminal_observation") is not None:
            name, dtype = f"terminal observation of environment {index}", observation_dtype(model.observation_space)
            terminal = info["terminal_observation"]
            check_finite(name, terminal, step, is_batch=False, dtype=dtype)
            if vec_normalize is not None:  # the buffer stores it as it was before
                check_finite(name, vec_normalize.unnormalize_obs(terminal), step, is_batch=False, dtype=dtype)


def _check_observation(model: OffPolicyAlgorithm, obs: np.ndarray | Mapping[str, np.ndarray]) -> None:
    vec_normalize, step = model._vec_normalize_env, model.num_timesteps
    dtype = observation_dtype(model.observation_space)
    if vec_normalize is not None:
        check_finite("observation", vec_normalize.get_original_obs(), step, dtype=dtype)
    check_finite("observation" if vec_normalize is None else "normalized observation", obs, step, dtype=dtype)
