"""
From runs of rl_zoo3 to the committed results: raw returns and commands as CSV, and the figures drawn from them.

    python benchmarks/learning_curves.py collect logs/*/*/*_1 --output docs/results/redq_sac
    python benchmarks/learning_curves.py plot docs/results/redq_sac --figure redq_sac.png
    python benchmarks/learning_curves.py draw docs/figures/figures.yml

``collect`` writes ``returns.csv`` (every evaluation episode of every run that it is given) and ``runs.csv`` (command,
seed, versions and processor of each; so collect in the environment, and on the machine, that they ran in). A run's
variant is what ``--log-folder`` ended in, without the seed: ``logs/hopper_redq_1`` is seed 1 of ``hopper_redq``. With
``--training`` the returns are those of the training episodes, from the monitor files, as Atari results are published.
``minutes.csv`` has the minutes that each run had taken by each evaluation, as its monitor file tells, and beyond its
last episode at the pace until then. On a machine that did other things meanwhile they are too many.

``plot`` draws all that these files and ``published.csv`` have. ``draw`` makes the figures of the pages, which a YAML
file describes.
"""

import argparse
import csv
import itertools
import math
import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib.axes import Axes

from sb3_ext.experiments.figures import add_legend, count_in_thousands, n_seeds, new_figure, save_as
from sb3_ext.experiments.worker import versions

ATARI_FRAME_SKIP = 4
# Okabe and Ito's palette and a brown, told apart by colour-blind readers; the line style says it once more
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F4F24"]
LINES = ["-", "--", "-.", ":"]
STYLES = [(color, LINES[(index + shift) % 4]) for shift in range(4) for index, color in enumerate(COLORS)]
PUBLISHED = ", published"
MAX_PANELS, MAX_LINES = 4, 5
PUBLISHED_STYLES = [("o", "0.35"), ("s", "0.55"), ("^", "0.7"), ("D", "0.35"), ("v", "0.55"), ("P", "0.7")]


class _ArgsLoader(yaml.SafeLoader):
    """Reads the ``args.yml`` of a run: an OrderedDict that PyYAML wrote as a tagged list of pairs."""


def _ordered_dict(loader: yaml.SafeLoader, node: yaml.Node) -> dict[str, Any]:
    (pairs,) = loader.construct_sequence(node, deep=True)  # type: ignore[arg-type]
    return dict(pairs)


_ArgsLoader.add_constructor("tag:yaml.org,2002:python/object/apply:collections.OrderedDict", _ordered_dict)


def training_episodes(folder: Path) -> list[dict[str, Any]]:
    """
    :param folder: of a run on Atari
    :return: timesteps (of all environments together) at which an episode ended, number of its environment, return
    """
    files = sorted(folder.glob("*.monitor.csv"), key=lambda path: int(path.name.split(".")[0]))
    rows = []
    for index, path in enumerate(files):
        n_frames = 0
        with path.open(newline="") as file:
            next(file)  # a comment
            for episode in csv.DictReader(file):
                # The monitor is closest to the emulator: it counts frames, also the 30 or fewer of no-ops before a game
                n_frames += int(episode["l"])
                steps = n_frames * len(files) // ATARI_FRAME_SKIP
                rows.append({"timesteps": steps, "episode": index, "return": float(episode["r"])})
    return sorted(rows, key=lambda row: row["timesteps"])


def evaluation_episodes(folder: Path) -> list[dict[str, Any]]:
    """
    :param folder: of a run
    :return: timesteps, number and return of each evaluation episode
    :raises FileNotFoundError: if the run has no evaluation
    """
    evaluations = np.load(folder / "evaluations.npz")
    return [
        {"timesteps": int(step), "episode": episode, "return": round(float(value), 3)}
        for step, values in zip(evaluations["timesteps"], evaluations["results"], strict=True)
        for episode, value in enumerate(values)
    ]


def evaluation_minutes(folder: Path, timesteps: Iterable[int]) -> list[dict[str, Any]]:
    """
    :param folder: of a run with one environment
    :param timesteps: of its evaluations
    :return: timesteps, and minutes since the run began; beyond the last whole episode at the pace of the second half of
        the steps
    """
    path = folder / "0.monitor.csv"
    if not path.exists() or (folder / "1.monitor.csv").exists():  # steps of several environments do not add up so
        return []
    with path.open(newline="") as file:
        next(file)  # a comment
        episodes = list(csv.DictReader(file))
    if not episodes:
        return []
    ends = np.cumsum([0, *(int(episode["l"]) for episode in episodes)])
    minutes = np.array([0.0, *(float(episode["t"]) / 60 for episode in episodes)])
    half = int(np.searchsorted(ends, ends[-1] / 2, side="right")) - 1
    pace = (minutes[-1] - minutes[half]) / (ends[-1] - ends[half])
    result = []
    for step in sorted(set(timesteps)):
        taken = np.interp(step, ends, minutes) + pace * max(step - ends[-1], 0)
        result.append({"timesteps": step, "minutes": round(float(taken), 2)})
    return result


def read_run(folder: Path, training: bool = False) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """
    :param folder: of one run, ``logs/<variant>_<seed>/<algo>/<env>_<n>``
    :param training: take the training episodes, not those of the evaluations
    :return: one row for each episode, and the row that describes the run
    """
    env = folder.name.rpartition("_")[0]
    args = yaml.load((folder / env / "args.yml").read_text(), _ArgsLoader)
    seed = int(args["seed"])
    variant = Path(args["log_folder"]).name.removesuffix(f"_{seed}")
    identity = dict(env=env, variant=variant, seed=seed)
    episodes = training_episodes(folder) if training else evaluation_episodes(folder)
    rows = [identity | episode for episode in episodes]
    # rl_zoo3 joins the arguments with spaces, unquoted. Where Python lies is the machine's affair
    words = (folder / env / "command.txt").read_text().split(" ")
    start = words.index("-m") if "-m" in words else 1
    command = shlex.join(["python" if "-m" in words else "rl_zoo3", *words[start:]])
    installed = " ".join(f"{name}={version}" for name, version in versions().items())
    return rows, identity | {"command": command, "versions": installed}


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write beside, then rename: a reader never sees half a file."""
    partial = path.with_suffix(".part")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(path)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


RunKey = tuple[str, str, int]


def rows_by_run(path: Path) -> dict[RunKey, list[dict[str, Any]]]:
    """
    :param path: of a CSV file of results, which may be missing
    :return: its rows by environment, variant and seed
    """
    result: dict[RunKey, list[dict[str, Any]]] = defaultdict(list)
    for row in read_csv(path) if path.exists() else []:
        result[row["env"], row["variant"], int(row["seed"])].append(row)
    return result


def collect(folders: Iterable[Path], output: Path, training: bool = False) -> None:
    """
    Add runs to the results in ``output``; a run that is there already is replaced.
    """
    output.mkdir(parents=True, exist_ok=True)
    files = {name: rows_by_run(output / f"{name}.csv") for name in ("returns", "runs", "minutes")}
    for folder in folders:
        rows, run = read_run(folder, training)
        key = (run["env"], run["variant"], run["seed"])
        identity = dict(zip(("env", "variant", "seed"), key, strict=True))
        minutes = [] if training else evaluation_minutes(folder, (row["timesteps"] for row in rows))
        files["returns"][key], files["runs"][key] = rows, [run]
        files["minutes"][key] = [identity | row for row in minutes]
        print(f"{key}: {len(rows)} episodes")
    for name, by_run in files.items():
        if any(by_run.values()):
            write_csv(output / f"{name}.csv", [row for key in sorted(by_run) for row in by_run[key]])


Curve = dict[int, list[float]]


def curves_by_variant(rows: list[dict[str, str]], bin_size: int = 1) -> dict[str, dict[str, dict[int, Curve]]]:
    """
    :param rows: of ``returns.csv``
    :param bin_size: time steps are rounded up to a multiple of it
    :return: environment -> variant -> seed -> time step -> returns of the episodes; without a last bin that the run
        has not got half through: an episode or two
    """
    result: dict[str, dict[str, dict[int, Curve]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    )
    last_steps: dict[tuple[str, str, int], int] = defaultdict(int)
    for row in rows:
        step = -(-int(row["timesteps"]) // bin_size) * bin_size
        result[row["env"]][row["variant"]][int(row["seed"])][step].append(float(row["return"]))
        run = (row["env"], row["variant"], int(row["seed"]))
        last_steps[run] = max(last_steps[run], int(row["timesteps"]))
    for (env, variant, seed), last_step in last_steps.items():
        curve = result[env][variant][seed]
        if len(curve) > 1 and last_step <= max(curve) - bin_size / 2:
            del curve[max(curve)]
    return result


Clocks = dict[RunKey, dict[int, float]]


def renamed(rows: Iterable[dict[str, str]], lines: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """Keep the rows of some variants, under the names of their lines."""
    names = {variant: name for name, variants in lines.items() for variant in variants}
    return [row | {"variant": names[row["variant"]]} for row in rows if row["variant"] in names]


def plot(
    results: Path,
    figure: Path,
    bin_size: int = 1,
    in_minutes: bool = False,
    lines: Mapping[str, Sequence[str]] | None = None,
    envs: Sequence[str] | None = None,
    published: Mapping[str, str] | None = None,
) -> None:
    """
    One panel an environment: every seed as a thin line, their mean as a thick one, published curves in grey.

    :param in_minutes: draw against minutes. Published curves have none
    :param lines: for each entry of the legend its variants, at most one in each environment; ``None``: all, by their
        names
    :param envs: the environments to draw, in this order; ``None``: all
    :param published: for each entry of the legend its name in ``published.csv``; ``None``: all, by their names
    :raises ValueError: if there is nothing to draw
    """
    rows = read_csv(results / "returns.csv")
    drawn = sorted({row["env"] for row in rows}) if envs is None else list(envs)
    missing = [env for env in drawn if env not in {row["env"] for row in rows}]
    if missing or not drawn:
        raise ValueError(f"{results} has no runs in {missing}")
    rows = [row for row in rows if row["env"] in drawn]
    if lines is None:
        lines = {variant: [variant] for variant in sorted({row["variant"] for row in rows})}
    _check_names(lines, rows)
    by_env = curves_by_variant(renamed(rows, lines), bin_size)
    others = [] if in_minutes or not (results / "published.csv").exists() else read_csv(results / "published.csv")
    if published is None:
        published = {algo: algo for algo in sorted({row["algo"] for row in others if row["env"] in drawn})}
    unknown = set(published.values()) - {row["algo"] for row in others if row["env"] in drawn}
    if unknown:
        raise ValueError(f"{results / 'published.csv'} has no {sorted(unknown)} in {drawn}")
    clocks: Clocks | None = None
    if in_minutes:
        timed = (row for rows in rows_by_run(results / "minutes.csv").values() for row in rows)
        clocks = defaultdict(dict)
        for row in renamed(timed, lines):
            clocks[row["env"], row["variant"], int(row["seed"])][int(row["timesteps"])] = float(row["minutes"])
    styles = dict(zip(lines, itertools.cycle(STYLES), strict=False))
    labels = {name: f"{name} ({n_seeds(len(by_env[env].get(name, {})) for env in drawn)})" for name in lines}
    fig, axes = new_figure(len(drawn))
    for axis, env in zip(axes, drawn, strict=True):
        last_place = draw_runs(axis, env, by_env[env], labels, styles, clocks)
        draw_published(axis, env, others, published, 1.7 * last_place)
        axis.set(
            title=env,
            xlabel="environment steps" if clocks is None else "minutes",
            ylabel="training return" if bin_size > 1 else "evaluation return",
            xlim=(0, last_place * 1.02),
        )
        if clocks is None:
            count_in_thousands(axis)
        axis.grid(alpha=0.3)
    add_legend(fig, [*labels.values(), *(name + PUBLISHED for name in published)])
    figure.parent.mkdir(parents=True, exist_ok=True)
    save_as(fig, figure)
    print(f"wrote {figure}")


def _check_names(lines: Mapping[str, Sequence[str]], rows: Iterable[Mapping[str, str]]) -> None:
    """Raise a ValueError for a variant without rows or in two lines, and for two variants of a line in one panel."""
    named = [variant for variants in lines.values() for variant in variants]
    envs_of: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        envs_of[row["variant"]].add(row["env"])
    missing = set(named) - set(envs_of)
    if missing or len(set(named)) < len(named):
        twice = {variant for variant in named if named.count(variant) > 1}
        raise ValueError(f"lines={dict(lines)}: without runs {sorted(missing)}, in two lines {sorted(twice)}")
    for name, variants in lines.items():
        for one, other in itertools.combinations(sorted(variants), 2):
            shared = envs_of[one] & envs_of[other]
            if shared:
                raise ValueError(f"{name!r} has more than one variant in {min(shared)}: {[one, other]}")


def draw(description: Path) -> None:
    """
    Draw the figures of a YAML file beside it: for each file name ``results`` (a folder beside the file's) and the
    arguments of :func:`plot`.

    :raises ValueError: for unknown arguments, or more panels and lines than can be read in a page
    """
    for name, settings in yaml.safe_load(description.read_text()).items():
        unknown = set(settings) - {"results", "bin", "minutes", "lines", "envs", "published"}
        if unknown:
            raise ValueError(f"{description}, {name}: {sorted(unknown)} are no settings")
        lines, published, envs = settings["lines"], settings.get("published", {}), settings["envs"]
        if len(envs) > MAX_PANELS or len(lines | published) > MAX_LINES:
            raise ValueError(f"{description}, {name}: at most {MAX_PANELS} panels and {MAX_LINES} lines can be read")
        results = description.parent.parent / "results" / settings["results"]
        kind = dict(bin_size=settings.get("bin", 1), in_minutes=settings.get("minutes", False))
        plot(results, description.parent / name, **kind, lines=lines, envs=envs, published=published)


def draw_runs(
    axis: Axes,
    env: str,
    seeds_by_variant: dict[str, dict[int, Curve]],
    labels: dict[str, str],
    styles: dict[str, tuple[str, str]],
    clocks: Clocks | None,
) -> float:
    """
    :param labels: of each variant in the legend
    :param styles: color and line style of each variant
    :param clocks: minutes of each run at its time steps; ``None``: draw against time steps
    :return: how far to the right a curve reaches
    """

    def position(variant: str, seed: int, step: int) -> float:
        return step if clocks is None else clocks.get((env, variant, seed), {}).get(step, math.nan)

    last_place = 0.0
    for variant, seeds in sorted(seeds_by_variant.items()):
        color, style = styles[variant]
        means = {seed: {step: float(np.mean(returns)) for step, returns in c.items()} for seed, c in seeds.items()}
        for seed, curve in means.items():
            points = [(position(variant, seed, step), value) for step, value in sorted(curve.items())]
            axis.plot(*zip(*points, strict=True), style, color=color, alpha=0.35, linewidth=1)
        # The mean only where there are all seeds: else it would jump where one ends
        steps = sorted(set.intersection(*(set(curve) for curve in means.values())))
        over_seeds = [float(np.mean([curve[step] for curve in means.values()])) for step in steps]
        places = [float(np.mean([position(variant, seed, step) for seed in means])) for step in steps]
        axis.plot(places, over_seeds, style, color=color, linewidth=2.2, label=labels[variant])
        reached = [position(variant, seed, step) for seed, curve in means.items() for step in curve]
        last_place = max([last_place, *(place for place in reached if not math.isnan(place))])
    return last_place


def draw_published(
    axis: Axes, env: str, rows: list[dict[str, str]], published: Mapping[str, str], last_step: float
) -> None:
    """
    :param rows: of ``published.csv``
    :param published: for each entry of the legend its name in ``rows``
    :param last_step: leave out what comes after it
    """
    for (marker, gray), (name, algo) in zip(itertools.cycle(PUBLISHED_STYLES), published.items(), strict=False):
        points = [(float(row["steps"]), float(row["mean"])) for row in rows if (row["env"], row["algo"]) == (env, algo)]
        points = [point for point in points if point[0] <= last_step]
        if points:
            every = math.ceil(len(points) / 8)
            axis.plot(
                *zip(*points, strict=True),
                marker=marker,
                markersize=4,
                markevery=every,
                color=gray,
                lw=1,
                label=name + PUBLISHED,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    collecting = commands.add_parser("collect", help="runs of rl_zoo3 to CSV")
    collecting.add_argument("folders", type=Path, nargs="+", help="run folders, as <log folder>/<algo>/<env>_1")
    collecting.add_argument("--output", type=Path, required=True)
    collecting.add_argument("--training", action="store_true", help="training episodes of Atari, from monitor files")
    plotting = commands.add_parser("plot", help="CSV to figure")
    plotting.add_argument("results", type=Path)
    plotting.add_argument("--figure", type=Path, required=True)
    plotting.add_argument("--minutes", action="store_true", help="against minutes, of runs that have a monitor file")
    plotting.add_argument("--bin", type=int, default=1, help="average over so many steps (training returns)")
    drawing = commands.add_parser("draw", help="the figures that a YAML file describes")
    drawing.add_argument("description", type=Path)
    args = parser.parse_args()
    if args.command == "collect":
        collect(args.folders, args.output, args.training)
    elif args.command == "draw":
        draw(args.description)
    else:
        plot(args.results, args.figure, args.bin, args.minutes)


if __name__ == "__main__":
    main()
