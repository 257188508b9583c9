"""Figures: learning curves, performance profiles and probabilities of improvement, as PNG and SVG."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sb3_ext.experiments.results import (
    Curve,
    improvement,
    iqm_with_interval,
    performance_profiles,
    score_matrices,
    scores,
)
from sb3_ext.files import replaced_when_complete

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Color-blind readers can tell Okabe and Ito's palette apart, and the line style says it once more.
STYLES = [
    ("#0072B2", "-"),
    ("#D55E00", "--"),
    ("#009E73", "-."),
    ("#CC79A7", ":"),
    ("#E69F00", (0, (5, 1, 1, 1, 1, 1))),
    ("#56B4E9", (0, (8, 2))),
    ("#000000", (0, (1, 3))),
]
_N_THRESHOLDS = 101
PAGE_WIDTH = 6.9
"""In inches: a page of the documentation shows 690 pixels."""


def new_figure(n_panels: int, height: float | None = None) -> tuple["Figure", list["Axes"]]:
    """
    Make an empty figure that can be read in a page, with two panels in a row.

    :param height: of a panel, in inches; by default it suits the width
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    n_columns = min(n_panels, 2)
    n_rows = -(-n_panels // n_columns)
    height = height or (3.6 if n_columns == 1 else 2.7)
    # pyplot would choose a window if there is a screen, and keep figures alive.
    figure = Figure(figsize=(PAGE_WIDTH, height * n_rows), layout="constrained")
    FigureCanvasAgg(figure)
    with matplotlib.rc_context({"font.size": 9, "axes.titlesize": 10}):
        axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel().tolist()
    for axis in axes[n_panels:]:
        axis.remove()
    return figure, axes[:n_panels]


def words(variant: str) -> str:
    """Return the name of a variant as a reader sees it."""
    return variant.replace("_", " ")


def n_seeds(counts: Iterable[int]) -> str:
    """Say how many seeds there are. Environments without any, where the count is 0, do not matter."""
    present = sorted({count for count in counts if count}) or [0]
    numbers = str(present[0]) if len(present) == 1 else f"{present[0]} to {present[-1]}"
    return f"{numbers} seed{'' if present == [1] else 's'}"


def add_legend(figure: "Figure", order: Sequence[str] | None = None) -> None:
    """
    Put one legend for all panels below them, where it hides nothing.

    :param order: of the labels; by default as they come in the panels
    """
    lines = {str(line.get_label()): line for axis in figure.axes for line in axis.lines}
    names = [name for name in lines if not name.startswith("_")] if order is None else [n for n in order if n in lines]
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.18 * -(-len(names) // 2))
    figure.legend([lines[name] for name in names], names, loc="outside lower center", ncol=2, frameon=False, fontsize=9)


def count_in_thousands(axis: "Axes") -> None:
    """Write time steps as 50k."""
    from matplotlib.ticker import EngFormatter

    axis.xaxis.set_major_formatter(EngFormatter(sep=""))


def save(figure: "Figure", stem: Path) -> list[Path]:
    """Save a figure as PNG and SVG; ``stem`` lacks their endings. The same numbers give the same bytes."""
    paths = [stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.svg")]
    for path in paths:
        save_as(figure, path)
    return paths


def save_as(figure: "Figure", path: Path) -> None:
    """Save a figure as PNG or SVG, by the ending of its name. The same numbers give the same bytes."""
    import matplotlib

    # A date, or ids that depend on chance, would change the file although the numbers are the same.
    metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    with matplotlib.rc_context({"svg.hashsalt": path.stem}), replaced_when_complete(path) as file:
        figure.savefig(file, format=path.suffix[1:], dpi=120, metadata=metadata)


def draw_each(
    by_env: Mapping[str, Any],
    draw: Callable[[Any, dict[str, dict[str, Any]]], "Figure"],
    line_styles: dict[str, dict[str, Any]],
    folder: Path,
    kind: str,
) -> list[Path]:
    """
    Draw a figure for each environment, and remove those of environments that are not among them from the folder.

    :param by_env: what ``draw`` takes, beside the styles
    :param line_styles: of the variants, from :func:`styles`
    :param kind: the files are called ``<kind>_<environment>``
    """
    paths = []
    for env, content in by_env.items():
        paths += save(draw(content, line_styles), folder / f"{kind}_{env.replace('/', '-')}")
    for path in folder.glob(f"{kind}_*"):
        if path.suffix in (".png", ".svg") and path not in paths:
            path.unlink()
    return paths


def styles(variants: Iterable[str]) -> dict[str, dict[str, Any]]:
    """
    Choose a color and a line style for each variant, to be used in all figures.

    :return: keyword arguments of matplotlib's ``plot``, by variant
    """
    line_styles = {}
    for index, variant in enumerate(variants):
        # From the eighth variant on, colors come again with other line styles.
        color, style = STYLES[index % len(STYLES)][0], STYLES[(index + index // len(STYLES)) % len(STYLES)][1]
        line_styles[variant] = {"color": color, "linestyle": style}
    return line_styles


def common_timesteps(curves: list[Curve]) -> tuple[np.ndarray, np.ndarray]:
    """
    Find the time steps at which all runs of one variant in one environment were evaluated.

    With several environments at a time, runs may stop some steps apart. Those steps are left out.

    :return: the time steps, shape (T,), and the returns, shape (N, T)
    """
    steps = sorted(set.intersection(*({int(step) for step in curve.timesteps} for curve in curves)))
    rows = [dict(zip(curve.timesteps.tolist(), curve.returns.tolist(), strict=True)) for curve in curves]
    return np.array(steps), np.array([[row[step] for step in steps] for row in rows])


def draw_curves(curves: list[Curve], line_styles: dict[str, dict[str, Any]]) -> "Figure":
    """Draw one panel an environment: the interquartile mean, its 95 % bootstrap interval, every run as a thin line."""
    environments = list(dict.fromkeys(curve.environment for curve in curves))
    counts = Counter((curve.variant, curve.environment) for curve in curves)
    labels = {
        variant: f"{words(variant)} ({n_seeds(counts[variant, env] for env in environments)})"
        for variant in line_styles
    }
    figure, axes = new_figure(len(environments))
    for axis, env in zip(axes, environments, strict=True):
        for variant, line_style in line_styles.items():
            mine = [curve for curve in curves if (curve.environment, curve.variant) == (env, variant)]
            if not mine:
                continue
            for curve in mine:
                axis.plot(curve.timesteps, curve.returns, **line_style, alpha=0.3, linewidth=0.8)
            steps, values = common_timesteps(mine)
            middle, (low, high) = iqm_with_interval(values) if len(steps) else (steps, (steps, steps))
            axis.plot(steps, middle, **line_style, linewidth=2.2, label=labels[variant])
            if len(mine) > 1:
                axis.fill_between(steps, low, high, color=line_style["color"], alpha=0.15, linewidth=0)
        axis.set(title=env, xlabel="time steps", ylabel="return of an evaluation")
        axis.set_xlim(left=0)
        axis.grid(alpha=0.3)
        count_in_thousands(axis)
    add_legend(figure)
    return figure


def draw_profiles(matrices: dict[str, np.ndarray], line_styles: dict[str, dict[str, Any]]) -> "Figure":
    """
    Draw performance profiles: the share of runs whose score is above a threshold; Agarwal et al. 2021,
    https://arxiv.org/abs/2108.13264

    :param matrices: scores of each variant, shape (n_seeds, n_environments), between 0 and 1
    """
    low = min(0.0, *(float(matrix.min()) for matrix in matrices.values()))
    high = max(1.0, *(float(matrix.max()) for matrix in matrices.values()))
    thresholds = np.linspace(low, high, _N_THRESHOLDS)
    profiles, intervals = performance_profiles(matrices, thresholds)
    figure, (axis,) = new_figure(1)
    for variant, line_style in ((variant, line_styles[variant]) for variant in matrices):
        axis.plot(thresholds, profiles[variant], **line_style, linewidth=2.0, label=words(variant))
        axis.fill_between(thresholds, *intervals[variant], color=line_style["color"], alpha=0.15, linewidth=0)
    axis.set(
        xlabel="score (0 and 1: ends of each environment's range)", ylabel="share of runs above", ylim=(-0.02, 1.02)
    )
    axis.grid(alpha=0.3)
    add_legend(figure)
    return figure


def draw_improvement(probabilities: dict[tuple[str, str], tuple[float, float, float]]) -> "Figure":
    """Draw the probability that the first variant of each pair beats the second, and the ends of its interval."""
    figure, (axis,) = new_figure(1, height=1.0 + 0.45 * len(probabilities))
    for row, (middle, low, high) in enumerate(probabilities.values()):
        axis.plot([low, high], [row, row], color="#0072B2", linewidth=6, alpha=0.3, solid_capstyle="butt")
        axis.plot([middle], [row], marker="o", color="#0072B2")
    axis.axvline(0.5, color="0.5", linestyle=":", linewidth=1)
    axis.set_yticks(range(len(probabilities)), [f"{words(one)} > {words(other)}" for one, other in probabilities])
    axis.set(
        xlim=(-0.02, 1.02),
        xlabel="probability of improvement",
        ylim=(-0.6, len(probabilities) - 0.4),
    )
    axis.invert_yaxis()
    axis.grid(alpha=0.3, axis="x")
    return figure


def draw_all(
    curves: list[Curve], ranges: dict[str, tuple[float, float]], line_styles: dict[str, dict[str, Any]], folder: Path
) -> list[Path]:
    """
    Draw everything that the runs, of which there is at least one, suffice for.

    :param ranges: of the scores, by environment
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = save(draw_curves(curves, line_styles), folder / "curves")
    # A single run does not tell how certain it is.
    matrices = {
        variant: matrix for variant, matrix in score_matrices(scores(curves), ranges).items() if len(matrix) > 1
    }
    if len(matrices) > 1:
        paths += save(draw_profiles(matrices, line_styles), folder / "profiles")
        paths += save(draw_improvement(improvement(matrices)), folder / "improvement")
    return paths
