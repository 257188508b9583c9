"""
Critic updates per second of REDQSAC beside SB3's SAC with as many critics and, where it is installed, SBX's.

One process, contestants interleaved, medians: absolute figures drift with the machine's clock and its neighbours, the
ratios of one run do not. A measured call is ``train()`` on a filled replay buffer: sampling, critic, actor, temperature
and target updates included. Compilation (SBX) and warm-up are excluded. Run nothing else meanwhile.

    python benchmarks/updates_per_second.py --output benchmarks/results/updates_per_second.csv
"""

import argparse
import csv
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from reporting import installed_versions
from stable_baselines3 import SAC

from sb3_ext import REDQSAC

DIMENSIONS = {"humanoid": (376, 17), "hopper": (11, 3)}


class RandomEnv(gym.Env):
    """
    Random observations of MuJoCo's shape and type (float64), because only ``train()`` is measured.

    :param n_observations: length of the observation
    :param n_actions: length of the action
    """

    def __init__(self, n_observations: int, n_actions: int) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (n_observations,), np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, (n_actions,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return self._observation(), float(self.np_random.normal()), False, False, {}

    def _observation(self) -> np.ndarray:
        return self.np_random.normal(size=self.observation_space.shape)


def contestants(n_critics: int, n_stored: int) -> dict[str, Callable[[gym.Env], Any]]:
    """
    What is compared: name -> a function that makes the model.

    :param n_critics: number of critics of every contestant
    :param n_stored: transitions in the replay buffer
    """
    common = dict(batch_size=256, buffer_size=n_stored, learning_starts=n_stored, seed=0, device="cpu")
    critics = dict(n_critics=n_critics)
    made: dict[str, Callable[[gym.Env], Any]] = {
        "sb3_ext REDQSAC": lambda env: REDQSAC("MlpPolicy", env, policy_kwargs=critics, **common),
        "sb3_ext REDQSAC, SAC's work": lambda env: REDQSAC(
            "MlpPolicy", env, policy_kwargs=critics, target_backup="min", actor_q="min", policy_delay=1, **common
        ),
        "SB3 SAC": lambda env: SAC("MlpPolicy", env, policy_kwargs=critics, gradient_steps=20, **common),
    }
    try:
        import sbx
    except ImportError:
        print("SBX is not installed (pip install '.[sbx]'): measured without it")
    else:
        made["SBX SAC"] = lambda env: sbx.SAC(
            "MlpPolicy",
            env,
            policy_kwargs=critics,
            gradient_steps=20,
            policy_delay=20,
            **{k: v for k, v in common.items() if k != "device"},
        )
    return made


def measure(name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """
    :param name: of the environment's dimensions
    :param args: the command line
    :return: one row for each measured call
    """
    made = contestants(args.n_critics, args.stored)
    models = {label: make(RandomEnv(*DIMENSIONS[name])) for label, make in made.items()}
    for model in models.values():
        model.learn(args.stored)
        for _ in range(2):  # compiles (SBX), and lets the allocators settle
            model.train(args.updates, 256)
    rows = []
    for repeat in range(args.repeats):
        for label, model in models.items():
            start = time.perf_counter()
            model.train(args.updates, 256)
            seconds = time.perf_counter() - start
            rows.append(
                dict(dimensions=name, contestant=label, repeat=repeat, updates=args.updates, seconds=f"{seconds:.4f}")
            )
    return rows


def medians(rows: list[dict[str, Any]]) -> dict[tuple[str, str], float]:
    """
    :param rows: as ``measure`` gives them
    :return: median updates per second for each (dimensions, contestant)
    """
    rates: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        rates.setdefault((row["dimensions"], row["contestant"]), []).append(row["updates"] / float(row["seconds"]))
    return {key: statistics.median(values) for key, values in rates.items()}


def machine() -> str:
    """One line on what the figures were measured with."""
    packages = ("torch", "stable-baselines3", "sbx-rl", "jax", "numpy")
    cpu = f"{th.get_num_threads()} threads, {os.cpu_count()} cores"
    return f"{installed_versions(packages)}, {cpu}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="CSV file for the raw measurements")
    parser.add_argument("--n-critics", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--updates", type=int, default=40, help="critic updates in one measured call, a multiple of 20")
    parser.add_argument("--stored", type=int, default=20_000, help="transitions in the replay buffer")
    args = parser.parse_args()
    if args.repeats < 1 or args.updates < 20 or args.updates % 20:
        parser.error(f"--repeats {args.repeats} must be at least 1, --updates {args.updates} a positive multiple of 20")

    rows: list[dict[str, Any]] = []
    for name in DIMENSIONS:
        rows += measure(name, args)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    partial = args.output.with_suffix(".part")
    with partial.open("w", newline="") as file:
        file.write(f"# {machine()}\n")
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(args.output)

    print(machine())
    result = medians(rows)
    print(f"{'dimensions':12}{'contestant':30}{'updates/s':>10}{'x SB3':>8}")
    for (name, label), rate in result.items():
        print(f"{name:12}{label:30}{rate:10.1f}{rate / result[name, 'SB3 SAC']:8.2f}")


if __name__ == "__main__":
    main()
