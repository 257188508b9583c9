"""Ray and Optuna's storage: two workers finish a grid and a study, and killing one of them loses nothing."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.slow

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "RAY_USAGE_STATS_ENABLED": "0"}


def wait_for(condition: Callable[[], object], process: subprocess.Popen, seconds: float = 180.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, "ended, or nothing happened"
        time.sleep(0.2)


def worker_of(folder: Path) -> psutil.Process | None:
    """The process that trains the run in the folder."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "sb3_ext.experiments.worker" in words and str(folder.resolve()) in words:
            return process
    return None


def test_ray_begins_the_run_of_a_killed_worker_anew(tmp_path, write_experiment):
    pytest.importorskip("ray")
    file = write_experiment()
    # Long enough to be caught
    file.write_text(file.read_text().replace("n_timesteps: 200", "n_timesteps: 1500").replace("[1, 2]", "[1]"))
    command = [
        sys.executable,
        "-m",
        "sb3_ext.experiments",
        "run",
        str(file),
        "--backend",
        "ray",
        "--jobs",
        "2",
        "-f",
        "logs",
    ]
    with (tmp_path / "output.txt").open("w") as output:
        process = subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stdout=output, stderr=subprocess.STDOUT)
    folder = tmp_path / "logs" / "stock" / "CartPole-v1" / "seed_1"
    other = tmp_path / "logs" / "double" / "CartPole-v1" / "seed_1"
    # Both at a time, and one evaluation is there
    wait_for(
        lambda: worker_of(other) and worker_of(folder) and list(folder.glob("training/*/*/evaluations.npz")), process
    )
    training = worker_of(folder)
    ray_worker = training.parent()
    assert "ray" in " ".join(ray_worker.cmdline())
    ray_worker.kill()
    status = process.wait(timeout=300)
    text = (tmp_path / "output.txt").read_text()
    assert status == 0, text
    assert (folder / "finished.json").exists() and (other / "finished.json").exists()
    assert (folder / "output.log").read_text().count("Creating test environment") == 2
    assert (other / "output.log").read_text().count("Creating test environment") == 1
    assert (tmp_path / "logs" / "report" / "table.md").read_text().count("CartPole-v1") == 2


def test_a_study_goes_on_without_a_killed_worker(tmp_path):
    optuna = pytest.importorskip("optuna")
    storage = tmp_path / "study.log"
    command = [
        sys.executable,
        "-m",
        "sb3_ext.zoo",
        "train",
        "--algo",
        "double_dqn",
        "--env",
        "CartPole-v1",
        "-optimize",
    ]
    command += [
        "-n",
        "400",
        "--n-trials",
        "1000",
        "--max-total-trials",
        "8",
        "--n-evaluations",
        "2",
        "--eval-episodes",
        "1",
    ]
    command += [
        "--storage",
        str(storage),
        "--study-name",
        "cart_pole",
        "--no-optim-plots",
        "-f",
        "logs",
        "--num-threads",
        "1",
    ]
    workers = [
        subprocess.Popen(
            [*command, "--seed", str(seed)],
            cwd=tmp_path,
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for seed in (1, 2)
    ]

    def trials() -> list:
        if not storage.exists():
            return []
        backend = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(storage)))
        try:
            return optuna.load_study(study_name="cart_pole", storage=backend).trials
        except KeyError:
            return []

    def n_ended() -> int:
        return sum(trial.state.is_finished() for trial in trials())

    wait_for(lambda: n_ended() >= 2, workers[0])
    ended = {trial.number: trial.value for trial in trials() if trial.state.is_finished()}
    workers[0].send_signal(signal.SIGKILL)
    workers[0].wait()
    assert workers[1].wait(timeout=300) == 0
    after = trials()
    # What had ended is there as it was. What the killed worker had in hand stays "running", the rest has come to an end
    assert all(after[number].value == value for number, value in ended.items())
    states = [trial.state.name for trial in after]
    assert len(after) == 8 and states.count("RUNNING") <= 1 and states.count("COMPLETE") >= 4
