"""Proportional prioritized experience replay: Schaul et al. 2016, https://arxiv.org/abs/1511.05952."""

from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ext.buffers.base import ArrayReplayBuffer, LazyReplayBuffer
from sb3_ext.buffers.block_tree import BlockTree
from sb3_ext.buffers.frame_dedup import FrameDedupReplayBuffer
from sb3_ext.buffers.samples import DictPrioritizedSamples, Draw, PrioritizedSamples
from sb3_ext.checks import check_interval
from sb3_ext.keywords import among, checks_keywords


def importance_weights(probabilities: np.ndarray, beta: float) -> np.ndarray:
    """
    Compute ``(n P)^-beta / max w``, which corrects the bias of sampling by priority, fully with ``beta=1``.

    The maximum is taken over the minibatch (section 3.4 of the paper), so the number n of stored transitions cancels.

    :param probabilities: P of the sampled transitions, or anything proportional to it, > 0, shape (B,)
    :param beta: how much of the bias to correct, in [0, 1]
    :return: weights in (0, 1], shape (B,)
    """
    return (probabilities.min() / probabilities) ** beta


class PrioritizedSampling(LazyReplayBuffer):
    """
    Mix-in for the replay buffers of this package that draws transitions in proportion to ``(|error| + eps)^alpha``.

    An algorithm calls :meth:`sample_prioritized` (or :meth:`sample_windows`), weights its loss, and passes the errors
    to :meth:`update_priorities`. :meth:`sample`, which SB3's own algorithms call, raises an error.

    Arguments besides those of the buffer:

    :param alpha: how much priorities matter, >= 0; with 0 sampling is uniform
    :param beta: how much of the bias the weights correct at the beginning, in [0, 1]; it rises linearly to 1
    :param eps: added to each error, > 0, so that every transition can be drawn again
    :raises ValueError: naming the argument, its value and what is allowed
    """

    @checks_keywords(among(ReplayBuffer))
    def __init__(self, *args: Any, alpha: float = 0.6, beta: float = 0.4, eps: float = 1e-6, **kwargs: Any) -> None:
        largest = np.finfo(np.float64).max
        check_interval("alpha", alpha, 0.0, largest, "a number >= 0")
        check_interval("beta", beta, 0.0, 1.0, "in [0, 1]")
        check_interval("eps", eps, np.finfo(np.float64).tiny, largest, "a number > 0")
        super().__init__(*args, **kwargs)
        self.alpha = alpha
        self.beta = beta
        self.eps = eps
        # The leaf of slot s and environment e is s * n_envs + e. It holds (|error| + eps)^alpha
        self._tree = BlockTree(self.buffer_size * self.n_envs)

    def add(self, *args: Any, **kwargs: Any) -> None:
        slot = self.pos
        super().add(*args, **kwargs)
        # New transitions get the largest priority in the buffer, so that they are drawn soon
        value = self._tree.maximum or 1.0
        leaves = np.arange(slot * self.n_envs, (slot + 1) * self.n_envs)
        self._tree.update(leaves, np.full(self.n_envs, value))

    def reset(self) -> None:
        super().reset()
        self._tree = BlockTree(self.buffer_size * self.n_envs)

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> Any:
        """Raise a RuntimeError, because callers that ignore weights and priorities would learn from biased samples."""
        raise RuntimeError(
            f"{type(self).__name__} needs an algorithm that weights its loss and writes priorities back, such as "
            "those of sb3_ext: Stable-Baselines3's own algorithms do not. Choose another replay_buffer_class there. "
            "(In code of your own: sample_prioritized() and update_priorities().)"
        )

    @property
    def priorities(self) -> np.ndarray:
        """Priorities ``(|error| + eps)^alpha`` in the order of ``indices``: read-only, float64, shape (n,)."""
        view = self._tree.leaves[: self.size() * self.n_envs]
        view.flags.writeable = False
        return view

    def draw(self, batch_size: int, progress_remaining: float = 1.0) -> Draw:
        """
        Choose transitions by priority, one from each of ``batch_size`` equal parts of the sum of all priorities.

        :param progress_remaining: 1 at the beginning of the training, 0 at its end
        :return: slots, environments, weights (the largest is 1) and indices
        :raises ValueError: if the buffer is empty
        """
        self._check_not_empty()
        parts = np.arange(batch_size) + np.random.random_sample(batch_size)
        # Shuffled, because a large sample may be split into minibatches, each of which should cover all parts
        leaves = np.random.permutation(self._tree.find(parts * (self._tree.total / batch_size)))
        # SB3's progress is negative if the last rollout goes beyond the last time step
        beta = 1.0 - (1.0 - self.beta) * max(progress_remaining, 0.0)
        weights = importance_weights(self._tree.leaves[leaves], beta).astype(np.float32)
        return Draw(leaves // self.n_envs, leaves % self.n_envs, weights.reshape(-1, 1), leaves)

    def sample_prioritized(
        self, batch_size: int, env: VecNormalize | None = None, progress_remaining: float = 1.0
    ) -> PrioritizedSamples | DictPrioritizedSamples:
        """Return the transitions that :meth:`draw` chooses, with their weights and indices."""
        drawn = self.draw(batch_size, progress_remaining)
        assert drawn.weights is not None and drawn.indices is not None
        samples = self.samples_at(drawn.slots, drawn.envs, env)
        is_dict = isinstance(samples, DictReplayBufferSamples)
        return (DictPrioritizedSamples if is_dict else PrioritizedSamples)(
            **samples._asdict(),
            weights=self._to_tensor(drawn.weights),
            indices=th.from_numpy(drawn.indices),
        )

    def update_priorities(self, indices: th.Tensor | np.ndarray, errors: th.Tensor | np.ndarray) -> None:
        """
        Set the priorities of sampled transitions; if an index occurs several times, its last error counts.

        :param indices: ``indices`` of the samples, shape (B,)
        :param errors: unweighted prediction errors, shape (B,); their sign does not matter
        :raises ValueError: if an error is not finite or an index belongs to no stored transition; no priority changes
        """
        leaves, absolute = np.asarray(_on_cpu(indices)), np.abs(np.asarray(_on_cpu(errors), dtype=np.float64))
        if leaves.ndim != 1 or leaves.shape != absolute.shape:
            raise ValueError(
                f"indices {leaves.shape} and errors {absolute.shape} must have one and the same shape (B,)"
            )
        if not np.isfinite(absolute).all():
            place = int(np.flatnonzero(~np.isfinite(absolute))[0])
            raise ValueError(f"errors[{place}]={np.asarray(_on_cpu(errors))[place]} must be finite")
        n_stored = self.size() * self.n_envs
        if leaves.size and (leaves.min() < 0 or leaves.max() >= n_stored):
            raise ValueError(f"indices from {leaves.min()} to {leaves.max()} must lie in [0, {n_stored})")
        with np.errstate(over="ignore", under="ignore"):
            values = (absolute + self.eps) ** self.alpha
        if not (np.isfinite(values) & (values > 0)).all():
            raise ValueError(
                f"errors up to {absolute.max()} to the power of alpha={self.alpha} are no finite numbers > 0: choose a "
                "smaller alpha"
            )
        self._tree.update(leaves, values)

    def expected_nbytes(self) -> int:
        return super().expected_nbytes() + self._tree.nbytes()

    def nbytes(self) -> int:
        return super().nbytes() + self._tree.nbytes()

    def check_valid(self) -> None:
        super().check_valid()
        self._tree.check_valid()
        stored = self.size() * self.n_envs
        assert (self._tree.leaves[:stored] > 0).all(), "a transition cannot be drawn"
        assert not self._tree.leaves[stored:].any(), "an empty slot can be drawn"


def _on_cpu(values: th.Tensor | np.ndarray) -> th.Tensor | np.ndarray:
    return values.detach().cpu() if isinstance(values, th.Tensor) else values


class PrioritizedReplayBuffer(PrioritizedSampling, ArrayReplayBuffer):
    """
    Prioritized replay that stores observations as SB3's default buffer does.

    Arguments: those of :class:`ArrayReplayBuffer` and of :class:`PrioritizedSampling` (``alpha``, ``beta``, ``eps``).
    """


class PrioritizedFrameDedupReplayBuffer(PrioritizedSampling, FrameDedupReplayBuffer):
    """
    Prioritized replay that stores each frame once.

    Arguments: those of :class:`FrameDedupReplayBuffer` and of :class:`PrioritizedSampling` (``alpha``, ``beta``,
    ``eps``).
    """
