"""The real command line: a grid that is killed and started again, runs that fail, and what is left of them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sb3_ext.speed.precision import cpu_capability

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "sb3_ext.experiments", *map(str, arguments)]


def run(cwd: Path, *arguments: str | Path, status: int = 0) -> tuple[str, str]:
    done = subprocess.run(
        command(*arguments), cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == status, f"{done.stdout}\n{done.stderr}"
    return done.stdout, done.stderr


def finished_files(root: Path) -> dict[Path, tuple[float, str]]:
    return {path: (path.stat().st_mtime, path.read_text()) for path in root.glob("*/*/*/finished.json")}


def wait_for(condition, seconds: float = 120.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.1)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    "how", [*(pytest.param(how, marks=pytest.mark.slow) for how in (signal.SIGKILL, signal.SIGTERM)), signal.SIGINT]
)
def test_a_killed_grid_goes_on_and_no_run_is_done_twice(tmp_path, write_experiment, how):
    file = write_experiment()
    if how is not signal.SIGKILL:  # the shorter half of the test
        file.write_text(file.read_text().replace("seeds: [1, 2]", "seeds: [1]"))
    n_runs = 4 if how is signal.SIGKILL else 2
    root = tmp_path / "logs" / "experiments" / "small"
    # A shell in the background starts processes that ignore SIGINT, tests among them, and what is ignored is inherited
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            command("run", file), cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
        )
    finally:
        signal.signal(signal.SIGINT, before)
    # One is finished, the next one under way
    wait_for(lambda: finished_files(root) and len(list(root.glob("*/*/*/training"))) == 2)
    (under_way,) = [
        folder.parent for folder in root.glob("*/*/*/training") if not (folder.parent / "finished.json").exists()
    ]
    workers = [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if is_alive(int(path.parent.name)) and str(under_way.resolve()).encode() in path.read_bytes()
    ]
    assert len(workers) == 1
    process.send_signal(how)
    assert process.wait(timeout=60) == (130 if how is not signal.SIGKILL else -how)
    if how is not signal.SIGKILL:
        assert "interrupted: the same command goes on" in process.stderr.read()
    process.stderr.close()
    wait_for(lambda: not is_alive(workers[0]), 20)
    before = finished_files(root)
    stdout, _ = run(tmp_path, "status", file)
    assert f"{len(before)} finished" in stdout and ("1 interrupted" in stdout or len(before) == 2)

    stdout, _ = run(tmp_path, "run", file, "--jobs", "2")
    after = finished_files(root)
    assert len(after) == n_runs and before.items() <= after.items()
    assert (root / "report" / "curves.png").stat().st_size > 10_000
    table = (root / "report" / "table.md").read_text()
    assert table in stdout and table.count("CartPole-v1") == 2

    # Nothing is left to do, and nothing is done
    run(tmp_path, "run", file)
    assert finished_files(root) == after
    for path, (_, text) in after.items():
        content = json.loads(text)
        assert content["command"].startswith("python -m rl_zoo3.train --algo d") and content["versions"]["torch"]
        assert content["versions"]["cpu"] == cpu_capability()
        with np.load(next(path.parent.glob("training/*/*/evaluations.npz"))) as evaluations:
            assert evaluations["timesteps"].tolist() == [100, 200] and evaluations["results"].shape == (2, 2)
    # The settings arrived: rl_zoo3 writes down what it used
    for folder in root.glob("double/*/seed_1"):
        config = next(folder.glob("training/*/*/*/config.yml")).read_text()
        assert "dueling" in config and "learning_starts" in config


def test_a_run_that_fails_is_reported_and_the_others_are_not_kept_from_running(tmp_path, write_experiment):
    file = write_experiment()
    text = file.read_text().replace("seeds: [1, 2]", "seeds: [1]").replace("eval_episodes: 2", "eval_episodes: 1")
    diagnosis = "[{sb3_ext.diagnosis.DiagnosisCallback: {eval_freq: 100, n_episodes: 1, max_steps: 10}}]"
    text = text.replace("policy: MlpPolicy", f"policy: MlpPolicy, callback: {diagnosis}")
    file.write_text(text.replace("algo: dqn}", "algo: dqn, hyperparams: {gamma: '0.5 or so'}}"))
    _, stderr = run(tmp_path, "run", file, "-f", "out", "-o", "report", status=1)
    assert "stock/CartPole-v1/seed_1: failed: " in stderr and "not finished: stock/CartPole-v1/seed_1: failed" in stderr
    assert [path.parent.parent.parent.name for path in finished_files(tmp_path / "out")] == ["double"]
    assert (tmp_path / "report" / "curves.svg").exists()
    measured = (tmp_path / "report" / "diagnosis.csv").read_text().splitlines()[1:]
    assert [line.split(",")[:4] for line in measured] == [["CartPole-v1", "double", "1", f"{n}"] for n in (100, 200)]
    stdout, _ = run(tmp_path, "status", file, "-f", "out")
    assert "1 failed, 1 finished" in stdout
    assert "Traceback" in (tmp_path / "out" / "stock" / "CartPole-v1" / "seed_1" / "output.log").read_text()

    # Repaired, it is trained; a result that has been damaged since is named, and the other is drawn
    file.write_text(text)
    (damaged,) = (tmp_path / "out" / "double").glob("*/*/training/*/*/evaluations.npz")
    damaged.write_bytes(b"")
    _, stderr = run(tmp_path, "run", file, "-f", "out", "-o", "report", status=1)
    assert "left out: double/CartPole-v1/seed_1" in stderr and "not finished" not in stderr
    assert "stock" in (tmp_path / "report" / "table.md").read_text()
    logged = {tuple(line.split(",")[1:5:3]) for line in (tmp_path / "report" / "training.csv").read_text().splitlines()}
    assert {("stock", "train/loss"), ("double", "train/loss"), ("double", "train/q_value")} <= logged
    names = ("curves.png", "diagnosis_CartPole-v1.png", "training_CartPole-v1.png")
    figures = [tmp_path / "report" / name for name in names]
    before = [figure.read_bytes() for figure in figures]
    for figure in figures:
        figure.unlink()
    run(tmp_path, "redraw", "report")
    assert [figure.read_bytes() for figure in figures] == before

    run(tmp_path, "film", file, "-f", "out", "-o", "films", "--steps", "20", "--gif")
    films = sorted((tmp_path / "films").iterdir())
    assert [path.name for path in films] == ["double_CartPole-v1.gif", "stock_CartPole-v1.gif"]
    for path in films:
        with Image.open(path) as picture:
            assert picture.width == 320 and picture.n_frames > 1


def test_a_reader_that_has_read_enough_is_no_error(tmp_path, write_experiment):
    process = subprocess.Popen(
        command("status", write_experiment()),
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()  # as `| head -n 0` does
    assert process.stderr.read() == "" and process.wait(timeout=60) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "nowhere.yml"), "No such file"),
        (("run", "small.yml", "--jobs", "0"), "--jobs 0 must be 1 or more"),
        (("run", "small.yml", "--gpus", "1"), "--gpus 1.0 must be 0 or more, and is for --backend ray"),
        (("run", "small.yml", "-n", "0"), "--n-timesteps 0 must be 1 or more"),
        (("run", "wrong.yml"), "wrong.yml: variants.stock.algo: algorithm 'dqx' is not known: did you mean 'dqn'?"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(tmp_path, write_experiment, arguments, message):
    path = write_experiment()
    write_experiment(path.read_text().replace("algo: dqn", "algo: dqx"), "wrong.yml")
    _, stderr = run(tmp_path, *arguments, status=2)
    assert message in stderr and "Traceback" not in stderr
    assert not (tmp_path / "logs").exists()
