"""
Where the time of an update goes: matrix products, convolutions, optimizer, target networks, sampling, the rest of
PyTorch's kernels, and Python.

PyTorch's profiler sums the time of each kernel during ``train()``. Python is what remains of the wall-clock time,
without that inside of sampling and of the optimizer. The profiler itself takes time, so shares of small kernels are
upper bounds. Each training has a process of its own. Run nothing else meanwhile.

    python benchmarks/shares.py --output benchmarks/results/shares.csv
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch as th
from before_after import filled_model, trainings
from separate_runs import add_threads
from torch.profiler import ProfilerActivity, profile
from turns import Contestant, Figures, measure, values_of

#: Part of an update -> beginnings of the names of its kernels, or of what calls them
NAMES = {
    "sampling": ("sampling",),
    "optimizer": ("Optimizer.",),
    "products": ("aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm"),
    "convolutions": ("aten::mkldnn_convolution", "aten::convolution_backward"),
    "target networks": ("aten::lerp_", "aten::_foreach_lerp_"),
}
PARTS = (*NAMES, "other kernels", "Python")


def part_of(event: Any) -> str:
    """
    :param event: of the profile
    :return: the part of an update that it belongs to
    """
    found, present = "other kernels", event
    while present is not None:  # the outermost counts: whatever is computed while sampling is sampling
        found = next((part for part, names in NAMES.items() if present.name.startswith(names)), found)
        present = present.cpu_parent
    return found


def prepare(label: str, settings: dict[str, Any]) -> Callable[[], Figures]:
    """
    :param label: a key of ``before_after.trainings()``
    :param settings: transitions ``stored``
    :return: a function that measures one block: part -> milliseconds in an update
    """
    training = trainings()[label]
    model = filled_model(training, settings["stored"], {})
    buffer = model.replay_buffer
    buffer.sample = th.profiler.record_function("sampling")(buffer.sample)
    n_calls = max(training.n_updates // 4 // training.gradient_steps, 1)  # the profiler holds every kernel
    n_updates = n_calls * training.gradient_steps

    def block() -> Figures:
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            start = time.perf_counter()
            for _ in range(n_calls):
                model.train(training.gradient_steps, training.batch_size)
            wall = time.perf_counter() - start
        seconds = dict.fromkeys(PARTS, 0.0)
        for event in profiled.events():
            seconds[part_of(event)] += 1e-6 * event.self_cpu_time_total
        seconds["Python"] = wall - sum(seconds.values())
        return {"update": 1e3 * wall / n_updates} | {part: 1e3 * seconds[part] / n_updates for part in PARTS}

    block()
    return block


def table(rows: list[dict[str, Any]]) -> str:
    """
    :param rows: of the CSV file
    :return: shares of the medians, as Markdown
    """
    lines = ["| | ms | " + " | ".join(PARTS) + " |", "|---|---" + "|---" * len(PARTS) + "|"]
    for label in dict.fromkeys(row["contestant"] for row in rows):
        medians = {part: statistics.median(values_of(rows, label, part)) for part in ("update", *PARTS)}
        whole = medians["update"]
        shares = " | ".join(f"{100 * medians[part] / whole:.0f} %" for part in PARTS)
        lines.append(f"| {label} | {whole:.1f} | {shares} |")
    return "\n".join(lines)


def main() -> None:
    from reporting import machine, write_csv

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="CSV file for the raw measurements")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--stored", type=int, default=2000, help="transitions in the replay buffer")
    add_threads(parser)
    args = parser.parse_args()
    if args.repeats < 1 or args.stored < 256:
        parser.error(f"--repeats {args.repeats} must be at least 1, --stored {args.stored} at least 256")
    starts = [partial(Contestant, label, __file__, {"stored": args.stored}, args.threads) for label in trainings()]
    rows: list[dict[str, Any]] = []
    for row in measure(starts, args.repeats, "shares"):
        rows.append(row)
        write_csv(args.output, rows, machine("torch", "stable-baselines3", "numpy", n_threads=args.threads))
    print(table(rows))


if __name__ == "__main__":
    main()
