"""
One run on the disk: what it is, how far it is, and the process that trains it.

    <log folder>/<variant>/<environment>/seed_<n>/
        run.json        what it is, for the process that trains it
        output.log      what the training printed
        training/       rl_zoo3's own folder
        finished.json   there when, and only when, it is finished: what it was, command, duration, versions
        failed.json     there if the last attempt failed

A run is trained by a process of its own, ``sb3_ext.experiments.worker``, which holds a lock for as long as it lives.
Nothing else is needed to know whether a run is under way, was interrupted or is finished, from whatever process, before
and after a crash.
"""

import json
import os
import subprocess
import sys
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from sb3_ext.experiments.grid import Run
from sb3_ext.files import replaced_when_complete

# What a worker returns if another one trains the same run
ALREADY_RUNNING = 75


class Status(Enum):
    """
    How far a run is.
    """

    WAITING = "waiting"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    FINISHED = "finished"


class OtherSettings(ValueError):
    """
    A run is finished, but it was another one.

    :param folder: of the run
    :param changed: names of the settings that differ
    """

    def __init__(self, folder: Path, changed: list[str]) -> None:
        super().__init__(
            f"{folder} is finished with other settings ({', '.join(changed)}): take another --log-folder, or remove it"
        )


class CorruptResult(ValueError):
    """
    The evaluations of a run cannot be read.

    :param path: of the file
    :param reason: why
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} cannot be read: {reason}")


class RunFolder:
    """
    Where a run lives.

    :param root: folder of the experiment
    :param run: what is run
    """

    def __init__(self, root: Path, run: Run) -> None:
        self.root = root
        self.run = run
        self.path = root / run.name

    def _file(self, name: str) -> Path:
        return self.path / name

    def status(self) -> Status:
        """
        :return: how far it is
        """
        if self.is_finished():
            return Status.FINISHED
        if not self._file("run.json").exists():
            return Status.WAITING
        lock = FileLock(self._file("lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return Status.RUNNING
        lock.release()
        if self._file("failed.json").exists():
            return Status.FAILED
        return Status.INTERRUPTED if self._file("training").exists() else Status.WAITING

    def check_settings(self) -> None:
        """
        :raises OtherSettings: if it is finished, and was not the run it is now
        """
        if not self.is_finished():
            return
        finished, now = self.finished()["run"], self.run.as_dict()
        # (Where the file of the base lies is each machine's affair. What stands in it is among the rest.)
        changed = [name for name in now if name != "base" and finished.get(name) != now[name]]
        if changed:
            raise OtherSettings(self.path, changed)

    def prepare(self) -> None:
        """
        Write down what the run is, for the process that trains it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self._file("run.json"), self.run.as_dict())

    def start(self, n_threads: int) -> subprocess.Popen:
        """
        :param n_threads: of PyTorch
        :return: a process that trains the run, and ends with its parent: it reads from a pipe until that is closed
        """
        with self._file("output.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "sb3_ext.experiments.worker", str(self.path.resolve()), str(n_threads)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A key press that interrupts the parent is the parent's to handle
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": str(n_threads)},
            )

    def training_folder(self) -> Path | None:
        """
        :return: rl_zoo3's folder of the run, once there is one
        """
        folders = sorted(self._file("training").glob(f"{self.run.algo}/*_1"))
        return folders[0] if folders else None

    def n_steps_seen(self) -> int:
        """
        :return: environment steps until the last evaluation
        """
        if self.is_finished():
            return self.run.n_timesteps
        try:
            return min(int(self.evaluations()[0][-1]), self.run.n_timesteps)
        except (CorruptResult, FileNotFoundError, IndexError):  # it may be about to be written
            return 0

    def is_finished(self) -> bool:
        """
        :return: as :meth:`status` says, without a look at the lock
        """
        return self._file("finished.json").exists()

    def evaluations(self) -> tuple[np.ndarray, np.ndarray]:
        """
        :return: time steps, shape (T,), and the returns of the episodes then, shape (T, n_episodes)
        :raises FileNotFoundError: if there has been no evaluation yet
        :raises CorruptResult: if the file is none of rl_zoo3's
        """
        folder = self.training_folder()
        if folder is None:
            raise FileNotFoundError(f"{self.path} has no results yet")
        path = folder / "evaluations.npz"
        try:
            with np.load(path) as content:
                steps, results = content["timesteps"], content["results"]
            fits = (
                steps.ndim == 1 and results.ndim == 2 and len(steps) == len(results) > 0 and np.isfinite(results).all()
            )
        except FileNotFoundError:
            raise
        except Exception as error:  # a damaged ZIP file raises nearly everything
            raise CorruptResult(path, f"{type(error).__name__}: {error}") from error
        if not fits:
            raise CorruptResult(
                path, f"timesteps {steps.shape} and results {results.shape} do not fit, or are not finite"
            )
        return steps, results

    def diagnosis_files(self) -> list[Path]:
        """
        :return: what a ``DiagnosisCallback`` without a ``csv_path`` wrote, beside TensorBoard's files
        """
        return sorted(self._file("training").rglob("diagnosis.csv"))

    def finished(self) -> dict[str, Any]:
        """
        :return: what the worker wrote when it was done: the run as it was then, command, seconds, versions
        """
        return read_json(self._file("finished.json"))

    def reason_of_failure(self) -> str:
        """
        :return: what the last attempt died of, in one line
        """
        return str(read_json(self._file("failed.json"))["reason"])


def read_json(path: Path) -> dict[str, Any]:
    """
    :param path: of a file with one object
    :return: what it holds
    """
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, content: dict[str, Any]) -> None:
    """
    :param path: of the file, which readers see whole or not at all
    :param content: to write
    """
    with replaced_when_complete(path) as file:
        file.write(json.dumps(content, indent=2).encode())
