"""Stores for frames of one size, raw or compressed, in which each frame has a row number."""

from collections import deque
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np

from sb3_ext.buffers.memory import RAM, MappedFile
from sb3_ext.buffers.pickling import pieces_of

COMPRESSIONS = (None, "lz4")
_SEGMENT_BYTES = 2**22
# LZ4Frames extends its memory by at least this many bytes, and by at least a quarter of its size. Few large parts are
# better, because each part of a mapped file needs a file descriptor
_EXTENT_BYTES = 2**24
# Segment number of chunks that are not stored
_NOWHERE = -1

Memory = RAM | MappedFile


class Frames(Protocol):
    """
    A store for frames. Consecutive rows of one environment form a chunk, which is discarded as a whole.

    :param frame_bytes: bytes of a frame
    :param rows_per_chunk: number of rows in a chunk
    """

    frame_bytes: int
    rows_per_chunk: int

    def write(self, rows: np.ndarray, frames: np.ndarray) -> None:
        """Store frames, bytes of shape (n, ``frame_bytes``), in n rows. Rows of one chunk must be in order."""

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return a copy of the bytes in rows that were written, shape (``*rows.shape``, ``frame_bytes``)."""

    def discard(self, chunks: list[int]) -> None:
        """Free chunks whose rows are no longer needed."""

    def nbytes(self) -> int:
        """Return the number of bytes in use."""


class RawFrames:
    """
    :class:`Frames` without compression, in one array.

    :param memory: RAM or a mapped file
    :param n_expected: least number of frames in the full buffer
    """

    # With chunks of this size most frames of a sample lie side by side and are read faster
    rows_per_chunk = 16

    def __init__(self, frame_bytes: int, memory: Memory, n_expected: int) -> None:
        self.frame_bytes = frame_bytes
        self._memory = memory
        # The extra sixteenth is for the ends of episodes. Pages that are never written to take no RAM
        self._bytes = memory.new((n_expected + n_expected // 16 + 1) * frame_bytes)
        self._n_expected = n_expected
        self._n_used = 0

    def write(self, rows: np.ndarray, frames: np.ndarray) -> None:
        self._n_used = max(self._n_used, max(rows.tolist()) + 1)
        self._reserve(self._n_used * self.frame_bytes)
        self._bytes.reshape(-1, self.frame_bytes)[rows] = frames

    def _reserve(self, n_bytes: int) -> None:
        if n_bytes > len(self._bytes):
            # Grow by little, because new bytes may count as used at once
            n_rows = -(-n_bytes // self.frame_bytes)
            self._bytes = self._memory.grow(self._bytes, (n_rows + n_rows // 64) * self.frame_bytes)

    def read(self, rows: np.ndarray) -> np.ndarray:
        # "clip" is faster than "raise"
        return np.take(self._bytes.reshape(-1, self.frame_bytes), rows, axis=0, mode="clip")

    def discard(self, chunks: list[int]) -> None:
        pass  # the rows will be overwritten

    def nbytes(self) -> int:
        return self._n_used * self.frame_bytes

    def __reduce__(self) -> tuple[Any, ...]:
        state = {"_n_used": self._n_used, "pieces": pieces_of(self, self._bytes[: self.nbytes()])}
        return RawFrames, (self.frame_bytes, self._memory, self._n_expected), state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._n_used = state["_n_used"]  # the pieces are already restored

    def restore_piece(self, array: int, start: int, data: np.ndarray) -> None:
        self._reserve(start + len(data))
        self._bytes[start : start + len(data)] = data


class LZ4Frames:
    """
    :class:`Frames` with lossless lz4 compression.

    Four consecutive frames of an environment form a chunk and are compressed together, because they have much in
    common. Chunks fill one segment after another. They are discarded in nearly the same order, so whole segments become
    free.

    :param memory: RAM or a mapped file, for the compressed chunks
    :param n_expected: least number of frames in the full buffer
    :raises ImportError: if lz4 is not installed
    """

    # An observation of four frames and its next one then lie in two chunks
    rows_per_chunk = 4

    def __init__(self, frame_bytes: int, memory: Memory, n_expected: int) -> None:
        self._codec = import_lz4()
        self.frame_bytes = frame_bytes
        self._memory = memory
        # Frames of incomplete chunks, uncompressed
        self._open: dict[int, np.ndarray] = {}
        # Segment, start and end of each chunk
        self._places = _nowhere(n_expected // self.rows_per_chunk + 1)
        self._segments: list[np.ndarray] = []
        self._n_chunks_in: list[int] = []
        self._filled: list[int] = []
        self._free_segments: list[int] = []
        self._current: int | None = None
        self._extent = np.empty(0, dtype=np.uint8)

    def write(self, rows: np.ndarray, frames: np.ndarray) -> None:
        for row, frame in zip(rows.tolist(), frames, strict=True):
            chunk, position = divmod(row, self.rows_per_chunk)
            # An interrupted write may have skipped the chunk's first row
            if position == 0 or chunk not in self._open:
                self._open[chunk] = np.empty((self.rows_per_chunk, self.frame_bytes), dtype=np.uint8)
            self._open[chunk][position] = frame
            if position == self.rows_per_chunk - 1:
                self._store(chunk, self._codec.compress(self._open[chunk], store_size=False))
                del self._open[chunk]  # only after the chunk is stored, which may fail

    def _store(self, chunk: int, payload: bytes) -> None:
        segment = self._current
        if segment is None or self._filled[segment] + len(payload) > len(self._segments[segment]):
            left, segment = segment, self._next_segment(len(payload))
            if left is not None and self._n_chunks_in[left] == 0:
                self._free_segments.append(left)
            self._current = segment
        start = self._filled[segment]
        end = self._filled[segment] = start + len(payload)
        self._segments[segment][start:end] = np.frombuffer(payload, dtype=np.uint8)
        self._n_chunks_in[segment] += 1
        if chunk >= len(self._places):
            more = _nowhere(chunk + chunk // 8 + 1 - len(self._places))
            self._places = np.concatenate([self._places, more])
        self._places[chunk] = segment, start, end

    def _next_segment(self, n_bytes: int) -> int:
        for index, segment in enumerate(self._free_segments):
            if self._segments[segment].size >= n_bytes:
                return self._free_segments.pop(index)
        self._segments.append(self._cut(max(_SEGMENT_BYTES, n_bytes)))
        self._n_chunks_in.append(0)
        self._filled.append(0)
        return len(self._segments) - 1

    def _cut(self, n_bytes: int) -> np.ndarray:
        if len(self._extent) < n_bytes:
            so_far = sum(len(segment) for segment in self._segments)
            self._extent = self._memory.new(max(_EXTENT_BYTES, so_far // 4, n_bytes))
        segment, self._extent = self._extent[:n_bytes], self._extent[n_bytes:]
        return segment

    def read(self, rows: np.ndarray) -> np.ndarray:
        flat, size = rows.ravel(), self.frame_bytes
        frames = np.empty((len(flat), size), dtype=np.uint8)
        chunks, positions = np.divmod(flat, self.rows_per_chunk)
        # Consecutive rows of one chunk are decompressed and copied together
        starts = np.flatnonzero((np.diff(flat, prepend=-2) != 1) | (positions == 0))
        lengths = np.diff(starts, append=len(flat))
        target = frames.reshape(-1).data  # slicing it is faster than slicing numpy arrays
        runs = zip(*((x * size).tolist() for x in (starts, positions[starts], lengths)), strict=True)
        for chunk, (start, first, length) in zip(chunks[starts].tolist(), runs, strict=True):
            target[start : start + length] = self._chunk(chunk)[first : first + length]
        return frames.reshape(*rows.shape, size)

    def _chunk(self, chunk: int) -> memoryview:
        if chunk in self._open:
            return self._open[chunk].reshape(-1).data
        segment, start, end = self._places[chunk].tolist()
        size = self.rows_per_chunk * self.frame_bytes
        return memoryview(self._codec.decompress(self._segments[segment][start:end], uncompressed_size=size))

    def discard(self, chunks: list[int]) -> None:
        for chunk in chunks:
            self._open.pop(chunk, None)  # incomplete if its last write was interrupted
            segment = int(self._places[chunk, 0]) if chunk < len(self._places) else _NOWHERE
            if segment == _NOWHERE:
                continue
            self._places[chunk, 0] = _NOWHERE
            self._n_chunks_in[segment] -= 1
            if self._n_chunks_in[segment] == 0:
                self._filled[segment] = 0
                if segment != self._current:
                    self._free_segments.append(segment)

    def nbytes(self) -> int:
        return sum(self._filled) + len(self._open) * self.rows_per_chunk * self.frame_bytes + self._places.nbytes

    def __reduce__(self) -> tuple[Any, ...]:
        names = ("_open", "_places", "_n_chunks_in", "_filled", "_free_segments", "_current")
        state = {name: getattr(self, name) for name in names}
        lengths = [len(segment) for segment in self._segments]
        segments = zip(self._segments, self._filled, strict=True)
        state["pieces"] = [
            piece
            for index, (segment, filled) in enumerate(segments)
            for piece in pieces_of(self, segment[:filled], index)
        ]
        return _lz4_frames_with_segments, (self.frame_bytes, self._memory, lengths), state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({name: value for name, value in state.items() if name != "pieces"})

    def restore_piece(self, array: int, start: int, data: np.ndarray) -> None:
        self._segments[array][start : start + len(data)] = data

    def cut_segments(self, lengths: list[int]) -> None:
        """Make empty segments of these lengths, which unpickling will fill."""
        self._segments = [self._cut(length) for length in lengths]


def _nowhere(n_chunks: int) -> np.ndarray:
    """Return the places of ``n_chunks`` chunks that are not stored."""
    return np.full((n_chunks, 3), _NOWHERE, dtype=np.int32)


def _lz4_frames_with_segments(frame_bytes: int, memory: Memory, lengths: list[int]) -> LZ4Frames:
    frames = LZ4Frames(frame_bytes, memory, 0)
    frames.cut_segments(lengths)
    return frames


def import_lz4() -> Any:
    """Return the module ``lz4.block``, or raise an ImportError that says how to install it."""
    try:
        import lz4.block
    except ImportError as error:
        raise ImportError("compression='lz4' needs the package lz4: pip install 'lz4>=4'") from error
    return lz4.block


class RowBook:
    """
    Keeps track of the rows in use.

    Each environment takes rows in the order of time. Stacks share frames only with the stacks just before and after
    them, so rows older than the oldest stack in the buffer are free.

    Row 0 is a frame of zeros, with which SB3 pads the first stacks of an episode. It is always in use.

    :param n_envs: number of environments; no two of them share a chunk
    :param rows_per_chunk: number of rows that become free together
    """

    def __init__(self, n_envs: int, rows_per_chunk: int) -> None:
        self.rows_per_chunk = rows_per_chunk
        self.n_chunks = 1
        self.free: list[int] = []
        # Chunks of each environment, the oldest first
        self.in_use: list[deque[int]] = [deque() for _ in range(n_envs)]
        # The oldest chunk of each environment, 0 if it has none
        self._oldest = np.zeros(n_envs, dtype=np.int32)
        # The next row of each environment. A multiple of rows_per_chunk means that it needs a new chunk
        self._next = np.zeros(n_envs, dtype=np.int32)
        # Number of rows that every environment can still take from its chunk
        self._room = 0

    def take(self, env: int) -> int:
        """Take a free row for a frame of one environment."""
        self._open_chunks([env])
        row = int(self._next[env])
        self._next[env] += 1
        self._room = 0
        return row

    def take_for_all(self) -> np.ndarray:
        """Take a free row for each environment, shape (n_envs,)."""
        if self._room == 0:
            self._open_chunks(range(len(self._next)))
            self._room = self.rows_per_chunk - int((self._next % self.rows_per_chunk).max())
        rows = self._next.copy()
        self._next += 1
        self._room -= 1
        return rows

    def _open_chunks(self, envs: Iterable[int]) -> None:
        for env in envs:
            if self._next[env] % self.rows_per_chunk == 0:
                self._next[env] = self.rows_per_chunk * self._new_chunk(env)

    def _new_chunk(self, env: int) -> int:
        if self.free:
            chunk = self.free.pop()
        else:
            chunk = self.n_chunks
            self.n_chunks += 1
        self.in_use[env].append(chunk)
        self._oldest[env] = self.in_use[env][0]
        return chunk

    def free_rows_before(self, rows: np.ndarray) -> list[int]:
        """
        Free older rows, and return the numbers of the chunks that have become free.

        :param rows: the oldest row that each environment still needs, 0 if it is unknown, shape (n_envs,)
        """
        needed = rows // self.rows_per_chunk
        freed: list[int] = []
        for env in np.flatnonzero((needed != self._oldest) & (needed != 0)).tolist():
            queue = self.in_use[env]
            while queue[0] != needed[env]:
                freed.append(queue.popleft())
            self._oldest[env] = queue[0]
        self.free.extend(freed)
        return freed
