"""SB3's n-step returns (``NStepReplayBuffer``). They never cross the end of an episode or the write position."""

import numpy as np


def n_step_return(rewards: np.ndarray, lengths: np.ndarray, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """
    Compute ``sum_{i < length} gamma^i r_i`` and ``gamma^length``, the discount of the value after the last step.

    float32 and this order of operations make the result equal to SB3's bit for bit.

    :param rewards: shape (B, n); rewards from ``length`` on are multiplied by zero
    :param lengths: number of steps in each return, from 1 to n, shape (B,)
    :return: returns and discounts, float32, each of shape (B, 1)
    """
    steps = np.arange(rewards.shape[1], dtype=np.float32)
    counted = steps < lengths[:, None]
    returns = (rewards * gamma**steps * counted).sum(axis=1, keepdims=True)
    return returns, gamma ** lengths[:, None].astype(np.float32)
