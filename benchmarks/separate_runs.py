"""What benchmarks share whose contestants have processes of their own (how they take turns: ``turns.py``)."""

import os
from collections.abc import Sequence


def keep_to_cores(n_threads: int) -> None:
    """
    Give this process, and those that it starts from now on, as many cores and threads. Before PyTorch is imported.

    Variables alone would not do: JAX, OpenCV and ALE have as many threads as there are cores for them.

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
