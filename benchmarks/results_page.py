"""
Write the page of results from the committed CSV files: nothing on it is typed by hand.

    python benchmarks/results_page.py            # writes docs/results.md
    python benchmarks/results_page.py --check    # fails if the page is not what the files say

``docs/results/page.yml`` names the tasks, the steps and minutes at which to compare, and for each algorithm the folder
of results and the variant in it.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from learning_curves import read_csv

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
PAGE = ROOT / "docs" / "results.md"
NOTHING = "-"
PUBLISHED_NEAR = 0.1
"""How far from a point of a published curve a value may be, as a share of the time steps."""


@dataclass
class Run:
    """
    :param returns: time step -> returns of the episodes that ended, or were evaluated, there
    :param clock: time step -> minutes since the run began; empty where no file tells
    :param minutes: that the whole run took, evaluations included; ``None`` where no file tells
    """

    returns: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    clock: dict[int, float] = field(default_factory=dict)
    minutes: float | None = None

    def at_step(self, step: int, window: int) -> float | None:
        """
        :return: the mean return of the episodes of the ``window`` steps up to ``step``; ``None`` if the run had ended
        """
        values = [value for at, values in self.returns.items() if step - window < at <= step for value in values]
        return float(np.mean(values)) if values else None

    def at_minute(self, minute: float) -> float | None:
        """
        :return: the mean return of the last evaluation within so many minutes; ``None`` if the run had ended
        """
        # An evaluation may be a while ago in a run that makes few steps: what counts is that the run was going on
        ended = self.minutes if self.minutes is not None else max(self.clock.values(), default=0.0)
        within = [step for step, taken in self.clock.items() if taken <= minute]
        if ended < minute or not within:
            return None
        return float(np.mean(self.returns[max(within)]))


def runs_of(folder: Path, env: str, variant: str) -> dict[int, Run]:
    """
    :return: seed -> run
    :raises ValueError: if the folder has no such runs
    """
    runs: dict[int, Run] = defaultdict(Run)

    def rows(name: str) -> list[dict[str, str]]:
        path = folder / name
        found = read_csv(path) if path.exists() else []
        # Experiments write `environment`, collected runs of rl_zoo3 `env`
        return [row for row in found if (row.get("env") or row["environment"], row["variant"]) == (env, variant)]

    for row in rows("returns.csv"):
        runs[int(row["seed"])].returns[int(row["timesteps"])].append(float(row["return"]))
    if not runs:
        raise ValueError(f"{folder / 'returns.csv'} has no runs of variant {variant!r} in {env!r}")
    for row in rows("minutes.csv"):
        runs[int(row["seed"])].clock[int(row["timesteps"])] = float(row["minutes"])
    for row in rows("runs.csv"):
        seconds = row.get("seconds")
        runs[int(row["seed"])].minutes = float(seconds) / 60 if seconds else None
    return dict(runs)


def cell(values: Sequence[float | None]) -> str:
    """
    :param values: of the seeds, ``None`` where a run had ended
    :return: mean, standard deviation over the seeds, and how many there are
    """
    known = [value for value in values if value is not None]
    if not known:
        return NOTHING
    digits = 0 if abs(np.mean(known)) >= 100 else 1
    spread = f" ± {np.std(known, ddof=1):.{digits}f}" if len(known) > 1 else ""
    return f"{np.mean(known):.{digits}f}{spread} ({len(known)})"


def published_cell(rows: Sequence[Mapping[str, str]], step: int) -> str:
    """
    :param rows: of one published curve
    :return: its mean at a time step, between its points in proportion. Nothing where none of them is near
    """
    steps, means = ([float(row[key]) for row in rows] for key in ("steps", "mean"))
    if min((abs(point - step) for point in steps), default=np.inf) > PUBLISHED_NEAR * step:
        return NOTHING
    nearest = min(rows, key=lambda row: abs(float(row["steps"]) - step))
    return f"{np.interp(step, steps, means):.0f} ({nearest['seeds']})"


def minutes_to(runs: Mapping[int, Run], step: int) -> str:
    """
    :return: the minutes to that step, the mean over the runs that got there
    """
    known = [run.clock[step] for run in runs.values() if step in run.clock]
    if not known:
        known = [run.minutes for run in runs.values() if run.minutes is not None and step == max(run.returns)]
    return f"{np.mean(known):.{0 if np.mean(known) >= 10 else 1}f} ({len(known)})" if known else NOTHING


def task_section(task: Mapping[str, Any]) -> list[str]:
    """
    :param task: an item of ``page.yml``
    :return: the lines of its section
    """
    env, window, steps = task["env"], int(task["window"]), [int(step) for step in task["steps"]]
    minutes = task.get("minutes", [])
    header = ["algorithm", *(f"{step:,} steps" for step in steps), *(f"{minute} minutes" for minute in minutes)]
    header.append(f"minutes to {steps[-1]:,}")
    lines = [f"### {env.replace('ALE-', 'ALE/')}", ""]
    if "note" in task:
        lines += [task["note"].strip(), ""]
    lines += ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for row in task["rows"]:
        runs = runs_of(RESULTS / row["folder"], env, row["variant"])
        cells = [cell([run.at_step(step, window) for run in runs.values()]) for step in steps]
        cells += [cell([run.at_minute(minute) for run in runs.values()]) for minute in minutes]
        name = f"**{row['name']}**" if row.get("ours") else row["name"]
        lines.append("| " + " | ".join([name, *cells, minutes_to(runs, steps[-1])]) + " |")
    for row in task.get("published", []):
        curve = [line for line in read_csv(RESULTS / row["folder"] / "published.csv") if line["env"] == env]
        curve = [line for line in curve if line["algo"] == row["algo"]]
        if not curve:
            raise ValueError(f"{row['folder']}/published.csv has no {row['algo']!r} in {env!r}")
        cells = [published_cell(curve, step) for step in steps] + [NOTHING] * (len(minutes) + 1)
        lines.append("| " + " | ".join([f"{row['name']}, published", *cells]) + " |")
    lines += ["", "```bash", *task["command"].strip().splitlines(), "```", ""]
    folders = sorted({row["folder"] for row in task["rows"]})
    lines += ["Files: " + ", ".join(f"`docs/results/{folder}`" for folder in folders) + ".", ""]
    return lines


def page(content: Mapping[str, Any]) -> str:
    """
    :param content: of ``page.yml``
    :return: the page
    """
    lines = ["<!-- Written by benchmarks/results_page.py from the CSV files: change docs/results/page.yml -->", ""]
    lines += ["# Results", "", content["introduction"].strip(), ""]
    for group in content["groups"]:
        lines += [f"## {group['title']}", ""]
        if "note" in group:
            lines += [group["note"].strip(), ""]
        for task in group["tasks"]:
            lines += task_section(task)
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if the page is out of date")
    args = parser.parse_args()
    text = page(yaml.safe_load((RESULTS / "page.yml").read_text()))
    if not args.check:
        PAGE.write_text(text)
        print(f"wrote {PAGE.relative_to(ROOT)}")
    elif PAGE.read_text() != text:
        sys.exit("docs/results.md is not what the files say: run python benchmarks/results_page.py")


if __name__ == "__main__":
    main()
