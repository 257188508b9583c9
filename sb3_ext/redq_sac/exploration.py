"""Actions with exploration noise that is held for several steps."""

import math

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_ext.redq_sac.held_noise import HeldNoise
from sb3_ext.redq_sac.policies import REDQSACPolicy, gaussian_parameters


def fitting_noise(noise: HeldNoise | None, max_repeat: int, n_envs: int, action_space: spaces.Space) -> HeldNoise:
    """Return the noise, or a new one if there is none for this ``max_repeat`` and number of environments."""
    assert action_space.shape is not None
    shape = n_envs, math.prod(action_space.shape)
    if noise is None or noise.max_repeat != max_repeat or noise.shape != shape:
        return HeldNoise(max_repeat, *shape)
    return noise


def held_actions(
    policy: REDQSACPolicy, observation: np.ndarray | dict[str, np.ndarray], noise: HeldNoise
) -> np.ndarray:
    """
    Sample actions of a policy without gSDE, as ``predict`` does, with held noise.

    :param observation: of E environments
    :return: actions in [-1, 1], of the shape (E, ...) of a batch of actions
    """
    policy.set_training_mode(False)
    obs, _ = policy.obs_to_tensor(observation)
    with th.no_grad():
        mean, log_std = gaussian_parameters(policy.actor, obs)
        actions = th.tanh(mean + log_std.exp() * noise.sample().to(mean.device))
    assert policy.action_space.shape is not None
    return actions.cpu().numpy().reshape(-1, *policy.action_space.shape)
