"""The page of results says what the committed files hold."""

import csv
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
Load = Callable[[str], ModuleType]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """
    Two seeds of one variant, with evaluations of two episodes after 10, 20 and 30 steps; the second ends after 20.
    Seed 0: 1, 2, 3 and seed 1: 5, 6 as the means of the evaluations. An evaluation every 2 and every 4 minutes.
    """
    kept = {0: {10: (0, 2), 20: (1, 3), 30: (2, 4)}, 1: {10: (4, 6), 20: (5, 7)}}
    write(
        tmp_path / "returns.csv",
        [
            {"env": "Task-v0", "variant": "ours", "seed": seed, "timesteps": step, "episode": i, "return": value}
            for seed, evaluations in kept.items()
            for step, values in evaluations.items()
            for i, value in enumerate(values)
        ],
    )
    write(
        tmp_path / "minutes.csv",
        [
            {
                "env": "Task-v0",
                "variant": "ours",
                "seed": seed,
                "timesteps": step,
                "minutes": step / 10 * 2 * (seed + 1),
            }
            for seed, evaluations in kept.items()
            for step in evaluations
        ],
    )
    write(tmp_path / "runs.csv", [{"env": "Task-v0", "variant": "ours", "seed": s, "command": "x"} for s in kept])
    write(
        tmp_path / "published.csv",
        [
            {"env": "Task-v0", "algo": "old", "steps": s, "mean": m, "std": 1, "seeds": 10 if s else 1}
            for s, m in ((0, 0), (18, 3), (22, 5), (40, 8))
        ],
    )
    return tmp_path


def test_the_committed_page_is_what_the_committed_files_say(load_script: Load) -> None:
    script = load_script("results_page")
    content = yaml.safe_load((script.RESULTS / "page.yml").read_text())
    assert script.PAGE.read_text() == script.page(content)


def test_a_table_by_hand(folder: Path, load_script: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    script = load_script("results_page")
    monkeypatch.setattr(script, "RESULTS", folder.parent)
    task = {
        "env": "Task-v0",
        "window": 10,
        "steps": [20, 30],
        "minutes": [5, 8],
        "command": "train it",
        "rows": [{"name": "Ours", "ours": True, "folder": folder.name, "variant": "ours"}],
        "published": [{"name": "Old", "folder": folder.name, "algo": "old"}],
    }
    lines = script.task_section(task)
    # 20 steps: 2 and 6, whose standard deviation is sqrt(8). 5 minutes: seed 0 at step 20 with 2, seed 1 at step 10
    # with 5. 8 minutes: seed 0 had ended after 6
    assert "| **Ours** | 4.0 ± 2.8 (2) | 3.0 (1) | 3.5 ± 2.1 (2) | 6.0 (1) | 6.0 (1) |" in lines
    # No published point is near 30 steps
    assert "| Old, published | 4 (10) | - | - | - | - |" in lines
    assert "train it" in lines


def test_a_window_averages_the_episodes_within_it(folder: Path, load_script: Load) -> None:
    run = load_script("results_page").runs_of(folder, "Task-v0", "ours")[0]
    assert run.at_step(30, 20) == 2.5  # of 2 and 3
    assert run.at_step(25, 10) == 2.0
    assert run.at_step(50, 10) is None  # the run had ended


@pytest.mark.parametrize(("env", "variant"), [("Task-v1", "ours"), ("Task-v0", "theirs")])
def test_a_row_without_runs_is_refused(folder: Path, load_script: Load, env: str, variant: str) -> None:
    with pytest.raises(ValueError, match=f"no runs of variant '{variant}' in '{env}'"):
        load_script("results_page").runs_of(folder, env, variant)
