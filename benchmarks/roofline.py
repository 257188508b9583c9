"""
How fast REDQ could be: the arithmetic that an update cannot do without, and how much of it a machine does in a second.

Only matrix products count, which is nearly everything: activations, losses, optimiser and sampling come on top. The
roofline is an update's arithmetic at the highest rate that any library reaches on any of its products, or on a large
square one. "Products alone" is the time of the products in their own shapes, each by its fastest library.

Each library is a contestant of ``updates_per_second.py``, see ``turns.py``. This script by itself compares the ways to
compute each product: batched, one network after the other, or side by side in one product.

    python benchmarks/roofline.py --output benchmarks/results/products.csv
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from random_env import DIMENSIONS

LIBRARIES = {
    "cpu": ("products MKL", "products oneDNN", "products JAX", "products oneDNN bfloat16"),
    "cuda": ("products cuBLAS", "products cuBLAS bfloat16"),
}
SQUARE = {"cpu": 1024, "cuda": 8192}
SECONDS = 0.02  # for each formulation of each product
#: Of computing a product, and how its matrices may be stored
WAYS, LAYOUTS = ("batched", "one by one", "side by side"), ("one layout", "the other")


@dataclass(frozen=True)
class Product:
    """
    A matrix product of one layer, in all networks of an ensemble at once.

    :param n_networks: pairs of matrices
    :param rows: of the left matrix
    :param inner: columns of the left matrix, rows of the right one
    :param columns: of the right matrix
    :param per_update: how often a critic update needs it
    :param shares_left: all networks have the same left matrix, their input
    :param transposes_left: the left matrix is stored as its transpose, as where the gradient of weights is computed
    """

    name: str
    n_networks: int
    rows: int
    inner: int
    columns: int
    per_update: float
    shares_left: bool = False
    transposes_left: bool = False

    def flops(self) -> float:
        """Return the number of multiplications and additions."""
        return 2.0 * self.n_networks * self.rows * self.inner * self.columns


@dataclass(frozen=True)
class Work:
    """
    One critic update of REDQ, with its share of the rest.

    :param n_observations: length of the observation
    :param n_actions: length of the action
    :param n_critics: N
    :param batch_size: B
    :param width: units of each of two hidden layers
    :param subset_size: M, critics in a target
    :param policy_delay: critic updates for each update of the actor
    """

    n_observations: int
    n_actions: int
    n_critics: int = 10
    batch_size: int = 256
    width: int = 256
    subset_size: int = 2
    policy_delay: int = 20

    def products(self) -> list[Product]:
        """
        Return the products of a critic update: forward, and for the gradients of weights and inputs.

        Those of the layers with one output are missing: REDQSAC computes them without matrix products.
        """
        n, subset, rows, width, actions = (
            self.n_critics, self.subset_size, self.batch_size, self.width, self.n_actions
        )  # fmt: skip
        observations, inputs, outputs = self.n_observations, self.n_observations + actions, 2 * actions
        # An update of the actor goes forward through the critics, and back to the action
        actor = 1 / self.policy_delay
        shared, gradient = dict(shares_left=True), dict(transposes_left=True)
        return [
            Product("critics 1, forward", n, rows, inputs, width, 1 + actor, **shared),
            Product("critics 1, weights", n, inputs, rows, width, 1, **shared, **gradient),
            Product("critics 1, actions", n, rows, width, actions, actor),
            Product("critics 2, forward", n, rows, width, width, 1 + actor),
            Product("critics 2, weights", n, width, rows, width, 1, **gradient),
            Product("critics 2, inputs", n, rows, width, width, 1 + actor),
            Product("targets 1, forward", subset, rows, inputs, width, 1, **shared),
            Product("targets 2, forward", subset, rows, width, width, 1),
            Product("actor 1, forward", 1, rows, observations, width, 1 + actor),
            Product("actor 1, weights", 1, observations, rows, width, actor, **gradient),
            Product("actor 2, forward", 1, rows, width, width, 1 + actor),
            Product("actor 2, weights", 1, width, rows, width, actor, **gradient),
            Product("actor 2, inputs", 1, rows, width, width, actor),
            Product("actor 3, forward", 1, rows, width, outputs, 1 + actor),
            Product("actor 3, weights", 1, width, rows, outputs, actor, **gradient),
            Product("actor 3, inputs", 1, rows, outputs, width, actor),
        ]

    def flops(self) -> float:
        """Return the number of multiplications and additions in one critic update."""
        # Forward and two gradients; through the critics to the action, forward and back
        one_output = 3 * self.n_critics + self.subset_size + 2 * self.n_critics / self.policy_delay
        last_layers = 2 * self.batch_size * self.width * one_output
        return sum(product.flops() * product.per_update for product in self.products()) + last_layers

    def measured_products(self, device: str) -> list[Product]:
        """Return the products of a critic update, and a large square one that none of them needs."""
        size = SQUARE[device]
        return [*self.products(), Product(f"square of {size}", 1, size, size, size, 0)]


@dataclass(frozen=True)
class Formulation:
    """
    A way to compute a product: shapes as stored, and which matrices are transposed.

    :param one_by_one: not as a batch, but in a product for each network
    """

    left: tuple[int, int, int]
    right: tuple[int, int, int]
    left_transposed: bool
    right_transposed: bool
    one_by_one: bool = False


def formulations(product: Product) -> list[Formulation]:
    """
    :param product: of one update
    :return: the ways in which it can be computed from what an update has at hand: pairs in the order of ``WAYS``
    """

    def of(n_networks: int, n_left: int, columns: int) -> list[Formulation]:
        rows, inner = product.rows, product.inner
        right = (n_networks, inner, columns)
        if product.transposes_left:  # the gradient of the weights, or of their transpose
            left = (n_left, inner, rows)
            return [Formulation(left, right, True, False), Formulation(right, left, True, False)]
        left = (n_left, rows, inner)  # weights may be stored either way
        return [Formulation(left, right, False, False), Formulation(left, (n_networks, columns, inner), False, True)]

    n_networks = product.n_networks
    found = of(n_networks, 1 if product.shares_left else n_networks, product.columns)
    if n_networks > 1:
        found += [Formulation(**{**asdict(one), "one_by_one": True}) for one in found]
    if n_networks > 1 and product.shares_left:  # one product with all networks side by side
        found += of(1, 1, n_networks * product.columns)
    return found


def split(left: Any, right: Any) -> list[tuple[Any, Any]]:
    """
    :param left: one matrix for each network, or one for all
    :param right: likewise
    :return: both matrices of each network
    """
    n_networks = max(len(left), len(right))
    return [(left[index % len(left)], right[index % len(right)]) for index in range(n_networks)]


def in_torch(formulation: Formulation, dtype: th.dtype, device: str) -> Callable[[], Any]:
    """
    :param formulation: of a product
    :param dtype: of the matrices
    :param device: on which
    :return: a function that computes it
    """
    left, right = (th.rand(shape, device=device).to(dtype) for shape in (formulation.left, formulation.right))
    left = left.mT if formulation.left_transposed else left
    right = right.mT if formulation.right_transposed else right
    pairs = split(left, right) if formulation.one_by_one else [(left, right)]

    def compute() -> list[th.Tensor]:
        results = [one @ other for one, other in pairs]
        if device == "cuda":
            th.cuda.synchronize()
        return results

    return compute


def in_jax(formulation: Formulation) -> Callable[[], Any]:
    """
    :param formulation: of a product
    :return: a compiled function that computes it
    """
    import jax

    @jax.jit
    def compute(pairs: list[tuple[Any, Any]]) -> list[Any]:
        return [
            (one.swapaxes(-1, -2) if formulation.left_transposed else one)
            @ (other.swapaxes(-1, -2) if formulation.right_transposed else other)
            for one, other in pairs
        ]

    random = np.random.default_rng(0)
    left, right = (random.random(shape, dtype=np.float32) for shape in (formulation.left, formulation.right))
    if formulation.one_by_one:  # in memory of their own, as PyTorch's parts need not be copied either
        pairs = split([jax.device_put(one) for one in left], [jax.device_put(one) for one in right])
    else:
        pairs = [(jax.device_put(left), jax.device_put(right))]
    return lambda: jax.block_until_ready(compute(pairs))


def calls_per_second(work: Callable[[], Any], seconds: float) -> float:
    """
    :param work: returns when it is done
    :param seconds: how long to repeat it
    :return: how often it runs in a second
    """
    work()  # the matrices come into the caches
    n_calls, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds or n_calls == 0:
        work()
        n_calls += 1
    return n_calls / elapsed


def onednn() -> AbstractContextManager[None]:
    """Return a context in which oneDNN computes PyTorch's float32 products, if it is as exact as MKL here."""
    from sb3_ext.speed.float32 import float32_matmul_precision

    return float32_matmul_precision("auto")


def prepare(label: str, settings: dict[str, Any]) -> Callable[[], dict[str, float]]:
    """
    :param label: one of ``LIBRARIES``
    :param settings: ``work``, arguments of ``Work``, ``device``, and whether to tell ``each_way`` to compute a product
    :return: a function that measures all products: name -> GFLOP/s of the fastest formulation, or name, way and layout
        -> GFLOP/s
    """
    device, dtype = settings["device"], th.bfloat16 if "bfloat16" in label else th.float32
    if "JAX" in label:
        os.environ["JAX_PLATFORMS"] = "cpu"
    elif device == "cpu":
        from sb3_ext.speed.allocator import keep_freed_memory

        keep_freed_memory()  # as REDQSAC does: results need no new pages each time

    def ways(product: Product) -> list[Callable[[], Any]]:
        if "JAX" in label:
            return [in_jax(formulation) for formulation in formulations(product)]
        return [in_torch(formulation, dtype, device) for formulation in formulations(product)]

    measured = {product: ways(product) for product in Work(**settings["work"]).measured_products(device)}

    def block() -> dict[str, float]:
        with onednn() if "oneDNN" in label else nullcontext():
            rates = {
                product: [1e-9 * product.flops() * calls_per_second(way, SECONDS) for way in found]
                for product, found in measured.items()
            }
        if not settings.get("each_way"):
            return {product.name: max(found) for product, found in rates.items()}
        names = [f"{way}, {layout}" for way in WAYS for layout in LAYOUTS]
        return {
            f"{product.name}: {name}": rate
            for product, found in rates.items()
            for name, rate in zip(names, found, strict=False)
        }

    block()
    return block


def product_rows(row: dict[str, Any], work: Work, device: str) -> list[dict[str, Any]]:
    """
    :param row: of a library, as ``turns.measure`` yields it
    :param work: of the update
    :param device: of the measurement
    :return: a row for each product, with all that the roofline is computed from
    """
    return [
        {
            **{key: row[key] for key in ("contestant", "round", "turn")},
            "product": product.name,
            **{key: getattr(product, key) for key in ("n_networks", "rows", "inner", "columns", "per_update")},
            "gflop_per_s": row[product.name],
            "update_gflop": f"{1e-9 * work.flops():.6g}",
        }
        for product in work.measured_products(device)
    ]


@dataclass(frozen=True)
class Limits:
    """
    What matrix products allow in one precision.

    :param roofline: updates per second at the highest rate
    :param products_alone: updates per second, if nothing but their products took time
    :param library: that reaches the highest rate
    :param gflop_per_s: the highest rate
    """

    roofline: float
    products_alone: float
    library: str
    gflop_per_s: float


def limits(rows: Sequence[dict[str, Any]], bfloat16: bool) -> Limits | None:
    """
    :param rows: as ``product_rows`` gives them, of one update
    :param bfloat16: or else float32
    :return: the limits, or ``None`` if no library was measured in this precision
    """
    rates: dict[tuple[str, str], list[float]] = {}
    products: dict[str, dict[str, Any]] = {}
    for row in rows:
        if ("bfloat16" in row["contestant"]) == bfloat16:
            rates.setdefault((row["contestant"], row["product"]), []).append(float(row["gflop_per_s"]))
            products[row["product"]] = row
    if not rates:
        return None
    medians = {key: statistics.median(values) for key, values in rates.items()}
    (library, _), highest = max(medians.items(), key=lambda item: item[1])
    seconds = 0.0
    for name, row in products.items():
        shape = [int(row[key]) for key in ("n_networks", "rows", "inner", "columns")]
        size = Product(name, *shape, per_update=float(row["per_update"]))
        fastest = max(rate for (_, product), rate in medians.items() if product == name)
        seconds += 1e-9 * size.flops() * size.per_update / fastest
    update_gflop = float(next(iter(products.values()))["update_gflop"])
    return Limits(highest / update_gflop, 1 / seconds, library.removeprefix("products "), highest)


def matrix_flops(dtype: th.dtype, device: str = "cpu", seconds: float = 0.2) -> float:
    """
    What PyTorch does at best in this process: the fastest of several products of large square matrices.

    :param dtype: of the matrices
    :param device: on which
    :param seconds: how long to try
    :return: multiplications and additions per second
    """
    product = Product("square", 1, SQUARE[device], SQUARE[device], SQUARE[device], 0)
    way = in_torch(formulations(product)[0], dtype, device)
    best = 0.0
    for context in (nullcontext, onednn):
        with context():
            deadline = time.perf_counter() + seconds / 2
            while best == 0.0 or time.perf_counter() < deadline:
                best = max(best, calls_per_second(way, 0.0))
    return product.flops() * best


def main() -> None:
    """Compare the ways to compute each product."""
    from reporting import machine, write_csv
    from separate_runs import add_threads
    from turns import Contestant, measure, values_of

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="CSV file for the raw measurements")
    parser.add_argument("--repeats", type=int, default=5)
    add_threads(parser)
    args = parser.parse_args()
    if args.repeats < 1:
        parser.error(f"--repeats {args.repeats} must be at least 1")
    libraries = [library for library in LIBRARIES["cpu"][:3] if "JAX" not in library or find_spec("jax")]
    rows: list[dict[str, Any]] = []
    for name, dimensions in DIMENSIONS.items():
        settings = {"work": asdict(Work(*dimensions)), "device": "cpu", "each_way": True}
        starts = [partial(Contestant, library, __file__, settings, args.threads) for library in libraries]
        for row in measure(starts, args.repeats, name):
            turn = {"dimensions": name, **{key: row.pop(key) for key in ("contestant", "round", "turn")}}
            rows += [{**turn, "product": product, "gflop_per_s": rate} for product, rate in row.items()]
            write_csv(args.output, rows, machine("torch", "jax", "numpy", n_threads=args.threads))
    print("| | | " + " | ".join(libraries) + " |", "|---|---" + "|---" * len(libraries) + "|", sep="\n")
    for name, product in dict.fromkeys((row["dimensions"], row["product"]) for row in rows):
        of_product = [row for row in rows if (row["dimensions"], row["product"]) == (name, product)]
        medians = (statistics.median(values_of(of_product, library, "gflop_per_s")) for library in libraries)
        print(f"| {name} | {product} | {' | '.join(f'{median:.0f}' for median in medians)} |")


if __name__ == "__main__":
    main()
