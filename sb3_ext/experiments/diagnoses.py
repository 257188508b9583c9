"""What ``DiagnosisCallback`` wrote in the runs of an experiment: one CSV file of it, and a figure an environment."""

import csv
import math
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sb3_ext.diagnosis.callback import COLUMNS
from sb3_ext.experiments.figures import new_figure, save, styles
from sb3_ext.experiments.runs import RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DIAGNOSIS_COLUMNS = ("environment", "variant", "seed", *COLUMNS)
# Title, column drawn as a line, column drawn as dots, scale
_PANELS = (
    ("bias of Q, normalised", "normalised_bias_mean", None, "symlog"),
    ("Q (lines) and Monte-Carlo return (dots)", "q_mean", "mc_return_mean", "linear"),
    ("spread of the bias", "normalised_bias_std", None, "log"),
    ("disagreement of the critics", "disagreement", None, "linear"),
    ("entropy of the policy (nats)", "policy_entropy", None, "linear"),
    ("norm of the critics' gradient", "critic_grad_norm", None, "log"),
    ("norm of the actor's gradient", "actor_grad_norm", None, "log"),
    ("dormant units (lines), dead ones (dots)", "dormant_units", "dead_units", "linear"),
    ("effective rank of the features", "feature_rank", None, "linear"),
)
# variant -> seed -> column -> values, shape (T,), NaN where nothing was measured
Diagnoses = dict[str, dict[int, dict[str, np.ndarray]]]


def collect_diagnoses(folders: Iterable[RunFolder]) -> tuple[list[dict[str, Any]], list[str]]:
    """
    :param folders: of runs, of which the finished ones are taken
    :return: a row for each measurement, and what is wrong with files that cannot be read. Nothing of runs that had no
        ``DiagnosisCallback``, or one with a ``csv_path``
    """
    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    for folder in folders:
        if not folder.is_finished():
            continue
        identity = {"environment": folder.run.env, "variant": folder.run.variant, "seed": folder.run.seed}
        for path in folder.diagnosis_files():
            try:
                rows += [{**identity, **row} for row in _checked_rows(path)]
            except (OSError, ValueError) as error:
                problems.append(f"{folder.run.name}: {path.name}: {error}")
    return rows, problems


def _checked_rows(path: Path) -> list[dict[str, str]]:
    """
    :param path: of a file that ``DiagnosisCallback`` wrote
    :return: its rows
    :raises ValueError: if it is not one, or damaged
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, strict=True)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(f"it has the columns {reader.fieldnames}, {list(COLUMNS)} are expected")
        rows = list(reader)
    for row in rows:
        if None in row or None in row.values():
            raise ValueError(f"a row has not {len(COLUMNS)} fields: {list(row.values())}")
        for value in row.values():
            float(value or 0)
    return rows


def read_diagnoses(path: Path) -> dict[str, Diagnoses]:
    """
    :param path: of a CSV file with the rows of :func:`collect_diagnoses`
    :return: environment -> what was measured there
    :raises ValueError: if it has other columns
    """
    values: Any = defaultdict(lambda: defaultdict(lambda: defaultdict(lambda: defaultdict(list))))
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != DIAGNOSIS_COLUMNS:
            raise ValueError(f"{path} has the columns {reader.fieldnames}, {list(DIAGNOSIS_COLUMNS)} are expected")
        for row in reader:
            run = values[row["environment"]][row["variant"]][int(row["seed"])]
            for column in COLUMNS:
                run[column].append(float(row[column] or math.nan))
    return {
        env: {
            variant: {seed: {name: np.array(x) for name, x in run.items()} for seed, run in by_seed.items()}
            for variant, by_seed in by_variant.items()
        }
        for env, by_variant in values.items()
    }


def draw_diagnoses(diagnoses: Diagnoses, looks: dict[str, dict[str, Any]]) -> "Figure":
    """
    One panel for each kind of measurement that there is; a line for each seed.

    :param diagnoses: of one environment
    :param looks: of the variants, from :func:`sb3_ext.experiments.figures.styles`
    :return: the figure
    """
    runs = [run for by_seed in diagnoses.values() for run in by_seed.values()]
    panels = [panel for panel in _PANELS if any(np.isfinite(run[panel[1]]).any() for run in runs)]
    figure, axes = new_figure(len(panels), height=3.4)
    for axis, (title, line, dots, scale) in zip(axes, panels, strict=True):
        for variant, by_seed in diagnoses.items():
            for index, run in enumerate(by_seed.values()):
                _draw_run(axis, run, line, dots, {**looks[variant], "label": variant if index == 0 else None})
        axis.set(title=title, xlabel="time steps", yscale=scale)
        axis.set_xlim(left=0)
        axis.grid(alpha=0.3)
        if scale == "symlog":
            axis.axhline(0, color="0.4", linewidth=0.8)
    axes[0].legend(fontsize=8)
    return figure


def _draw_run(axis: "Axes", run: dict[str, np.ndarray], line: str, dots: str | None, look: dict[str, Any]) -> None:
    axis.plot(run["timesteps"], run[line], **look, linewidth=1.4, alpha=0.8)
    if dots is not None:
        axis.plot(run["timesteps"], run[dots], color=look["color"], linestyle="", marker="o", markersize=3, alpha=0.8)


def draw_all_diagnoses(path: Path) -> list[Path]:
    """
    :param path: of the CSV file; the figures go beside it
    :return: the files
    """
    by_environment = read_diagnoses(path)
    looks = styles(dict.fromkeys(variant for diagnoses in by_environment.values() for variant in diagnoses))
    paths = []
    for env, diagnoses in by_environment.items():
        paths += save(draw_diagnoses(diagnoses, looks), path.with_name(f"diagnosis_{env.replace('/', '-')}"))
    return paths
