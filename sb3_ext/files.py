"""Files that are complete or not there at all, whatever interrupts their writing."""

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
    Write a file of which readers see either the old or the new content, whatever happens in between.

    :param path: of the file; its folder is created
    :return: the open file to write to
    :raises IsADirectoryError: if it is a folder
    """
    path = pathlib.Path(os.path.realpath(path))  # what a link points to is replaced, not the link
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
    """
    :param path: of the file that is to be written
    :return: of one beside it that no other process writes. What killed processes of this machine left is removed
    """
    prefix, suffix = f".{path.name}.{platform.node()}-", ".partial"
    for left in path.parent.glob(f"{glob.escape(prefix)}*{suffix}"):
        owner = left.name[len(prefix) : -len(suffix)]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            left.unlink(missing_ok=True)
    return path.with_name(f"{prefix}{os.getpid()}{suffix}")


def _sync_folder(folder: pathlib.Path) -> None:
    if os.name != "posix":
        return
    # The new name, too, has to be on the disk. Not every file system knows how; the file itself is safe by now
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
