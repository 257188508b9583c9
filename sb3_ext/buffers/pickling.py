"""Pickles of large arrays without a second copy of them, when writing and when reading."""

import pickle
from typing import Any, Protocol

import numpy as np

_PIECE_BYTES = 2**26


class Restorable(Protocol):
    """An object with large arrays. Unpickling first rebuilds it empty, then restores the arrays piece by piece."""

    def restore_piece(self, array: int, start: int, data: np.ndarray) -> None:
        """Hook: copy bytes into the array of this number, from byte ``start`` on."""


class Piece:
    """
    A part of an object's bytes. Unpickling it copies the bytes into the object and frees them before the next piece.

    Pieces must be part of the state (the third item that ``__reduce__`` returns), so that the object is rebuilt first.

    :param array: number of the owner's array
    :param start: index of the first byte in the array
    :param data: the bytes, contiguous, shape (n,)
    """

    def __init__(self, owner: Restorable, array: int, start: int, data: np.ndarray) -> None:
        self._owner = owner
        self._place = (array, start)
        self._data = data

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # Only from protocol 5 on can pickle write memory that it does not own
        data = pickle.PickleBuffer(self._data.data) if protocol >= 5 else bytearray(self._data)
        return _restore, (self._owner, *self._place, data)

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        memo[id(self._owner)].restore_piece(*self._place, self._data)


def pieces_of(owner: Restorable, data: np.ndarray, array: int = 0) -> list[Piece]:
    """Split the first bytes of the owner's array of this number into pieces. They are contiguous, shape (n,)."""
    starts = range(0, len(data), _PIECE_BYTES)
    return [Piece(owner, array, start, data[start : start + _PIECE_BYTES]) for start in starts]


def full_length(filled: np.ndarray, capacity: int) -> np.ndarray:
    """Extend an array with zeros to ``capacity`` rows; an array that has them already is returned itself."""
    if len(filled) == capacity:
        return filled
    array = np.zeros((capacity, *filled.shape[1:]), dtype=filled.dtype)
    array[: len(filled)] = filled
    return array


def _restore(owner: Restorable, array: int, start: int, data: bytes | bytearray) -> None:
    owner.restore_piece(array, start, np.frombuffer(data, dtype=np.uint8))
    if isinstance(data, bytearray):
        data.clear()  # the unpickler keeps all objects alive until the end
