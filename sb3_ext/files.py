"""Files that are either complete or absent, whatever interrupts their writing and whoever else writes them."""

import errno
import glob
import io
import os
import pathlib
import platform
import secrets
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

import psutil

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_SUFFIX = ".partial"
# A file name may have 255 bytes on most systems. The rest is for the marks of the writer
_MAX_STEM_BYTES = 100
# A file that an earlier start of this machine left is removed when nobody has written to it for so many seconds
_ABANDONED_AFTER = 24 * 3600.0


@contextmanager
def replaced_when_complete(path: pathlib.Path) -> Iterator[IO[bytes]]:
    """
    Write a file so that readers see either the old content or the new one, never a part of it.

    Several threads, processes and machines may write the same path at once. Each writes a partial file of its own next
    to it, and the last to finish wins. Partial files whose writers are dead are removed.

    :param path: of the file; its folder is created. A pipe or a device is written to as it is
    :return: the open file to write to
    :raises IsADirectoryError: if ``path`` is a folder
    """
    path = pathlib.Path(os.path.realpath(path))  # the target of a link is replaced, not the link itself
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "a file is to be written here, and this is a folder", str(path))
    if path.exists() and not path.is_file():  # a pipe or a device, which must not become a file
        with path.open("wb") as special:
            yield special
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    partial, file = _open_partial(path)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if path.exists():
                shutil.copymode(path, partial)
            if fcntl:  # still locked, so that nobody takes it for abandoned
                os.replace(partial, path)
        if not fcntl:  # Windows renames no open file
            os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


@contextmanager
def complete_file(path: str | pathlib.Path | io.BufferedIOBase) -> Iterator[Any]:
    """
    Open a file by :func:`replaced_when_complete`.

    :param path: file name, or an open file, which is passed on
    """
    if not isinstance(path, (str, pathlib.Path)):
        yield path
        return
    with replaced_when_complete(pathlib.Path(path)) as file:
        yield file


def beside_folders(path: Any, suffix: str, stack_level: int = 1) -> Any:
    """
    Apply SB3's rules for file names, with its warning.

    :param path: file name, or an open file, which is passed on
    :param suffix: what is added to a name without one
    :param stack_level: frames between the caller and the function that the warning is for
    :return: a name that is not that of a folder
    """
    if not isinstance(path, (str, pathlib.Path)):
        return path
    path = pathlib.Path(path)
    if not path.suffix:
        path = pathlib.Path(f"{path}{suffix}")
    while path.is_dir():
        warnings.warn(f"Path '{path}' is a folder. Will save instead to {path}_2", stacklevel=stack_level + 1)
        path = pathlib.Path(f"{path}_2")
    return path


def _stem(path: pathlib.Path) -> str:
    return "." + path.name.encode()[:_MAX_STEM_BYTES].decode(errors="ignore")


def _node() -> str:
    return platform.node().replace(".", "_")


def _boot() -> str:
    """Name this start of the machine's kernel. Containers on one kernel share it, even if their host names differ."""
    try:
        return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")[:12]
    except OSError:
        return "0"


def _open_partial(path: pathlib.Path) -> tuple[pathlib.Path, IO[bytes]]:
    """Create a file that nobody else writes, and hold its lock for as long as it is open."""
    while True:
        marks = (_stem(path), _node(), _boot(), str(os.getpid()), secrets.token_hex(4))
        partial = path.with_name(".".join(marks) + _SUFFIX)
        file = partial.open("xb")
        try:
            # Between its creation and its lock another writer may have removed it
            if _lock(file) is not False and _is_at(file, partial):
                return partial, file
        except BaseException:
            file.close()
            partial.unlink(missing_ok=True)
            raise
        file.close()


def _lock(file: IO[bytes]) -> bool | None:
    """Lock an open file; ``False``: another one holds the lock; ``None``: there are no locks here."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_at(file: IO[bytes], path: pathlib.Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _remove_abandoned(path: pathlib.Path) -> None:
    """Remove partial files of ``path`` whose writers are dead; those of other machines stay."""
    for left in path.parent.glob(f"{glob.escape(_stem(path))}.*{_SUFFIX}"):
        stem, *marks = left.name.removesuffix(_SUFFIX).rsplit(".", 4)
        if stem == _stem(path) and len(marks) == 4:
            with suppress(OSError):  # another writer was faster, or it is not ours to remove
                _remove_if_abandoned(left, *marks[:3])


def _remove_if_abandoned(left: pathlib.Path, node: str, boot: str, pid: str) -> None:
    """
    Remove a partial file if nobody holds its lock.

    The system releases a lock when its process dies, so numbers of processes do not matter, which are used again and
    are others in every container. But not every network file system shows the locks of other machines.
    """
    if fcntl is None:
        if node == _node() and pid.isdigit() and not psutil.pid_exists(int(pid)):
            left.unlink()
        return
    is_this_start = boot == _boot() and (boot != "0" or node == _node())
    is_old = node == _node() and time.time() - left.stat().st_mtime > _ABANDONED_AFTER
    if is_this_start or is_old:
        with left.open("r+b") as file:
            if _lock(file) is True and _is_at(file, left):
                left.unlink()


def _sync_folder(folder: pathlib.Path) -> None:
    if os.name != "posix":
        return
    # The new name has to reach the disk, too. Some file systems cannot do it, but the file itself is safe by now.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
