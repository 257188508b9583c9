"""A mark in replay buffers where an episode was left in its middle."""

import numpy as np
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.her import HerReplayBuffer


def end_last_episodes(buffer: ReplayBuffer) -> None:
    """
    Let the newest transitions be the last of their episodes, truncated, because the environments will be reset.

    Otherwise returns over several steps would go on with the rewards of the next episode. One-step targets stay as they
    are. A ``HerReplayBuffer`` keeps count of episodes itself, and without ``handle_timeout_termination`` there is
    nothing to mark truncation with.
    """
    if buffer.size() == 0 or isinstance(buffer, HerReplayBuffer) or not buffer.handle_timeout_termination:
        return
    newest = (buffer.pos - 1) % buffer.buffer_size
    goes_on = np.logical_not(buffer.dones[newest])
    for marks in (buffer.dones, buffer.timeouts):
        # A `DeviceReplayBuffer` protects its arrays. Its copy has `dones * (1 - timeouts)`, which stays 0
        is_protected = not marks.flags.writeable
        if is_protected:
            marks.flags.writeable = True
        marks[newest] = np.where(goes_on, 1.0, marks[newest])
        if is_protected:
            marks.flags.writeable = False
