"""What algorithms logged in runs, on its way into the report."""

import json
from pathlib import Path

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from sb3_ext.experiments import load_experiment
from sb3_ext.experiments.figures import styles
from sb3_ext.experiments.results import write_csv
from sb3_ext.experiments.runs import RunFolder
from sb3_ext.experiments.scalars import (
    MAX_VALUES,
    TRAINING_COLUMNS,
    collect_training,
    draw_all_training,
    draw_training,
    read_scalars,
    read_training,
)


def log(folder: Path, scalars: dict[str, list[tuple[int, float]]]) -> None:
    with SummaryWriter(str(folder)) as writer:
        for name, values in scalars.items():
            for step, value in values:
                writer.add_scalar(name, value, step)


@pytest.fixture
def folders(tmp_path, write_experiment) -> list[RunFolder]:
    """Finished runs of an algorithm with a value loss, and of one with critics."""
    folders = [RunFolder(tmp_path / "logs", run) for run in load_experiment(write_experiment()).runs]
    for folder in folders:
        folder.prepare()
        loss = "train/loss" if folder.run.variant == "stock" else "train/critic_loss"
        scalars = {
            "rollout/ep_rew_mean": [(100, 10.0), (300, 30.0)],
            loss: [(100, 1.0), (200, 0.5), (300, 0.25)],
            "time/fps": [(100, 7.0)],
        }
        if folder.run.variant == "double":
            scalars["train/q_value"] = [(200, 4.0), (300, 5.0)]
        log(folder.path / "training" / "tensorboard" / "CartPole-v1" / "DQN_1", scalars)
        content = {"run": folder.run.as_dict(), "command": "", "seconds": 1.0, "versions": {}}
        (folder.path / "finished.json").write_text(json.dumps(content))
    return folders


def test_scalars_survive_the_way_through_the_csv_file(tmp_path, folders):
    (folders[3].path / "finished.json").unlink()
    rows, problems = collect_training(folders)
    assert problems == [] and len(rows) == 2 * 5 + 7
    write_csv(tmp_path / "training.csv", TRAINING_COLUMNS, rows)
    ((env, training),) = read_training(tmp_path / "training.csv").items()
    assert env == "CartPole-v1" and {name: list(runs) for name, runs in training.items()} == {
        "stock": ["1", "2"],
        "double": ["1"],
    }
    assert set(training["stock"]["1"]) == {"rollout/ep_rew_mean", "train/loss"}
    steps, values = training["double"]["1"]["train/critic_loss"]
    assert steps.tolist() == [100, 200, 300] and values.tolist() == [1.0, 0.5, 0.25]


def test_long_logs_are_thinned_and_keep_their_ends(tmp_path, folders):
    steps = range(0, 10 * MAX_VALUES, 2)
    log(folders[0].path / "training" / "tensorboard" / "more", {"train/long": [(step, float(step)) for step in steps]})
    rows = [row for row in collect_training(folders)[0] if row["name"] == "train/long"]
    kept = [row["timesteps"] for row in rows]
    assert len(kept) == MAX_VALUES and (kept[0], kept[-1]) == (0, steps[-1]) and kept == sorted(kept)
    assert max(np.diff(kept)) <= 2 * (min(np.diff(kept)))
    assert all(float(row["value"]) == row["timesteps"] for row in rows)


def test_the_last_value_of_a_time_step_counts(tmp_path):
    log(tmp_path, {"train/loss": [(5, 1.0), (5, 2.0)]})
    steps, values = read_scalars(tmp_path)["train/loss"]
    assert steps.tolist() == [5] and values.tolist() == [2.0]
    assert read_scalars(tmp_path / "nothing") == {}


def test_q_is_drawn_over_the_return(folders, tmp_path):
    write_csv(tmp_path / "training.csv", TRAINING_COLUMNS, collect_training(folders)[0])
    training = read_training(tmp_path / "training.csv")["CartPole-v1"]
    figure = draw_training(training, styles(training))
    axes = figure.axes
    assert [axis.get_title() for axis in axes] == [
        "return of training episodes",
        "loss of the critics, or of all",
        "Q against return",
    ]
    assert [len(axis.lines) for axis in axes] == [4, 4, 2]
    assert axes[2].lines[0].get_xdata().tolist() == [20.0, 30.0]  # between 10 at step 100 and 30 at step 300
    assert axes[2].lines[0].get_ydata().tolist() == [4.0, 5.0]
    assert [text.get_text() for text in figure.legends[0].texts] == ["stock", "double"]


def test_old_figures_go(tmp_path, folders):
    write_csv(tmp_path / "training.csv", TRAINING_COLUMNS, collect_training(folders)[0])
    (tmp_path / "training_Old-v1.svg").write_text("old")
    paths = draw_all_training(read_training(tmp_path / "training.csv"), styles(["stock", "double"]), tmp_path)
    assert {path.name for path in paths} == {"training_CartPole-v1.png", "training_CartPole-v1.svg"}
    assert not (tmp_path / "training_Old-v1.svg").exists()


def test_of_a_damaged_file_there_is_what_comes_before(folders):
    (path,) = (folders[1].path / "training").rglob("events.*")
    path.write_bytes(path.read_bytes()[:-30])
    rows, problems = collect_training(folders)
    assert problems == [] and len(rows) == 2 * 5 + 2 * 7 - 1


def test_a_file_that_cannot_be_read_is_named_and_left_out(folders):
    (path,) = (folders[1].path / "training").rglob("events.*")
    path.unlink()
    path.mkdir()
    rows, problems = collect_training(folders)
    (problem,) = problems
    assert problem.startswith("double/CartPole-v1/seed_1: ") and "is a directory" in problem.lower()
    assert len(rows) == 2 * 5 + 7
