"""
Environment steps per second of whole Atari trainings through rl_zoo3: ours beside SB3's and sb3-contrib's.

Every run is ``python -m rl_zoo3.train`` in a process of its own, as a user starts it, with each algorithm's own
``atari`` settings; batch size, ``train_freq``, ``learning_starts`` and the updates per step are the same for all. Ours
play eight games at once, the others one; ``one environment`` has ``soft_dqn`` do that, too, ``float32`` leaves out
bfloat16, which it has otherwise where the hardware computes in it, and ``compiled`` adds ``compile=True``.
The runs are interleaved, each repeat begins with another contestant, all have the same cores, and medians count:
absolute figures drift with the machine, the ratios of one run do not.
The rate is that of the steps after learning began, compilation (where there is any) and the first updates
included; how long the first rollout with its updates took (one, of ours eight) stands beside it. Run nothing else
meanwhile.

    python benchmarks/atari_speed.py --output benchmarks/results/atari_speed.csv
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from reporting import machine, write_csv
from separate_runs import add_threads, in_rotation, keep_to_cores
from stable_baselines3.common.callbacks import BaseCallback

SAMPLES = "n_quantile_samples:{0} n_target_quantile_samples:{0} n_action_quantile_samples:32"
PAPERS_NETWORK = "policy_kwargs:dict(optimizer_kwargs=dict(eps=0.0003125))"  # not the YAML file's smaller one
# Name -> id in rl_zoo3, further arguments, and what it is compared with
CONTESTANTS = {
    "dqn": ("dqn", "", "dqn"),
    "double_dqn": ("double_dqn", "", "dqn"),
    "soft_dqn": ("soft_dqn", "", "dqn"),
    "soft_dqn, one environment": ("soft_dqn", "n_envs:1 gradient_steps:1", "dqn"),
    "soft_dqn, float32": ("soft_dqn", "autocast_dtype:None", "dqn"),
    "soft_dqn, compiled": ("soft_dqn", "compile:True", "dqn"),
    "qrdqn": ("qrdqn", "", "qrdqn"),
    "iqn 8/8/32": ("iqn", SAMPLES.format(8), "qrdqn"),
    "iqn 8/8/32, the paper's network": ("iqn", f"{SAMPLES.format(8)} {PAPERS_NETWORK}", "qrdqn"),
    "iqn 64/64/32, the paper's network": ("iqn", f"{SAMPLES.format(64)} {PAPERS_NETWORK}", "qrdqn"),
}
# Those of rl_zoo3's dqn.yml, but for `learning_starts` (100,000 there), which would only make everybody wait, and the
# buffers' size, in which a short run stores next to nothing
SHARED = "batch_size:32 train_freq:4 buffer_size:10000"
PACKAGES = ("torch", "stable-baselines3", "sb3-contrib", "rl_zoo3", "gymnasium", "ale-py", "numpy")


class StepTimer(BaseCallback):
    """
    Writes when learning began, when its first update was over, and when all was over, to the file that the environment
    variable ``ATARI_SPEED_FILE`` names.
    """

    def _on_training_start(self) -> None:
        self._marks: list[tuple[int, float]] = []

    def _on_rollout_start(self) -> None:
        # Updates happen between rollouts: before the rollout that is followed by the first ones, and after these
        ahead = self.model.train_freq.frequency * self.training_env.num_envs
        if self.model.num_timesteps + ahead > self.model.learning_starts and len(self._marks) < 3:
            self._marks.append((self.model.num_timesteps, time.perf_counter()))

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self._marks.append((self.model.num_timesteps, time.perf_counter()))
        content = {"marks": self._marks, "updates": self.model._n_updates}
        Path(os.environ["ATARI_SPEED_FILE"]).write_text(json.dumps(content))


def command(name: str, args: argparse.Namespace) -> list[str]:
    algo, options, _ = CONTESTANTS[name]
    parameters = f"{SHARED} learning_starts:{args.learning_starts} {options} callback:'atari_speed.StepTimer'"
    return [
        *(sys.executable, "-m", "rl_zoo3.train", "--algo", algo, "--env", args.env, "-n", str(args.steps)),
        *("--eval-freq", "-1", "--seed", "1", "--num-threads", str(args.threads), "-params", *parameters.split()),
    ]


def measure(name: str, repeat: int, args: argparse.Namespace) -> dict[str, Any]:
    """
    One run of one contestant.

    :return: a row of the CSV file
    """
    with tempfile.TemporaryDirectory(prefix="atari_speed_") as folder:
        marks_file = Path(folder) / "marks.json"
        environment = {
            **os.environ,
            "ATARI_SPEED_FILE": str(marks_file),
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
        }
        line = command(name, args)
        result = subprocess.run(
            [*line, "-f", folder], env=environment, cwd=folder, capture_output=True, text=True, check=False
        )
        if result.returncode or not marks_file.exists():
            raise SystemExit(f"{shlex.join(line)} failed:\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}")
        content = json.loads(marks_file.read_text())
    (first_step, began), (_, after_first), *_, (last_step, ended) = content["marks"]
    return {
        "contestant": name,
        "repeat": repeat,
        "steps_per_s": round((last_step - first_step) / (ended - began), 2),
        "first_updates_s": round(after_first - began, 3),
        "steps": last_step - first_step,
        "updates": content["updates"],
        "threads": args.threads,
        "command": shlex.join(["python", *line[1:]]),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """
    :param rows: as ``measure`` gives them
    :return: medians and ratios, as a Markdown table
    """

    def median(name: str, column: str) -> float:
        return statistics.median(row[column] for row in rows if row["contestant"] == name)

    lines = ["| | steps/s | | first updates |", "|---|---|---|---|"]
    for name in dict.fromkeys(row["contestant"] for row in rows):
        reference = CONTESTANTS[name][2]
        rate = median(name, "steps_per_s")
        ratio = f"{rate / median(reference, 'steps_per_s'):.2f}x `{reference}`"
        lines.append(f"| `{name}` | {rate:.0f} | {ratio} | {median(name, 'first_updates_s'):.2f} s |")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="CSV file for the raw measurements")
    parser.add_argument("--env", default="PongNoFrameskip-v4")
    parser.add_argument("--steps", type=int, default=4000, help="of each run, those before learning included")
    parser.add_argument("--learning-starts", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    add_threads(parser)
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS), help="%(default)s")
    args = parser.parse_args()
    unknown = [name for name in args.contestants if name not in CONTESTANTS]
    if unknown:
        parser.error(f"unknown contestants {unknown}, known are {list(CONTESTANTS)}")
    missing = {CONTESTANTS[name][2] for name in args.contestants} - set(args.contestants)
    if missing:
        parser.error(f"--contestants lacks {sorted(missing)}, which the others are compared with")
    if args.repeats < 1:
        parser.error(f"--repeats {args.repeats} must be at least 1")
    if args.steps <= args.learning_starts + 100:
        parser.error(f"--steps {args.steps} must exceed --learning-starts {args.learning_starts} by more than 100")
    return args


def main() -> None:
    args = parse()
    keep_to_cores(args.threads)
    rows: list[dict[str, Any]] = []
    for repeat, name in in_rotation(args.contestants, args.repeats):
        rows.append(measure(name, repeat, args))
        print(f"{repeat + 1}/{args.repeats} {name}: {rows[-1]['steps_per_s']} steps/s", flush=True)
        # Written anew each time: an interruption loses one run
        write_csv(args.output, rows, machine(*PACKAGES, n_threads=args.threads))
    print(table(rows))


if __name__ == "__main__":
    main()
