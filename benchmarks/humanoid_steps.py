"""
Environment steps a second of trainings on Humanoid-v4: REDQSAC with normalized critics, beside CrossQ of sb3-contrib
and of SBX, and REDQSAC with the settings of the REDQ paper.

    python benchmarks/humanoid_steps.py --output benchmarks/results/humanoid_steps.csv

REDQSAC has the settings of this package's YAML files, and CrossQ its defaults, which are rl_zoo3's. A block is a part
of ``learn()``, after compilation: steps of the environment, each with its updates. Run nothing else meanwhile.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from reporting import machine, measured_rows, write_csv
from separate_runs import add_threads
from turns import Contestant, Figures, measure, ratios, values_of

ENV = "Humanoid-v4"
FIRST, REFERENCE = "REDQSAC", "contrib CrossQ"
#: Random steps, and then steps with updates, before the first block
STORED, WARM_UP = 1000, 40
HYPERPARAMS = Path(__file__).resolve().parents[1] / "hyperparams"
# File, and what differs from its entry
REDQSAC: dict[str, tuple[str, dict[str, Any]]] = {
    FIRST: ("redq_sac.yml", {}),
    f"{FIRST}, not compiled": ("redq_sac.yml", {"compile": False}),
    f"{FIRST}, width 64": ("redq_sac.yml", {"policy_kwargs": {"width": 64, "actor_width": 64}}),
    f"{FIRST}, paper": ("redq_sac_paper.yml", {}),
}
CONTESTANTS = (*REDQSAC, REFERENCE, "SBX CrossQ")


def make(label: str) -> Any:
    """
    :param label: of a contestant
    :return: the model
    """
    sizes: dict[str, Any] = {"buffer_size": 20_000, "learning_starts": STORED, "seed": 0}
    if label in REDQSAC:
        from sb3_ext import REDQSAC as Algorithm

        file, changes = REDQSAC[label]
        entry = yaml.safe_load((HYPERPARAMS / file).read_text())[ENV]
        given = {name: value for name, value in entry.items() if name not in ("n_timesteps", "policy")}
        return Algorithm(entry["policy"], ENV, **{**given, **changes, **sizes, "device": "cpu"})
    if label == REFERENCE:
        from sb3_contrib import CrossQ

        return CrossQ("MlpPolicy", ENV, **sizes, device="cpu")
    import sbx

    return sbx.CrossQ("MlpPolicy", ENV, **sizes)


def prepare(label: str, settings: dict[str, Any]) -> Callable[[], Figures]:
    """
    :param label: of a contestant
    :param settings: ``steps``: of a block
    :return: a function that measures one block
    """
    model = make(label)
    began = time.perf_counter()
    model.learn(STORED + 2)
    start_up = time.perf_counter() - began
    model.learn(WARM_UP, reset_num_timesteps=False)

    def block() -> Figures:
        start, done = time.perf_counter(), model.num_timesteps
        model.learn(settings["steps"], reset_num_timesteps=False)
        steps = model.num_timesteps - done  # `train_freq` may round up
        return {"steps_per_s": steps / (time.perf_counter() - start), "start_up_s": start_up}

    return block


def summarize(rows: list[dict[str, Any]]) -> None:
    """
    Print medians, and ratios within a round.

    :param rows: of the CSV file
    """
    names = [name for name in CONTESTANTS if any(row["contestant"] == name for row in rows)]
    for name in names:
        rates = sorted(values_of(rows, name, "steps_per_s"))
        start_up = values_of(rows, name, "start_up_s")[0]
        text = f"{name:24} {rates[len(rates) // 2]:7.1f} steps a second, first update after {start_up:5.1f} s"
        if REFERENCE in names and name != REFERENCE:
            low, middle, high = ratios(rows, name, REFERENCE, "steps_per_s")
            text += f", {middle:.2f} ({low:.2f} to {high:.2f}) x {REFERENCE}"
        print(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="CSV file")
    parser.add_argument("--rounds", type=int, default=5, help="blocks of each contestant")
    parser.add_argument("--steps", type=int, default=60, help="environment steps of a block")
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--summary", action="store_true", help="only read the file")
    add_threads(parser)
    args = parser.parse_args()
    if args.summary:
        summarize(measured_rows(parser, args.output, "steps_per_s"))
        return
    labels = [label for label in args.contestants if label != "SBX CrossQ" or find_spec("sbx")]
    for label in set(args.contestants) - set(labels):
        print(f"left out: {label}, which needs pip install '.[sbx]'")
    settings = {"steps": args.steps}
    starts = [partial(Contestant, label, __file__, settings, args.threads) for label in labels]
    packages = ("torch", "stable-baselines3", "sb3-contrib", "sbx-rl", "jax", "mujoco")
    rows: list[dict[str, Any]] = []
    for row in measure(starts, args.rounds, ENV):
        rows.append({**row, "threads": args.threads})
        write_csv(args.output, rows, machine(*packages, n_threads=args.threads))
    summarize(rows)


if __name__ == "__main__":
    main()
