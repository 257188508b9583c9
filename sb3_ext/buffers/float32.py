"""A replay buffer that keeps float64 observations as float32."""

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_ext.buffers.spaces import check_storable
from sb3_ext.checks import check_choice, check_device, check_integer
from sb3_ext.keywords import among, checks_keywords


class Float32ReplayBuffer(ReplayBuffer):
    """
    SB3's ``ReplayBuffer``, which keeps float64 observations as float32: half of the memory, and less to copy.

    MuJoCo's tasks have such observations. Networks compute in float32, so that training is the same to the bit.
    ``VecNormalize`` is the exception: it subtracts means in float64, which matters for observations that vary little
    around a large value. The algorithms of this package use SB3's buffer by default if they are made or loaded with it.

    :param buffer_size: number of transitions, counted over all environments
    :param observation_space: any space except ``Dict``; only a float64 ``Box`` is stored otherwise than by SB3
    :param device: device of the samples
    :raises ValueError: for a ``Dict`` space, and for other wrong arguments
    """

    @checks_keywords(among(ReplayBuffer))
    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
    ) -> None:
        check_choice("optimize_memory_usage", optimize_memory_usage, (True, False))
        check_buffer(
            type(self), buffer_size, observation_space, action_space, device, n_envs, handle_timeout_termination
        )
        super().__init__(
            buffer_size,
            stored_space(observation_space),
            action_space,
            device,
            n_envs,
            optimize_memory_usage=optimize_memory_usage,
            handle_timeout_termination=handle_timeout_termination,
        )
        self.observation_space = observation_space


def is_double(observation_space: spaces.Space) -> bool:
    """Tell whether observations are float64 arrays."""
    return isinstance(observation_space, spaces.Box) and observation_space.dtype == np.float64


def stored_space(observation_space: spaces.Space) -> spaces.Space:
    """Return the space of observations as a ``Float32ReplayBuffer`` keeps them."""
    if not is_double(observation_space):
        return observation_space
    return spaces.Box(-np.inf, np.inf, observation_space.shape, np.float32)


def check_buffer(
    buffer_class: type[ReplayBuffer],
    buffer_size: int,
    observation_space: spaces.Space,
    action_space: spaces.Space,
    device: th.device | str,
    n_envs: int,
    handle_timeout_termination: bool,
) -> None:
    """Check the arguments of a buffer that stores whole observations of one array each, or raise a ValueError."""
    if isinstance(observation_space, spaces.Dict):
        raise ValueError(f"observation_space=Dict is not allowed with {buffer_class.__name__}: use DictReplayBuffer")
    check_integer("buffer_size", buffer_size, minimum=1)
    check_integer("n_envs", n_envs, minimum=1)
    check_storable(observation_space, action_space)
    check_device("device", device)
    check_choice("handle_timeout_termination", handle_timeout_termination, (True, False))
