"""The trained agents in ``examples/trained_agents`` play as well as the page says, through rl_zoo3 too."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_ext import REDQSAC, DoubleDQN

AGENTS = Path(__file__).parents[2] / "examples" / "trained_agents"
#: Folder of the agent, its class, and a mean return that it exceeds
PLAYERS: list[tuple[str, Any, float]] = [
    ("redq_sac/InvertedPendulum-v5_1", REDQSAC, 990),
    ("redq_sac/Pendulum-v1_1", REDQSAC, -200),
    ("double_dqn/CartPole-v1_1", DoubleDQN, 490),
    ("double_dqn/LunarLander-v3_1", DoubleDQN, 100),
]


def env_id(folder: str) -> str:
    return Path(folder).name.rpartition("_")[0]


def test_all_of_them_are_tested() -> None:
    assert {str(path.relative_to(AGENTS)) for path in AGENTS.glob("*/*_1")} == {folder for folder, _, _ in PLAYERS}
    sizes = [path.stat().st_size for path in AGENTS.rglob("*") if path.is_file()]
    assert sum(sizes) < 5_000_000


@pytest.mark.parametrize(("folder", "cls", "least"), PLAYERS)
def test_they_play_well(folder: str, cls: Any, least: float) -> None:
    if "LunarLander" in folder:
        pytest.importorskip("Box2D")
    env = make_vec_env(env_id(folder), 1, seed=100)
    model = cls.load(AGENTS / folder / f"{env_id(folder)}.zip", buffer_size=1, device="cpu")
    assert evaluate_policy(model, env, 10, deterministic=True)[0] > least


def test_rl_zoo3_plays_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rl_zoo3.enjoy", "--algo", "redq_sac", "--env", "InvertedPendulum-v5"]
    command += ["-f", str(AGENTS), "--no-render", "-n", "1200"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    found = re.search(r"Episode Reward: (\S+)", result.stdout)
    assert found is not None and float(found[1]) > 990, result.stdout + result.stderr
