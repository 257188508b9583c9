"""How a replay buffer keeps observations: the interface, and plain arrays as SB3 uses them."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from sb3_ext.buffers.pickling import pieces_of

SelfPair = TypeVar("SelfPair", bound="ObservationPair")


class ObservationPair(Protocol):
    """A batch of observations and next observations, which may share memory."""

    @property
    def observations(self) -> Any: ...

    @property
    def next_observations(self) -> Any: ...

    def map(self: SelfPair, function: Callable[[Any], Any]) -> SelfPair: ...


class ObservationStore(Protocol):
    """The observations and next observations of a replay buffer, or of one key of a dictionary."""

    def add(self, slot: int, observations: np.ndarray, next_observations: np.ndarray) -> None: ...

    def read(self, slots: np.ndarray, envs: np.ndarray, next_slots: np.ndarray | None = None) -> ObservationPair: ...

    def nbytes(self) -> int: ...

    def check_valid(self) -> None: ...


class Arrays(NamedTuple):
    """Observations and next observations as two arrays, each of shape (B, ``*shape``)."""

    observations: Any
    next_observations: Any

    def map(self, function: Callable[[Any], Any]) -> "Arrays":
        return Arrays(function(self.observations), function(self.next_observations))


class ArrayStore:
    """
    An :class:`ObservationStore` with one array for observations and one for next observations, as in SB3.

    :param capacity: number of slots; each slot holds one transition of every environment
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, capacity: int, n_envs: int) -> None:
        self.arrays = Arrays(*(np.zeros((capacity, n_envs, *shape), dtype=dtype) for _ in range(2)))
        self._n_filled = 0

    def add(self, slot: int, observations: np.ndarray, next_observations: np.ndarray) -> None:
        self.arrays.observations[slot] = observations
        self.arrays.next_observations[slot] = next_observations
        self._n_filled = max(self._n_filled, slot + 1)

    def read(self, slots: np.ndarray, envs: np.ndarray, next_slots: np.ndarray | None = None) -> Arrays:
        last = slots if next_slots is None else next_slots
        return Arrays(self.arrays.observations[slots, envs], self.arrays.next_observations[last, envs])

    def nbytes(self) -> int:
        return sum(array[: self._n_filled].nbytes for array in self.arrays)

    def check_valid(self) -> None:
        assert self._n_filled <= len(self.arrays.observations), "more slots are filled than exist"

    def __reduce__(self) -> tuple[Any, ...]:
        capacity, n_envs, *shape = self.arrays.observations.shape
        filled = [_as_bytes(array[: self._n_filled]) for array in self.arrays]
        pieces = [piece for index, data in enumerate(filled) for piece in pieces_of(self, data, index)]
        state = {"_n_filled": self._n_filled, "pieces": pieces}
        return ArrayStore, (tuple(shape), self.arrays.observations.dtype, capacity, n_envs), state

    def __setstate__(self, state: dict[str, Any]) -> None:
        # The pieces have already written themselves into the arrays
        self._n_filled = state["_n_filled"]

    def restore_piece(self, array: int, start: int, data: np.ndarray) -> None:
        _as_bytes(self.arrays[array])[start : start + len(data)] = data


def _as_bytes(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(np.uint8)
