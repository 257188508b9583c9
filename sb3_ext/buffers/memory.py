"""Memory for replay buffers, in RAM or in a file on disk, with checks before it runs out."""

import errno
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import psutil

_CGROUP = Path("/sys/fs/cgroup")


def available_memory() -> int:
    """Return the bytes of RAM that this process can still use, within the limit of a container (cgroup version 2)."""
    available = int(psutil.virtual_memory().available)
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
        # The cgroup counts the page cache as used, but the system frees it on demand
        cached = [line.split()[1] for line in (_CGROUP / "memory.stat").read_text().splitlines() if "file " in line[:5]]
        return available if limit == "max" else max(min(available, int(limit) - used + int(cached[0])), 0)
    except (OSError, ValueError, IndexError):
        return available  # no limit, or not on Linux


def in_gigabytes(n_bytes: int) -> str:
    """Format a number of bytes, such as ``"7.06 GB"`` or ``"0.4 MB"``."""
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.1f} MB"


def check_memory(required: int, what: str) -> None:
    """Raise a MemoryError if the required bytes exceed the free RAM. Its message says what needs them."""
    available = available_memory()
    if required > available:
        raise MemoryError(
            f"{what} needs {in_gigabytes(required)} of RAM when it is full, {in_gigabytes(available)} are free: choose "
            "a smaller buffer_size or, with frames stored once, compression='lz4' or storage_path=... (a file on disk)"
        )


class RAM:
    """Arrays in memory. Pages that were never written to take no RAM."""

    def new(self, n_bytes: int) -> np.ndarray:
        """Return an array of bytes with arbitrary contents."""
        return np.empty(n_bytes, dtype=np.uint8)

    def grow(self, array: np.ndarray, n_bytes: int) -> np.ndarray:
        """Return a longer array. No view of the old one may exist, and it must not be used afterwards."""
        check_memory(n_bytes - len(array), "a replay buffer with more frames than were expected")
        # This calls realloc(). Linux moves large blocks by changing the page table, without a second copy
        array.resize(n_bytes, refcheck=False)
        return array


# Where copies of files go, for a while, in place of the folder of the original
_storage_of_copies: ContextVar[str | os.PathLike | None] = ContextVar("storage_of_copies", default=None)


@contextmanager
def copies_stored_in(path: str | os.PathLike | None) -> Iterator[None]:
    """
    Let copies of a :class:`MappedFile`, such as a loaded one, choose a file beside another path than the original's.

    :param path: a file or a folder; ``None``: that of the original
    """
    token = _storage_of_copies.set(path)
    try:
        yield
    finally:
        _storage_of_copies.reset(token)


# What removes each file, for processes that end without Python's own clearing up
_removals: list[weakref.finalize] = []


def remove_files() -> None:
    """Remove the files of all buffers of this process, before an ``os._exit``."""
    for removal in _removals:
        removal()  # does nothing the second time


class MappedFile:
    """
    Arrays in one memory-mapped file, which the system can move out of the RAM.

    :param path: file to create, or a folder in which to create one. The file is removed together with this object
    :param is_copy: choose a new file name beside ``path``, because the original uses ``path``
    :raises FileExistsError: if the file exists, because it is never overwritten
    """

    def __init__(self, path: str | os.PathLike, is_copy: bool = False) -> None:
        # The current folder may change before more room is needed
        target = Path((is_copy and _storage_of_copies.get()) or path).absolute()
        self._asked_for = str(target)
        folder = _folder_for(target)
        if folder == target or is_copy:
            prefix = "replay_buffer-" if folder == target else f"{target.name}-"
            descriptor, name = tempfile.mkstemp(prefix=prefix, suffix=".frames", dir=folder)
            self.path = Path(name)
        else:
            self.path = target
            try:
                descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
            except FileExistsError as error:
                raise FileExistsError(
                    errno.EEXIST,
                    "storage_path exists, and nothing is overwritten: remove it or name another",
                    str(path),
                ) from error
        self._descriptor = descriptor
        self._length = 0
        _removals[:] = [removal for removal in _removals if removal.alive]
        _removals.append(weakref.finalize(self, _remove, descriptor, self.path, os.getpid()))

    def __reduce__(self) -> tuple[Any, ...]:
        return MappedFile, (self._asked_for, True)

    def new(self, n_bytes: int) -> np.ndarray:
        """Do the same as :meth:`RAM.new`, and raise an OSError if the disk is too full."""
        return self._map(self._length, n_bytes)

    def grow(self, array: np.ndarray, n_bytes: int) -> np.ndarray:
        """Do the same as :meth:`RAM.grow` for the file's last array, and raise an OSError if the disk is too full."""
        return self._map(self._length - len(array), n_bytes)

    def _map(self, offset: int, n_bytes: int) -> np.ndarray:
        self._reserve(offset + n_bytes)
        return np.memmap(self.path, dtype=np.uint8, mode="r+", offset=offset, shape=(n_bytes,))

    def _reserve(self, length: int) -> None:
        check_disk_space(self.path, length - self._length)
        try:
            # Reserve blocks now, because writing to a mapped page on a full disk would kill the process
            os.posix_fallocate(self._descriptor, 0, length)
        except AttributeError:
            os.ftruncate(self._descriptor, length)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                needed = in_gigabytes(length - self._length)
                raise OSError(error.errno, f"no room for {needed} in storage_path: {error}", str(self.path)) from error
            os.ftruncate(self._descriptor, length)
        self._length = length


def check_disk_space(path: str | os.PathLike, n_bytes: int) -> None:
    """
    Check that so many bytes are free on the disk.

    :param path: a folder, or a file that need not exist yet
    :raises FileNotFoundError: if the folder does not exist
    :raises OSError: if the disk is too full
    """
    free = shutil.disk_usage(_folder_for(Path(path).absolute())).free
    if n_bytes > free:
        raise OSError(
            errno.ENOSPC,
            f"storage_path needs {in_gigabytes(n_bytes)}, {in_gigabytes(free)} are free on that disk",
            str(path),
        )


def _folder_for(path: Path) -> Path:
    """Return the path itself if it is a folder, otherwise the folder that contains it."""
    folder = path if path.is_dir() else path.parent
    if not folder.is_dir():
        raise FileNotFoundError(
            errno.ENOENT,
            "storage_path is in a folder that does not exist. Make it; to load a buffer elsewhere, give the model's "
            "replay_buffer_kwargs another storage_path",
            str(path),
        )
    return folder


def _remove(descriptor: int, path: Path, owner: int) -> None:
    if os.getpid() != owner:
        return  # the file belongs to the parent of this forked process
    os.close(descriptor)
    with suppress(OSError):  # Windows does not remove mapped files
        path.unlink(missing_ok=True)
