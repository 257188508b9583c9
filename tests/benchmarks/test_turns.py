"""Contestants of benchmarks in processes of their own, which take turns."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TOY = """
import os, sys

def prepare(label, settings):
    if label == "dies at once":
        sys.exit(f"{settings['thing']} is too much")
    n_blocks = 0

    def block():
        nonlocal n_blocks
        n_blocks += 1
        print("this goes nowhere")
        if label == "dies":
            raise ZeroDivisionError("in the block")
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        threads = {int(os.environ[name]) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        return dict(n_blocks=n_blocks, pid=os.getpid(), threads=max(threads), cores=cores, thing=settings["thing"])

    return block
"""


@pytest.fixture
def turns(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("turns")


@pytest.fixture
def start(turns: ModuleType, tmp_path: Path) -> Callable[..., Any]:
    script = tmp_path / "toy.py"
    script.write_text(TOY)
    return lambda label, **kwargs: turns.Contestant(label, script, {"thing": 2.5}, n_threads=1, **kwargs)


def test_contestants_take_turns_in_processes_of_their_own(turns: ModuleType, start: Callable[..., Any]) -> None:
    with start("a") as a, start("b") as b:
        first, second, other = a.block(), a.block(), b.block()
    assert first["pid"] == second["pid"] and len({first["pid"], other["pid"], os.getpid()}) == 3
    assert (first["n_blocks"], second["n_blocks"], other["n_blocks"]) == (1, 2, 1)
    for figures in (first, second, other):
        assert (figures["threads"], figures["cores"], figures["thing"]) == (1, 1, 2.5)

    rows = list(turns.measure([partial(start, label) for label in "abc"], 4, "toy"))
    assert [(row["contestant"], row["round"], row["turn"]) for row in rows] == [
        *(("a", 0, 0), ("b", 0, 1), ("c", 0, 2)),
        *(("b", 1, 0), ("c", 1, 1), ("a", 1, 2)),
        *(("c", 2, 0), ("a", 2, 1), ("b", 2, 2)),
        *(("a", 3, 0), ("b", 3, 1), ("c", 3, 2)),
    ]
    assert turns.values_of(rows, "b", "n_blocks") == [1, 2, 3, 4]


def test_a_contestant_that_dies_says_why(turns: ModuleType, start: Callable[..., Any]) -> None:
    with pytest.raises(RuntimeError, match=r"dies at once: (?s:.*)2.5 is too much"):
        start("dies at once")
    with start("dies", name="its name") as contestant:
        with pytest.raises(RuntimeError, match=r"its name: (?s:.*)ZeroDivisionError: in the block"):
            contestant.block()
        with pytest.raises(RuntimeError, match="ZeroDivisionError"):  # it is not asked in vain a second time
            contestant.block()


def test_packages_come_from_the_given_checkout(turns: ModuleType, tmp_path: Path) -> None:
    values = []
    script = tmp_path / "of_a_package.py"
    script.write_text(
        "def prepare(label, settings):\n    import its_package\n    return lambda: {'value': its_package.VALUE}\n"
    )
    for value in (1, 2):
        checkout = tmp_path / str(value)
        checkout.mkdir()
        (checkout / "its_package.py").write_text(f"VALUE = {value}\n")
        with turns.Contestant("any", script, {}, n_threads=1, folder=checkout) as contestant:
            values.append(contestant.block()["value"])
    assert values == [1, 2]


def test_ratios_are_those_within_a_round(turns: ModuleType) -> None:
    figures = {"a": (2.0, 4.0, 6.0, 8.0), "b": (1.0, 1.0, 2.0, 2.0)}
    rows = [
        {"contestant": name, "round": str(index), "rate": str(value)}
        for name, values in figures.items()
        for index, value in enumerate(values)
    ]
    rows.append({"contestant": "a", "round": "4", "rate": "100"})  # the last, interrupted round
    # 2, 4, 3, 4
    assert turns.ratios(rows, "a", "b", "rate") == pytest.approx((2.75, 3.5, 4.0))
    assert turns.ratios(rows[:1] + rows[4:5], "a", "b", "rate") == (2.0, 2.0, 2.0)
