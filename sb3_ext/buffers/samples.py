"""What replay buffers sample: types, minibatches, importance weights and priorities."""

from collections.abc import Callable
from operator import itemgetter
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples, TensorDict
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ext.functional.fields import map_fields


class PrioritizedSamples(NamedTuple):
    """
    SB3's ``ReplayBufferSamples`` with the two fields that prioritized replay adds.

    :param weights: importance weights, shape (B, 1), at most 1
    :param indices: identifies the transitions in :meth:`SupportsPriorities.update_priorities`, int64, shape (B,), on
        the CPU
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
    """The same as :class:`PrioritizedSamples`, with dictionaries of observations."""

    observations: TensorDict
    actions: th.Tensor
    next_observations: TensorDict
    dones: th.Tensor
    rewards: th.Tensor
    discounts: th.Tensor | None
    weights: th.Tensor
    indices: th.Tensor


class WindowSamples(NamedTuple):
    """
    Windows of L consecutive transitions. Steps that are not ``valid`` repeat the last valid step: mask them.

    :param observations: shape (B, L, ``*shape``), or a dictionary of such tensors
    :param actions: shape (B, L, action_dim)
    :param next_observations: observations after each step, shapes as ``observations``
    :param dones: 1 where the episode terminated, 0 where it goes on or was truncated, float32, shape (B, L)
    :param rewards: float32, shape (B, L)
    :param discounts: always ``None``: each step is discounted by the algorithm's ``gamma``
    :param valid: whether the step belongs to the window, bool, shape (B, L); always true for the first step
    :param weights: importance weights, at most 1, shape (B, 1); ``None`` from a buffer without priorities
    :param indices: identifies the first transitions in :meth:`SupportsPriorities.update_priorities`, int64,
        shape (B,), on the CPU; ``None`` from a buffer without priorities
    :param log_probs: log mu(a|s) of each action when it was chosen, float32, shape (B, L); ``None`` from a buffer
        without ``store_log_probs``
    """

    observations: th.Tensor | TensorDict
    actions: th.Tensor
    next_observations: th.Tensor | TensorDict
    dones: th.Tensor
    rewards: th.Tensor
    discounts: th.Tensor | None
    valid: th.Tensor
    weights: th.Tensor | None = None
    indices: th.Tensor | None = None
    log_probs: th.Tensor | None = None


class Draw(NamedTuple):
    """
    Which transitions a buffer has drawn.

    :param slots: slots, shape (B,)
    :param envs: environments, shape (B,)
    :param weights: importance weights, float32, shape (B, 1); ``None`` from a buffer without priorities
    :param indices: identifies the transitions in ``update_priorities``, shape (B,); ``None`` as for ``weights``
    """

    slots: np.ndarray
    envs: np.ndarray
    weights: np.ndarray | None = None
    indices: np.ndarray | None = None


@runtime_checkable
class SupportsPriorities(Protocol):
    """A replay buffer that draws by priority, see :class:`~sb3_ext.buffers.prioritized.PrioritizedSampling`."""

    def sample_prioritized(
        self, batch_size: int, env: VecNormalize | None = None, progress_remaining: float = 1.0
    ) -> PrioritizedSamples | DictPrioritizedSamples: ...

    def update_priorities(self, indices: th.Tensor | np.ndarray, errors: th.Tensor | np.ndarray) -> None: ...


@runtime_checkable
class SupportsWindows(Protocol):
    """A replay buffer that samples windows, see :class:`~sb3_ext.buffers.base.LazyReplayBuffer`."""

    def sample_windows(
        self, length: int, batch_size: int, env: VecNormalize | None = None, progress_remaining: float = 1.0
    ) -> WindowSamples: ...


AnySamples = ReplayBufferSamples | DictReplayBufferSamples | PrioritizedSamples | DictPrioritizedSamples | WindowSamples
Samples = TypeVar("Samples", bound=AnySamples)


def sample_replay(
    replay_buffer: ReplayBuffer, batch_size: int, env: VecNormalize | None, progress_remaining: float
) -> AnySamples:
    """
    Draw transitions from any replay buffer. Only a prioritized one gives them ``weights`` and ``indices``.

    :param progress_remaining: 1 at the beginning of the training, 0 at its end
    """
    if isinstance(replay_buffer, SupportsPriorities):
        return replay_buffer.sample_prioritized(batch_size, env, progress_remaining)
    return replay_buffer.sample(batch_size, env=env)


def sample_windows(
    replay_buffer: ReplayBuffer, length: int, batch_size: int, env: VecNormalize | None, progress_remaining: float
) -> WindowSamples:
    """
    Sample B windows of consecutive transitions. Their first transitions are drawn as :func:`sample_replay` draws.

    :param replay_buffer: a buffer of this package other than ``DeviceReplayBuffer``
    :param length: number of steps L of each window, at least 1
    :param progress_remaining: 1 at the beginning of the training, 0 at its end
    :return: tensors of shape (B, L, ...); only those of a prioritized buffer have ``weights`` and ``indices``
    :raises ValueError: if the buffer has no windows
    """
    if isinstance(replay_buffer, SupportsWindows):
        return replay_buffer.sample_windows(length, batch_size, env, progress_remaining)
    raise ValueError(
        f"replay_buffer is a {type(replay_buffer).__name__}, which cannot sample windows: choose ArrayReplayBuffer (of "
        "sb3_ext.buffers), FrameDedupReplayBuffer, PrioritizedReplayBuffer or PrioritizedFrameDedupReplayBuffer as "
        "replay_buffer_class"
    )


def minibatch_weights(samples: AnySamples) -> th.Tensor | None:
    """Importance weights of a minibatch, the largest 1, shape (B,); ``None`` if it was not drawn by priority."""
    weights: th.Tensor | None = getattr(samples, "weights", None)
    # Of several minibatches drawn at once, each is divided by its own maximum
    return None if weights is None else weights.flatten() / weights.max()


def update_priorities(replay_buffer: ReplayBuffer, minibatches: list[Samples], errors: list[th.Tensor]) -> None:
    """
    Write the priorities of sampled transitions back; without effect for a buffer without priorities.

    :param errors: for each minibatch, how wrong the prediction was for each transition or window, shape (B,)
    """
    if isinstance(replay_buffer, SupportsPriorities):
        # Whatever such a buffer samples has them
        indices: list[th.Tensor] = [minibatch.indices for minibatch in minibatches]  # type: ignore[union-attr, misc]
        replay_buffer.update_priorities(th.cat(indices), th.cat(errors))


def minibatch_rows(index: int, n_minibatches: int) -> slice:
    """
    Choose the rows ``index, index + n, index + 2 n, ...`` of a large sample for one of n minibatches.

    They are strided, because ``HerReplayBuffer`` returns its real transitions before its relabeled ones. Each minibatch
    gets its share of both.
    """
    return slice(index, None, n_minibatches)


def single_precision(samples: Samples) -> Samples:
    """Convert float64 (MuJoCo's observations) to float32 once, instead of whenever one of SB3's networks reads it."""
    return map_fields(lambda tensor: tensor.float() if tensor.dtype == th.float64 else tensor, samples)


def split_minibatches(samples: Samples, n_minibatches: int) -> list[Samples]:
    """Split a sample into ``n_minibatches`` equal views, whose rows :func:`minibatch_rows` chooses."""
    all_rows = (minibatch_rows(index, n_minibatches) for index in range(n_minibatches))
    return [map_fields(itemgetter(rows), samples) for rows in all_rows]


def map_observations(function: Callable[[Any], Any], observations: Any) -> Any:
    """Apply a function to a tensor or an array of observations, or to each in a dictionary."""
    if isinstance(observations, dict):
        return {key: function(part) for key, part in observations.items()}
    return function(observations)


def flat_observations(observations: Any) -> Any:
    """Turn observations of B windows of L steps into those of B * L states."""
    return map_observations(lambda tensor: tensor.flatten(0, 1), observations)


def first_steps(samples: AnySamples) -> Any:
    """Return the first transition of each window, with the window's importance weight; other samples unchanged."""
    if not isinstance(samples, WindowSamples):
        return samples
    names = ("observations", "actions", "next_observations")
    fields = {name: map_observations(lambda tensor: tensor[:, 0], getattr(samples, name)) for name in names}
    fields |= dict(dones=samples.dones[:, :1], rewards=samples.rewards[:, :1], discounts=None)
    is_dict = isinstance(samples.observations, dict)
    if samples.weights is None:
        return (DictReplayBufferSamples if is_dict else ReplayBufferSamples)(**fields)
    own: dict[str, Any] = dict(weights=samples.weights, indices=samples.indices)
    return (DictPrioritizedSamples if is_dict else PrioritizedSamples)(**fields, **own)


def transition_discounts(samples: AnySamples, gamma: float) -> th.Tensor | float:
    """Return the discount of each transition, shape (B,), for n-step returns, else ``gamma`` for all."""
    return gamma if samples.discounts is None else samples.discounts.flatten()


def transition_rows(samples: AnySamples, gamma: float) -> tuple[th.Tensor, th.Tensor, th.Tensor | float]:
    """Return rewards and dones, shape (B,), and what :func:`transition_discounts` returns."""
    return samples.rewards.flatten(), samples.dones.flatten(), transition_discounts(samples, gamma)
