"""The examples run as their docstrings say, with fewer steps."""

import subprocess
import sys
from pathlib import Path

import pytest

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
