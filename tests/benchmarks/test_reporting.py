"""What the benchmarks write above their figures."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from sb3_ext.speed.precision import cpu_capability


@pytest.fixture
def reporting(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("reporting")


def test_the_processor_is_named(reporting: ModuleType) -> None:
    assert f" cores, {reporting.processor()}, {cpu_capability()}" in reporting.machine("torch", n_threads=2)
    described = Path("/proc/cpuinfo")
    if described.exists() and "model name" in described.read_text():
        assert f": {reporting.processor()}\n" in described.read_text()


def test_the_commit_is_that_of_the_checkout(reporting: ModuleType, tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    assert reporting.commit_of(tmp_path) == "unknown"
    module = tmp_path / "sb3_ext" / "module.py"
    module.parent.mkdir()
    module.write_text("VALUE = 1\n")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    commit = git("rev-parse", "--short", "HEAD")
    (tmp_path / "raw.csv").write_text("beside the package\n")
    assert reporting.commit_of(tmp_path) == commit
    assert reporting.commit_of(module.parent) == "unknown"  # no checkout, only within one
    module.write_text("VALUE = 2\n")
    assert reporting.commit_of(tmp_path) == f"{commit}+"


@pytest.mark.parametrize("given", [("--before", "/private/old/"), ("--before=/private/old",)])
def test_commits_stand_for_the_folders_of_checkouts(
    reporting: ModuleType, given: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/private/before_after.py", "--after", ".", "--table-only"])
    assert reporting.command_line({Path("."): "abc123"}) == (
        "python benchmarks/before_after.py --after <checkout of abc123> --table-only"
    )
    monkeypatch.setattr(sys, "argv", ["/private/before_after.py", *given, "--contestants", "IQN, Atari"])
    reporting.write_csv(tmp_path / "raw.csv", [{"a": 1}], "machine", {Path("/private/old"): "abc123+"})
    separator = "=" if len(given) == 1 else " "
    assert (tmp_path / "raw.csv").read_text().splitlines() == [
        "# machine",
        f"# python benchmarks/before_after.py --before{separator}<checkout of abc123+> --contestants 'IQN, Atari'",
        "a",
        "1",
    ]
