"""Trains one run: ``python -m sb3_ext.experiments.worker FOLDER N_THREADS``. Not meant to be started by hand."""

import os
import platform
import shlex
import shutil
import signal
import sys
import threading
import time
import traceback
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from sb3_ext.experiments.runs import ALREADY_RUNNING, read_json, write_json
from sb3_ext.speed.precision import cpu_capability
from sb3_ext.zoo import register

PACKAGES = ("sb3-ext", "torch", "stable-baselines3", "sb3-contrib", "rl_zoo3", "gymnasium", "mujoco", "ale-py", "numpy")


def versions() -> dict[str, str]:
    """
    :return: versions of Python and of the packages that a result may depend on, and what the processor can do
    """
    found = {"python": platform.python_version(), "cpu": cpu_capability()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def command_line(run: dict[str, Any], folder: Path, n_threads: int) -> list[str]:
    """
    :param run: as ``Run.as_dict`` gives it
    :param folder: for rl_zoo3's files
    :param n_threads: of PyTorch
    :return: arguments of ``rl_zoo3.train``
    """
    arguments = ["--algo", run["algo"], "--env", run["env"], "--seed", str(run["seed"]), "-f", str(folder / "training")]
    arguments += ["-n", str(run["n_timesteps"]), "--eval-freq", str(run["eval_freq"])]
    arguments += ["--eval-episodes", str(run["eval_episodes"]), "--n-eval-envs", str(run["n_eval_envs"])]
    arguments += ["--num-threads", str(n_threads), "--tensorboard-log", str(folder / "training" / "tensorboard")]
    if run["gym_packages"]:
        arguments += ["--gym-packages", *run["gym_packages"]]
    if run["env_kwargs"]:
        arguments += ["--env-kwargs", *as_words(run["env_kwargs"])]
    if run["base"] != "zoo":
        arguments += ["--conf-file", str(folder / "hyperparams.yml") if run["base"] == "none" else run["base"]]
    if run["hyperparams"] and run["base"] != "none":
        arguments += ["-params", *as_words(run["hyperparams"])]
    return arguments


def as_words(values: dict[str, Any]) -> list[str]:
    """
    :param values: by name
    :return: as rl_zoo3's command line takes them: it evaluates what stands behind the colon
    """
    return [f"{name}:{value!r}" for name, value in values.items()]


def end_with_parent() -> None:
    """
    End this process as soon as the other end of its standard input is closed, as it is when the parent dies, however.
    """

    def wait() -> None:
        sys.stdin.buffer.read()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def train(folder: Path, n_threads: int) -> None:
    """
    :param folder: of the run
    :param n_threads: of PyTorch
    """
    run = read_json(folder / "run.json")
    if folder.is_relative_to(Path.cwd()):  # shorter, and the same on every machine
        folder = folder.relative_to(Path.cwd())
    # What an interruption or a failure left: without its replay buffer and random state it cannot be continued exactly
    shutil.rmtree(folder / "training", ignore_errors=True)
    (folder / "failed.json").unlink(missing_ok=True)
    (folder / "training").mkdir()
    if run["base"] == "none":
        # rl_zoo3 wants a number of time steps in every entry
        entry = {"n_timesteps": run["n_timesteps"], **run["hyperparams"]}
        (folder / "hyperparams.yml").write_text(yaml.safe_dump({run["env"]: entry}), encoding="utf-8")
    arguments = command_line(run, folder, n_threads)
    start = time.time()
    register()
    from rl_zoo3.train import train as rl_zoo3_train

    sys.argv = ["rl_zoo3.train", *arguments]
    rl_zoo3_train()
    write_json(
        folder / "finished.json",
        {
            "run": run,
            "command": shlex.join(["python", "-m", "rl_zoo3.train", *arguments]),
            "seconds": round(time.time() - start, 1),
            "versions": versions(),
        },
    )


def main() -> int:
    """
    :return: the exit status
    """
    folder, n_threads = Path(sys.argv[1]), int(sys.argv[2])
    end_with_parent()
    # rl_zoo3 would save what it has and go on as if the training were complete
    signal.signal(signal.SIGINT, lambda *_: os._exit(1))
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=2)  # whoever asks for the status of a run holds it for a moment
    except Timeout:
        return ALREADY_RUNNING
    if (folder / "finished.json").exists():  # by another process, a moment ago
        return 0
    try:
        train(folder, n_threads)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        write_json(folder / "failed.json", {"reason": f"{type(error).__name__}: {error}".splitlines()[0]})
        return 1
    return 0


if __name__ == "__main__":
    # Not `sys.exit`: threads of an environment may keep a process alive that has nothing left to do
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
