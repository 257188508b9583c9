"""The shares of an update, and the ways to compute its products."""

import csv
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def shares(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("shares")


@pytest.fixture
def roofline(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("roofline")


def event(*names: str) -> Any:
    """An event of the profiler, and what calls it."""
    name, *callers = names
    return SimpleNamespace(name=name, cpu_parent=event(*callers) if callers else None)


@pytest.mark.parametrize(
    ("names", "part"),
    [
        (("aten::bmm", "autograd::engine"), "products"),
        (("aten::mul",), "other kernels"),
        (("aten::mul", "Optimizer.step#Adam.step"), "optimizer"),
        (("aten::copy_", "aten::to", "sampling"), "sampling"),
        (("aten::lerp_", "aten::_foreach_lerp_"), "target networks"),
        (("aten::copy_", "aten::mkldnn_convolution"), "convolutions"),
        (("aten::copy_", "aten::baddbmm"), "products"),
    ],
)
def test_a_kernel_belongs_to_what_calls_it(shares: ModuleType, names: tuple[str, ...], part: str) -> None:
    assert shares.part_of(event(*names)) == part


def test_shares_are_those_of_the_medians(shares: ModuleType) -> None:
    rows = [
        {"contestant": "a", "round": index, "update": 10 * factor} | dict.fromkeys(shares.PARTS, factor)
        for index, factor in enumerate((1, 4, 2))
    ]
    *_, line = shares.table(rows).splitlines()
    assert line == "| a | 20.0 |" + " 10 % |" * len(shares.PARTS)


def test_the_parts_of_an_update_make_the_whole(shares: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    training = shares.trainings()["SoftDQN, 64x64"]._replace(n_updates=8)
    monkeypatch.setattr(shares, "trainings", lambda: {"tiny": training})
    figures = shares.prepare("tiny", {"stored": 256})()
    assert sum(figures[part] for part in shares.PARTS) == pytest.approx(figures["update"])
    assert all(figures[part] > 0 for part in ("sampling", "optimizer", "products", "other kernels", "Python"))
    assert figures["convolutions"] == 0


def test_each_way_to_compute_a_product_is_measured(roofline: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    work = {"n_observations": 3, "n_actions": 1, "n_critics": 2, "batch_size": 4, "width": 8}
    monkeypatch.setattr(roofline, "SECONDS", 0.0)
    monkeypatch.setitem(roofline.SQUARE, "cpu", 8)
    rates = roofline.prepare("products MKL", {"work": work, "device": "cpu", "each_way": True})()
    ways = {name.partition(": ")[2] for name in rates if name.startswith("critics 1, forward")}
    assert ways == {f"{way}, {layout}" for way in roofline.WAYS for layout in roofline.LAYOUTS}
    # One network has one way, and only critics share their input
    assert sum(name.startswith("actor 1, forward") for name in rates) == 2
    assert sum(name.startswith("critics 2, forward") for name in rates) == 4
    assert all(rate > 0 for rate in rates.values())


@pytest.mark.slow
@pytest.mark.parametrize("script", ["shares.py", "roofline.py"])
def test_the_scripts_run(script: str, tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / script), "--output", str(tmp_path / "raw.csv"), "--repeats", "1"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    rows = list(csv.DictReader((tmp_path / "raw.csv").read_text().splitlines()[2:]))
    assert rows and all(row["round"] == "0" for row in rows)


@pytest.mark.parametrize("script", ["shares.py", "roofline.py"])
def test_bad_numbers_are_refused(script: str, tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / script), "--output", str(tmp_path / "raw.csv"), "--repeats", "0"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 2 and "--repeats 0 must be at least 1" in result.stderr
