"""
Critic updates per second of REDQSAC beside a plain PyTorch REDQ, the code of REDQ's authors, SB3's SAC with as many
critics and, where it is installed, SBX's; and environment steps per second of whole trainings.

Each contestant has a process of its own, and they take turns (see ``turns.py``). Updates: ``train()`` on a filled
replay buffer: sampling, critic, actor, temperature and target updates included. Steps: ``learn()`` in an environment
that costs nothing, 20 updates a step. Compilation and warm-up are excluded (how long they take:
benchmarks/start_up.py). Libraries for matrix products are contestants as well: what they reach is the roofline (see
``roofline.py``). Run nothing else meanwhile.

    python benchmarks/updates_per_second.py --output benchmarks/results/updates_per_second.csv
    python benchmarks/updates_per_second.py --output benchmarks/results/updates_per_second_cuda.csv --device cuda

The products' rates are in a second file, here ``updates_per_second_products.csv``. With ``--table-only`` the script
prints the table of both files again. The authors' code takes part after

    git clone https://github.com/watchernyu/REDQ
    python benchmarks/updates_per_second.py --output updates_per_second.csv --authors-code REDQ
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch as th
from authors_redq import HOW_TO_GET_IT, AuthorsREDQ, has_agent
from random_env import BATCH_SIZE, DIMENSIONS, UTD, like_mujoco
from roofline import LIBRARIES, Limits, Work, limits, onednn, product_rows
from separate_runs import add_threads
from turns import Contestant, Figures, ratios, values_of
from turns import measure as take_turns

# Nothing of the package is imported here: the processes of the others do without it

#: What the others are compared with
SB3, SBX = "SB3 SAC", "SBX SAC"
AUTHORS = "authors' REDQ"
SACS_WORK = "REDQSAC, SAC's work"
#: Arguments of REDQSAC
REDQSAC_OPTIONS: dict[str, dict[str, Any]] = {
    "REDQSAC": {},
    "REDQSAC, compiled": {"compile": True},
    "REDQSAC, bfloat16": {"autocast_dtype": "bfloat16"},
    "REDQSAC, bfloat16, compiled": {"autocast_dtype": "bfloat16", "compile": True},
    "REDQSAC, MKL": {"float32_matmul_precision": None},
    SACS_WORK: {"target_backup": "min", "actor_q": "min", "policy_delay": 1},
    "REDQSAC, CUDA graphs": {"cuda_graphs": True},
    "REDQSAC, CUDA graphs, buffer on the GPU": {"cuda_graphs": True, "buffer_device": "auto"},
}
OTHERS = ("plain PyTorch REDQ", "plain PyTorch REDQ, oneDNN", AUTHORS, SB3, f"{SB3}, oneDNN", SBX)
PACKAGES = ("torch", "stable-baselines3", "sbx-rl", "jax", "numpy")


def make(label: str, settings: dict[str, Any]) -> Any:
    """
    :param label: of a contestant
    :param settings: see ``settings_of``
    :return: the model, with SB3's ``learn`` and ``train``
    """
    env, n_critics = like_mujoco(settings["dimensions"]), settings["n_critics"]
    sizes = {
        "batch_size": BATCH_SIZE,
        "buffer_size": 2 * settings["stored"],
        "learning_starts": settings["stored"],
        "device": settings["device"],
    }
    common = {"policy_kwargs": {"n_critics": n_critics}, "seed": 0, **sizes}
    if label in REDQSAC_OPTIONS:
        from sb3_ext import REDQSAC

        return REDQSAC("MlpPolicy", env, **common, **REDQSAC_OPTIONS[label])
    if label.startswith("plain PyTorch REDQ"):
        from plain_redq import PlainREDQ

        return PlainREDQ(env, n_critics, **sizes)
    if label == AUTHORS:
        return AuthorsREDQ(Path(settings["authors_code"]), env, n_critics, **sizes)
    if label == SBX:
        if common.pop("device") == "cpu":
            os.environ["JAX_PLATFORMS"] = "cpu"
        import sbx

        return sbx.SAC("MlpPolicy", env, gradient_steps=UTD, policy_delay=UTD, **common)
    from stable_baselines3 import SAC

    return SAC("MlpPolicy", env, gradient_steps=UTD, **common)


def timed(work: Callable[[], Any]) -> float:
    """
    :param work: may leave a GPU working when it returns
    :return: seconds until it is done
    """
    start = time.perf_counter()
    work()
    if th.cuda.is_available():
        th.cuda.synchronize()
    return time.perf_counter() - start


def prepare(label: str, settings: dict[str, Any]) -> Callable[[], Figures]:
    """
    :param label: of a contestant
    :param settings: see ``settings_of``
    :return: a function that measures one block
    """
    context = onednn if label.endswith(", oneDNN") else nullcontext
    n_updates = settings["updates"]
    n_steps = n_updates // UTD
    with context():
        model = make(label, settings)
        model.learn(settings["stored"])
        for _ in range(5):  # compiles (SBX for each number of updates), records CUDA graphs, lets the allocators settle
            model.train(n_updates, BATCH_SIZE)
        model.learn(2, reset_num_timesteps=False)

    def block() -> Figures:
        with context():
            seconds = timed(lambda: model.train(n_updates, BATCH_SIZE))
            seconds_of_steps = timed(lambda: model.learn(n_steps, reset_num_timesteps=False))
        return {"updates_per_s": n_updates / seconds, "steps_per_s": n_steps / seconds_of_steps}

    return block


def labels(device: str) -> list[str]:
    """
    :param device: of the measurement
    :return: what can be measured there if all packages are installed
    """
    elsewhere = ("CUDA graphs",) if device == "cpu" else ("oneDNN", "MKL")
    models = [label for label in (*REDQSAC_OPTIONS, *OTHERS) if not any(word in label for word in elsewhere)]
    return [*LIBRARIES[device], *models]


def obstacle(label: str, args: argparse.Namespace) -> str | None:
    """
    :param label: of a contestant
    :param args: the command line
    :return: why it cannot be measured here
    """
    if label not in labels(args.device):
        return f"not with --device {args.device}"
    if "bfloat16" in label and args.no_bfloat16:
        return "without bfloat16 (a CPU may only emulate it)"
    if label in (SBX, "products JAX") and find_spec("sbx" if label == SBX else "jax") is None:
        return "needs pip install '.[sbx]'"
    return HOW_TO_GET_IT if label == AUTHORS and args.authors_code is None else None


def measure(name: str, args: argparse.Namespace, rows: list[dict[str, Any]], products: list[dict[str, Any]]) -> None:
    """
    Measure all contestants. The files are written again after every turn.

    :param name: of the environment's dimensions
    :param args: the command line
    :param rows: of the CSV file so far, to which this appends
    :param products: of the other file likewise
    """
    from reporting import machine, write_csv

    here = Path(__file__)
    n_observations, n_actions = DIMENSIONS[name]
    work = Work(n_observations, n_actions, n_critics=args.n_critics, batch_size=BATCH_SIZE, policy_delay=UTD)
    of_products = {"work": asdict(work), "device": args.device}
    of_models = {"dimensions": name, **{key: getattr(args, key) for key in ("n_critics", "updates", "stored")}}
    of_models |= {"device": args.device, "authors_code": str(args.authors_code)}
    starts = [
        partial(Contestant, label, here.with_name("roofline.py"), of_products, args.threads)
        if label in LIBRARIES[args.device]
        else partial(Contestant, label, here, of_models, args.threads)
        for label in args.contestants
    ]
    measured_with = machine(*PACKAGES, device=args.device, n_threads=args.threads)
    for row in take_turns(starts, args.repeats, name):
        if row["contestant"] in LIBRARIES[args.device]:
            products += [{"dimensions": name, **of_one} for of_one in product_rows(row, work, args.device)]
            write_csv(products_path(args.output), products, measured_with)
        else:
            rows.append({"dimensions": name, **row})
            write_csv(args.output, rows, measured_with)


def products_path(output: Path) -> Path:
    """
    :param output: CSV file of the contestants
    :return: that of the matrix products
    """
    return output.with_stem(f"{output.stem}_products")


def table(rows: Sequence[dict[str, Any]], products: Sequence[dict[str, Any]]) -> str:
    """
    :param rows: of the CSV file
    :param products: of the one with the matrix products
    :return: medians, ratios with their quartiles and shares of the roofline, as Markdown
    """
    lines = ["| | | updates/s | x SB3 | x SBX | of the roofline | steps/s |", "|---|---|---|---|---|---|---|"]
    for name in dict.fromkeys(row["dimensions"] for row in (*products, *rows)):
        of_name = [row for row in rows if row["dimensions"] == name]
        names = list(dict.fromkeys(row["contestant"] for row in of_name))
        limit = {
            dtype: limits([row for row in products if row["dimensions"] == name], dtype == "bfloat16")
            for dtype in ("float32", "bfloat16")
        }
        for dtype, found in limit.items():
            if found is not None:
                best = f"{found.gflop_per_s:.0f} GFLOP/s by {found.library}"
                lines.append(f"| {name} | roofline, {dtype} ({best}) | {found.roofline:.1f} | | | 100 % | |")
                share = 100 * found.products_alone / found.roofline
                lines.append(f"| {name} | products alone, {dtype} | {found.products_alone:.1f} | | | {share:.0f} % | |")
        for label in names:
            versus = (ratio(of_name, label, other) if other in names else "" for other in (SB3, SBX))
            rate, steps = (
                statistics.median(values_of(of_name, label, key)) for key in ("updates_per_s", "steps_per_s")
            )
            share = share_of(rate, label, limit["bfloat16" if "bfloat16" in label else "float32"])
            lines.append(f"| {name} | {label} | {rate:.1f} | {' | '.join(versus)} | {share} | {steps:.2f} |")
    return "\n".join(lines)


def ratio(rows: Sequence[dict[str, Any]], label: str, other: str) -> str:
    """
    :param rows: of the same dimensions
    :param label: of a contestant
    :param other: what it is compared with
    :return: median and quartiles
    """
    if label == other:
        return "1"
    low, middle, high = ratios(rows, label, other, "updates_per_s")
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def share_of(rate: float, label: str, limit: Limits | None) -> str:
    """
    :param rate: updates per second
    :param label: of the contestant
    :param limit: in its precision
    :return: its share of the roofline, which is that of REDQ's work; empty for others, who do more
    """
    does_more = label == SACS_WORK or label.startswith((SB3, SBX))
    return "" if does_more or limit is None else f"{100 * rate / limit.roofline:.0f} %"


def parse() -> argparse.Namespace:
    from sb3_ext.speed.precision import cpu_computes_in_bfloat16

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="CSV file for the raw measurements")
    parser.add_argument("--table-only", action="store_true", help="print the table of --output, measure nothing")
    every = list(dict.fromkeys([*labels("cpu"), *labels("cuda")]))
    parser.add_argument("--contestants", nargs="+", choices=every, metavar="NAME", help=f"some of: {'; '.join(every)}")
    parser.add_argument("--n-critics", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument(
        "--updates", type=int, default=40, help=f"of the critics, in one block: {UTD} times a whole number"
    )
    parser.add_argument("--stored", type=int, default=20_000, help="transitions in the replay buffer")
    parser.add_argument("--dimensions", nargs="+", choices=list(DIMENSIONS), default=list(DIMENSIONS))
    add_threads(parser)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--no-bfloat16", action="store_true", help="always so on CPUs that only emulate it")
    parser.add_argument("--authors-code", type=Path, metavar="FOLDER", help="checkout of github.com/watchernyu/REDQ")
    args = parser.parse_args()
    if args.repeats < 1 or args.updates < UTD or args.updates % UTD:
        parser.error(
            f"--repeats {args.repeats} must be at least 1, "
            f"--updates {args.updates} a multiple of {UTD} and at least {UTD}"
        )
    if args.device == "cuda" and not th.cuda.is_available() and not args.table_only:
        parser.error("--device cuda: there is no GPU that PyTorch can use")
    if args.table_only and not (args.output.exists() or products_path(args.output).exists()):
        parser.error(f"--output {args.output}: there is no such file")
    if args.authors_code is not None:
        args.authors_code = args.authors_code.resolve()
        if not has_agent(args.authors_code):
            parser.error(f"--authors-code {args.authors_code}: there is no redq/algos/redq_sac.py")
    # Emulated, these lines alone would take hours
    args.no_bfloat16 |= args.device == "cpu" and not cpu_computes_in_bfloat16()
    obstacles = {label: obstacle(label, args) for label in args.contestants or labels(args.device)}
    left_out = [f"{label}: {reason}" for label, reason in obstacles.items() if reason is not None]
    if args.contestants and left_out and not args.table_only:
        parser.error("; ".join(left_out))
    if left_out and not args.table_only:
        print("left out:", *left_out, sep="\n  ")
    args.contestants = [label for label, reason in obstacles.items() if reason is None]
    return args


def main() -> None:
    from reporting import machine, read_csv

    args = parse()
    if args.table_only:
        rows, products = (read_csv(path) if path.exists() else [] for path in (args.output, products_path(args.output)))
    else:
        rows, products = [], []
        products_path(args.output).unlink(missing_ok=True)  # of another run
        for name in args.dimensions:
            measure(name, args, rows, products)
        print(machine(*PACKAGES, device=args.device, n_threads=args.threads))
    print(table(rows, products))


if __name__ == "__main__":
    main()
