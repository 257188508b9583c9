"""
REDQSAC's updates per second in two checkouts of this repository, before and after a change.

Each checkout has a process of its own. Both warm up, then take turns: one measured block of updates each, while the
other one waits. The figure is the median of the paired ratios, with their quartiles. Run nothing else meanwhile.

    git worktree add /tmp/before <commit>
    python benchmarks/before_after.py --before /tmp/before --output benchmarks/results/before_after.csv
"""

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from reporting import machine, write_csv
from tqdm import tqdm

from sb3_ext.speed.precision import cpu_computes_in_bfloat16

PACKAGES = ("torch", "stable-baselines3", "numpy")
DIMENSIONS = ("humanoid", "hopper")
CONTESTANTS = ("REDQSAC", "REDQSAC, compiled", "REDQSAC, bfloat16", "REDQSAC, bfloat16, compiled")

# Runs in the checkout that is measured, with its own benchmark's contestants
WORKER = """
import argparse, sys
import updates_per_second as benchmark

name, wanted, n_updates = sys.argv[1], sys.argv[2].split(";"), int(sys.argv[3])
args = argparse.Namespace(stored=5000, device="cpu", n_critics=10, no_bfloat16=False, updates=n_updates)
makers, models = benchmark.contestants(args), {}
for label in wanted:
    model = makers[label](benchmark.RandomEnv(*benchmark.DIMENSIONS[name]))
    model.learn(args.stored)
    for _ in range(5):  # compiles, and lets the allocator settle
        model.train(n_updates, benchmark.BATCH_SIZE)
    models[label] = model
print("ready", file=sys.stderr, flush=True)
for line in sys.stdin:
    seconds = benchmark.timed(lambda: models[line.strip()].train(n_updates, benchmark.BATCH_SIZE))
    print(f"seconds {seconds}", file=sys.stderr, flush=True)
"""


class Checkout:
    """
    A process that measures one checkout.

    :param folder: root of the checkout
    :param name: of the dimensions
    :param args: the command line
    """

    def __init__(self, folder: Path, name: str, args: argparse.Namespace) -> None:
        folder = folder.resolve()
        paths = [str(folder), str(folder / "benchmarks")]
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORKER, name, ";".join(args.contestants), str(args.updates)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            cwd=folder,  # the first place in which Python looks for modules
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait(self, word: str) -> str:
        """
        :param word: that the awaited line begins with
        :return: the rest of the line
        """
        assert self._process.stderr is not None
        seen = []
        for line in self._process.stderr:
            seen.append(line)
            if line.startswith(word):
                return line.removeprefix(word).strip()
        raise RuntimeError("the process ended early:\n" + "".join(seen[-20:]))

    def seconds(self, contestant: str) -> float:
        """
        :return: how long one block of updates takes
        """
        assert self._process.stdin is not None
        self._process.stdin.write(f"{contestant}\n")
        self._process.stdin.flush()
        return float(self.wait("seconds"))

    def end(self) -> None:
        """Let the process end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def measure(name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """
    :param name: of the dimensions
    :param args: the command line
    :return: one row for each pair of measured blocks
    """
    checkouts = {}
    for label, folder in (("before", args.before), ("after", args.after)):
        checkouts[label] = Checkout(folder, name, args)
        checkouts[label].wait("ready")  # one after the other: both cores are each one's own
    rows = []
    for repeat in tqdm(range(args.repeats), desc=name):
        # Whoever comes first may find the machine cooler
        order = list(checkouts) if repeat % 2 == 0 else list(checkouts)[::-1]
        for contestant in args.contestants:
            rates = {label: args.updates / checkouts[label].seconds(contestant) for label in order}
            row = {"dimensions": name, "contestant": contestant, "repeat": repeat, "first": order[0]}
            rows.append(row | {f"{label}_updates_per_s": f"{rates[label]:.6g}" for label in checkouts})
    for checkout in checkouts.values():
        checkout.end()
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """
    :param rows: as ``measure`` gives them
    :return: medians and quartiles of the paired ratios, as Markdown
    """
    lines = ["| | | before | after | after / before | quartiles |", "|---|---|---|---|---|---|"]
    for name, label in dict.fromkeys((row["dimensions"], row["contestant"]) for row in rows):
        picked = [row for row in rows if (row["dimensions"], row["contestant"]) == (name, label)]
        before, after = ([float(row[f"{which}_updates_per_s"]) for row in picked] for which in ("before", "after"))
        ratios = [new / old for new, old in zip(after, before, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        lines.append(
            f"| {name} | {label} | {statistics.median(before):.1f} | {statistics.median(after):.1f} | "
            f"{middle:.3f} | {low:.3f} to {high:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="root of the checkout to compare with")
    parser.add_argument("--after", type=Path, default=Path(__file__).parents[1], help="this one by default")
    parser.add_argument("--output", type=Path, required=True, help="CSV file for the raw measurements")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--updates", type=int, default=40, help="critic updates in one measured block")
    parser.add_argument("--dimensions", nargs="+", choices=DIMENSIONS, default=DIMENSIONS)
    parser.add_argument("--contestants", nargs="+", help="labels of updates_per_second.py")
    args = parser.parse_args()
    # Emulated, bfloat16 would take hours
    possible = [label for label in CONTESTANTS if "bfloat16" not in label or cpu_computes_in_bfloat16()]
    args.contestants = args.contestants or possible
    if args.repeats < 2:
        parser.error(f"--repeats {args.repeats} must be at least 2")
    rows: list[dict[str, Any]] = []
    for name in args.dimensions:
        rows += measure(name, args)
        write_csv(args.output, rows, machine(*PACKAGES))
    print(machine(*PACKAGES))
    print(table(rows))


if __name__ == "__main__":
    main()
