"""
One run on the disk: what it is, how far it is, and the process that trains it.

    <log folder>/<variant>/<environment>/seed_<n>/
        run.json        what it is, for the process that trains it
        output.log      what the training printed
        training/       rl_zoo3's own folder
        finished.json   exists only if the run is finished: what it was, command, duration, versions
        failed.json     exists only if the last attempt failed

Each run is trained by a process of its own, ``sb3_ext.experiments.worker``, which holds a lock for as long as it lives.
So any process can tell at any time, also after a crash, whether a run is under way, interrupted or finished.
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

# Exit status of a worker if another one trains the same run
ALREADY_RUNNING = 75


class Status(Enum):
    """How far a run is."""

    WAITING = "waiting"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    FINISHED = "finished"


class OtherSettings(ValueError):
    """A run is finished, but the settings that ``changed`` names were others."""

    def __init__(self, folder: Path, changed: list[str]) -> None:
        super().__init__(
            f"{folder} is finished with other settings ({', '.join(changed)}): take another --log-folder, or remove it"
        )


class CorruptResult(ValueError):
    """The evaluations of a run cannot be read."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} cannot be read: {reason}")


class RunFolder:
    """The folder of a run, in the folder ``root`` of its experiment."""

    def __init__(self, root: Path, run: Run) -> None:
        self.root = root
        self.run = run
        self.path = root / run.name

    @property
    def identity(self) -> dict[str, Any]:
        """The fields by which rows of this run are told from others."""
        return {"environment": self.run.env, "variant": self.run.variant, "seed": self.run.seed}

    def _file(self, name: str) -> Path:
        return self.path / name

    def status(self) -> Status:
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
        """Raise :class:`OtherSettings` if the run is finished, and had other settings."""
        if not self.is_finished():
            return
        finished, now = self.finished()["run"], self.run.as_dict()
        # The file of the base may lie elsewhere on each machine. Its content is compared with the other settings.
        changed = [name for name in now if name != "base" and finished.get(name) != now[name]]
        if changed:
            raise OtherSettings(self.path, changed)

    def prepare(self) -> None:
        """Write down what the run is, for the process that trains it."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self._file("run.json"), self.run.as_dict())

    def start(self, n_threads: int) -> subprocess.Popen:
        """Start a process that trains the run. It reads from a pipe, and ends when its parent closes that or dies."""
        with self._file("output.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "sb3_ext.experiments.worker", str(self.path.resolve()), str(n_threads)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                # If a key press interrupts the parent, it is the parent that ends the training.
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": str(n_threads)},
            )

    def training_folder(self) -> Path | None:
        """rl_zoo3's folder of the run; ``None`` if it does not exist yet."""
        folders = sorted(self._file("training").glob(f"{self.run.algo}/*_1"))
        return folders[0] if folders else None

    def n_steps_seen(self) -> int:
        """Environment steps until the last evaluation."""
        if self.is_finished():
            return self.run.n_timesteps
        try:
            return min(int(self.evaluations()[0][-1]), self.run.n_timesteps)
        except (CorruptResult, FileNotFoundError, IndexError):  # the file may be half written
            return 0

    def is_finished(self) -> bool:
        """The answer of :meth:`status`, without a look at the lock."""
        return self._file("finished.json").exists()

    def evaluations(self) -> tuple[np.ndarray, np.ndarray]:
        """
        Read rl_zoo3's evaluations.

        :return: time steps, shape (T,), and the returns of their episodes, shape (T, n_episodes)
        :raises FileNotFoundError: if there has been no evaluation yet
        :raises CorruptResult: if the file is damaged, or not rl_zoo3's
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
        """The files that a ``DiagnosisCallback`` without a ``csv_path`` wrote, beside those of TensorBoard."""
        return sorted(self._file("training").rglob("diagnosis.csv"))

    def finished(self) -> dict[str, Any]:
        """What the worker wrote at the end: the run as it was then, command, seconds, versions."""
        return read_json(self._file("finished.json"))

    def reason_of_failure(self) -> str:
        """Why the last attempt failed, in one line."""
        return str(read_json(self._file("failed.json"))["reason"])


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, which readers see whole or not at all."""
    with replaced_when_complete(path) as file:
        file.write(json.dumps(content, indent=2).encode())
