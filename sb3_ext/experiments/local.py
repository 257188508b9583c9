"""Runs a grid on this machine, several runs at a time."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from tqdm import tqdm

from sb3_ext.experiments.runs import ALREADY_RUNNING, RunFolder, Status

_POLLING_SECONDS = 0.5
# How long a worker may take to leave before it is killed
_LEAVING_SECONDS = 5.0


@contextmanager
def sigterm_as_keyboard_interrupt() -> Iterator[None]:
    """Let SIGTERM end the process as Ctrl-C does, so that what it has started ends, too."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Progress:
    """A bar over all environment steps of a grid, finished runs included."""

    def __init__(self, folders: list[RunFolder]) -> None:
        self._folders = folders
        total = sum(folder.run.n_timesteps for folder in folders)
        # A log file needs a line only now and then.
        interval = 0.1 if sys.stderr.isatty() else 30.0
        self._bar = tqdm(
            total=total, unit="step", unit_scale=True, desc="experiment", smoothing=0.05, mininterval=interval
        )
        self._bar.n = self._bar.initial = sum(f.run.n_timesteps for f in folders if f.is_finished())
        self._bar.refresh()

    def update(self, running: list[RunFolder]) -> None:
        """Show how far the runs under way are."""
        done = sum(f.run.n_timesteps for f in self._folders if f.is_finished())
        done += sum(f.n_steps_seen() for f in running if not f.is_finished())
        n_finished = sum(f.is_finished() for f in self._folders)
        self._bar.set_postfix_str(f"{n_finished} of {len(self._folders)} runs, {len(running)} under way", refresh=False)
        self._bar.update(done - self._bar.n)

    def say(self, message: str) -> None:
        """Print a message above the bar."""
        self._bar.write(message, file=sys.stderr)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()


def run_locally(folders: list[RunFolder], n_jobs: int, n_threads: int) -> None:
    """
    Train all runs that are not finished, in their order, ``n_jobs`` at a time.

    If a run fails, the others are trained nevertheless. Runs that another process trains are waited for. An
    interruption ends the trainings under way, and the next call begins them anew.

    :param n_threads: of PyTorch, for each run
    """
    waiting = [folder for folder in folders if not folder.is_finished()]
    elsewhere: list[RunFolder] = []
    running: dict[RunFolder, subprocess.Popen] = {}
    progress = Progress(folders)
    try:
        with sigterm_as_keyboard_interrupt():
            while waiting or running or elsewhere:
                while waiting and len(running) < n_jobs:
                    folder = waiting.pop(0)
                    folder.prepare()
                    running[folder] = folder.start(n_threads)
                time.sleep(_POLLING_SECONDS)
                progress.update([*running, *elsewhere])
                for folder, process in list(running.items()):
                    if process.poll() is not None:
                        del running[folder]
                        report(folder, process.returncode, progress.say)
                        elsewhere += [folder] if process.returncode == ALREADY_RUNNING else []
                for folder in [folder for folder in elsewhere if folder.status() is not Status.RUNNING]:
                    elsewhere.remove(folder)
                    waiting += [] if folder.is_finished() else [folder]
        progress.update([])
    finally:
        for process in running.values():
            if process.stdin is not None:
                process.stdin.close()  # whereupon it leaves nothing behind
        for process in running.values():
            try:
                process.wait(timeout=_LEAVING_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        progress.close()


def report(folder: RunFolder, exit_status: int, say: Callable[[str], None]) -> None:
    """Report a run whose process has ended without success."""
    if exit_status == ALREADY_RUNNING:
        say(f"{folder.run.name}: is being trained by another process")
    elif folder.status() is Status.FAILED:
        say(f"{folder.run.name}: failed: {folder.reason_of_failure()} (see {folder.path / 'output.log'})")
    elif exit_status != 0:
        say(f"{folder.run.name}: the training was ended by signal or exit status {exit_status}")
