"""
Steps per second of Atari environments: SB3's ``AtariWrapper`` in ``DummyVecEnv`` and ``SubprocVecEnv``, and
``AtariVecEnv``, with SB3's frames to the bit and with ALE's own.

Random actions, the same for all, everything up to ``VecFrameStack(4)`` and ``VecTransposeImage`` included, because that
is what an agent gets. Each contestant has a process of its own, and all the same cores; they take turns
(``turns.py``). One step is one step of one environment. Run nothing else meanwhile.

    python benchmarks/atari_environments.py --output benchmarks/results/atari_environments.csv

``--table-only`` prints the table of a CSV file again.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ale_py
import gymnasium as gym
import numpy as np
from reporting import machine, measured_rows, write_csv
from separate_runs import add_threads
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecFrameStack, VecTransposeImage
from turns import Contestant, Figures, measure, ratios, values_of

from sb3_ext.envs import AtariVecEnv

N_STACK = 4
REFERENCE = "SB3 DummyVecEnv"
COLUMN = "steps_per_s"
PACKAGES = (
    *("torch", "stable-baselines3", "sb3-ext", "gymnasium", "ale-py", "numpy"),
    *("opencv-python", "opencv-python-headless"),
)


def vectorised(**kwargs: Any) -> Callable[[str, int], VecEnv]:
    """
    :param kwargs: of ``AtariVecEnv``
    :return: a function that makes it of a game and a number of environments
    """
    return lambda env_id, n_envs: AtariVecEnv(env_id, n_envs, seed=0, **kwargs)


def wrapped(kind: type[VecEnv]) -> Callable[[str, int], VecEnv]:
    """
    :param kind: SB3's class that holds the environments
    :return: a function that makes it of a game and a number of environments
    """
    return lambda env_id, n_envs: make_atari_env(game, n_envs, seed=0, env_kwargs={"id": env_id}, vec_env_cls=kind)


def game(**kwargs: Any) -> gym.Env:
    """
    :param kwargs: of ``gymnasium.make``, which processes of their own call without this script's registrations
    :return: one environment
    """
    gym.register_envs(ale_py)
    return gym.make(**kwargs)


CONTESTANTS = {
    REFERENCE: wrapped(DummyVecEnv),
    "SB3 SubprocVecEnv": wrapped(SubprocVecEnv),
    "AtariVecEnv, 1 thread": vectorised(num_threads=1),
    "AtariVecEnv, 2 threads": vectorised(num_threads=2),
    "AtariVecEnv, 1 thread, ALE frames": vectorised(num_threads=1, exact_frames=False),
    "AtariVecEnv, 2 threads, ALE frames": vectorised(num_threads=2, exact_frames=False),
}


def prepare(label: str, settings: dict[str, Any]) -> Callable[[], Figures]:
    """
    :param label: a key of ``CONTESTANTS``
    :param settings: ``env``, ``n_envs``, and ``steps`` of a block
    :return: a function that measures one block
    """
    n_envs, n_steps = settings["n_envs"], settings["steps"]
    venv = VecTransposeImage(VecFrameStack(CONTESTANTS[label](settings["env"], n_envs), N_STACK))
    venv.reset()
    n_actions = int(venv.action_space.n)
    rng = np.random.default_rng(0)

    def block() -> Figures:
        actions = rng.integers(0, n_actions, (n_steps, n_envs))
        start = time.perf_counter()
        for row in actions:
            venv.step(row)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, COLUMN: n_steps * n_envs / seconds}

    block()  # brings everything into a steady state
    return block


def table(rows: list[dict[str, Any]]) -> str:
    """
    :param rows: of the CSV file
    :return: medians, and quartiles of the ratios to SB3's DummyVecEnv within a round, as Markdown
    """
    lines = ["| environments | steps/s | x DummyVecEnv | quartiles |", "|---|---|---|---|"]
    for name in dict.fromkeys(row["contestant"] for row in rows):
        low, middle, high = ratios(rows, name, REFERENCE, COLUMN)
        rate = statistics.median(values_of(rows, name, COLUMN))
        lines.append(f"| {name} | {rate:.0f} | {middle:.2f} | {low:.2f} to {high:.2f} |")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="CSV file for the raw measurements")
    parser.add_argument("--table-only", action="store_true", help="print the table of --output, measure nothing")
    parser.add_argument("--env", default="MsPacmanNoFrameskip-v4", help="an Atari game without frame skip of its own")
    parser.add_argument("--n-envs", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=9, help="blocks of each contestant")
    parser.add_argument("--steps", type=int, default=250, help="steps of all environments in one block")
    add_threads(parser)
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS), choices=list(CONTESTANTS))
    args = parser.parse_args()
    if args.table_only:
        args.rows = measured_rows(parser, args.output, COLUMN)
        if not any(row["contestant"] == REFERENCE for row in args.rows):
            parser.error(f"--output {args.output} lacks {REFERENCE!r}, which the others are compared with")
        return args
    for name in ("n_envs", "repeats", "steps"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} {getattr(args, name)} must be at least 1")
    if REFERENCE not in args.contestants:
        parser.error(f"--contestants lacks {REFERENCE!r}, which the others are compared with")
    return args


def main() -> None:
    args = parse()
    if args.table_only:
        print(table(args.rows))
        return
    settings = {"env": args.env, "n_envs": args.n_envs, "steps": args.steps}
    starts = [partial(Contestant, label, __file__, settings, args.threads) for label in args.contestants]
    described = machine(*PACKAGES, n_threads=args.threads)
    rows: list[dict[str, Any]] = []
    for row in measure(starts, args.repeats, args.env):
        rows.append(row)
        write_csv(args.output, rows, described)
    print(described)
    print(table(rows))


if __name__ == "__main__":
    main()
