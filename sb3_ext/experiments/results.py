"""From runs to numbers: returns as CSV, scores, and the statistics of rliable."""

import csv
import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sb3_ext.experiments.runs import CorruptResult, RunFolder
from sb3_ext.files import replaced_when_complete

# The score of a run is the mean over this last part of its evaluations.
LAST_PART = 0.1
N_BOOTSTRAP = 2000
CONFIDENCE = 0.95
COLUMNS = ("environment", "variant", "seed", "timesteps", "episode", "return")
RUN_COLUMNS = ("environment", "variant", "seed", "algo", "command", "seconds", "versions")


@dataclass(frozen=True)
class Curve:
    """
    The evaluations of one run.

    :param timesteps: when it was evaluated, shape (T,)
    :param returns: the mean return of each evaluation, shape (T,)
    """

    environment: str
    variant: str
    seed: int
    timesteps: np.ndarray
    returns: np.ndarray

    @property
    def score(self) -> float:
        """The mean return over the last tenth of the evaluations."""
        return float(self.returns[-max(round(LAST_PART * len(self.returns)), 1) :].mean())


def collect(folders: Iterable[RunFolder]) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str]]:
    """
    Read the evaluations of the finished runs.

    :return: a row for each episode, a row for each run, and what is wrong with runs that cannot be read
    """
    rows: list[dict[str, Any]] = []
    runs: list[dict[str, Any]] = []
    problems: list[str] = []
    for folder in folders:
        if not folder.is_finished():
            continue
        run, identity = folder.run, folder.identity
        try:
            steps, returns = folder.evaluations()
        except (CorruptResult, FileNotFoundError) as error:
            problems.append(f"{run.name}: {error}")
            continue
        for step, episodes in zip(steps.tolist(), returns.tolist(), strict=True):
            rows += [
                {**identity, "timesteps": step, "episode": index, "return": f"{value:.6g}"}
                for index, value in enumerate(episodes)
            ]
        finished = folder.finished()
        versions = " ".join(f"{name}={version}" for name, version in finished["versions"].items())
        runs.append(
            {
                **identity,
                "algo": run.algo,
                "command": finished["command"],
                "seconds": finished["seconds"],
                "versions": versions,
            }
        )
    return rows, runs, problems


def collect_rows(
    folders: Iterable[RunFolder], read: Callable[[RunFolder], Iterable[dict[str, Any]]]
) -> tuple[list[dict[str, Any]], list[str]]:
    """
    Read rows of the finished runs.

    :param read: returns the rows of a run, and raises an OSError or a ValueError if they cannot be read
    :return: the rows, with what identifies their runs, and what is wrong with runs that cannot be read
    """
    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    for folder in folders:
        if folder.is_finished():
            try:
                rows += [{**folder.identity, **row} for row in read(folder)]
            except (OSError, ValueError) as error:
                problems.append(f"{folder.run.name}: {error}")
    return rows, problems


def write_csv(path: Path, columns: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    """Write rows with these columns to a CSV file, which readers see whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with replaced_when_complete(path) as file:
        file.write(text.getvalue().encode())


def read_csv(path: Path, columns: tuple[str, ...], kinds: Mapping[str, Callable[[str], Any]]) -> list[dict[str, str]]:
    """
    Read the rows of a CSV file as text, and check them.

    :param columns: the header that the file must have
    :param kinds: functions that can read the fields of a column, such as ``float``; other columns may hold any text
    :raises ValueError: if the file has another header, or is damaged
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            if tuple(reader.fieldnames or ()) != columns:
                raise ValueError(f"it has the columns {reader.fieldnames}, {list(columns)} are expected")
            rows = list(reader)
        for row in rows:
            if None in row or None in row.values():
                raise ValueError(f"a row has not {len(columns)} fields: {list(row.values())}")
            for column, kind in kinds.items():
                kind(row[column])
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path.name}: {error}") from error
    return rows


def read_curves(path: Path) -> list[Curve]:
    """
    Read the rows of :func:`collect` from a CSV file: one curve a run, in the order of the file.

    :raises ValueError: if the file has other columns, or is damaged
    """
    episodes: dict[tuple[str, str, int], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in read_csv(path, COLUMNS, {"seed": int, "timesteps": int, "return": float}):
        key = (row["environment"], row["variant"], int(row["seed"]))
        episodes[key][int(row["timesteps"])].append(float(row["return"]))
    return [
        Curve(*key, np.array(sorted(by_step)), np.array([np.mean(by_step[step]) for step in sorted(by_step)]))
        for key, by_step in episodes.items()
    ]


def scores(curves: Iterable[Curve]) -> dict[str, dict[str, dict[int, float]]]:
    """Order the scores by variant, environment and seed."""
    result: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for curve in curves:
        result[curve.variant][curve.environment][curve.seed] = curve.score
    return result


def complete_variants(by_variant: dict[str, dict[str, dict[int, float]]]) -> list[str]:
    """Find the variants that ran in all environments with the same seeds, as statistics over environments need."""
    environments = {env for by_env in by_variant.values() for env in by_env}
    return [
        variant
        for variant, by_env in by_variant.items()
        if set(by_env) == environments and len({frozenset(seeds) for seeds in by_env.values()}) == 1
    ]


def score_matrices(
    by_variant: dict[str, dict[str, dict[int, float]]], ranges: dict[str, tuple[float, float]]
) -> dict[str, np.ndarray]:
    """
    Put the scores of all environments on one scale: 0 and 1 are the ends of each environment's range.

    :param ranges: by environment; the default is from the lowest to the highest score of all runs
    :return: the scores of each complete variant, shape (n_seeds, n_environments)
    """
    variants = complete_variants(by_variant)
    environments = sorted({env for by_env in by_variant.values() for env in by_env})
    matrices = {
        variant: np.array([[by_variant[variant][env][seed] for env in environments] for seed in seeds])
        for variant in variants
        for seeds in [sorted(by_variant[variant][environments[0]])]
    }
    for column, env in enumerate(environments):
        everything = [score for by_env in by_variant.values() for score in by_env.get(env, {}).values()]
        low, high = ranges.get(env, (min(everything), max(everything)))
        for matrix in matrices.values():
            matrix[:, column] = (matrix[:, column] - low) / ((high - low) or 1.0)
    return matrices


@contextmanager
def same_bootstrap() -> Iterator[None]:
    """
    Make rliable draw the same bootstrap samples each time, so that the same file gives the same figures.

    rliable draws from numpy's global random state, whatever it is given. Afterwards that state is what it was.
    """
    before = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(before)


def iqm_with_interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Interquartile mean over runs, with a percentile-bootstrap interval; Agarwal et al. 2021,
    https://arxiv.org/abs/2108.13264

    :param values: of N runs at T points, shape (N, T)
    :return: interquartile means, shape (T,), and the ends of their intervals, shape (2, T)
    """
    from rliable import library
    from scipy.stats import trim_mean

    def statistic(sample: np.ndarray) -> np.ndarray:
        return trim_mean(sample[:, 0], 0.25)  # as rliable's `aggregate_iqm` does, but for all points at once

    with same_bootstrap():
        # rliable resamples the first axis (runs) and keeps the others.
        points, intervals = library.get_interval_estimates(
            {"runs": values[:, None, :]}, statistic, reps=N_BOOTSTRAP, confidence_interval_size=CONFIDENCE
        )
    return points["runs"], intervals["runs"]


def improvement(matrices: dict[str, np.ndarray]) -> dict[tuple[str, str], tuple[float, float, float]]:
    """
    Probability that a run of one variant beats a run of another in the same environment; Agarwal et al. 2021.

    :return: for each pair the probability that the first one is better, and the ends of its interval
    """
    from rliable import library, metrics

    names = list(matrices)
    pairs = [(one, other) for index, one in enumerate(names) for other in names[index + 1 :]]
    if not pairs:
        return {}
    with same_bootstrap():
        points, intervals = library.get_interval_estimates(
            {f"{index}": (matrices[one], matrices[other]) for index, (one, other) in enumerate(pairs)},
            metrics.probability_of_improvement,
            reps=N_BOOTSTRAP,
            confidence_interval_size=CONFIDENCE,
        )
    result = {}
    for index, pair in enumerate(pairs):
        low, high = np.ravel(intervals[f"{index}"]).tolist()
        result[pair] = (float(points[f"{index}"]), low, high)
    return result


def performance_profiles(
    matrices: dict[str, np.ndarray], thresholds: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """
    The share of runs whose score is above a threshold; Agarwal et al. 2021.

    :param thresholds: scores, shape (K,)
    :return: the shares of each variant, shape (K,), and the ends of their intervals, shape (2, K)
    """
    from rliable import library

    with same_bootstrap():
        return library.create_performance_profile(
            matrices, thresholds, reps=N_BOOTSTRAP, confidence_interval_size=CONFIDENCE
        )


def table(curves: list[Curve]) -> str:
    """Make a Markdown table with the interquartile mean of the scores, its interval, and every seed."""
    lines = [
        "| environment | variant | seeds | interquartile mean | 95 % interval | every seed | time steps |",
        "|---|---|---|---|---|---|---|",
    ]
    by_variant = scores(curves)
    for env in dict.fromkeys(curve.environment for curve in curves):
        for variant, by_env in by_variant.items():
            if env not in by_env:
                continue
            values = dict(sorted(by_env[env].items()))
            point, (low, high) = iqm_with_interval(np.array(list(values.values()))[:, None])
            steps = {int(c.timesteps[-1]) for c in curves if (c.environment, c.variant) == (env, variant)}
            interval = f"{low[0]:.4g} to {high[0]:.4g}" if len(values) > 1 else "-"
            each = ", ".join(f"{seed}: {value:.4g}" for seed, value in values.items())
            lines.append(
                f"| {env} | {variant} | {len(values)} | {point[0]:.4g} | {interval} | {each} | "
                f"{' to '.join(f'{step:,}' for step in sorted({min(steps), max(steps)}))} |"
            )
    return "\n".join(lines) + "\n"
