"""Trains one run: ``python -m sb3_ext.experiments.worker FOLDER N_THREADS``. It is not meant to be started by hand."""

import math
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
from typing import Any, NoReturn

import yaml
from filelock import FileLock, Timeout

from sb3_ext.buffers.memory import remove_files
from sb3_ext.experiments.runs import ALREADY_RUNNING, read_json, write_json
from sb3_ext.speed.precision import cpu_capability
from sb3_ext.zoo import register

PACKAGES = ("sb3-ext", "torch", "stable-baselines3", "sb3-contrib", "rl_zoo3", "gymnasium", "mujoco", "ale-py", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result may depend on, and the abilities of the processor."""
    found = {"python": platform.python_version(), "cpu": cpu_capability()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def command_line(run: dict[str, Any], folder: Path, n_threads: int) -> list[str]:
    """Return the arguments of ``rl_zoo3.train`` for a run from ``Run.as_dict``, whose files go to the folder."""
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
    """The values as rl_zoo3's command line takes them: it evaluates what stands behind the colon."""
    return [f"{name}:{_as_python(value)}" for name, value in values.items()]


def _as_python(value: Any) -> str:
    """Return an expression for a value of a YAML file. ``repr`` writes ``inf``, which is no name in Python."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"float('{value}')"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_as_python(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_as_python, value)) + "]"
    return repr(value)


def leave(status: int) -> NoReturn:
    """End this process at once, whatever its threads do. Of replay buffers no frames are left on the disk."""
    try:
        remove_files()
    finally:
        os._exit(status)


def end_with_parent() -> None:
    """End this process when its standard input is closed. That happens as soon as the parent dies, however it dies."""

    def wait() -> None:
        sys.stdin.buffer.read()
        leave(1)

    threading.Thread(target=wait, daemon=True).start()


def train(folder: Path, n_threads: int) -> None:
    """Train a run from its beginning, with ``n_threads`` threads of PyTorch."""
    run = read_json(folder / "run.json")
    if folder.is_relative_to(Path.cwd()):  # shorter, and the same on every machine
        folder = folder.relative_to(Path.cwd())
    # An interrupted training cannot be continued exactly without its replay buffer and random state.
    shutil.rmtree(folder / "training", ignore_errors=True)
    (folder / "failed.json").unlink(missing_ok=True)
    (folder / "training").mkdir()
    if run["base"] == "none":
        # rl_zoo3 needs a number of time steps in every entry.
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
    """Train the run that the command line names, unless another process does. The exit status is returned."""
    folder, n_threads = Path(sys.argv[1]), int(sys.argv[2])
    end_with_parent()
    # rl_zoo3 would save what it has and go on as if the training were complete.
    signal.signal(signal.SIGINT, lambda *_: leave(1))
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=2)  # a process that asks for the status holds it for a moment
    except Timeout:
        return ALREADY_RUNNING
    if (folder / "finished.json").exists():  # another process was faster
        return 0
    try:
        train(folder, n_threads)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        write_json(folder / "failed.json", {"reason": f"{type(error).__name__}: {error}".splitlines()[0]})
        return 1
    return 0


if __name__ == "__main__":
    # With `sys.exit`, threads of an environment might keep the process alive although its work is done.
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    leave(status)
