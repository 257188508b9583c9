"""Functions of whole named tuples of tensors, such as the samples of a replay buffer."""

from collections.abc import Callable
from typing import TypeVar

import torch as th

#: A tensor, a dictionary of them (observations), or nothing
Field = th.Tensor | dict[str, th.Tensor] | None
Fields = TypeVar("Fields", bound=tuple[Field, ...])


def map_fields(function: Callable[[th.Tensor], th.Tensor], samples: Fields) -> Fields:
    """Apply a function to every tensor of a named tuple, also to those in dictionaries; ``None`` stays ``None``."""

    def apply(field: Field) -> Field:
        if field is None:
            return None
        if isinstance(field, dict):
            return {key: function(value) for key, value in field.items()}
        return function(field)

    return type(samples)(*(apply(field) for field in samples))  # type: ignore[arg-type]


def tensors_of(samples: tuple[Field, ...]) -> list[th.Tensor]:
    """List all tensors of a named tuple, in the order of the fields and of the keys of dictionaries."""
    tensors: list[th.Tensor] = []
    for field in samples:
        if isinstance(field, dict):
            tensors += field.values()
        elif field is not None:
            tensors.append(field)
    return tensors
