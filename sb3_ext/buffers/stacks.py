"""A store for observations that are stacks of frames, in which each frame is stored once."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from sb3_ext.buffers.frames import Frames, RowBook
from sb3_ext.buffers.pickling import full_length

# The deepest stack that is detected without `n_stack`
_DEEPEST_STACK = 32
# Look for free chunks every N slots, because a search costs more than the few frames that wait for it
SLOTS_BETWEEN_SCANS = 4


class Flat(NamedTuple):
    """
    Observations as bytes in the order of memory, which makes comparisons fast.

    :param data: bytes, shape (n, number of bytes)
    :param run: number of adjacent bytes that belong to the same frame
    """

    data: np.ndarray
    run: int


@dataclass(frozen=True)
class StackLayout:
    """
    How an observation consists of frames, the oldest first.

    :param shape: shape of the observation
    :param axis: axis along which frames are stacked, 0 or -1
    :param n_stack: number of frames
    """

    shape: tuple[int, ...]
    axis: int
    n_stack: int

    @cached_property
    def width(self) -> int:
        """The length of one frame along the axis, such as 3 for RGB."""
        return self.shape[self.axis] // self.n_stack

    @cached_property
    def frame_shape(self) -> tuple[int, ...]:
        """The shape of one frame."""
        shape = list(self.shape)
        shape[self.axis] = self.width
        return tuple(shape)

    @cached_property
    def _axis_to_the_end(self) -> tuple[int, ...]:
        return (0, *range(2, len(self.shape) + 1), 1)

    def frames(self, observations: np.ndarray) -> np.ndarray:
        """Return a view of the frames of n observations, shape (n, ``n_stack``, ``*frame_shape``)."""
        n = len(observations)
        if self.axis == 0:
            return observations.reshape(n, self.n_stack, self.width, *self.shape[1:])
        return np.moveaxis(observations.reshape(n, *self.shape[:-1], self.n_stack, self.width), -2, 1)

    def observations(self, frames: Any) -> Any:
        """Invert :meth:`frames` for arrays or tensors, as a view if possible."""
        if self.axis != 0:
            for position in range(1, len(self.shape)):
                frames = frames.swapaxes(position, position + 1)
        return frames.reshape(len(frames), *self.shape)

    def flat(self, observations: np.ndarray) -> Flat:
        """Return observations of shape (n, ``*shape``) as bytes, as a view if possible."""
        run = self.width
        if observations.flags.c_contiguous or self.axis != 0:
            observations = np.ascontiguousarray(observations)
            run *= math.prod(self.shape[1:]) if self.axis == 0 else 1
        else:
            # `VecTransposeImage` returns arrays whose channels are first in the shape and last in memory
            observations = np.ascontiguousarray(observations.transpose(self._axis_to_the_end))
        return Flat(observations.reshape(len(observations), -1).view(np.uint8), run * observations.itemsize)

    def both_flat(self, before: np.ndarray, after: np.ndarray) -> tuple[Flat, Flat]:
        """Return the observations of two time steps as bytes in the same order."""
        earlier, later = self.flat(before), self.flat(after)
        if earlier.run != later.run:  # the arrays differ in their order in memory
            earlier, later = self.flat(np.ascontiguousarray(before)), self.flat(np.ascontiguousarray(after))
        return earlier, later

    def moved_on(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """
        Tell which of n stacks have moved on by one frame (the oldest left, a new one came): bool, shape (n,).

        Bits are compared, so -0.0 differs from 0.0, and NaN equals itself.
        """
        earlier, later = self.both_flat(before, after)
        last = LastStacks(self.n_stack)
        last.replace(earlier)
        last.move_on(later)
        return ~last.differing(later)


class LastStacks:
    """The last next observations as bytes. They are a copy, because environments may reuse the arrays they return."""

    def __init__(self, n_stack: int) -> None:
        self._n_stack = n_stack
        # A bytearray compares fastest, and dropping its first bytes does not move the others
        self._bytes = bytearray()
        self._run = 0

    def replace(self, stacks: Flat) -> None:
        """Replace the last observations of all environments."""
        self._bytes, self._run = bytearray(stacks.data), stacks.run

    def equal(self, stacks: Flat) -> bool:
        """Tell whether observations of all environments equal the last ones, bit for bit."""
        return self._run == stacks.run and self._bytes == stacks.data

    def differing(self, stacks: Flat) -> np.ndarray:
        """Tell for each environment whether its observation differs from the last one, bool, shape (n_envs,)."""
        if self._run != stacks.run:  # nothing is stored yet, or the order in memory has changed
            return np.ones(len(stacks.data), dtype=bool)
        return (np.frombuffer(self._bytes, dtype=np.uint8).reshape(stacks.data.shape) != stacks.data).any(axis=1)

    def move_on(self, stacks: Flat) -> None:
        """Drop the oldest frame of each stack and append the newest of ``stacks``, which have the same order."""
        # Frames follow each other in memory, so dropping the first bytes moves each frame one place forward. The places
        # of the newest frames are overwritten.
        del self._bytes[: self._run]
        self._bytes += bytes(self._run)
        own = np.frombuffer(self._bytes, dtype=np.uint8).reshape(stacks.data.shape)
        self._newest(own)[...] = self._newest(stacks.data)

    def _newest(self, data: np.ndarray) -> np.ndarray:
        # One item per run is copied faster than single bytes
        items = data if self._run == 1 else data.view(f"V{self._run}")
        return items.reshape(len(data), -1, self._n_stack)[..., -1]


def possible_layouts(shape: tuple[int, ...], n_stack: int | None) -> list[StackLayout]:
    """
    List the layouts that observations of a shape may have, the most likely first; none if they are stored whole.

    Gymnasium's wrapper and PyTorch's images have frames along the first axis, SB3's ``VecFrameStack`` along the last.
    """
    n_dims = len(shape)
    if n_dims == 0 or n_stack == 1:
        return []
    first_axis = n_dims > 3 or (n_dims == 2 and shape[0] == n_stack) or (n_dims == 3 and shape[0] <= shape[-1])
    axes = (0, -1) if first_axis or (n_stack is None and n_dims == 2) else (-1, 0)
    if n_stack is not None:
        return [StackLayout(shape, axis, n_stack) for axis in axes if shape[axis] % n_stack == 0]
    length = shape[axes[0]]
    if n_dims == 1:
        return []  # storing single numbers once would not save memory
    if n_dims != 3:
        return [StackLayout(shape, 0, length)] if 2 <= length <= _DEEPEST_STACK else []
    depths = [depth for depth in range(min(length, _DEEPEST_STACK), 1, -1) if length % depth == 0]
    return [StackLayout(shape, axes[0], depth) for depth in depths]


class StackStore:
    """
    The observations and next observations of a replay buffer, with each frame stored once.

    A stack is stored as ``n_stack`` row numbers of frames. An observation that equals the previous next observation
    gets the same rows. A next observation that has moved on by one frame gets one new row. All others are stored whole,
    so the store always returns what was added. It assumes nothing about the ends of episodes.

    :param capacity: number of slots; each slot holds one transition of every environment
    :param frames: an empty store for the frames
    """

    def __init__(self, layout: StackLayout, dtype: np.dtype, capacity: int, n_envs: int, frames: Frames) -> None:
        self.layout = layout
        self.dtype = dtype
        self.frames = frames
        self.book = RowBook(n_envs, frames.rows_per_chunk)
        # For each slot the rows of its observation, then the rows of its next observation
        self.rows = np.zeros((capacity, n_envs, 2 * layout.n_stack), dtype=np.int32)
        # Whether every next observation so far was its observation, moved on by one frame
        self.only_stacks = True
        self._n_filled = 0
        self._last = LastStacks(layout.n_stack)
        self._last_rows = np.zeros((n_envs, layout.n_stack), dtype=np.int32)
        frames.write(np.zeros(1, dtype=np.int32), np.zeros((1, frames.frame_bytes), dtype=np.uint8))

    def add(self, slot: int, observations: np.ndarray, next_observations: np.ndarray) -> None:
        """
        Store one transition of every environment. Slots are filled one after the other.

        :param observations: shape (n_envs, ``*shape``)
        :param next_observations: observations one time step later in the same episodes, same shape
        """
        before, after = self.layout.both_flat(observations, next_observations)
        depth = self.layout.n_stack
        rows = np.empty_like(self.rows[slot])
        rows[:, :depth] = self._last_rows
        # If an exception interrupts this method, the last stacks stay empty and the next ones are stored whole
        last, self._last = self._last, LastStacks(depth)
        # In most steps only the newest frames are new
        if not last.equal(before):
            for env in np.flatnonzero(last.differing(before)).tolist():
                rows[env, :depth] = self._write_stack(env, observations)
            last.replace(before)
        rows[:, depth:-1] = rows[:, 1:depth]
        last.move_on(after)
        if last.equal(after):
            rows[:, -1] = self.book.take_for_all()
            self._write_newest(rows[:, -1], next_observations)
        else:
            self.only_stacks = False
            for env, is_whole in enumerate(last.differing(after).tolist()):
                if is_whole:
                    rows[env, depth:] = self._write_stack(env, next_observations)
                else:
                    rows[env, -1] = self.book.take(env)
                    self._write_newest(rows[env, -1:], next_observations[env : env + 1])
            last.replace(after)
        is_overwritten = slot < self._n_filled
        self.rows[slot] = rows
        if is_overwritten and slot % SLOTS_BETWEEN_SCANS == 0:
            self._free_before(self.rows[(slot + 1) % len(self.rows)])
        self._last, self._last_rows = last, rows[:, depth:]
        self._n_filled = max(self._n_filled, slot + 1)

    def _free_before(self, oldest: np.ndarray) -> None:
        """Free the rows that are older than the oldest slot's rows, of shape (n_envs, 2 * n_stack)."""
        first = oldest[:, 0]
        if not first.all():  # some stacks begin with frames of zeros
            first = oldest[np.arange(len(oldest)), (oldest != 0).argmax(axis=1)]
        self.frames.discard(self.book.free_rows_before(first))

    def _write_newest(self, rows: np.ndarray, observations: np.ndarray) -> None:
        newest = self.layout.frames(observations)[:, -1]
        newest = newest.reshape(len(newest), -1)
        if newest.itemsize > 1:
            newest = np.ascontiguousarray(newest).view(np.uint8)
        self.frames.write(rows, newest)

    def _write_stack(self, env: int, observations: np.ndarray) -> np.ndarray:
        """Store a whole stack, but no frames of zeros or repeated ones, with which wrappers fill the first stacks."""
        stack = np.ascontiguousarray(self.layout.frames(observations[env : env + 1])[0])
        frames = stack.reshape(self.layout.n_stack, -1).view(np.uint8)
        rows = np.zeros(len(frames), dtype=np.int32)
        for index, frame in enumerate(frames):
            if index > 0 and np.array_equal(frame, frames[index - 1]):
                rows[index] = rows[index - 1]
            elif frame.any():
                rows[index] = self.book.take(env)
                self.frames.write(rows[index : index + 1], frame[None])
        return rows

    def read(self, slots: np.ndarray, envs: np.ndarray, next_slots: np.ndarray | None = None) -> "Stacks":
        """Return B observations and next observations. For n-step returns the latter come from ``next_slots``."""
        depth = self.layout.n_stack
        rows = self.rows[slots, envs]
        if next_slots is None and self.only_stacks:
            rows = rows[:, [*range(depth), -1]]  # common frames are copied once
        elif next_slots is not None:
            rows = np.concatenate([rows[:, :depth], self.rows[next_slots, envs, depth:]], axis=1)
        frames = self.frames.read(rows).view(self.dtype)
        return Stacks(frames.reshape(*rows.shape, *self.layout.frame_shape), self.layout)

    def nbytes(self) -> int:
        """Return the number of bytes in use."""
        return self.frames.nbytes() + self.rows[: self._n_filled].nbytes

    def __getstate__(self) -> dict[str, Any]:
        filled = self.rows[: self._n_filled]
        return {**self.__dict__, "rows": filled, "capacity": len(self.rows)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state["rows"] = full_length(state["rows"], state.pop("capacity"))
        self.__dict__.update(state)

    def check_valid(self) -> None:
        """Raise an AssertionError if the contents are inconsistent."""
        book, chunks = self.book, self.rows[: self._n_filled] // self.frames.rows_per_chunk
        in_use = [chunk for queue in book.in_use for chunk in queue]
        assert sorted([0, *in_use, *book.free]) == list(range(book.n_chunks)), "a chunk is lost, or there twice"
        for env, queue in enumerate(book.in_use):
            assert set(chunks[:, env].ravel().tolist()) <= {0, *queue}, "a stack has a row that is not in use"
        assert not self.frames.read(np.zeros(1, dtype=np.int32)).any(), "the frame of zeros was written to"
        if self.only_stacks:
            depth = self.layout.n_stack
            assert (self.rows[..., 1:depth] == self.rows[..., depth:-1]).all(), "a stack did not move on by one frame"


class Stacks(NamedTuple):
    """
    Observations and next observations as frames.

    :param frames: array or tensor of shape (B, ``n_stack + 1``, ``*frame_shape``) if both share all but one frame,
        otherwise (B, ``2 * n_stack``, ``*frame_shape``)
    """

    frames: Any
    layout: StackLayout

    @property
    def observations(self) -> Any:
        """The observations, shape (B, ``*layout.shape``), as a view if possible."""
        return self.layout.observations(self.frames[:, : self.layout.n_stack])

    @property
    def next_observations(self) -> Any:
        """The next observations, shape (B, ``*layout.shape``), as a view if possible."""
        return self.layout.observations(self.frames[:, -self.layout.n_stack :])

    def map(self, function: Callable[[Any], Any]) -> "Stacks":
        """Apply a function from arrays to arrays or tensors to the frames."""
        return Stacks(function(self.frames), self.layout)
