"""Runs a grid on a Ray cluster, or on this machine through Ray."""

import platform
import time
from typing import Any

from sb3_ext.experiments.local import Progress, report, sigterm_as_keyboard_interrupt
from sb3_ext.experiments.runs import ALREADY_RUNNING, RunFolder

# How often a run is begun anew after the death of its worker
_MAX_RETRIES = 3
_POLLING_SECONDS = 1.0
_SECONDS_FOR_A_DEAD_WORKER = 30


def train_here(folder: RunFolder, n_threads: int) -> int:
    """
    Do the work of a Ray worker. The training is a process of its own, which ends with the worker.

    :return: exit status of the training
    :raises FileNotFoundError: if this machine does not see the folder
    """
    if not folder.path.is_dir():
        raise FileNotFoundError(
            f"{folder.path} is not there on {platform.node()}: --log-folder has to be where all machines see it"
        )
    deadline = time.monotonic() + _SECONDS_FOR_A_DEAD_WORKER
    while True:
        exit_status = folder.start(n_threads).wait()
        # The training of a worker that has just died lives a moment longer.
        if exit_status != ALREADY_RUNNING or time.monotonic() > deadline:
            return exit_status
        time.sleep(1)


def run_on_ray(folders: list[RunFolder], n_jobs: int, n_threads: int, n_gpus: float) -> None:
    """
    Train all runs that are not finished, as :func:`~sb3_ext.experiments.local.run_locally` does.

    They run on the cluster that ``RAY_ADDRESS`` names, or on one that is begun on this machine. If a worker or a
    machine dies, its run is begun anew on another.

    :param folders: of the runs, on a file system that all machines of the cluster share
    :param n_threads: of PyTorch, for each run; Ray reserves as many CPUs
    :param n_gpus: what Ray reserves for each run, may be a fraction of a GPU
    :raises ImportError: if Ray is not installed
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError("--backend ray needs Ray: pip install 'ray>=2.40'") from error
    ray.init(ignore_reinit_error=True, log_to_driver=False)
    task = ray.remote(num_cpus=n_threads, num_gpus=n_gpus, max_retries=_MAX_RETRIES)(train_here)
    waiting = [RunFolder(folder.root.resolve(), folder.run) for folder in folders if not folder.is_finished()]
    running: dict[Any, RunFolder] = {}
    progress = Progress(folders)
    try:
        with sigterm_as_keyboard_interrupt():
            while waiting or running:
                while waiting and len(running) < n_jobs:
                    folder = waiting.pop(0)
                    folder.prepare()
                    running[task.remote(folder, n_threads)] = folder
                ended, _ = ray.wait(list(running), timeout=_POLLING_SECONDS)
                progress.update(list(running.values()))
                for reference in ended:
                    folder = running.pop(reference)
                    try:
                        report(folder, ray.get(reference), progress.say)
                    except (ray.exceptions.RayError, FileNotFoundError) as error:
                        progress.say(f"{folder.run.name}: {error}")
        progress.update([])
    finally:
        for reference in running:
            ray.cancel(reference, force=True)
        progress.close()
        ray.shutdown()
