"""Named tuples of tensors, such as samples of a replay buffer, taken as a whole."""

from collections.abc import Callable
from typing import TypeVar

import torch as th

#: A tensor, a dictionary of them (observations), or nothing
Field = th.Tensor | dict[str, th.Tensor] | None
Fields = TypeVar("Fields", bound=tuple[Field, ...])


def map_fields(function: Callable[[th.Tensor], th.Tensor], samples: Fields) -> Fields:
    """
    :param function: what to do with each tensor
    :param samples: what ``sample()`` returned, or another named tuple of tensors and dictionaries of them
    :return: the same with every tensor replaced, also those in dictionaries; ``None`` stays ``None``
    """

    def apply(field: Field) -> Field:
        if field is None:
            return None
        if isinstance(field, dict):
            return {key: function(value) for key, value in field.items()}
        return function(field)

    return type(samples)(*(apply(field) for field in samples))  # type: ignore[arg-type]


def tensors_of(samples: tuple[Field, ...]) -> list[th.Tensor]:
    """
    :param samples: what ``sample()`` returned, or another named tuple of tensors and dictionaries of them
    :return: all its tensors, in an order that the fields and the dictionaries' keys have
    """
    tensors: list[th.Tensor] = []
    for field in samples:
        if isinstance(field, dict):
            tensors += field.values()
        elif field is not None:
            tensors.append(field)
    return tensors
