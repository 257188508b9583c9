"""
Does REDQSAC learn what the code of REDQ's authors learns? Both with the paper's settings, at a size that allows many
seeds: 5 critics of 2x64 units, 5 updates a step, 2,000 random steps.

    git clone https://github.com/watchernyu/REDQ
    python benchmarks/redq_against_authors.py all --seeds 0 1 2 3 4 5 --authors-code REDQ --output raw.csv
    python benchmarks/redq_against_authors.py summary --output raw.csv

``all`` trains one run after the other, each in a process with one thread, and skips those that ``--output`` already
has. ``train`` is one of them. After every 2,500 steps the same code evaluates both, in 10 episodes of an environment of
its own with the mean action. The file gets one row for each episode. CPU seconds are those of the training so far.

``ours_xavier`` is a third contestant: REDQSAC with the authors' initial weights (Xavier's, biases of 0), where the two
differ most.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from authors_redq import HOW_TO_GET_IT
from authors_training import has_training, train_authors
from reporting import command_line, commit_of, machine, read_csv
from torch import nn

import sb3_ext
from sb3_ext import REDQSAC

AUTHORS = "authors"
CONTESTANTS = ("ours", AUTHORS, "ours_xavier")
COLUMNS = ("contestant", "env", "seed", "steps", "episode", "return", "length", "cpu_seconds")
PACKAGES = ("torch", "stable-baselines3", "gymnasium", "mujoco", "numpy")
#: MBPO's, as in the authors' ``mbpo_target_entropy_dict``; elsewhere minus the number of action dimensions
TARGET_ENTROPIES = {"Hopper-v4": -1, "HalfCheetah-v4": -3, "Walker2d-v4": -3, "Ant-v4": -4, "Humanoid-v4": -2}
LEARNING_RATE, GAMMA, TAU, SUBSET_SIZE = 3e-4, 0.99, 0.005, 2
SETTINGS_MARK = "# settings: "

Act = Callable[[np.ndarray], np.ndarray]
#: (contestant, seed) -> steps -> returns of the episodes
Runs = dict[tuple[str, int], dict[int, list[float]]]


@dataclass(frozen=True)
class Settings:
    """What both contestants are given. The names are those of the options."""

    env: str = "Hopper-v4"
    steps: int = 25_000
    eval_every: int = 2500
    episodes: int = 10
    learning_starts: int = 2000
    n_critics: int = 5
    width: int = 64
    utd: int = 5
    batch_size: int = 256


class Evaluations:
    """
    Evaluates a run as it goes, and appends its episodes to the file.

    The first states depend on the seed alone, so both contestants meet the same.

    :param settings: of the run
    :param contestant: a member of ``CONTESTANTS``
    :param seed: of the run
    :param output: CSV file, which exists
    """

    def __init__(self, settings: Settings, contestant: str, seed: int, output: Path) -> None:
        self.settings, self.output = settings, output
        self.identity = {"contestant": contestant, "env": settings.env, "seed": seed}
        self.env = gym.make(settings.env)
        self.env.reset(seed=10_000 + seed)
        self.cpu_seconds, self._resumed = 0.0, time.process_time()

    def after_step(self, n_steps: int, act: Act) -> None:
        """
        Evaluate if it is time.

        :param n_steps: environment steps so far
        :param act: returns the mean action in one state
        """
        if n_steps % self.settings.eval_every or n_steps > self.settings.steps:
            return
        self.cpu_seconds += time.process_time() - self._resumed
        row = {**self.identity, "steps": n_steps, "cpu_seconds": f"{self.cpu_seconds:.1f}"}
        with self.output.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writerows([{**row, "episode": i, **self._episode(act)} for i in range(self.settings.episodes)])
        self._resumed = time.process_time()

    def _episode(self, act: Act) -> dict[str, Any]:
        obs, _ = self.env.reset()
        total, length, ended = 0.0, 0, False
        while not ended:
            obs, reward, terminated, truncated, _ = self.env.step(act(obs))
            total, length, ended = total + float(reward), length + 1, terminated or truncated
        return {"return": f"{total:.3f}", "length": length}


def xavier(module: nn.Module) -> None:
    """The authors' ``weights_init_``."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


def make_ours(settings: Settings, contestant: str, seed: int) -> REDQSAC:
    """
    :param settings: of the run
    :param contestant: ``"ours"`` or ``"ours_xavier"``
    :param seed: of the run
    :return: a model that has not learned yet
    """
    model = REDQSAC(
        "MlpPolicy",
        gym.make(settings.env),
        learning_rate=LEARNING_RATE,
        buffer_size=settings.steps + 1,
        learning_starts=settings.learning_starts,
        batch_size=settings.batch_size,
        tau=TAU,
        gamma=GAMMA,
        gradient_steps=settings.utd,
        policy_delay=settings.utd,
        subset_size=SUBSET_SIZE,
        target_entropy=TARGET_ENTROPIES.get(settings.env, "auto"),
        policy_kwargs={"n_critics": settings.n_critics, "net_arch": [settings.width] * 2},
        seed=seed,
        device="cpu",
    )
    if contestant == "ours_xavier":
        model.actor.apply(xavier)
        model.critic.apply(xavier)
        model.critic_target.load_state_dict(model.critic.state_dict())
    return model


def train(settings: Settings, contestant: str, seed: int, output: Path, authors_code: Path | None) -> None:
    """
    Train one contestant with one thread, on the CPU, and append its evaluations to the file.

    :param settings: of the run
    :param contestant: a member of ``CONTESTANTS``
    :param seed: of the run
    :param output: CSV file, which exists
    :param authors_code: checkout of their repository
    """
    th.set_num_threads(1)
    evaluations = Evaluations(settings, contestant, seed, output)
    if contestant != AUTHORS:
        model = make_ours(settings, contestant, seed)
        for n_steps in range(settings.eval_every, settings.steps + 1, settings.eval_every):
            model.learn(settings.eval_every, reset_num_timesteps=False)
            evaluations.after_step(n_steps, lambda obs: model.predict(obs, deterministic=True)[0])
        return
    assert authors_code is not None
    train_authors(
        authors_code,
        settings.env,
        seed,
        settings.steps,
        lambda n_steps, agent: evaluations.after_step(n_steps, agent.get_test_action),
        hidden_sizes=(settings.width, settings.width),
        replay_size=settings.steps + 1001,  # they go on to the next multiple of 1000
        batch_size=settings.batch_size,
        lr=LEARNING_RATE,
        gamma=GAMMA,
        polyak=1 - TAU,
        target_entropy="mbpo" if settings.env in TARGET_ENTROPIES else "auto",
        start_steps=settings.learning_starts,
        utd_ratio=settings.utd,
        num_Q=settings.n_critics,
        num_min=SUBSET_SIZE,
        policy_update_delay=settings.utd,
    )


def train_all(settings: Settings, args: argparse.Namespace) -> None:
    """
    Train all that the file lacks, one after the other. The contestants alternate, so that early results compare them.

    :param settings: of the runs
    :param args: the command line
    """
    options = [word for name, value in asdict(settings).items() for word in (option_of(name), str(value))]
    options += ["--output", str(args.output)]
    options += [] if args.authors_code is None else ["--authors-code", str(args.authors_code)]
    for seed in args.seeds:
        for contestant in args.contestants:
            if (contestant, seed) in finished(runs_of(read_csv(args.output)), settings.steps):
                print(f"{contestant}, seed {seed}: is in {args.output}")
                continue
            start = time.perf_counter()
            command = [sys.executable, __file__, "train", "--contestant", contestant, "--seed", str(seed), *options]
            # No GPU for the authors' code, which would take it
            one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
            subprocess.run(command, env={**os.environ, **one_thread}, check=True)
            print(f"{contestant}, seed {seed}: {(time.perf_counter() - start) / 60:.1f} minutes", flush=True)


def runs_of(rows: Sequence[dict[str, str]]) -> Runs:
    """
    :param rows: of the CSV file, in its order. A run that began again has rows twice, and the later ones count
    :return: returns of the episodes, by run and steps
    """
    episodes = {(row["contestant"], int(row["seed"]), int(row["steps"]), int(row["episode"])): row for row in rows}
    runs: Runs = {}
    for (contestant, seed, steps, _), row in sorted(episodes.items()):
        runs.setdefault((contestant, seed), {}).setdefault(steps, []).append(float(row["return"]))
    return runs


def finished(runs: Runs, n_steps: int) -> Runs:
    """
    :param runs: as ``runs_of`` gives them
    :param n_steps: of a whole run
    :return: those that were evaluated at the end
    """
    return {run: curve for run, curve in runs.items() if n_steps in curve}


def area(curve: dict[int, list[float]]) -> float:
    """
    :param curve: of one run
    :return: area under the curve, divided by its length: the mean over the evaluations, which are equally far apart
    """
    return statistics.fmean(statistics.fmean(returns) for returns in curve.values())


def bootstrap(ones: Sequence[float], others: Sequence[float], n_resamples: int = 10_000) -> tuple[float, float]:
    """
    :param ones: one figure for each seed of a contestant
    :param others: those of another one, which need not be as many
    :param n_resamples: how often seeds are drawn with replacement, from both separately
    :return: 95 % confidence interval of the difference of the means, by percentiles
    """
    generator = np.random.default_rng(0)
    resampled = [generator.choice(values, (n_resamples, len(values))).mean(axis=1) for values in (ones, others)]
    low, high = np.percentile(resampled[0] - resampled[1], [2.5, 97.5])
    return float(low), float(high)


def spread(values: Sequence[float]) -> str:
    """
    :param values: one for each seed
    :return: mean and standard deviation
    """
    deviation = f" ± {statistics.stdev(values):.0f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.0f}{deviation}"


def summary(rows: Sequence[dict[str, str]], n_steps: int) -> str:
    """
    :param rows: of the CSV file
    :param n_steps: of a whole run
    :return: means and standard deviations over the seeds (whose number is in brackets), areas, their differences and
        medians of the CPU times, as Markdown
    """
    runs = finished(runs_of(rows), n_steps)
    curves = {name: [curve for (of, _), curve in runs.items() if of == name] for name in CONTESTANTS}
    curves = {name: found for name, found in curves.items() if found}
    heads = (f"{name} ({len(found)})" for name, found in curves.items())
    lines = ["| steps | " + " | ".join(heads) + " |", "|---|" + "---|" * len(curves)]
    for steps in sorted({steps for curve in runs.values() for steps in curve}):
        cells = [spread([statistics.fmean(curve[steps]) for curve in found]) for found in curves.values()]
        lines.append(f"| {steps} | {' | '.join(cells)} |")
    areas = {name: [area(curve) for curve in found] for name, found in curves.items()}
    lines.append("| mean of all | " + " | ".join(spread(values) for values in areas.values()) + " |")
    ends = [row for row in rows if int(row["steps"]) == n_steps]
    seconds = {(row["contestant"], row["seed"]): float(row["cpu_seconds"]) for row in ends}
    medians = (statistics.median(s for (of, _), s in seconds.items() if of == name) for name in curves)
    lines.append("| CPU minutes a run | " + " | ".join(f"{median / 60:.1f}" for median in medians) + " |")
    theirs = areas.pop(AUTHORS, [])
    for name, values in areas.items():
        if min(len(values), len(theirs)) < 2:  # one seed has no spread
            continue
        low, high = bootstrap(values, theirs)
        difference = statistics.fmean(values) - statistics.fmean(theirs)
        lines.append(f"\nMean of all, {name} minus {AUTHORS}: {difference:.0f}, 95 % from {low:.0f} to {high:.0f}")
    return "\n".join(lines)


def settings_of(path: Path) -> Settings | None:
    """
    :param path: CSV file of this script
    :return: the settings that it was begun with; ``None``: it does not say
    """
    marked = [line for line in path.read_text().splitlines() if line.startswith(SETTINGS_MARK)]
    return Settings(**json.loads(marked[0].removeprefix(SETTINGS_MARK))) if marked else None


def begin(path: Path, settings: Settings, authors_code: Path | None) -> None:
    """
    Make the CSV file, or tell there that another version or machine goes on with it.

    :param path: of the file
    :param settings: of the runs
    :param authors_code: checkout of their repository
    """
    checkouts = {} if authors_code is None else {authors_code: commit_of(authors_code)}
    commits = (
        f"sb3_ext: {commit_of(Path(sb3_ext.__file__).parents[1])}; authors: {'; '.join(checkouts.values()) or '-'}"
    )
    described = f"# {machine(*PACKAGES, n_threads=1)}; {commits}\n# {command_line(checkouts)}\n"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{described}{SETTINGS_MARK}{json.dumps(asdict(settings))}\n{','.join(COLUMNS)}\n")
    elif described.splitlines()[0] not in path.read_text().splitlines():
        with path.open("a") as file:
            file.write(described)


def option_of(name: str) -> str:
    """
    :param name: of a setting
    :return: of its option
    """
    return f"--{name.replace('_', '-')}"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("train", help="one contestant with one seed")
    one.add_argument("--contestant", choices=CONTESTANTS, required=True)
    one.add_argument("--seed", type=int, default=0)
    several = commands.add_parser("all", help="all contestants with all seeds")
    several.add_argument("--contestants", choices=CONTESTANTS, nargs="+", default=list(CONTESTANTS[:2]))
    several.add_argument("--seeds", type=int, nargs="+", default=list(range(6)))
    summing = commands.add_parser("summary", help="means, spreads and differences in --output")
    for command in (one, several):
        command.add_argument(
            "--authors-code", type=Path, metavar="FOLDER", help="checkout of github.com/watchernyu/REDQ"
        )
        for field in fields(Settings):
            command.add_argument(option_of(field.name), type=type(field.default), default=field.default)
    for command in (one, several, summing):
        command.add_argument("--output", type=Path, required=True, help="CSV file, which grows")
    args = parser.parse_args()
    check(parser, args)
    return args


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """
    Refuse what cannot be trained, and add ``settings`` to the arguments.

    :param parser: of the command line
    :param args: the command line
    """
    found = settings_of(args.output) if args.output.is_file() else None
    if args.output.exists() and found is None:
        parser.error(f"--output {args.output}: this script did not write it")
    if args.command == "summary":
        if found is None:
            parser.error(f"--output {args.output}: there is no such file")
        args.settings = found
        return
    args.settings = Settings(**{field.name: getattr(args, field.name) for field in fields(Settings)})
    for name, value in asdict(args.settings).items():
        if isinstance(value, int) and value < 1:
            parser.error(f"{option_of(name)} {value} must be at least 1")
    if args.steps % args.eval_every:
        parser.error(f"--steps {args.steps} must be a multiple of --eval-every {args.eval_every}")
    if found is not None and found != args.settings:
        parser.error(f"--output {args.output} has other settings: {found}")
    contestants = [args.contestant] if args.command == "train" else args.contestants
    if args.authors_code is not None:
        args.authors_code = args.authors_code.resolve()
        if not has_training(args.authors_code):
            parser.error(f"--authors-code {args.authors_code}: there is no experiments/train_redq_sac.py")
    elif AUTHORS in contestants:
        parser.error(f"the authors' code is missing: {HOW_TO_GET_IT}")


def main() -> None:
    args = parse()
    if args.command == "summary":
        rows = read_csv(args.output)
        runs = runs_of(rows)
        for name, seed in sorted(runs.keys() - finished(runs, args.settings.steps).keys()):
            print(f"not finished, left out: {name}, seed {seed}")
        print(summary(rows, args.settings.steps))
        return
    begin(args.output, args.settings, args.authors_code)
    if args.command == "train":
        train(args.settings, args.contestant, args.seed, args.output, args.authors_code)
    else:
        train_all(args.settings, args)


if __name__ == "__main__":
    main()
