"""
Updates per second in two checkouts of this repository, before and after a change.

For each algorithm there are two processes, one for each checkout, which take turns (``turns.py``). A block is
``train()`` on a filled replay buffer, in as many calls as take about half a second or more. The figures are median and
quartiles of the ratios within a round. Run nothing else meanwhile.

    git worktree add /tmp/before <commit>
    python benchmarks/before_after.py --before /tmp/before --output benchmarks/results/before_after.csv

Models are made by this script, of whichever checkout: they have arguments only that both know. ``--table-only`` prints
the table of a CSV file again.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from random_env import BATCH_SIZE, UTD, RandomEnv, like_atari, like_cart_pole, like_mujoco
from separate_runs import add_threads
from turns import Contestant, Figures, measure, ratios, values_of

import sb3_ext

PACKAGES = ("torch", "stable-baselines3", "numpy")
COLUMN = "updates_per_s"


class Training(NamedTuple):
    """What is trained, and how: ``n_updates`` is what one block has, ``gradient_steps`` what one call of ``train``."""

    algorithm: str
    policy: str
    make_env: Callable[[], RandomEnv]
    batch_size: int
    gradient_steps: int
    n_updates: int
    arguments: dict[str, Any]


def trainings() -> dict[str, Training]:
    """
    :return: label, without options for speed -> what it stands for
    """
    redq = {"batch_size": BATCH_SIZE, "gradient_steps": UTD, "arguments": {"policy_kwargs": {"n_critics": 10}}}
    samples = {"n_quantile_samples": 8, "n_target_quantile_samples": 8, "n_action_quantile_samples": 32}
    made = {
        "REDQSAC, Humanoid": Training("REDQSAC", "MlpPolicy", partial(like_mujoco, "humanoid"), n_updates=80, **redq),
        "REDQSAC, Hopper": Training("REDQSAC", "MlpPolicy", partial(like_mujoco, "hopper"), n_updates=140, **redq),
    }
    # Eight updates a call, as with eight environments
    for name, n_updates, arguments in (("DoubleDQN", 40, {}), ("SoftDQN", 40, {}), ("IQN", 16, samples)):
        made[f"{name}, Atari"] = Training(name, "CnnPolicy", like_atari, 32, 8, n_updates, arguments)
    for name in ("DoubleDQN", "SoftDQN"):
        made[f"{name}, 64x64"] = Training(name, "MlpPolicy", like_cart_pole, 64, 8, 800, {})
    return made


SPEED: dict[str, dict[str, Any]] = {
    "": {},
    ", compiled": {"compile": True},
    ", bfloat16": {"autocast_dtype": "bfloat16"},
    ", bfloat16, compiled": {"autocast_dtype": "bfloat16", "compile": True},
}
CONTESTANTS = {
    name + suffix: (training, options) for name, training in trainings().items() for suffix, options in SPEED.items()
}


def filled_model(training: Training, n_stored: int, options: dict[str, Any]) -> Any:
    """
    :param training: what is trained
    :param n_stored: transitions in the replay buffer, which they fill
    :param options: further arguments of the algorithm
    :return: the model, before its first update
    """
    model = getattr(sb3_ext, training.algorithm)(
        training.policy,
        training.make_env(),
        batch_size=training.batch_size,
        buffer_size=n_stored,
        learning_starts=n_stored,
        seed=0,
        device="cpu",
        **training.arguments,
        **options,
    )
    return model.learn(n_stored)


def prepare(label: str, settings: dict[str, Any]) -> Callable[[], Figures]:
    """
    :param label: a key of ``CONTESTANTS``
    :param settings: ``folder`` of the checkout, transitions ``stored``, and ``updates`` of a block, ``None`` for the
        contestant's own number
    :return: a function that measures one block
    """
    imported = Path(sb3_ext.__file__).parents[1]
    if imported != Path(settings["folder"]):
        raise ImportError(f"sb3_ext comes from {imported}, not from the checkout {settings['folder']}")
    training, options = CONTESTANTS[label]
    model = filled_model(training, settings["stored"], options)
    n_calls = max((settings["updates"] or training.n_updates) // training.gradient_steps, 1)

    def block() -> Figures:
        start = time.perf_counter()
        for _ in range(n_calls):
            model.train(training.gradient_steps, training.batch_size)
        return {COLUMN: n_calls * training.gradient_steps / (time.perf_counter() - start)}

    for _ in range(3):  # compiles, and lets the allocator settle
        block()
    return block


def starts(label: str, args: argparse.Namespace) -> list[Callable[[], Contestant]]:
    """
    :param label: a key of ``CONTESTANTS``
    :param args: the command line
    :return: functions that start the process of each checkout
    """
    made = []
    for which, folder in (("before", args.before.resolve()), ("after", args.after.resolve())):
        settings = {"folder": str(folder), "stored": args.stored, "updates": args.updates}
        name = f"{label}: {which}"
        made.append(partial(Contestant, label, __file__, settings, args.threads, folder=folder, name=name))
    return made


def compared(rows: list[dict[str, Any]]) -> list[str]:
    """
    :param rows: of the CSV file
    :return: labels of which there are rows of both checkouts: the last one of an interrupted run may lack one
    """
    names = dict.fromkeys(row["contestant"] for row in rows)
    labels = [name.removesuffix(": before") for name in names if name.endswith(": before")]
    return [label for label in labels if f"{label}: after" in names]


def table(rows: list[dict[str, Any]]) -> str:
    """
    :param rows: of the CSV file
    :return: medians, and quartiles of the ratios within a round, as Markdown
    """
    lines = ["| | before | after | after / before | quartiles |", "|---|---|---|---|---|"]
    for label in compared(rows):
        before, after = f"{label}: before", f"{label}: after"
        old, new = (statistics.median(values_of(rows, name, COLUMN)) for name in (before, after))
        low, middle, high = ratios(rows, after, before, COLUMN)
        lines.append(f"| {label} | {old:.1f} | {new:.1f} | {middle:.3f} | {low:.3f} to {high:.3f} |")
    return "\n".join(lines)


def possible() -> list[str]:
    """
    :return: the contestants that do not need bfloat16 where the processor emulates it, which would take hours
    """
    from sb3_ext.speed.precision import cpu_computes_in_bfloat16

    return [label for label in CONTESTANTS if "bfloat16" not in label or cpu_computes_in_bfloat16()]


def parse() -> argparse.Namespace:
    from reporting import measured_rows

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="root of the checkout to compare with")
    parser.add_argument("--after", type=Path, default=Path(__file__).parents[1], help="this one by default")
    parser.add_argument("--output", type=Path, required=True, help="CSV file for the raw measurements")
    parser.add_argument("--table-only", action="store_true", help="print the table of --output, measure nothing")
    parser.add_argument("--repeats", type=int, default=15, help="blocks of each contestant")
    parser.add_argument("--updates", type=int, help="of one block; by default as many as take half a second or more")
    parser.add_argument("--stored", type=int, default=2000, help="transitions in the replay buffer")
    add_threads(parser)
    parser.add_argument("--contestants", nargs="+", metavar="LABEL", help=f"of {'; '.join(CONTESTANTS)}")
    args = parser.parse_args()
    if args.table_only:
        args.rows = measured_rows(parser, args.output, COLUMN)
        if not compared(args.rows):
            parser.error(f"--output {args.output} has nothing to compare, 'LABEL: before' with 'LABEL: after'")
        return args
    if args.before is None:
        parser.error("--before is missing")
    for option, folder in (("before", args.before), ("after", args.after)):
        if not (folder / "sb3_ext").is_dir():
            parser.error(f"--{option} {folder}: there is no folder sb3_ext in it")
    args.contestants = args.contestants or possible()
    unknown = [label for label in args.contestants if label not in CONTESTANTS]
    if unknown:
        parser.error(f"unknown contestants {unknown}, known are {list(CONTESTANTS)}")
    for name, minimum in (("repeats", 2), ("stored", BATCH_SIZE)):
        if getattr(args, name) < minimum:
            parser.error(f"--{name} {getattr(args, name)} must be at least {minimum}")
    return args


def main() -> None:
    # Not above: the process of a contestant imports this module with the package of its checkout, where these may not
    # be what they are here
    from reporting import commit_of, machine, write_csv

    args = parse()
    if args.table_only:
        print(table(args.rows))
        return
    rows: list[dict[str, Any]] = []
    commits = {folder: commit_of(folder) for folder in (args.before, args.after)}
    described = machine(*PACKAGES, n_threads=args.threads)
    described += f"; before: {commits[args.before]}; after: {commits[args.after]}"
    for label in args.contestants:
        for row in measure(starts(label, args), args.repeats, label):
            rows.append(row)
            write_csv(args.output, rows, described, commits)  # as it comes: an interruption loses one block
    print(described)
    print(table(rows))


if __name__ == "__main__":
    main()
