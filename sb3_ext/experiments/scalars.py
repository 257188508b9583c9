"""What the algorithms logged while they trained, stock ones too: one CSV file, and a figure an environment."""

import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sb3_ext.experiments.figures import add_legend, count_in_thousands, draw_each, new_figure, words
from sb3_ext.experiments.results import collect_rows, read_csv
from sb3_ext.experiments.runs import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRAINING_COLUMNS = ("environment", "variant", "seed", "timesteps", "name", "value")
#: Of each scalar of a run, at most so many values are kept, evenly spread
MAX_VALUES = 200
_GROUPS = ("train/", "rollout/", "system/")
_RETURN, _Q_VALUE = "rollout/ep_rew_mean", "train/q_value"
# Title, and the names that it has in the algorithms of SB3, sb3-contrib and this package: the first that is there
_PANELS = (
    ("return of training episodes", (_RETURN,)),
    ("loss of the critics, or of all", ("train/critic_loss", "train/value_loss", "train/loss")),
    (
        "loss of the actor",
        ("train/actor_loss", "train/policy_gradient_loss", "train/policy_loss", "train/policy_objective"),
    ),
    ("Q against return", (_Q_VALUE,)),
)
# name -> time steps and values, shape (T,) each
Scalars = dict[str, tuple[np.ndarray, np.ndarray]]
# variant -> seed -> its scalars
Training = dict[str, dict[str, Scalars]]


def read_scalars(folder: Path) -> Scalars:
    """
    Read the scalars of TensorBoard's files in a folder and those below it.

    A scalar that was logged twice at a time step has its last value. Of a damaged file TensorBoard's reader takes what
    comes before the damage.
    """
    values: dict[str, dict[int, float]] = defaultdict(dict)
    for path in sorted(folder.rglob("events.out.tfevents.*")):
        for name, step, value in _events(path):
            values[name][step] = value
    return {
        name: (np.array(sorted(by_step)), np.array([by_step[step] for step in sorted(by_step)]))
        for name, by_step in values.items()
    }


def _events(path: Path) -> list[tuple[str, int, float]]:
    """Read name, time step and value of the scalars in a file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(path), size_guidance={"scalars": 0})
    accumulator.Reload()
    return [
        (name, event.step, event.value)
        for name in accumulator.Tags()["scalars"]
        if name.startswith(_GROUPS)
        for event in accumulator.Scalars(name)
    ]


def collect_training(folders: Iterable[RunFolder]) -> tuple[list[dict[str, Any]], list[str]]:
    """
    Read what was logged in the finished runs.

    :return: rows with ``TRAINING_COLUMNS``, and what is wrong with files that cannot be read
    """
    return collect_rows(folders, _thinned)


def _thinned(folder: RunFolder) -> Iterator[dict[str, Any]]:
    for name, (steps, values) in sorted(read_scalars(folder.path / "training" / "tensorboard").items()):
        kept = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), MAX_VALUES)).round().astype(int))
        for step, value in zip(steps[kept].tolist(), values[kept].tolist(), strict=True):
            yield {"timesteps": step, "name": name, "value": f"{value:.6g}"}


def read_training(path: Path) -> dict[str, Training]:
    """
    Read the rows of :func:`collect_training` from a CSV file, by environment.

    :raises ValueError: if the file has other columns, or is damaged
    """
    pairs: Any = defaultdict(lambda: defaultdict(lambda: defaultdict(lambda: defaultdict(list))))
    for row in read_csv(path, TRAINING_COLUMNS, {"timesteps": int, "value": float}):
        of_run = pairs[row["environment"]][row["variant"]][row["seed"]]
        of_run[row["name"]].append((int(row["timesteps"]), float(row["value"])))
    return {
        env: {variant: {seed: _columns(run) for seed, run in runs.items()} for variant, runs in by_variant.items()}
        for env, by_variant in pairs.items()
    }


def _columns(run: dict[str, list[tuple[int, float]]]) -> Scalars:
    return {
        name: (np.array([step for step, _ in pairs]), np.array([v for _, v in pairs])) for name, pairs in run.items()
    }


def draw_training(training: Training, line_styles: dict[str, dict[str, Any]]) -> "Figure":
    """
    Draw returns and losses over the training in one environment, and Q over the returns, with a line for each seed.

    :param line_styles: of the variants, from :func:`sb3_ext.experiments.figures.styles`
    """
    runs = [run for by_seed in training.values() for run in by_seed.values()]
    panels = [panel for panel in _PANELS if any(_points(run, panel[1]) is not None for run in runs)] or _PANELS[:1]
    figure, axes = new_figure(len(panels))
    for axis, (title, names) in zip(axes, panels, strict=True):
        for variant, by_seed in training.items():
            lines = [points for run in by_seed.values() if (points := _points(run, names)) is not None]
            for index, points in enumerate(lines):
                label = words(variant) if index == 0 else None
                axis.plot(*points, **line_styles[variant], label=label, linewidth=1.2, alpha=0.8)
        is_over_returns = names == (_Q_VALUE,)
        axis.set(title=title, xlabel="return of training episodes" if is_over_returns else "time steps")
        axis.grid(alpha=0.3)
        if not is_over_returns:
            count_in_thousands(axis)
    add_legend(figure)
    return figure


def _points(run: Scalars, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the line of the first of the scalars that the run has: over time steps, or Q over returns."""
    name = next((name for name in names if name in run), None)
    if name is None or (name == _Q_VALUE and _RETURN not in run):
        return None
    steps, values = run[name]
    return (np.interp(steps, *run[_RETURN]), values) if name == _Q_VALUE else (steps, values)


def draw_all_training(
    training: dict[str, Training], line_styles: dict[str, dict[str, Any]], folder: Path
) -> list[Path]:
    """Draw the scalars of all environments, see :func:`sb3_ext.experiments.figures.draw_each`."""
    return draw_each(training, draw_training, line_styles, folder, "training")
