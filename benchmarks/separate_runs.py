"""What benchmarks share whose contestants have processes of their own (how they take turns: ``turns.py``)."""

import argparse
import os
from collections.abc import Sequence


def n_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def add_threads(parser: argparse.ArgumentParser) -> None:
    """
    Add the option ``--threads``, which refuses more than there are cores.

    :param parser: of a benchmark's command line
    """

    def up_to_all(text: str) -> int:
        if not text.isdecimal() or not 1 <= int(text) <= n_cores():
            raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 to {n_cores()}, the cores here")
        return int(text)

    text = "and cores of each contestant; all by default"
    parser.add_argument("--threads", type=up_to_all, default=n_cores(), metavar="N", help=text)


def keep_to_cores(n_threads: int) -> None:
    """
    Give this process, and those that it starts from now on, as many cores and threads.

    PyTorch reads the number of threads when it is imported: where it already is, this counts for the processes started
    from now on. Variables alone would not do: JAX, OpenCV and ALE have as many threads as there are cores for them.

    :param n_threads: number of both
    """
    os.environ |= {"OMP_NUM_THREADS": str(n_threads), "MKL_NUM_THREADS": str(n_threads)}
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:n_threads])


def in_rotation(labels: Sequence[str], n_repeats: int) -> list[tuple[int, str]]:
    """
    :param labels: of the contestants
    :param n_repeats: measurements of each
    :return: (repeat, label) in the order of the measurements. Each repeat begins with another contestant
    """
    n = len(labels)
    return [(repeat, labels[(repeat + turn) % n]) for repeat in range(n_repeats) for turn in range(n)]
