"""Large arrays in a pickle without a second copy of them, neither when it is written nor when it is read."""

import pickle
from typing import Any, Protocol

import numpy as np

_PIECE_BYTES = 2**26


class Restorable(Protocol):
    """What owns large arrays: it is rebuilt empty, then gets its pieces back one after the other."""

    def restore_piece(self, array: int, start: int, data: np.ndarray) -> None:
        """
        :param array: which of the arrays
        :param start: where in it the piece belongs
        :param data: bytes, shape (n,)
        """


class Piece:
    """
    A part of an object's bytes. Read back, it puts itself into the rebuilt object, and its memory is given back before
    the next piece is read. The pieces belong into the state (the third part of what ``__reduce__`` returns), because
    the object itself must come first.

    :param owner: the object
    :param array: which of its arrays
    :param start: where in it the bytes belong
    :param data: the bytes, contiguous, shape (n,)
    """

    def __init__(self, owner: Restorable, array: int, start: int, data: np.ndarray) -> None:
        self._owner = owner
        self._place = (array, start)
        self._data = data

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # Before protocol 5 pickle knows no way to write memory that it does not own
        data = pickle.PickleBuffer(self._data.data) if protocol >= 5 else bytearray(self._data)
        return _restore, (self._owner, *self._place, data)

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        memo[id(self._owner)].restore_piece(*self._place, self._data)


def pieces_of(owner: Restorable, data: np.ndarray, array: int = 0) -> list[Piece]:
    """
    :param owner: the object
    :param data: what is to be saved of one of its arrays: its first bytes, contiguous, shape (n,)
    :param array: which of its arrays
    :return: the same in pieces
    """
    starts = range(0, len(data), _PIECE_BYTES)
    return [Piece(owner, array, start, data[start : start + _PIECE_BYTES]) for start in starts]


def full_length(filled: np.ndarray, capacity: int) -> np.ndarray:
    """
    :param filled: the first rows of an array
    :param capacity: how many rows there are to be
    :return: the array, itself where it has as many
    """
    if len(filled) == capacity:
        return filled
    array = np.zeros((capacity, *filled.shape[1:]), dtype=filled.dtype)
    array[: len(filled)] = filled
    return array


def _restore(owner: Restorable, array: int, start: int, data: bytes | bytearray) -> None:
    owner.restore_piece(array, start, np.frombuffer(data, dtype=np.uint8))
    if isinstance(data, bytearray):
        data.clear()  # the unpickler holds on to every object until it has read the last one
