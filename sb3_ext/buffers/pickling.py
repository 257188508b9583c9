"""Large arrays in a pickle without a second copy of them, neither when it is written nor when it is read."""

import pickle
from typing import Any, Protocol

import numpy as np


class Restorable(Protocol):
    """What owns large arrays: it is rebuilt empty, then gets its pieces back one after the other."""

    def restore_piece(self, key: int, data: np.ndarray) -> None: ...


class Piece:
    """
    A part of an object's bytes. Read back, it puts itself into the rebuilt object, and its memory is given back before
    the next piece is read. The pieces belong into the state (the third part of what ``__reduce__`` returns), because
    the object itself must come first.

    :param owner: the object
    :param key: where the bytes belong, handed to ``owner.restore_piece``
    :param data: the bytes, contiguous, shape (n,)
    """

    def __init__(self, owner: Restorable, key: int, data: np.ndarray) -> None:
        self._owner = owner
        self._key = key
        self._data = data

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # Before protocol 5 (and for copy.deepcopy) pickle knows no way to write memory that it does not own
        data = pickle.PickleBuffer(self._data.data) if protocol >= 5 else bytearray(self._data)
        return _restore, (self._owner, self._key, data)


def _restore(owner: Restorable, key: int, data: bytes | bytearray) -> None:
    owner.restore_piece(key, np.frombuffer(data, dtype=np.uint8))
    if isinstance(data, bytearray):
        data.clear()  # the unpickler holds on to every object until it has read the last one
