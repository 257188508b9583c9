"""
n-step returns, as SB3's ``NStepReplayBuffer`` defines them: never across the end of an episode or the write position.
"""

import numpy as np


def n_step_lengths(ends: np.ndarray) -> np.ndarray:
    """
    :param ends: whether each of the n steps is the last of its episode or the newest in the buffer, shape (B, n)
    :return: how many of them the return is made of: up to the first such step, which is included; shape (B,)
    """
    n_steps = ends.shape[1]
    return np.where(ends.any(axis=1), ends.argmax(axis=1) + 1, n_steps)


def n_step_return(rewards: np.ndarray, lengths: np.ndarray, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """
    ``sum_{i < length} gamma^i r_i``, and the discount ``gamma^length`` of the value of the state after them.

    In float32 and in this order of operations, so that the result is SB3's to the bit.

    :param rewards: shape (B, n)
    :param lengths: shape (B,), in 1, ..., n
    :param gamma: discount factor
    :return: returns and discounts, float32, shape (B, 1) each
    """
    steps = np.arange(rewards.shape[1], dtype=np.float32)
    counted = steps < lengths[:, None]
    returns = (rewards * gamma**steps * counted).sum(axis=1, keepdims=True)
    return returns, gamma ** lengths[:, None].astype(np.float32)
