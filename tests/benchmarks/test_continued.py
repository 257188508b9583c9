"""Many settings from one checkpoint."""

import csv
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.utils import FloatSchedule

from sb3_ext import REDQSAC

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "continued.py"


def test_it_goes_on_with_other_arguments(tmp_path: Path) -> None:
    model = REDQSAC(
        "NormalizedMlpPolicy",
        "Pendulum-v1",
        learning_rate=FloatSchedule(1e-3),  # as rl_zoo3 makes it of a number
        learning_rate_final=0.0,
        learning_starts=20,
        gradient_steps=1,
        batch_size=8,
        noise_repeat=4,
        normalize_returns=True,
        policy_kwargs=dict(width=8, actor_width=8, actor_average=0.01),
    )
    model.learn(40, callback=CheckpointCallback(40, str(tmp_path), save_replay_buffer=True))
    (checkpoint,) = tmp_path.glob("rl_model_*_steps.zip")
    common = [checkpoint, "--env", "Pendulum-v1", "--steps", "20", "--eval-freq", "10", "--output", "rows.csv"]
    for name, arguments in (
        ("same", ["--total", "100"]),
        ("other", ["--set", "noise_repeat=2", "actor_q=min", "--rates", "1e-4", "1e-5", "--averaged-actor-explores"]),
    ):
        command = [sys.executable, SCRIPT, *common, "--name", name, *arguments]
        subprocess.run([str(word) for word in command], cwd=tmp_path, check=True, capture_output=True)
    with (tmp_path / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["name"], row["timesteps"]) for row in rows] == [
        ("same", "50"),
        ("same", "60"),
        ("other", "50"),
        ("other", "60"),
    ]
    assert all(-2000 < float(row["evaluation"]) < 0 for row in rows)
    assert rows[0]["changed"] == ""
    assert rows[2]["changed"] == "noise_repeat=2 actor_q=min averaged actor explores rates 0.0001 to 1e-05"


def test_the_newest_transitions_stay(load_script: Callable[[str], ModuleType]) -> None:
    keep_recent = load_script("continued").keep_recent
    model = REDQSAC("MlpPolicy", "Pendulum-v1", learning_starts=100, buffer_size=50)
    model.learn(20)
    buffer = model.replay_buffer
    newest = buffer.observations[15:20].copy(), buffer.rewards[15:20].copy()
    keep_recent(buffer, 5)
    assert buffer.size() == 5
    assert (buffer.observations[:5] == newest[0]).all() and (buffer.rewards[:5] == newest[1]).all()
    with pytest.raises(ValueError, match="recent=6 must be at most 5"):
        keep_recent(buffer, 6)


def test_the_learning_rate_between_two_steps(load_script: Callable[[str], ModuleType]) -> None:
    rate = load_script("continued").line(4e-4, 2e-4, begin=100, end=200)
    assert rate(0.5) == pytest.approx(4e-4) and rate(0.0) == pytest.approx(2e-4)
    assert rate(0.25) == pytest.approx(3e-4)  # at step 150
