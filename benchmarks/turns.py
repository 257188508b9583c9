"""
Contestants of a benchmark, each in a process of its own, which take turns.

All start and warm up one after the other. Then each measures one block in every round, while the others wait. Each
round begins with another contestant, so none always finds the machine cooler. All have the same cores and as many
threads. Figures are medians, and quartiles of the ratios within a round, because a machine's speed drifts.

A benchmark has a function ``prepare(label, settings)``, which runs in the contestant's process. It makes and warms up
the contestant, and returns a function that measures one block and returns its figures. The process imports the
benchmark as a module, so packages that only one contestant needs are imported in ``prepare``.
"""

import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from separate_runs import keep_to_cores
from tqdm import tqdm

Figures = dict[str, float]
Prepare = Callable[[str, dict[str, Any]], Callable[[], Figures]]


class Contestant:
    """
    A process that measures one contestant.

    :param label: of the contestant
    :param script: file with ``prepare``
    :param settings: the second argument of ``prepare``, for JSON
    :param n_threads: cores that the process may use, and threads of PyTorch
    :param folder: root of a checkout whose packages are measured; by default what is installed
    :param name: what the rows call it; by default its label
    """

    def __init__(
        self,
        label: str,
        script: str | Path,
        settings: dict[str, Any],
        n_threads: int,
        folder: Path | None = None,
        name: str | None = None,
    ) -> None:
        self.name = label if name is None else name
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed in `end`)
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        job = [str(Path(script).resolve()), label, json.dumps(settings), str(commands), str(answers), str(n_threads)]
        environment = dict(os.environ)
        if folder is not None:
            environment["PYTHONPATH"] = str(folder.resolve())
        self._process = subprocess.Popen(
            [sys.executable, __file__, *job],
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            pass_fds=(commands, answers),
        )
        os.close(commands)
        os.close(answers)
        self._reader = os.fdopen(self._answers, "r")
        self._read()  # it is ready

    def _read(self) -> Any:
        line = self._reader.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            raise RuntimeError(f"{self.name}: the process ended early:\n{self._errors.read()[-4000:]}")
        return json.loads(line)

    def block(self) -> Figures:
        """Let the contestant measure one block, and return its figures."""
        with suppress(BrokenPipeError):  # it ended since the last block: `_read` says why
            os.write(self._commands, b".")
        return self._read()

    def end(self) -> None:
        """Let the process end."""
        os.close(self._commands)
        self._process.wait()
        self._reader.close()
        self._errors.close()

    def __enter__(self) -> "Contestant":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.kill()
        self.end()


def measure(starts: Sequence[Callable[[], Contestant]], n_rounds: int, title: str) -> Iterator[dict[str, Any]]:
    """
    Yield one row for each contestant and round, as soon as it is measured.

    :param starts: functions that start the contestants
    :param n_rounds: blocks of each
    :param title: for the progress bar
    """
    with ExitStack() as running:
        contestants = [running.enter_context(start()) for start in tqdm(starts, desc=f"{title}: warm-up")]
        for index in tqdm(range(n_rounds), desc=f"{title}: measuring"):
            first = index % len(contestants)
            for turn, contestant in enumerate(contestants[first:] + contestants[:first]):
                figures = {name: f"{value:.6g}" for name, value in contestant.block().items()}
                yield {"contestant": contestant.name, "round": index, "turn": turn, **figures}


def values_of(rows: Sequence[dict[str, Any]], contestant: str, column: str) -> list[float]:
    """
    :param rows: as ``measure`` yields them
    :param contestant: its name
    :param column: of the figures
    :return: its figures, one for each round
    """
    by_round = _by_round(rows, contestant, column)
    return [by_round[index] for index in sorted(by_round)]


def _by_round(rows: Sequence[dict[str, Any]], contestant: str, column: str) -> dict[int, float]:
    return {int(row["round"]): float(row[column]) for row in rows if row["contestant"] == contestant}


def ratios(rows: Sequence[dict[str, Any]], of: str, to: str, column: str) -> tuple[float, float, float]:
    """
    :param rows: as ``measure`` yields them, with at least one round that both contestants have
    :param of: a contestant
    :param to: another one
    :param column: of the figures
    :return: lower quartile, median and upper quartile of the ratios within each round
    """
    ones, others = _by_round(rows, of, column), _by_round(rows, to, column)
    # The last round of an interrupted run may lack one of them
    quotients = [ones[index] / others[index] for index in sorted(ones.keys() & others.keys())]
    if len(quotients) < 2:
        return quotients[0], quotients[0], quotients[0]
    low, middle, high = statistics.quantiles(quotients, n=4, method="inclusive")
    return low, middle, high


def _work() -> None:
    """What the contestant's process does."""
    script, label, settings, commands, answers, n_threads = sys.argv[1:]
    keep_to_cores(int(n_threads))
    sys.path.insert(0, str(Path(script).parent))
    prepare: Prepare = importlib.import_module(Path(script).stem).prepare
    block = prepare(label, json.loads(settings))
    with os.fdopen(int(answers), "w", buffering=1) as writer:
        print(json.dumps("ready"), file=writer)
        while os.read(int(commands), 1):
            print(json.dumps(block()), file=writer)


if __name__ == "__main__":
    _work()
