"""
What training costs besides time per update: seconds until the package is imported, the model made and its first 20
updates done (compilation included, where there is any), and the largest memory of the process.

Every measurement is a process of its own, with the same cores. Each repeat begins with another contestant. Run nothing
else meanwhile.

    python benchmarks/start_up.py --output benchmarks/results/start_up.csv
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from random_env import UTD
from reporting import machine, write_csv
from separate_runs import add_threads, in_rotation, keep_to_cores
from tqdm import tqdm

# Name -> module, class and arguments beside the shared ones
CONTESTANTS = {
    "SB3 SAC": ("stable_baselines3", "SAC", "gradient_steps=UTD"),
    "REDQSAC": ("sb3_ext", "REDQSAC", ""),
    "REDQSAC, compiled": ("sb3_ext", "REDQSAC", "compile=True"),
    "SBX SAC": ("sbx", "SAC", "gradient_steps=UTD, policy_delay=UTD"),
}
# Humanoid-v4's dimensions; a buffer that is filled to a fiftieth, as at the beginning of a training
PROGRAM = """
import json, resource, sys, time
began = time.perf_counter()
from {module} import {name}
imported = time.perf_counter()
sys.path.insert(0, {folder!r})
from random_env import BATCH_SIZE, UTD, like_mujoco
ready = time.perf_counter()
model = {name}("MlpPolicy", like_mujoco("humanoid"), batch_size=BATCH_SIZE, learning_starts=2000, buffer_size=100_000,
               policy_kwargs=dict(n_critics=10), seed=0, {arguments})
made = time.perf_counter()
model.learn(2000)
filled = time.perf_counter()
model.train(UTD, BATCH_SIZE)
first = time.perf_counter()
for _ in range(5):
    model.train(UTD, BATCH_SIZE)
print(json.dumps(dict(import_s=imported - began, construct_s=made - ready, first_updates_s=first - filled,
                      peak_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)))
"""


def measure(label: str, repeat: int) -> dict[str, Any]:
    """
    :param label: of a contestant
    :param repeat: number of the measurement
    :return: a row of the CSV file
    """
    module, name, arguments = CONTESTANTS[label]
    program = PROGRAM.format(module=module, name=name, arguments=arguments, folder=str(Path(__file__).parent))
    with tempfile.TemporaryDirectory() as nothing_compiled_yet:
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": nothing_compiled_yet}
        result = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
        )
    if result.returncode:
        raise SystemExit(f"{label} failed:\n{result.stderr[-4000:]}")
    values = json.loads(result.stdout.strip().splitlines()[-1])
    return dict(contestant=label, repeat=repeat, **{key: f"{value:.4g}" for key, value in values.items()})


def table(rows: list[dict[str, Any]]) -> str:
    """
    :param rows: as ``measure`` gives them
    :return: medians, as Markdown
    """
    lines = [f"| | import | make the model | first {UTD} updates | peak memory |", "|---|---|---|---|---|"]
    for label in dict.fromkeys(row["contestant"] for row in rows):
        of_label = [row for row in rows if row["contestant"] == label]
        columns = ("import_s", "construct_s", "first_updates_s", "peak_memory_mb")
        a, b, c, memory = (statistics.median(float(row[column]) for row in of_label) for column in columns)
        lines.append(f"| {label} | {a:.1f} s | {b:.2f} s | {c:.1f} s | {memory:.0f} MB |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="CSV file for the raw measurements")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS), choices=list(CONTESTANTS))
    add_threads(parser)
    args = parser.parse_args()
    if args.repeats < 1:
        parser.error(f"--repeats {args.repeats} must be at least 1")
    keep_to_cores(args.threads)
    rows = []
    measured_with = machine("torch", "stable-baselines3", "sbx-rl", "jax", "numpy", n_threads=args.threads)
    for repeat, label in tqdm(in_rotation(args.contestants, args.repeats)):
        rows.append(measure(label, repeat))
        write_csv(args.output, rows, measured_with)
    print(measured_with)
    print(table(rows))


if __name__ == "__main__":
    main()
