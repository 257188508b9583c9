"""Files that are either complete or absent."""

import errno
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sb3_ext import files
from sb3_ext.files import replaced_when_complete

fcntl = pytest.importorskip("fcntl")
# For processes that import only this file, because the package takes seconds
FOLDER = str(Path(files.__file__).parent)


def write(path: Path, content: bytes) -> None:
    with replaced_when_complete(path) as file:
        file.write(content)


def test_readers_see_the_old_content_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "file"
    write(path, b"old")
    with replaced_when_complete(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("exists", [True, False])
def test_what_fails_leaves_everything_as_it_was(exists: bool, error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "file"
    if exists:
        path.write_bytes(b"old")
    with pytest.raises(error), replaced_when_complete(path) as file:
        file.write(b"half of it")
        raise error
    assert [p.read_bytes() for p in tmp_path.iterdir()] == ([b"old"] if exists else [])


@pytest.mark.skipif(os.name != "posix", reason="needs links and permissions")
def test_links_and_permissions_stay(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    target.chmod(0o640)
    link.symlink_to(target)
    write(link, b"new")
    assert link.is_symlink() and target.read_bytes() == b"new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


@pytest.mark.skipif(os.name != "posix", reason="needs a named pipe")
def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = subprocess.Popen(["cat", path], stdout=subprocess.PIPE)
    write(path, b"new")
    assert reader.communicate()[0] == b"new"
    assert path.is_fifo() and list(tmp_path.iterdir()) == [path]


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="a file is to be written here"):
        write(tmp_path, b"")
    assert list(tmp_path.iterdir()) == []


WRITER = """
import pathlib, sys, time
sys.path.append(sys.argv[2])
from files import replaced_when_complete
with replaced_when_complete(pathlib.Path(sys.argv[1])) as file:
    file.write(b"part of it")
    file.flush()
    print("writing", flush=True)
    time.sleep(60)
"""


@contextmanager
def writing(path: Path) -> Iterator[subprocess.Popen]:
    """A process that is in the midst of writing a file."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path), FOLDER], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "writing\n"
        yield process
    finally:
        process.kill()
        process.wait()


def partial_files(folder: Path) -> list[Path]:
    return sorted(folder.glob(".*.partial"))


def test_only_what_dead_processes_left_is_removed(tmp_path: Path) -> None:
    path, other = tmp_path / "file", tmp_path / "file.2"
    with writing(path), writing(other):
        living = partial_files(tmp_path)
        with writing(path):
            assert len(partial_files(tmp_path)) == 3
        assert len(partial_files(tmp_path)) == 3
        write(path, b"new")
        assert partial_files(tmp_path) == living
    write(path, b"newer")
    assert [part.name[:7] for part in partial_files(tmp_path)] == [".file.2"]
    assert path.read_bytes() == b"newer"


@pytest.mark.parametrize("name", ["file", "b", "x" * 250, "\u00e4" * 120])
def test_names_of_any_length(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with writing(path):
        pass
    assert len(partial_files(tmp_path)) == 1
    write(path, b"new")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("node", "boot", "age_in_days", "is_removed"),
    [
        (None, None, 0, True),
        # A container on this machine; its process has a number of its own there
        ("container", None, 0, True),
        # This machine before it was started anew, or a container of the same name elsewhere
        (None, "0123456789ab", 0, False),
        (None, "0123456789ab", 2, True),
        ("elsewhere", "0123456789ab", 2, False),
    ],
)
def test_what_other_machines_write_stays(
    node: str | None, boot: str | None, age_in_days: int, is_removed: bool, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    with writing(path):
        pass
    (left,) = partial_files(tmp_path)
    stem, own_node, own_boot, pid, token, suffix = left.name.removeprefix(".").split(".")
    marks = (stem, node or own_node, boot or own_boot, pid, token, suffix)
    renamed = left.rename(tmp_path / ("." + ".".join(marks)))
    then = time.time() - age_in_days * 86400
    os.utime(renamed, (then, then))
    write(path, b"new")
    assert renamed.exists() is not is_removed


def test_without_locks_nothing_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    path = tmp_path / "file"
    with writing(path):
        pass
    monkeypatch.setattr("fcntl.flock", no_locks)
    write(path, b"new")
    assert path.read_bytes() == b"new" and len(partial_files(tmp_path)) == 1


def test_a_partial_file_that_is_removed_before_its_lock_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another writer may take it for abandoned in between."""
    path, flock, removed = tmp_path / "file", fcntl.flock, []

    def remove_first(file: object, operation: int) -> None:
        if not removed:
            removed.extend(partial_files(tmp_path))
            removed[0].unlink()
        flock(file, operation)  # type: ignore[arg-type]

    monkeypatch.setattr("fcntl.flock", remove_first)
    write(path, b"new")
    assert len(removed) == 1 and list(tmp_path.iterdir()) == [path] and path.read_bytes() == b"new"


MANY = """
import pathlib, sys, threading
sys.path.append(sys.argv[2])
from files import replaced_when_complete

def write(content):
    for _ in range(10):
        with replaced_when_complete(pathlib.Path(sys.argv[1])) as file:
            for _ in range(20):
                file.write(content)
                file.flush()

threads = [threading.Thread(target=write, args=(bytes([byte]) * 1000,)) for byte in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_threads_and_processes_may_write_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write(path, b"\0" * 20_000)
    command = [sys.executable, "-c", MANY, str(path), FOLDER]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    n_seen = 0
    while n_seen < 50 or any(process.poll() is None for process in processes):
        content = path.read_bytes()
        assert len(content) == 20_000 and len(set(content)) == 1
        n_seen += 1
    assert [process.communicate()[1] for process in processes] == ["", ""]
    assert [process.returncode for process in processes] == [0, 0]
    assert list(tmp_path.iterdir()) == [path]
