"""
Prioritized buffers and what their priorities are, in loops over plain numbers.

Nothing here looks into the tree of priorities: they are read off what is sampled. Sampling is stratified, which makes
frequencies nearly deterministic: if B draws have one of B equal parts of the sum of all priorities each, a leaf with
probability P is drawn more than B P - 2 and less than B P + 2 times.
"""

from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_ext import PrioritizedFrameDedupReplayBuffer, PrioritizedReplayBuffer

CLASSES = [PrioritizedReplayBuffer, PrioritizedFrameDedupReplayBuffer]
SMALL_SPACE = spaces.Box(-np.inf, np.inf, (1,), np.float32)


def filled(
    n_adds: int, buffer_size: int = 16, n_envs: int = 1, cls: type = PrioritizedReplayBuffer, **kwargs: Any
) -> Any:
    """
    :param n_adds: how many transitions of each environment
    :param buffer_size:
    :param n_envs:
    :param cls: class of the buffer
    :param kwargs: further arguments of it
    :return: a buffer whose observations do not matter
    """
    buffer = cls(buffer_size, SMALL_SPACE, spaces.Discrete(2), device="cpu", n_envs=n_envs, **kwargs)
    add_to(buffer, n_adds)
    return buffer


def add_to(buffer: Any, n_adds: int) -> None:
    for step in range(n_adds):
        obs = np.full((buffer.n_envs, 1), step, np.float32)
        zeros = np.zeros(buffer.n_envs)
        buffer.add(obs, obs + 1, zeros.astype(np.int64), zeros, zeros.astype(bool), [{}] * buffer.n_envs)
    buffer.check_valid()


def n_leaves(buffer: Any) -> int:
    return buffer.size() * buffer.n_envs


def priority(error: float, alpha: float, eps: float) -> float:
    return (abs(float(error)) + eps) ** alpha


def assert_frequencies(buffer: Any, expected: Any, batch_size: int = 5000) -> None:
    """
    :param buffer:
    :param expected: the priority of every leaf, perhaps times a constant
    :param batch_size: of the one sample
    """
    buffer.check_valid()
    indices = buffer.sample_prioritized(batch_size).indices.numpy()
    assert len(expected) == n_leaves(buffer)
    assert indices.min() >= 0 and indices.max() < len(expected)
    counts = np.bincount(indices, minlength=len(expected))
    total = sum(float(p) for p in expected)
    wanted = np.array([batch_size * float(p) / total for p in expected])
    # A little more than 2 for rounding
    wrong = np.flatnonzero(np.abs(counts - wanted) > 2 + 1e-6 * batch_size)
    assert wrong.size == 0, [(int(i), int(counts[i]), float(wanted[i])) for i in wrong]


def read_priorities(buffer: Any, batch_size: int = 2000) -> list[float]:
    """
    :param buffer:
    :param batch_size: enough for every leaf to be drawn
    :return: the priority of every leaf, divided by the largest: with beta = 1 the weights are inversely proportional
    """
    samples = buffer.sample_prioritized(batch_size, progress_remaining=0.0)
    weights = dict(zip(samples.indices.tolist(), samples.weights.flatten().tolist(), strict=True))
    assert sorted(weights) == list(range(n_leaves(buffer))), "not every leaf was drawn"
    smallest = min(weights.values())
    return [smallest / weights[leaf] for leaf in sorted(weights)]


def plain_weights(priorities: list[float], beta: float) -> list[float]:
    """
    :param priorities: of every leaf
    :param beta:
    :return: the weight of every leaf, (n P)^-beta, largest 1
    """
    total = 0.0
    for p in priorities:
        total += p
    weights = [(len(priorities) * p / total) ** -beta for p in priorities]
    largest = max(weights)
    return [weight / largest for weight in weights]
