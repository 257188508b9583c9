"""Helpers for what a replay buffer's ``sample()`` returns."""

from typing import TypeVar

import torch as th
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples

Samples = TypeVar("Samples", ReplayBufferSamples, DictReplayBufferSamples)
Field = th.Tensor | dict[str, th.Tensor] | None


def split_minibatches(samples: Samples, n_minibatches: int) -> list[Samples]:
    """
    Split one large sample into minibatches of equal size: minibatch i holds the rows i, i + n, i + 2n, ...

    Strided and not consecutive, because ``HerReplayBuffer`` returns first its real, then its relabelled transitions:
    consecutive minibatches would be wholly real or wholly relabelled.

    :param samples: with a multiple of ``n_minibatches`` rows
    :return: views, no copies
    """

    def rows(field: Field, start: int) -> Field:
        if field is None:  # `discounts` without n-step returns
            return None
        if isinstance(field, dict):
            return {key: value[start::n_minibatches] for key, value in field.items()}
        return field[start::n_minibatches]

    return [type(samples)(*(rows(field, start) for field in samples)) for start in range(n_minibatches)]  # type: ignore[arg-type]
