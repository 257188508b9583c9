"""
Critic updates per second of REDQSAC beside a plain PyTorch REDQ, SB3's SAC with as many critics and, where it is
installed, SBX's; and environment steps per second of whole trainings.

One process, contestants interleaved, medians: absolute figures drift with the machine's clock and its neighbours, the
ratios of one run less. Updates: a measured call is ``train()`` on a filled replay buffer: sampling, critic, actor,
temperature and target updates included. Steps: ``learn()`` in an environment that costs nothing, 20 updates a step.
Compilation and warm-up are excluded (how long they take: benchmarks/start_up.py). The first rows of every repeat are
the roofline, the arithmetic of an update at the speed of large matrix products measured then, and the matrix products
of an update by themselves. Run nothing else meanwhile.

    python benchmarks/updates_per_second.py --output benchmarks/results/updates_per_second.csv
    python benchmarks/updates_per_second.py --output benchmarks/results/updates_per_second_cuda.csv --device cuda
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from plain_redq import PlainREDQ
from reporting import machine, write_csv
from roofline import MatrixProducts, Work, matrix_flops
from stable_baselines3 import SAC
from tqdm import tqdm

from sb3_ext import REDQSAC
from sb3_ext.speed.precision import cpu_computes_in_bfloat16

DIMENSIONS = {"humanoid": (376, 17), "hopper": (11, 3)}
BATCH_SIZE = 256
UTD = 20
REFERENCE = "SB3 SAC"
DTYPES = {"float32": th.float32, "bfloat16": th.bfloat16}
PACKAGES = ("torch", "stable-baselines3", "sbx-rl", "jax", "numpy")


class RandomEnv(gym.Env):
    """
    Random observations of MuJoCo's shape and type (float64), because only the training is measured.

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


def contestants(args: argparse.Namespace) -> dict[str, Callable[[gym.Env], Any]]:
    """
    :param args: the command line
    :return: what is compared: name -> a function that makes the model
    """
    sizes: dict[str, Any] = dict(
        batch_size=BATCH_SIZE, buffer_size=2 * args.stored, learning_starts=args.stored, device=args.device
    )
    common = dict(seed=0, **sizes)
    critics = dict(n_critics=args.n_critics)

    def redq(**options: Any) -> Callable[[gym.Env], Any]:
        return lambda env: REDQSAC("MlpPolicy", env, policy_kwargs=critics, **common, **options)

    made: dict[str, Callable[[gym.Env], Any]] = {
        "REDQSAC": redq(),
        "REDQSAC, compiled": redq(compile=True),
        "REDQSAC, bfloat16": redq(autocast_dtype="bfloat16"),
        "REDQSAC, bfloat16, compiled": redq(autocast_dtype="bfloat16", compile=True),
        "REDQSAC, SAC's work": redq(target_backup="min", actor_q="min", policy_delay=1),
        "plain PyTorch REDQ": lambda env: PlainREDQ(env, args.n_critics, **sizes),
        REFERENCE: lambda env: SAC("MlpPolicy", env, policy_kwargs=critics, gradient_steps=UTD, **common),
    }
    if args.device == "cuda":
        made["REDQSAC, CUDA graphs"] = redq(cuda_graphs=True)
        made["REDQSAC, CUDA graphs, buffer on the GPU"] = redq(cuda_graphs=True, buffer_device="auto")
    try:
        import sbx
    except ImportError:
        print("SBX is not installed (pip install '.[sbx]'): measured without it")
    else:
        on_jax = {key: value for key, value in common.items() if key != "device"}
        made["SBX SAC"] = lambda env: sbx.SAC(
            "MlpPolicy", env, policy_kwargs=critics, gradient_steps=UTD, policy_delay=UTD, **on_jax
        )
    return {name: make for name, make in made.items() if is_wanted(name, args)}


def is_wanted(name: str, args: argparse.Namespace) -> bool:
    """
    :param name: of a contestant or a precision
    :param args: the command line
    :return: whether it is measured
    """
    return not (args.no_bfloat16 and "bfloat16" in name)


def timed(work: Callable[[], Any]) -> float:
    """
    :param work: may leave a GPU working when it returns
    :return: seconds until it is done
    """
    start = time.perf_counter()
    work()
    if th.cuda.is_available():
        th.cuda.synchronize()
    return time.perf_counter() - start


def measure(name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """
    :param name: of the environment's dimensions
    :param args: the command line
    :return: one row for each measured call
    """
    work = Work(*DIMENSIONS[name], n_critics=args.n_critics, batch_size=BATCH_SIZE)
    dtypes = {label: dtype for label, dtype in DTYPES.items() if is_wanted(label, args)}
    products = {label: MatrixProducts(work, dtype, args.device) for label, dtype in dtypes.items()}
    models = {label: make(RandomEnv(*DIMENSIONS[name])) for label, make in contestants(args).items()}
    for model in tqdm(models.values(), desc=f"{name}: warm-up"):
        model.learn(args.stored)
        for _ in range(5):  # compiles (SBX for each number of updates), records CUDA graphs, lets the allocators settle
            model.train(args.updates, BATCH_SIZE)
        model.learn(2, reset_num_timesteps=False)
    rows: list[dict[str, Any]] = []

    def note(repeat: int, label: str, updates_per_s: float, steps_per_s: float) -> None:
        rows.append(
            {
                "dimensions": name,
                "contestant": label,
                "repeat": repeat,
                "updates_per_s": f"{updates_per_s:.6g}",
                "steps_per_s": f"{steps_per_s:.6g}",
            }
        )

    n_steps = max(args.updates // UTD, 1)
    for repeat in tqdm(range(args.repeats), desc=f"{name}: measuring"):
        for label, dtype in dtypes.items():
            rate = matrix_flops(dtype, args.device) / work.flops()
            note(repeat, f"roofline {label}", rate, rate / UTD)
            products[label].update(UTD)
            rate = args.updates / timed(lambda label=label: products[label].update(args.updates))
            note(repeat, f"matrix products {label}", rate, rate / UTD)
        for label, model in models.items():
            seconds = timed(lambda model=model: model.train(args.updates, BATCH_SIZE))
            seconds_of_steps = timed(lambda model=model: model.learn(n_steps, reset_num_timesteps=False))
            note(repeat, label, args.updates / seconds, n_steps / seconds_of_steps)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """
    :param rows: as ``measure`` gives them
    :return: medians, as Markdown
    """

    def median(name: str, label: str, column: str) -> float:
        picked = [row for row in rows if (row["dimensions"], row["contestant"]) == (name, label)]
        return statistics.median(float(row[column]) for row in picked)

    lines = ["| | | updates/s | x SB3 | of the roofline | steps/s |", "|---|---|---|---|---|---|"]
    for name, label in dict.fromkeys((row["dimensions"], row["contestant"]) for row in rows):
        rate = median(name, label, "updates_per_s")
        limit = median(name, f"roofline {list(DTYPES)['bfloat16' in label]}", "updates_per_s")
        # The roofline is that of REDQ's work; others do more of it
        share = "" if "SAC" in label.replace("REDQSAC", "") else f"{100 * rate / limit:.0f} %"
        lines.append(
            f"| {name} | {label} | {rate:.1f} | {rate / median(name, REFERENCE, 'updates_per_s'):.2f} | "
            f"{share} | {median(name, label, 'steps_per_s'):.2f} |"
        )
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="CSV file for the raw measurements")
    parser.add_argument("--n-critics", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--updates", type=int, default=40, help="critic updates in one measured call, a multiple of 20")
    parser.add_argument("--stored", type=int, default=20_000, help="transitions in the replay buffer")
    parser.add_argument("--dimensions", nargs="+", choices=list(DIMENSIONS), default=list(DIMENSIONS))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--no-bfloat16", action="store_true", help="always so on CPUs that only emulate it")
    args = parser.parse_args()
    if args.repeats < 1 or args.updates < UTD or args.updates % UTD:
        parser.error(f"--repeats {args.repeats} must be at least 1, --updates {args.updates} a positive multiple of 20")
    # Emulated, these lines alone would take hours
    args.no_bfloat16 |= args.device == "cpu" and not cpu_computes_in_bfloat16()
    if args.device == "cuda" and not th.cuda.is_available():
        parser.error("--device cuda: there is no GPU that PyTorch can use")
    return args


def main() -> None:
    args = parse()
    rows: list[dict[str, Any]] = []
    for name in args.dimensions:
        rows += measure(name, args)
        write_csv(args.output, rows, machine(*PACKAGES, device=args.device))
    print(machine(*PACKAGES, device=args.device))
    print(table(rows))


if __name__ == "__main__":
    main()
