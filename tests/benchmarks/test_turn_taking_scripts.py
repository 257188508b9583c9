"""The scripts in which two checkouts, environments or whole programs are compared."""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).parents[2]
BENCHMARKS = REPOSITORY / "benchmarks"


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture
def before_after(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("before_after")


@pytest.fixture
def atari_environments(load_script: Callable[[str], ModuleType]) -> ModuleType:
    pytest.importorskip("ale_py")
    return load_script("atari_environments")


@pytest.fixture
def separate_runs(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("separate_runs")


def write_raw(path: Path, column: str, figures: dict[str, list[float]]) -> None:
    """Raw measurements as the scripts leave them, the rounds of each contestant in reverse."""
    lines = ["# machine", "# command", f"contestant,round,turn,{column}"]
    for name, values in figures.items():
        lines += [f'"{name}",{index},0,{value}' for index, value in reversed(list(enumerate(values)))]
    path.write_text("\n".join(lines) + "\n")


def raw_rows(path: Path) -> list[dict[str, str]]:
    first, command, *rest = path.read_text().splitlines()
    assert first.startswith("# Python") and ", 1 threads, " in first and command.startswith("# python benchmarks/")
    return list(csv.DictReader(rest))


def printed_table(
    script: ModuleType, path: Path, monkeypatch: pytest.MonkeyPatch, output: pytest.CaptureFixture
) -> list[str]:
    """The lines below the head of the table."""
    monkeypatch.setattr(sys, "argv", ["script.py", "--output", str(path), "--table-only"])
    script.main()
    return output.readouterr().out.splitlines()[2:]


def test_ratios_of_two_checkouts_are_those_within_a_round(
    before_after: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    figures = {
        "IQN, Atari: before": [10.0, 20.0, 40.0, 40.0, 50.0],
        "IQN, Atari: after": [20.0, 20.0, 60.0, 100.0, 100.0],  # 2, 1, 1.5, 2.5, 2: the median is not 60 / 40
        "REDQSAC, Hopper, compiled: before": [8.0, 8.0],
        "REDQSAC, Hopper, compiled: after": [4.0, 6.0],
    }
    write_raw(tmp_path / "raw.csv", "updates_per_s", figures)
    assert printed_table(before_after, tmp_path / "raw.csv", monkeypatch, capsys) == [
        "| IQN, Atari | 40.0 | 60.0 | 2.000 | 1.500 to 2.000 |",
        "| REDQSAC, Hopper, compiled | 8.0 | 5.0 | 0.625 | 0.562 to 0.688 |",
    ]


@pytest.mark.parametrize(
    ("label", "n_calls"),
    [("REDQSAC, Hopper", 1), pytest.param("IQN, Atari", 1, marks=pytest.mark.slow), ("SoftDQN, 64x64", 3)],
)
def test_a_checkout_is_trained(
    before_after: ModuleType, label: str, n_calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, _ = before_after.CONTESTANTS[label]
    algorithm = getattr(before_after.sb3_ext, training.algorithm)
    calls = []
    train = algorithm.train

    def counting(self: object, gradient_steps: int, batch_size: int) -> None:
        calls.append((gradient_steps, batch_size))
        train(self, gradient_steps, batch_size)

    monkeypatch.setattr(algorithm, "train", counting)
    settings = {"folder": str(REPOSITORY), "stored": 256, "updates": n_calls * training.gradient_steps}
    block = before_after.prepare(label, settings)
    calls.clear()
    assert block()["updates_per_s"] > 0
    assert calls == [(training.gradient_steps, training.batch_size)] * n_calls


def test_blocks_hold_whole_calls(before_after: ModuleType) -> None:
    assert {f"{name}, {size}" for name in ("DoubleDQN", "SoftDQN") for size in ("Atari", "64x64")} < set(
        before_after.CONTESTANTS
    )
    trainings = before_after.trainings().values()
    assert all(training.n_updates % training.gradient_steps == 0 for training in trainings)


def test_another_package_than_the_checkouts_is_refused(before_after: ModuleType, tmp_path: Path) -> None:
    settings = {"folder": str(tmp_path), "stored": 256, "updates": 8}
    with pytest.raises(ImportError, match=f"not from the checkout {tmp_path}"):
        before_after.prepare("DoubleDQN, 64x64", settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--contestants", "REDQSAC, Humanoid", "nonsense"], "unknown contestants ['nonsense']"),
        (["--repeats", "1"], "--repeats 1 must be at least 2"),
        (["--threads", "0"], "--threads: 0 is not a whole number from 1 to"),
        (["--before", "nowhere"], "--before nowhere: there is no folder sb3_ext"),
        (["--after", "nowhere"], "--after nowhere: there is no folder sb3_ext"),
    ],
)
def test_wrong_options_are_named(
    before_after: ModuleType,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setattr(sys, "argv", ["before_after.py", "--before", str(REPOSITORY), "--output", "y.csv", *arguments])
    with pytest.raises(SystemExit):
        before_after.parse()
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["before_after", "atari_environments"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        ("# machine\n", "has no columns ['contestant', 'round', "),
        ("contestant,repeat,before_updates_per_s\nREDQSAC,0,5\n", "has no columns ['round', "),
        (
            "contestant,round,updates_per_s,steps_per_s\nREDQSAC,0,5,6\n",
            {"before_after": "has nothing to compare", "atari_environments": "lacks 'SB3 DummyVecEnv'"},
        ),
    ],
)
def test_files_without_what_the_table_needs_are_refused(
    name: str,
    content: str | None,
    message: str | dict[str, str],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    path = tmp_path / "raw.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SystemExit):
        printed_table(request.getfixturevalue(name), path, monkeypatch, capsys)
    error = capsys.readouterr().err
    assert f"--output {path}" in error and (message if isinstance(message, str) else message[name]) in error


@pytest.mark.parametrize("name", ["atari_speed", "start_up"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repeats", "0"], "--repeats 0 must be at least 1"),
        (["--threads", "0"], "--threads: 0 is not a whole number from 1 to"),
        (["--threads", "two"], "--threads: two is not a whole number from 1 to"),
        (["--threads", "100000"], "--threads: 100000 is not a whole number from 1 to"),
    ],
)
def test_wrong_numbers_are_named(
    name: str,
    arguments: list[str],
    message: str,
    load_script: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--output", "y.csv", *arguments])
    with pytest.raises(SystemExit):
        load_script(name).main()
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_each_checkout_has_its_own_package(tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "sb3_ext", tmp_path / "before" / "sb3_ext")
    arguments = ["--repeats", 2, "--updates", 8, "--stored", 256, "--threads", 1, "--contestants", "DoubleDQN, 64x64"]
    command = [BENCHMARKS / "before_after.py", "--before", "before", "--output", "out/raw.csv", *arguments]
    result = run(*command, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "| DoubleDQN, 64x64 |" in result.stdout
    rows = raw_rows(tmp_path / "out" / "raw.csv")
    first, called, *_ = (tmp_path / "out" / "raw.csv").read_text().splitlines()
    assert "; before: unknown; after: " in first and " --before <checkout of unknown> --output " in called
    before, after = "DoubleDQN, 64x64: before", "DoubleDQN, 64x64: after"
    assert [row["contestant"] for row in rows] == [before, after, after, before]
    assert all(float(row["updates_per_s"]) > 0 for row in rows)

    (tmp_path / "before" / "sb3_ext" / "__init__.py").write_text("raise RuntimeError('the old package')")
    result = run(*command, cwd=tmp_path)
    assert result.returncode != 0 and "DoubleDQN, 64x64: before: the process ended" in result.stderr
    assert "the old package" in result.stderr


def test_environments_are_compared_with_sb3s(
    atari_environments: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    figures = {"SB3 DummyVecEnv": [100.0, 200.0, 100.0], "AtariVecEnv, 2 threads": [150.0, 200.0, 200.0]}
    write_raw(tmp_path / "raw.csv", "steps_per_s", figures)
    assert printed_table(atari_environments, tmp_path / "raw.csv", monkeypatch, capsys) == [
        "| SB3 DummyVecEnv | 100 | 1.00 | 1.00 to 1.00 |",
        "| AtariVecEnv, 2 threads | 200 | 1.50 | 1.25 to 1.75 |",
    ]


@pytest.mark.slow
def test_environments_of_each_kind_are_measured(tmp_path: Path) -> None:
    pytest.importorskip("ale_py")
    names = ["SB3 DummyVecEnv", "SB3 SubprocVecEnv", "AtariVecEnv, 2 threads"]
    small = ("--n-envs", 2, "--steps", 5, "--repeats", 2, "--threads", 1, "--contestants", *names)
    result = run(BENCHMARKS / "atari_environments.py", "--output", "raw.csv", *small, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "| AtariVecEnv, 2 threads |" in result.stdout
    rows = raw_rows(tmp_path / "raw.csv")
    assert [row["contestant"] for row in rows] == [*names, *names[1:], names[0]]
    for row in rows:
        assert float(row["steps_per_s"]) == pytest.approx(10 / float(row["seconds"]), rel=1e-4)


def test_the_reference_is_not_left_out(
    atari_environments: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    names = ["--contestants", "AtariVecEnv, 1 thread"]
    monkeypatch.setattr(sys, "argv", ["atari_environments.py", "--output", "y.csv", *names])
    with pytest.raises(SystemExit):
        atari_environments.parse()
    assert "lacks 'SB3 DummyVecEnv'" in capsys.readouterr().err


def test_each_repeat_begins_with_another_contestant(separate_runs: ModuleType) -> None:
    assert separate_runs.in_rotation(["a", "b"], 3) == [(0, "a"), (0, "b"), (1, "b"), (1, "a"), (2, "a"), (2, "b")]


def test_programs_have_the_cores_and_threads_that_they_are_given() -> None:
    child = (
        "import json, os;"
        "cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else 1;"
        "print(json.dumps([cores, os.environ['OMP_NUM_THREADS']]))"
    )
    parent = (
        "import subprocess, sys; from separate_runs import keep_to_cores; keep_to_cores(1);"
        "subprocess.run([sys.executable, '-c', sys.argv[1]], check=True)"
    )
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS), "OMP_NUM_THREADS": "2"}
    result = subprocess.run(
        [sys.executable, "-c", parent, child], env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(result.stdout) == [1, "1"]
