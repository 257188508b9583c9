"""What a replay buffer samples: types, minibatches, weights and priorities."""

from operator import itemgetter
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples, TensorDict
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ext.functional.fields import map_fields


class PrioritizedSamples(NamedTuple):
    """
    SB3's ``ReplayBufferSamples`` and what prioritised replay adds.

    :param weights: importance weights, shape (B, 1), at most 1
    :param indices: what :meth:`SupportsPriorities.update_priorities` wants to know the transitions by, shape (B,),
        int64, on the CPU
    """

    observations: th.Tensor
    actions: th.Tensor
    next_observations: th.Tensor
    dones: th.Tensor
    rewards: th.Tensor
    discounts: th.Tensor | None
    weights: th.Tensor
    indices: th.Tensor


class DictPrioritizedSamples(NamedTuple):
    """
    As :class:`PrioritizedSamples`, with dictionaries of observations.
    """

    observations: TensorDict
    actions: th.Tensor
    next_observations: TensorDict
    dones: th.Tensor
    rewards: th.Tensor
    discounts: th.Tensor | None
    weights: th.Tensor
    indices: th.Tensor


@runtime_checkable
class SupportsPriorities(Protocol):
    """A replay buffer that draws by priority, see :class:`~sb3_ext.buffers.prioritized.PrioritizedSampling`."""

    def sample_prioritized(
        self, batch_size: int, env: VecNormalize | None = None, progress_remaining: float = 1.0
    ) -> PrioritizedSamples | DictPrioritizedSamples: ...

    def update_priorities(self, indices: th.Tensor | np.ndarray, errors: th.Tensor | np.ndarray) -> None: ...


AnySamples = ReplayBufferSamples | DictReplayBufferSamples | PrioritizedSamples | DictPrioritizedSamples
Samples = TypeVar("Samples", bound=AnySamples)


def sample_replay(
    replay_buffer: ReplayBuffer, batch_size: int, env: VecNormalize | None, progress_remaining: float
) -> AnySamples:
    """
    :param replay_buffer: prioritised or not
    :param batch_size: number of transitions
    :param env: normalises observations and rewards
    :param progress_remaining: 1 at the beginning of the training, 0 at its end
    :return: transitions; only those of a prioritised buffer have ``weights`` and ``indices``
    """
    if isinstance(replay_buffer, SupportsPriorities):
        return replay_buffer.sample_prioritized(batch_size, env, progress_remaining)
    return replay_buffer.sample(batch_size, env=env)


def minibatch_weights(samples: AnySamples) -> th.Tensor | None:
    """
    :param samples: a minibatch
    :return: its importance weights, the largest 1, shape (B,); ``None`` if it was not drawn by priority
    """
    if not isinstance(samples, (PrioritizedSamples, DictPrioritizedSamples)):
        return None
    # Of several minibatches drawn at once, each is scaled by its own maximum
    return samples.weights.flatten() / samples.weights.max()


def update_priorities(replay_buffer: ReplayBuffer, minibatches: list[Samples], errors: list[th.Tensor]) -> None:
    """
    :param replay_buffer: the minibatches were drawn from; if it is not prioritised, nothing happens
    :param minibatches: any number of them
    :param errors: of each how wrong the prediction was for each transition, shape (B,)
    """
    if isinstance(replay_buffer, SupportsPriorities):
        indices = [minibatch.indices for minibatch in minibatches]  # type: ignore[union-attr]
        replay_buffer.update_priorities(th.cat(indices), th.cat(errors))


def minibatch_rows(index: int, n_minibatches: int) -> slice:
    """
    The rows of one minibatch in a large sample: strided and not consecutive, because ``HerReplayBuffer`` returns first
    its real, then its relabelled transitions. Consecutive minibatches would be wholly real or wholly relabelled.

    :param index: which of the minibatches
    :param n_minibatches: how many there are
    :return: the rows ``index, index + n, index + 2 n, ...``
    """
    return slice(index, None, n_minibatches)


def single_precision(samples: Samples) -> Samples:
    """
    SB3's networks convert float64 observations (MuJoCo's) to float32 whenever they read them; this does it once.

    :param samples: what ``sample()`` returned
    :return: the same without float64
    """
    return map_fields(lambda tensor: tensor.float() if tensor.dtype == th.float64 else tensor, samples)


def split_minibatches(samples: Samples, n_minibatches: int) -> list[Samples]:
    """
    Split one large sample into minibatches of equal size.

    :param samples: with a multiple of ``n_minibatches`` rows
    :param n_minibatches: how many to make of it
    :return: views, no copies; the rows of each as :func:`minibatch_rows` says
    """
    all_rows = (minibatch_rows(index, n_minibatches) for index in range(n_minibatches))
    return [map_fields(itemgetter(rows), samples) for rows in all_rows]
