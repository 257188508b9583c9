"""An estimate of the memory that a replay buffer will need."""

from typing import Any

from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer

from sb3_ext.buffers.base import ArrayReplayBuffer, LazyReplayBuffer
from sb3_ext.buffers.float32 import Float32ReplayBuffer, stored_space


def estimate_memory(
    buffer_class: type[ReplayBuffer],
    buffer_size: int,
    observation_space: spaces.Space,
    action_space: spaces.Space,
    n_envs: int = 1,
    **kwargs: Any,
) -> int:
    """
    Estimate the bytes of RAM that a full replay buffer needs, without allocating them.

    The actual number depends on the data. Each episode adds frames to a ``FrameDedupReplayBuffer``: one for each T
    transitions if episodes have T steps. The ratio of lz4 compression is an assumption.

    .. code-block:: python

        env = VecFrameStack(make_atari_env("PongNoFrameskip-v4", n_envs=8), n_stack=4)
        estimate_memory(FrameDedupReplayBuffer, 1_000_000, env.observation_space, env.action_space, n_envs=8) / 1e9

    :param buffer_class: a class of this package except ``DeviceReplayBuffer``, or SB3's ``ReplayBuffer`` or
        ``DictReplayBuffer``
    :param buffer_size: number of transitions, counted over all environments
    :param observation_space: observation space, as the algorithm sees it
    :param kwargs: further arguments of the buffer (``replay_buffer_kwargs``)
    :raises ValueError: for another class of buffer, or wrong arguments of the buffer
    """
    if not isinstance(buffer_class, type):
        raise ValueError(f"buffer_class={buffer_class!r} must be a class of replay buffers, and not its name")
    if buffer_class is Float32ReplayBuffer:
        observation_space = stored_space(observation_space)
    if buffer_class in (ReplayBuffer, DictReplayBuffer, Float32ReplayBuffer):
        buffer_class = ArrayReplayBuffer
    if not issubclass(buffer_class, LazyReplayBuffer):
        raise ValueError(f"buffer_class={buffer_class.__name__} must be SB3's ReplayBuffer or one of sb3_ext's buffers")
    return buffer_class(buffer_size, observation_space, action_space, "cpu", n_envs, **kwargs).expected_nbytes()
