"""A replay buffer with a mistake on purpose, for experiments that show what the mistake costs."""

from operator import itemgetter
from typing import Any

import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ext.buffers.samples import minibatch_rows
from sb3_ext.checks import check_integer
from sb3_ext.functional.fields import map_fields


class OneMinibatchReplayBuffer(ReplayBuffer):
    """
    Hands out the same minibatch for many updates.

    A training loop makes this mistake if it samples once for each environment step and then updates 20 times. The
    buffer is for ``REDQSAC``, which samples several minibatches at once.

    Whoever else samples, such as a ``DiagnosisCallback``, uses up one of the repeats. It has to ask for a multiple of
    ``minibatch_size``.

    :param minibatch_size: the algorithm's ``batch_size``
    :param n_repeats: the algorithm's ``gradient_steps``: so many updates share a minibatch

    The other parameters are those of SB3's ``ReplayBuffer``.
    """

    def __init__(self, *args: Any, minibatch_size: int = 256, n_repeats: int = 20, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_integer("minibatch_size", minibatch_size, minimum=1)
        check_integer("n_repeats", n_repeats, minimum=1)
        self.minibatch_size = minibatch_size
        self.n_repeats = n_repeats
        self._minibatch: ReplayBufferSamples | None = None
        self._n_left = 0

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """
        Sample one minibatch, or several in one sample.

        :param batch_size: a multiple of ``minibatch_size``
        :param env: normalises observations and rewards
        :return: the minibatches, in the order of :func:`~sb3_ext.buffers.samples.split_minibatches`
        :raises ValueError: if ``batch_size`` is no such multiple
        """
        n_minibatches, rest = divmod(batch_size, self.minibatch_size)
        if rest or n_minibatches == 0:
            raise ValueError(f"batch_size={batch_size} must be a multiple of minibatch_size={self.minibatch_size}")
        minibatches = [self._next_minibatch(env) for _ in range(n_minibatches)]
        rows = th.empty(batch_size, dtype=th.long, device=self.device)
        for index in range(n_minibatches):
            first = index * self.minibatch_size
            place = minibatch_rows(index, n_minibatches)
            rows[place] = th.arange(first, first + self.minibatch_size, device=self.device)
        fields: list[Any] = [None if parts[0] is None else th.cat(parts) for parts in zip(*minibatches, strict=True)]
        return map_fields(itemgetter(rows), ReplayBufferSamples(*fields))

    def _next_minibatch(self, env: VecNormalize | None) -> ReplayBufferSamples:
        if self._minibatch is None or self._n_left == 0:
            self._minibatch = super().sample(self.minibatch_size, env)
            self._n_left = self.n_repeats
        self._n_left -= 1
        return self._minibatch
