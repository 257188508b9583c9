"""The examples run as their docstrings say, with fewer steps."""

import importlib.util
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["redq_pendulum.py", "--timesteps", "600"], "continued to 1100 steps and 3000 updates"),
        (["action_mask.py", "--timesteps", "300"], "no move was impossible"),
        (["custom_ensemble.py", "--timesteps", "320"], "REINFORCE-8"),
        (["atari_memory.py", "--timesteps", "400"], "transitions are stored in"),
        (["iqn_return_distribution.py", "--timesteps", "1200", "--steps", "3"], "the return of 2 actions"),
        (["skills.py", "--timesteps", "400"], "one episode of each skill"),
        (["tabular.py", "--episodes", "60", "--seeds", "2"], "SARSA(lambda): return"),
        (["shared_policy.py", "--timesteps", "2400"], "three episodes"),
        (["entropy_sign.py", "--timesteps", "1400", "--seeds", "1"], "wrote entropy_sign.csv and .png"),
        (["n_step_bias.py"], "without a correction the bias is up to -5.36, with one 0"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_example(arguments: list[str], expected: str, tmp_path: Path) -> None:
    script, *options = arguments
    if script == "shared_policy.py":
        pytest.importorskip("supersuit")
        pytest.importorskip("mpe2")
    result = subprocess.run(
        [sys.executable, EXAMPLES / script, *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert expected in result.stdout


def test_every_example_is_run() -> None:
    parametrized = Path(__file__).read_text()
    assert all(f'"{script.name}"' in parametrized for script in EXAMPLES.glob("*.py"))


def load(name: str) -> Any:
    """Import an example by its name."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_wrong_sign_is_that_of_the_entropy() -> None:
    entropy_sign = load("entropy_sign")
    q_values = th.tensor([[1.0, 3.0]])
    # The temperature is 1: the policy is (1, e^2) / (1 + e^2)
    best = math.exp(2) / (1 + math.exp(2))
    expected = (1 - best) * 1 + best * 3
    entropy = -(best * math.log(best) + (1 - best) * math.log(1 - best))
    for variant, value in (
        ("E Q + alpha H", expected + entropy),
        ("E Q", expected),
        ("E Q - alpha H", expected - entropy),
    ):
        model = entropy_sign.make(variant, seed=0)
        assert model.state_values(q_values, None).item() == pytest.approx(value, rel=1e-5)


def test_agents_of_a_game_learn_beyond_its_time_limit() -> None:
    pytest.importorskip("supersuit")
    pytest.importorskip("mpe2")
    env = load("shared_policy").make_env(n_games=2)
    env.seed(0)
    env.reset()
    for step in range(1, 51):
        observations, _, dones, infos = env.step(np.ones(6, np.int64))
        assert dones.dtype == bool and dones.tolist() == [step % 25 == 0] * 6
        for done, info, observation in zip(dones, infos, observations, strict=True):
            assert info.get("TimeLimit.truncated", False) == done
            assert not done or not np.array_equal(info["terminal_observation"], observation)
