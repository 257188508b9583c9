"""The measurements of ``DiagnosisCallback`` in the runs of an experiment: one CSV file, and a figure an environment."""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sb3_ext.diagnosis.callback import COLUMNS
from sb3_ext.experiments.figures import add_legend, count_in_thousands, draw_each, new_figure, words
from sb3_ext.experiments.results import collect_rows, read_csv
from sb3_ext.experiments.runs import RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DIAGNOSIS_COLUMNS = ("environment", "variant", "seed", *COLUMNS)
# Title, column drawn as a line, column drawn as dots, scale
Panel = tuple[str, str, str | None, str]
VALUE_PANELS: tuple[Panel, ...] = (
    ("bias of Q, normalised", "normalized_bias_mean", None, "symlog"),
    ("Q (lines), Monte-Carlo return (dots)", "q_mean", "mc_return_mean", "linear"),
    ("spread of the bias", "normalized_bias_std", None, "log"),
    ("disagreement of the critics", "disagreement", None, "linear"),
)
NETWORK_PANELS: tuple[Panel, ...] = (
    ("entropy of the policy (nats)", "policy_entropy", None, "linear"),
    ("norm of the critics' gradient", "critic_grad_norm", None, "log"),
    ("norm of the actor's gradient", "actor_grad_norm", None, "log"),
    ("dormant units (lines), dead ones (dots)", "dormant_units", "dead_units", "linear"),
    ("effective rank of the features", "feature_rank", None, "linear"),
)
# If no value is larger, a panel is linear even if its scale is symlog.
_LINEAR_UP_TO = 10.0
# variant -> seed -> column -> values, shape (T,). They are NaN if nothing was measured.
Diagnoses = dict[str, dict[str, dict[str, np.ndarray]]]


def _number(text: str) -> float:
    """Read a field of the CSV file. It is NaN if nothing was measured."""
    return float(text or math.nan)


_KINDS = dict.fromkeys(COLUMNS, _number)


def collect_diagnoses(folders: Iterable[RunFolder]) -> tuple[list[dict[str, Any]], list[str]]:
    """
    Read what was measured in the finished runs.

    Runs without a ``DiagnosisCallback``, or with one that has a ``csv_path``, contribute nothing.

    :return: a row for each measurement, and what is wrong with files that cannot be read
    """
    return collect_rows(folders, _measured)


def _measured(folder: RunFolder) -> list[dict[str, str]]:
    measured = [row for path in folder.diagnosis_files() for row in read_csv(path, COLUMNS, _KINDS)]
    _check_order(measured)
    return measured


def _check_order(rows: list[dict[str, str]]) -> None:
    """Raise a ValueError if the time steps of a run do not increase, as when two callbacks wrote into one file."""
    steps = [_number(row["timesteps"]) for row in rows]
    for one, other in itertools.pairwise([0.0, *steps]):
        if not one < other:
            raise ValueError(f"diagnosis.csv: the time steps of a run must increase, and {other:g} comes after {one:g}")


def read_diagnoses(path: Path) -> dict[str, Diagnoses]:
    """
    Read the rows of :func:`collect_diagnoses` from a CSV file, by environment.

    :raises ValueError: if the file has other columns, or is damaged
    """
    values: Any = defaultdict(lambda: defaultdict(lambda: defaultdict(lambda: defaultdict(list))))
    for row in read_csv(path, DIAGNOSIS_COLUMNS, _KINDS):
        run = values[row["environment"]][row["variant"]][row["seed"]]
        for column in COLUMNS:
            run[column].append(_number(row[column]))
    return {
        env: {
            variant: {seed: {name: np.array(x) for name, x in run.items()} for seed, run in by_seed.items()}
            for variant, by_seed in by_variant.items()
        }
        for env, by_variant in values.items()
    }


def draw_diagnoses(
    diagnoses: Diagnoses, line_styles: dict[str, dict[str, Any]], panels: Sequence[Panel] = VALUE_PANELS
) -> "Figure":
    """
    Draw a panel for each kind of measurement in one environment, with a line for each seed.

    Without measurements there is one empty panel.

    :param line_styles: of the variants, from :func:`sb3_ext.experiments.figures.styles`
    """
    panels = _measured_panels(diagnoses, panels) or panels[:1]
    figure, axes = new_figure(len(panels))
    for axis, (title, line, dots, scale) in zip(axes, panels, strict=True):
        for variant, by_seed in diagnoses.items():
            for index, run in enumerate(by_seed.values()):
                _draw_run(
                    axis, run, line, dots, {**line_styles[variant], "label": words(variant) if index == 0 else None}
                )
        # A symmetrical logarithm has hardly any ticks among small values.
        is_small = scale == "symlog" and max(abs(bound) for bound in axis.get_ylim()) < _LINEAR_UP_TO
        axis.set(title=title, xlabel="time steps", yscale="linear" if is_small else scale)
        axis.set_xlim(left=0)
        axis.grid(alpha=0.3)
        if scale == "symlog":
            axis.axhline(0, color="0.4", linewidth=0.8)
        count_in_thousands(axis)
    add_legend(figure)
    return figure


def _draw_run(
    axis: "Axes", run: dict[str, np.ndarray], line: str, dots: str | None, line_style: dict[str, Any]
) -> None:
    # A single measurement makes no line, and only its marker is seen.
    axis.plot(run["timesteps"], run[line], **line_style, linewidth=1.4, alpha=0.8, marker=".", markersize=2)
    if dots is not None:
        axis.plot(
            run["timesteps"], run[dots], color=line_style["color"], linestyle="", marker="o", markersize=3, alpha=0.8
        )


def draw_all_diagnoses(
    diagnoses: dict[str, Diagnoses], line_styles: dict[str, dict[str, Any]], folder: Path
) -> list[Path]:
    """
    Draw the measurements of all environments, see :func:`sb3_ext.experiments.figures.draw_each`.

    Values, of which a reader needs the picture first, and networks have a file each.
    """
    networks = partial(draw_diagnoses, panels=NETWORK_PANELS)
    with_networks = {env: content for env, content in diagnoses.items() if _measured_panels(content, NETWORK_PANELS)}
    return [
        *draw_each(diagnoses, draw_diagnoses, line_styles, folder, "diagnosis"),
        *draw_each(with_networks, networks, line_styles, folder, "networks"),
    ]


def _measured_panels(diagnoses: Diagnoses, panels: Sequence[Panel]) -> list[Panel]:
    runs = [run for by_seed in diagnoses.values() for run in by_seed.values()]
    return [panel for panel in panels if any(np.isfinite(run[panel[1]]).any() for run in runs)]
