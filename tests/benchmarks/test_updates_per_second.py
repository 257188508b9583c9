"""The script that measures updates per second, and the roofline that goes with it."""

import csv
import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import pytest
import torch as th
from torch.utils.flop_counter import FlopCounterMode

from sb3_ext import REDQSAC

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPT = BENCHMARKS / "updates_per_second.py"
TINY = ("--repeats", 2, "--updates", 20, "--n-critics", 2, "--stored", 300, "--dimensions", "hopper", "--threads", 1)

# Their agent, as far as the adapter knows it
AUTHORS_AGENT = """
class REDQSACAgent:
    def __init__(self, batch_size, start_steps, utd_ratio, num_Q, **others):
        self.batch_size, self.start_steps, self.utd_ratio, self.num_Q = batch_size, start_steps, utd_ratio, num_Q
        self.n_stored = self.n_updates = 0

    def get_exploration_action(self, obs, env):
        return env.action_space.sample()

    def store_data(self, obs, action, reward, next_obs, done):
        self.n_stored += 1

    def train(self, logger):
        self.n_updates += self.utd_ratio if self.n_stored > self.start_steps else 0
        logger.store(LossPi=0)
"""


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def script(benchmarks: None) -> ModuleType:
    return importlib.import_module("updates_per_second")


@pytest.fixture
def roofline(benchmarks: None) -> ModuleType:
    return importlib.import_module("roofline")


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, (SCRIPT, *arguments))]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_updates_per_second_are_measured(tmp_path: Path) -> None:
    models, libraries = ["SB3 SAC", "REDQSAC, MKL", "plain PyTorch REDQ, oneDNN"], ["products oneDNN"]
    result = run("--output", "out/raw.csv", *TINY, "--contestants", *models, *libraries, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "| hopper | SB3 SAC |" in result.stdout and "| hopper | roofline, float32 (" in result.stdout

    def read(name: str) -> list[dict[str, str]]:
        first, command, *rest = (tmp_path / "out" / name).read_text().splitlines()
        assert first.startswith("# Python") and ", 1 threads, " in first
        assert command.startswith("# python benchmarks/updates_per_second.py")
        return list(csv.DictReader(rest))

    rows = read("raw.csv")
    assert sorted((row["contestant"], row["round"]) for row in rows) == sorted((m, i) for m in models for i in "01")
    assert all(float(row["updates_per_s"]) > 0 and float(row["steps_per_s"]) > 0 for row in rows)
    products = read("raw_products.csv")
    assert {row["contestant"] for row in products} == set(libraries)
    assert all(float(row["gflop_per_s"]) > 0 for row in products)

    again = run("--output", "out/raw.csv", "--table-only", cwd=tmp_path)
    assert again.stdout.strip() and result.stdout.endswith(again.stdout)


def product_row(library: str, product: str, inner: int, rate: float) -> dict[str, Any]:
    """Of a product of 1000 x inner x 1000 in two networks, three times in an update."""
    shape = {"n_networks": 2, "rows": 1000, "inner": inner, "columns": 1000, "per_update": 3}
    return {
        **{"dimensions": "hopper", "contestant": library, "product": product, **shape},
        **{"gflop_per_s": rate, "update_gflop": 2.0},
    }


PRODUCTS = [
    *(product_row("products MKL", "one", 100, rate) for rate in (90.0, 100.0, 500.0)),  # the median counts
    *(product_row("products JAX", "one", 100, rate) for rate in (60.0, 60.0, 60.0)),
    *(product_row("products MKL", "two", 50, rate) for rate in (100.0, 100.0, 100.0)),
    *(product_row("products JAX", "two", 50, rate) for rate in (200.0, 200.0, 200.0)),
    *(product_row("products oneDNN bfloat16", "one", 100, rate) for rate in (800.0, 800.0)),
]


def test_limits_are_those_of_the_fastest_libraries(roofline: ModuleType) -> None:
    # "one" is 3 times 0.4 GFLOP at 100 GFLOP/s, "two" 3 times 0.2 GFLOP at 200: 12 and 3 ms. An update has 2 GFLOP
    float32 = roofline.limits(PRODUCTS, bfloat16=False)
    assert float32.roofline == pytest.approx(100)
    assert float32.products_alone == pytest.approx(1000 / 15)
    assert (float32.library, float32.gflop_per_s) == ("JAX", 200)
    bfloat16 = roofline.limits(PRODUCTS, bfloat16=True)
    assert (bfloat16.roofline, bfloat16.library) == (pytest.approx(400), "oneDNN bfloat16")
    assert roofline.limits(PRODUCTS[:3], bfloat16=True) is None


def test_the_table_follows_from_the_rows(script: ModuleType) -> None:
    rates = {
        "REDQSAC": (40.0, 60.0, 50.0),
        "REDQSAC, bfloat16": (80.0, 120.0, 100.0),
        "SB3 SAC": (10.0, 10.0, 20.0),
        "SB3 SAC, oneDNN": (20.0, 20.0, 20.0),
        "SBX SAC": (20.0, 40.0, 25.0),
        "REDQSAC, SAC's work": (30.0, 30.0, 30.0),
    }
    rows = [
        {"dimensions": "hopper", "contestant": label, "round": index, "updates_per_s": rate, "steps_per_s": rate / 20}
        for label, values in rates.items()
        for index, rate in enumerate(values)
    ]
    assert script.table(rows, PRODUCTS).splitlines()[2:] == [
        "| hopper | roofline, float32 (200 GFLOP/s by JAX) | 100.0 | | | 100 % | |",
        "| hopper | products alone, float32 | 66.7 | | | 67 % | |",
        "| hopper | roofline, bfloat16 (800 GFLOP/s by oneDNN bfloat16) | 400.0 | | | 100 % | |",
        "| hopper | products alone, bfloat16 | 666.7 | | | 167 % | |",  # they lack "two"
        # 4, 6 and 2.5 times SB3; 2, 1.5 and 2 times SBX
        "| hopper | REDQSAC | 50.0 | 4.00 (3.25 to 5.00) | 2.00 (1.75 to 2.00) | 50 % | 2.50 |",
        "| hopper | REDQSAC, bfloat16 | 100.0 | 8.00 (6.50 to 10.00) | 4.00 (3.50 to 4.00) | 25 % | 5.00 |",
        # Whose work is another: without a share. 0.5, 0.25 and 0.8 times SBX
        "| hopper | SB3 SAC | 10.0 | 1 | 0.50 (0.38 to 0.65) |  | 0.50 |",
        "| hopper | SB3 SAC, oneDNN | 20.0 | 2.00 (1.50 to 2.00) | 0.80 (0.65 to 0.90) |  | 1.00 |",
        "| hopper | SBX SAC | 25.0 | 2.00 (1.62 to 3.00) | 1 |  | 1.25 |",
        # 3, 3 and 1.5 times SB3; 1.5, 0.75 and 1.2 times SBX
        "| hopper | REDQSAC, SAC's work | 30.0 | 3.00 (2.25 to 3.00) | 1.20 (0.97 to 1.35) |  | 1.50 |",
    ]
    without_roofline = "| hopper | REDQSAC | 50.0 | 4.00 (3.25 to 5.00) | 2.00 (1.75 to 2.00) |  | 2.50 |"
    assert without_roofline in script.table(rows, []).splitlines()
    without_sbx = [row for row in rows if row["contestant"] != "SBX SAC"]
    assert "| hopper | REDQSAC | 50.0 | 4.00 (3.25 to 5.00) |  | 50 % | 2.50 |" in script.table(without_sbx, PRODUCTS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--contestants", "REDQSAC, CUDA graphs"), "not with --device cpu"),
        (("--contestants", "authors' REDQ"), "git clone https://github.com/watchernyu/REDQ"),
        (("--authors-code", "nowhere"), "there is no redq/algos/redq_sac.py"),
        (("--threads", "100000"), "--threads: 100000 is not a whole number from 1 to"),
        (("--table-only",), "there is no such file"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    script: ModuleType,
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["updates_per_second.py", "--output", str(tmp_path / "raw.csv"), *arguments])
    with pytest.raises(SystemExit):
        script.main()
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_authors_agent_makes_as_many_updates(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "redq" / "algos").mkdir(parents=True)
    (tmp_path / "redq" / "algos" / "redq_sac.py").write_text(AUTHORS_AGENT)
    settings = dict(dimensions="hopper", n_critics=3, stored=5, device="cpu", authors_code=str(tmp_path))
    model = script.make(script.AUTHORS, settings)
    for name in [name for name in sys.modules if name.partition(".")[0] == "redq"]:
        monkeypatch.delitem(sys.modules, name)
    assert model.agent.num_Q == 3
    model.learn(4)
    assert (model.agent.n_stored, model.agent.n_updates) == (4, 0)
    model.learn(1)
    model.train(40, script.BATCH_SIZE)
    assert (model.agent.n_stored, model.agent.n_updates) == (5, 60)


def test_the_roofline_counts_what_the_algorithm_does(roofline: ModuleType) -> None:
    """PyTorch's own counter of multiplications, over updates of REDQSAC, knows all but the layers with one output."""
    env = gym.make("Pendulum-v1")
    kwargs = dict(n_critics=4, net_arch=[64, 64])
    model = REDQSAC("MlpPolicy", env, learning_starts=100, batch_size=32, policy_delay=5, policy_kwargs=kwargs)
    model.learn(100)
    model.train(5, 32)  # the first call in a process also tries out float32 products
    with FlopCounterMode(display=False) as counter:
        model.train(10, 32)
    work = roofline.Work(3, 1, n_critics=4, batch_size=32, width=64, policy_delay=5)
    assert 10 * work.flops() == pytest.approx(counter.get_total_flops(), rel=0.06)
    # Forward, gradients of weights and inputs, 4 critics and 2 of them in the target, and the actor's update in five
    one_output = 2 * 32 * 64 * (3 * 4 + 2 + 2 * 4 / 5)
    products = sum(product.flops() * product.per_update for product in work.products())
    assert products == pytest.approx(work.flops() - one_output)
    assert roofline.matrix_flops(th.float32, seconds=0.01) > 1e8


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_all_formulations_are_the_same_product(roofline: ModuleType, library: str) -> None:
    if library == "jax":
        pytest.importorskip("jax")
    products = roofline.Work(3, 1, n_critics=4, batch_size=8, width=16).products()
    for product in [products[0], products[1], products[3], products[4], products[-2]]:
        for formulation in roofline.formulations(product):
            if library == "torch":
                compute = roofline.in_torch(formulation, th.float32, "cpu")
                with FlopCounterMode(display=False) as counter:
                    results = compute()
                assert counter.get_total_flops() == product.flops()
            else:
                results = roofline.in_jax(formulation)()
            # As many numbers, each of them a sum of `inner` random products of 1/4 on average
            n_numbers = product.n_networks * product.rows * product.columns
            assert sum(result.size if library == "jax" else result.numel() for result in results) == n_numbers
            mean = sum(float(result.sum()) for result in results) / n_numbers
            assert mean == pytest.approx(product.inner / 4, rel=0.4)
