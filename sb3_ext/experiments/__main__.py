"""
Experiments from a file: environments x variants x seeds, through rl_zoo3.

    python -m sb3_ext.experiments run examples/experiments/inverted_pendulum_actor_gradients.yml --jobs 2
    python -m sb3_ext.experiments status FILE
    python -m sb3_ext.experiments plot FILE
    python -m sb3_ext.experiments film FILE --gif

`run` trains what is not finished yet, then draws figures and a table. If it is interrupted, simply start it again.
"""

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sb3_ext.experiments.diagnoses import DIAGNOSIS_COLUMNS, collect_diagnoses, draw_all_diagnoses, read_diagnoses
from sb3_ext.experiments.figures import draw_all, styles
from sb3_ext.experiments.films import NoFilm, film, one_of_each
from sb3_ext.experiments.grid import Experiment, load_experiment
from sb3_ext.experiments.local import run_locally
from sb3_ext.experiments.rehearsal import rehearse
from sb3_ext.experiments.results import COLUMNS, RUN_COLUMNS, collect, read_curves, table, write_csv
from sb3_ext.experiments.runs import RunFolder, Status, read_json, write_json
from sb3_ext.experiments.scalars import TRAINING_COLUMNS, collect_training, draw_all_training, read_training
from sb3_ext.files import replaced_when_complete


@dataclass(frozen=True)
class Grid:
    """An experiment and the folder of its runs."""

    experiment: Experiment
    root: Path

    @property
    def folders(self) -> list[RunFolder]:
        return [RunFolder(self.root, run) for run in self.experiment.runs]


def load(args: argparse.Namespace) -> Grid:
    """
    Load the experiment that the command line names.

    :raises ValueError: if the file or the number of time steps is not allowed, or a finished run had other settings
    """
    experiment = load_experiment(args.file)
    if args.n_timesteps is not None:
        if args.n_timesteps < 1:
            raise ValueError(f"--n-timesteps {args.n_timesteps} must be 1 or more")
        experiment = experiment.with_timesteps(args.n_timesteps)
    # A trial with fewer steps has a folder of its own, so that it does not stand in the way of the real runs.
    name = experiment.name if args.n_timesteps is None else f"{experiment.name}_{args.n_timesteps}"
    grid = Grid(experiment, args.log_folder or Path("logs") / "experiments" / name)
    for folder in grid.folders:
        folder.check_settings()
    return grid


def show(*parts: object) -> None:
    """Print. It is no error if the reader has read enough, as ``| head`` has."""
    try:
        print(*parts, flush=True)
    except BrokenPipeError:  # Python would try once more at its exit, unless the rest goes nowhere
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def run(args: argparse.Namespace) -> int:
    """Train what is not finished yet, then draw. The exit status is 0 if all runs are finished and drawn."""
    for name in ("jobs", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} {value} must be 1 or more")
    if args.gpus < 0 or (args.gpus and args.backend != "ray"):
        raise ValueError(f"--gpus {args.gpus} must be 0 or more, and is for --backend ray")
    grid = load(args)
    rehearse(args.file, [folder.run for folder in grid.folders if not folder.is_finished()])
    if args.backend == "ray":
        from sb3_ext.experiments.ray_backend import run_on_ray

        run_on_ray(grid.folders, args.jobs, args.threads or 1, args.gpus)
    else:
        run_locally(grid.folders, args.jobs, args.threads or max((os.cpu_count() or 1) // args.jobs, 1))
    drawn = plot_grid(grid, args.output)
    unfinished = [folder for folder in grid.folders if folder.status() is not Status.FINISHED]
    for folder in unfinished:
        print(f"not finished: {folder.run.name}: {folder.status().value}", file=sys.stderr)
    return 1 if unfinished else drawn


def status(args: argparse.Namespace) -> int:
    """Show how far each run is."""
    grid = load(args)
    width = max(len(folder.run.name) for folder in grid.folders)
    states = [folder.status() for folder in grid.folders]
    for folder, state in zip(grid.folders, states, strict=True):
        detail = folder.reason_of_failure() if state is Status.FAILED else ""
        if state is Status.RUNNING:
            detail = f"{folder.n_steps_seen():,} of {folder.run.n_timesteps:,} time steps at the last evaluation"
        show(f"{folder.run.name:{width}}  {state.value:11}  {detail}".rstrip())
    show(", ".join(f"{states.count(state)} {state.value}" for state in Status if state in states))
    return 0


def plot(args: argparse.Namespace) -> int:
    """Draw the finished runs."""
    return plot_grid(load(args), args.output)


def plot_grid(grid: Grid, output: Path | None) -> int:
    """
    Write the raw returns of the finished runs as CSV, figures and a table, by default beside the runs.

    :return: the exit status: 1 if something could not be read, or no run is finished
    """
    output = output or grid.root / "report"
    rows, runs, problems = collect(grid.folders)
    diagnoses, unreadable = collect_diagnoses(grid.folders)
    training, without_training = collect_training(grid.folders)
    problems += [*unreadable, *without_training]
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    if not rows:
        print(f"no run of {grid.experiment.name} is finished: nothing to draw", file=sys.stderr)
        return 1
    write_csv(output / "returns.csv", COLUMNS, rows)
    write_csv(output / "runs.csv", RUN_COLUMNS, runs)
    write_json(output / "score_range.json", grid.experiment.score_range)
    write_or_remove(output / "diagnosis.csv", DIAGNOSIS_COLUMNS, diagnoses)
    write_or_remove(output / "training.csv", TRAINING_COLUMNS, training)
    draw(output)
    return 1 if problems else 0


def write_or_remove(path: Path, columns: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    """Write rows to a CSV file. Without rows an older file goes, which may be of runs with other settings."""
    if rows:
        write_csv(path, columns, rows)
    else:
        path.unlink(missing_ok=True)


def draw(folder: Path) -> None:
    """
    Draw figures and a table from ``returns.csv``, ``score_range.json``, ``diagnosis.csv`` and ``training.csv`` in a
    folder.

    Only ``returns.csv`` must exist.
    """
    curves = read_curves(folder / "returns.csv")
    ranges = read_json(folder / "score_range.json") if (folder / "score_range.json").exists() else {}
    text = table(curves)
    with replaced_when_complete(folder / "table.md") as file:
        file.write(text.encode())
    diagnoses = read_diagnoses(folder / "diagnosis.csv") if (folder / "diagnosis.csv").exists() else {}
    training = read_training(folder / "training.csv") if (folder / "training.csv").exists() else {}
    # Each variant has the same style in all figures.
    measured = [variant for by_variant in diagnoses.values() for variant in by_variant]
    measured += [variant for by_variant in training.values() for variant in by_variant]
    line_styles = styles(dict.fromkeys([*(curve.variant for curve in curves), *measured]))
    paths = [
        folder / "table.md",
        *draw_all(curves, ranges, line_styles, folder),
        *draw_all_diagnoses(diagnoses, line_styles, folder),
        *draw_all_training(training, line_styles, folder),
    ]
    show(text)
    show("wrote", *paths)


def record(args: argparse.Namespace) -> int:
    """Film one finished run of each variant in each environment. The exit status is 1 if one could not be filmed."""
    if args.steps < 1:
        raise ValueError(f"--steps {args.steps} must be 1 or more")
    grid = load(args)
    folders = list(one_of_each(grid.folders))
    if not folders:
        print(f"no run of {grid.experiment.name} is finished: nothing to film", file=sys.stderr)
    status = 0 if folders else 1
    for folder in folders:
        try:
            show("wrote", film(folder, args.output or grid.root / "report", args.steps, args.gif))
        except NoFilm as error:
            print(error, file=sys.stderr)
            status = 1
    return status


def redraw(args: argparse.Namespace) -> int:
    """Draw figures and a table again, without the runs."""
    draw(args.folder)
    return 0


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    result = argparse.ArgumentParser(
        prog="python -m sb3_ext.experiments", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = result.add_subparsers(dest="command", required=True)
    for name, function, text in (
        ("run", run, "train what is not finished yet, then draw"),
        ("status", status, "how far each run is"),
        ("plot", plot, "draw the finished runs"),
        ("film", record, "film one finished run of each variant"),
    ):
        command = commands.add_parser(name, help=text)
        command.set_defaults(function=function)
        command.add_argument("file", type=Path, help="experiment file, YAML")
        command.add_argument(
            "-f", "--log-folder", type=Path, help="of the runs; default logs/experiments/<file>, with -n <file>_<n>"
        )
        command.add_argument("-n", "--n-timesteps", type=int, help="of every run, instead of the file's")
        if name != "status":
            command.add_argument(
                "-o", "--output", type=Path, help="for what is drawn or filmed; default <log folder>/report"
            )
        if name == "film":
            command.add_argument("--steps", type=int, default=500, help="length of a film in steps of the environment")
            command.add_argument("--gif", action="store_true", help="GIF files, 320 pixels wide, in place of MP4")
        if name == "run":
            command.add_argument("-j", "--jobs", type=int, default=1, help="runs at a time")
            command.add_argument("--threads", type=int, help="of PyTorch for each run; default: the cores shared out")
            command.add_argument(
                "--gpus", type=float, default=0.0, help="that Ray reserves for each run, also parts of one"
            )
            command.add_argument("--backend", choices=("local", "ray"), default="local", help="ray: on a Ray cluster")
    command = commands.add_parser("redraw", help="figures and table from a folder with returns.csv, without the runs")
    command.set_defaults(function=redraw)
    command.add_argument("folder", type=Path)
    return result


def main(arguments: list[str] | None = None) -> int:
    """Run the command line, and return the exit status."""
    args = parser().parse_args(arguments)
    try:
        return args.function(args)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on with what is not finished", file=sys.stderr)
        return 130
    except (OSError, ValueError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
