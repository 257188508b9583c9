"""
Steps per second of Atari environments: SB3's ``AtariWrapper`` in ``DummyVecEnv`` and ``SubprocVecEnv``, and
``AtariVecEnv``, with SB3's frames to the bit and with ALE's own.

Random actions, everything up to ``VecFrameStack(4)`` and ``VecTransposeImage`` included, because that is what an agent
gets. One contestant works at a time, they take turns, and the medians and ratios of one run hold where the machine's
clock drifts. One step is one step of one environment. Run nothing else meanwhile.

    python benchmarks/atari_environments.py --output benchmarks/results/atari_environments.csv
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import ale_py
import gymnasium as gym
import numpy as np
from reporting import installed_versions, write_csv
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecFrameStack, VecTransposeImage
from tqdm import tqdm

from sb3_ext.envs import AtariVecEnv

N_STACK = 4
REFERENCE = "SB3 DummyVecEnv"


def game(**kwargs: Any) -> gym.Env:
    """
    :param kwargs: of ``gymnasium.make``, which processes of their own call without this script's registrations
    :return: one environment
    """
    gym.register_envs(ale_py)
    return gym.make(**kwargs)


def contestants(env_id: str, n_envs: int) -> dict[str, Callable[[], VecEnv]]:
    """
    :param env_id: an Atari game without frame skip of its own
    :param n_envs: number of environments of every contestant
    :return: name -> a function that makes the environments
    """

    def sb3(kind: type) -> VecEnv:
        return make_atari_env(game, n_envs, seed=0, env_kwargs=dict(id=env_id), vec_env_cls=kind)

    made: dict[str, Callable[[], VecEnv]] = {
        REFERENCE: lambda: sb3(DummyVecEnv),
        "SB3 SubprocVecEnv": lambda: sb3(SubprocVecEnv),
    }
    for exact in (True, False):
        for threads in (1, 2):
            name = f"AtariVecEnv, {threads} thread{'s' if threads > 1 else ''}{'' if exact else ', ALE frames'}"
            made[name] = lambda exact=exact, threads=threads: AtariVecEnv(
                env_id, n_envs, seed=0, exact_frames=exact, num_threads=threads
            )
    return made


def burst(venv: VecEnv, actions: np.ndarray) -> float:
    """
    :param venv: to play with
    :param actions: of all environments, one row for each step
    :return: seconds it took
    """
    start = time.perf_counter()
    for row in actions:
        venv.step(row)
    return time.perf_counter() - start


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """
    :param args: the command line
    :return: one row for each contestant and repeat
    """
    rng = np.random.default_rng(0)
    rows = []
    with ExitStack() as stack:
        venvs = {}
        for name, make in contestants(args.env, args.n_envs).items():
            venvs[name] = stack.enter_context(closing(VecTransposeImage(VecFrameStack(make(), N_STACK))))
            venvs[name].reset()
        n_actions = int(venvs[REFERENCE].action_space.n)
        for repeat in tqdm(range(-1, args.repeats)):  # the first one, untimed, brings everything into a steady state
            actions = rng.integers(0, n_actions, (args.steps, args.n_envs))
            for name, venv in venvs.items():
                seconds = burst(venv, actions)
                if repeat >= 0:
                    rate = args.steps * args.n_envs / seconds
                    rows.append(
                        dict(contestant=name, repeat=repeat, seconds=f"{seconds:.6g}", steps_per_s=f"{rate:.6g}")
                    )
    return rows


def machine() -> str:
    """One line on what the figures were measured with."""
    packages = (
        "stable-baselines3",
        "sb3-ext",
        "gymnasium",
        "ale-py",
        "numpy",
        "opencv-python",
        "opencv-python-headless",
        "torch",
    )
    return f"{installed_versions(packages)}, {os.cpu_count()} cores"


def table(rows: list[dict[str, Any]]) -> str:
    """
    :param rows: as ``measure`` gives them
    :return: medians and their ratios to SB3's DummyVecEnv, as a Markdown table
    """
    names = list(dict.fromkeys(row["contestant"] for row in rows))
    medians = {
        name: statistics.median(float(row["steps_per_s"]) for row in rows if row["contestant"] == name)
        for name in names
    }
    lines = ["| environments | steps/s | x DummyVecEnv |", "| --- | --- | --- |"]
    lines += [f"| {name} | {medians[name]:.0f} | {medians[name] / medians[REFERENCE]:.2f} |" for name in names]
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="CSV file for the raw measurements")
    parser.add_argument("--env", default="MsPacmanNoFrameskip-v4", help="an Atari game without frame skip of its own")
    parser.add_argument("--n-envs", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--steps", type=int, default=250, help="steps of all environments in one measurement")
    args = parser.parse_args()
    for name in ("n_envs", "repeats", "steps"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} {getattr(args, name)} must be at least 1")
    return args


def main() -> None:
    args = parse()
    rows = measure(args)
    write_csv(args.output, rows, machine())
    print(machine())
    print(table(rows))


if __name__ == "__main__":
    main()
