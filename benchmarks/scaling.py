"""
What an environment step of REDQSAC costs as the ensemble, the updates per step, the minibatches and the layers grow.

One process; around REDQ's settings (10 critics, 20 updates a step, batch 256, two layers of 256) one of them is varied
at a time. A measured call is ``train(gradient_steps)`` on a filled replay buffer. Run nothing else meanwhile.

    python benchmarks/scaling.py --output benchmarks/results/scaling.csv --figure docs/figures/scaling.png

``--plot-only`` draws the figure again from the CSV file.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch as th
from matplotlib.ticker import LogLocator, StrMethodFormatter
from random_env import BATCH_SIZE, DIMENSIONS, UTD, like_mujoco
from reporting import machine, read_csv, write_csv
from roofline import Work, matrix_flops
from tqdm import tqdm
from updates_per_second import timed

from sb3_ext import REDQSAC

STORED = 5000
DEFAULTS = {"n_critics": 10, "gradient_steps": UTD, "batch_size": BATCH_SIZE, "width": 256}
VARIED = {
    "n_critics": (2, 5, 10, 20, 40),
    "gradient_steps": (1, 5, 10, 20, 40),
    "batch_size": (64, 128, 256, 512, 1024),
    "width": (64, 128, 256, 512, 1024),
}
LABELS = {
    "n_critics": "critics (N)",
    "gradient_steps": "updates per environment step (UTD)",
    "batch_size": "minibatch",
    "width": "units of each of two layers",
}


def make(settings: dict[str, int], dimensions: str, device: str) -> REDQSAC:
    """
    :param settings: see ``DEFAULTS``
    :param dimensions: of the environment, a key of ``DIMENSIONS``
    :param device: PyTorch's
    :return: a model whose buffer is filled, warmed up
    """
    model = REDQSAC(
        "MlpPolicy",
        like_mujoco(dimensions),
        batch_size=settings["batch_size"],
        gradient_steps=settings["gradient_steps"],
        policy_delay=settings["gradient_steps"],
        buffer_size=2 * STORED,
        learning_starts=STORED,
        policy_kwargs={"n_critics": settings["n_critics"], "net_arch": [settings["width"]] * 2},
        seed=0,
        device=device,
    )
    model.learn(STORED)
    for _ in range(2):
        model.train(settings["gradient_steps"], settings["batch_size"])
    return model


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """
    :param args: the command line
    :return: one row for each measured call
    """
    rows = []
    cases = [(name, value) for name, values in VARIED.items() for value in values]
    for name, value in tqdm(cases, desc="scaling"):
        settings = {**DEFAULTS, name: value}
        model = make(settings, args.dimensions, args.device)
        work = Work(
            *DIMENSIONS[args.dimensions],
            n_critics=settings["n_critics"],
            batch_size=settings["batch_size"],
            width=settings["width"],
            policy_delay=settings["gradient_steps"],
        )
        flops = work.flops() * settings["gradient_steps"]
        for repeat in range(args.repeats):
            limit = flops / matrix_flops(th.float32, args.device)
            seconds = timed(lambda: model.train(settings["gradient_steps"], settings["batch_size"]))  # noqa: B023
            row = {"varied": name, "value": value, "repeat": repeat, "dimensions": args.dimensions}
            rows.append({**row, "step_ms": f"{1e3 * seconds:.5g}", "roofline_ms": f"{1e3 * limit:.5g}"})
        write_csv(args.output, rows, machine("torch", "numpy", device=args.device))
    return rows


def draw(rows: list[dict[str, Any]], figure: Path) -> None:
    """
    :param rows: as ``measure`` gives them
    :param figure: PNG file
    """
    fig, axes = plt.subplots(2, 2, figsize=(10.4, 7.6), layout="constrained")
    for axis, (name, values) in zip(axes.ravel(), VARIED.items(), strict=True):
        for column, label, color, style in (
            ("step_ms", "REDQSAC", "#0072B2", "o-"),
            ("roofline_ms", "necessary matrix products at the machine's speed", "#D55E00", "s--"),
        ):
            medians = [
                statistics.median(
                    float(row[column]) for row in rows if row["varied"] == name and int(row["value"]) == value
                )
                for value in values
            ]
            axis.plot(values, medians, style, color=color, label=label)
        axis.set(xscale="log", yscale="log", xlabel=LABELS[name], ylabel="ms per environment step")
        axis.set_xticks(values, [str(value) for value in values])
        axis.minorticks_off()
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.axvline(DEFAULTS[name], color="0.7", linestyle=":", linewidth=1)
        axis.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=8)
    figure.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(figure, dpi=120)
    print(f"wrote {figure}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="CSV file of the raw measurements")
    parser.add_argument("--figure", type=Path, help="PNG file")
    parser.add_argument("--plot-only", action="store_true", help="draw --figure from --output, measure nothing")
    parser.add_argument("--dimensions", choices=list(DIMENSIONS), default="humanoid")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    if args.repeats < 1:
        parser.error(f"--repeats {args.repeats} must be at least 1")
    if args.device == "cuda" and not th.cuda.is_available():
        parser.error("--device cuda: there is no GPU that PyTorch can use")
    if args.plot_only and args.figure is None:
        parser.error("--plot-only needs --figure")
    rows = read_csv(args.output) if args.plot_only else measure(args)
    if args.figure is not None:
        draw(rows, args.figure)


if __name__ == "__main__":
    main()
