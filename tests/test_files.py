"""Files that are either complete or absent."""

import os
import platform
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sb3_ext.files import replaced_when_complete


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


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="a file is to be written here"):
        write(tmp_path, b"")
    assert list(tmp_path.iterdir()) == []


def test_what_dead_processes_left_is_removed(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    path = tmp_path / "file"

    def left(name: str, machine: str, owner: object) -> Path:
        partial = tmp_path / f".{name}.{machine}-{owner}.partial"
        partial.write_bytes(b"part of it")
        return partial

    node = platform.node()
    dead = left("file", node, process.pid)
    # Of a living process, of another machine, of another file
    others = [
        left("file", node, os.getppid()),
        left("file", "elsewhere", process.pid),
        left("other", node, process.pid),
    ]
    write(path, b"new")
    assert not dead.exists() and all(other.exists() for other in others)
    assert path.read_bytes() == b"new"
