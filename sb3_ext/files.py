"""Files that are either complete or absent, whatever interrupts their writing."""

import errno
import glob
import os
import pathlib
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

import psutil


@contextmanager
def replaced_when_complete(path: pathlib.Path) -> Iterator[IO[bytes]]:
    """
    Write a file so that readers see either the old content or the new one, never a part of it.

    :param path: of the file; its folder is created
    :return: the open file to write to
    :raises IsADirectoryError: if ``path`` is a folder
    """
    path = pathlib.Path(os.path.realpath(path))  # the target of a link is replaced, not the link itself
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "a file is to be written here, and this is a folder", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial_name(path)
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, partial)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _partial_name(path: pathlib.Path) -> pathlib.Path:
    """Name a file that no other process writes, and remove those that dead processes of this machine left."""
    prefix, suffix = f".{path.name}.{platform.node()}-", ".partial"
    for left in path.parent.glob(f"{glob.escape(prefix)}*{suffix}"):
        owner = left.name[len(prefix) : -len(suffix)]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            left.unlink(missing_ok=True)
    return path.with_name(f"{prefix}{os.getpid()}{suffix}")


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
