"""The script that compares replay buffers, at a tiny size and without an emulator."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "replay_buffers.py"
# Longer than the recording and the ring, so that both have come round
TINY = ("--env", "random", "--capacity", 400, "--n-envs", 2, "--recorded", 90, "--burst", 20, "--calls", 3)


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, (SCRIPT, *arguments))]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.slow
def test_buffers_are_measured_and_compared(tmp_path: Path) -> None:
    ours = ("dedup", "dedup-lz4", "dedup-storage", "dedup-prioritized")
    names = {"sb3-optimized", *ours}
    result = run("--output", "out/raw.csv", "--contestants", ",".join(names), "--repeats", 2, *TINY, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "| SB3 ReplayBuffer |" in result.stdout and "FrameDedupReplayBuffer" in result.stdout
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["raw.csv"]

    versions, command, *lines = (tmp_path / "out" / "raw.csv").read_text().splitlines()
    assert versions.startswith("# Python") and "--capacity 400" in command
    rows = list(csv.DictReader(lines))
    missing = {name for name in names if f"{name}: " in result.stdout}  # without the optional lz4
    assert missing <= {"dedup-lz4"}
    measured = sorted((row["contestant"], row["repeat"]) for row in rows)
    assert measured == sorted((name, repeat) for name in {"sb3", *names} - missing for repeat in "01")
    assert all(float(value) > 0 for row in rows for key, value in row.items() if key.endswith("_per_s"))
    assert all(int(row["transitions_checked"]) == 400 for row in rows if row["contestant"] in ours)
    assert {row["mismatches"] for row in rows if row["contestant"] in ours} == {"0"}
    # The comparison does see what differs: that variant of SB3 loses the last observations of episodes
    assert all(int(row["mismatches"]) > 0 for row in rows if row["contestant"] == "sb3-optimized")


def test_unknown_contestants_are_refused(tmp_path: Path) -> None:
    result = run("--output", "raw.csv", "--contestants", "sb3,nonsense", cwd=tmp_path)
    assert result.returncode == 2
    assert "nonsense" in result.stderr and "dedup-lz4" in result.stderr
    assert not (tmp_path / "raw.csv").exists()
