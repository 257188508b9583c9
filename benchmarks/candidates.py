"""
What CEMQ costs as its candidates grow: an action to play, and an update.

One process, one thread, Hopper's sizes. Each setting is measured in turn, ``--repeats`` times. Run nothing else
meanwhile.

    python benchmarks/candidates.py --output benchmarks/results/candidates.csv
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from random_env import like_mujoco
from reporting import machine, write_csv
from tqdm import tqdm
from updates_per_second import timed

from sb3_ext import CEMQ, NAF

STORED = 2000
N_SAMPLES = (8, 16, 32, 64, 128)
N_ACTIONS = 50
N_UPDATES = 10


def contestants() -> dict[str, Any]:
    """
    :return: models with a filled buffer, by the name of their setting
    """
    common: dict[str, Any] = dict(learning_starts=STORED, buffer_size=2 * STORED, seed=0, device="cpu")
    models: dict[str, Any] = {"NAF": NAF("MlpPolicy", like_mujoco("hopper"), **common)}
    for maximizer in ("random", "cem", "cma"):
        for n_samples in N_SAMPLES:
            sizes: dict[str, Any] = dict(n_samples=n_samples, n_target_samples=n_samples)
            models[f"CEMQ, {maximizer}, {n_samples}"] = CEMQ(
                "MlpPolicy", like_mujoco("hopper"), maximizer=maximizer, **sizes, **common
            )
    for model in models.values():
        model.learn(STORED)
    return models


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="CSV file")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each setting")
    args = parser.parse_args()
    th.set_num_threads(1)
    models = contestants()
    obs = np.zeros((1, *models["NAF"].observation_space.shape), np.float32)
    rows: list[dict[str, Any]] = []
    for repeat in tqdm(range(-1, args.repeats), desc="candidates"):
        for name, model in models.items():
            acting = timed(lambda: [model.predict(obs) for _ in range(N_ACTIONS)]) / N_ACTIONS  # noqa: B023
            updating = timed(lambda: model.train(N_UPDATES, 256)) / N_UPDATES  # noqa: B023
            if repeat >= 0:  # the first round warms up
                costs = {"action_ms": f"{1e3 * acting:.4g}", "update_ms": f"{1e3 * updating:.4g}"}
                rows.append({"setting": name, "repeat": repeat, **costs})
        if rows:  # as they come
            write_csv(args.output, rows, machine("torch", "numpy", device="cpu"))


if __name__ == "__main__":
    main()
