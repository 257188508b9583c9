"""What a type checker and an editor see of the public classes."""

import subprocess
import sys
from pathlib import Path

import pytest

GOOD = """
from sb3_ext import IQN, REDQSAC, DoubleDQN, SoftDQN

REDQSAC("MlpPolicy", "Pendulum-v1", target_backup="min", actor_q="min", autocast_dtype="auto", policy_delay=None)
REDQSAC("MlpPolicy", "Pendulum-v1", 1e-3, actor_gradient="reinforce", reinforce_baseline="loo", n_actor_samples=2)
DoubleDQN("MlpPolicy", "CartPole-v1", 1e-3, 1000, double_q=False)
SoftDQN("MlpPolicy", "CartPole-v1", target_backup="mellowmax")
IQN("MlpPolicy", "CartPole-v1", risk_measure="cvar", risk_eta=0.5)
"""
BAD = [
    ('REDQSAC("MlpPolicy", "Pendulum-v1", target_backup="foo")', "target_backup"),
    ('REDQSAC("MlpPolicy", "Pendulum-v1", actor_gradient="foo")', "actor_gradient"),
    ('REDQSAC("MlpPolicy", "Pendulum-v1", reinforce_baseline="foo")', "reinforce_baseline"),
    ('REDQSAC("MlpPolicy", "Pendulum-v1", actor_q="max")', "actor_q"),
    ('REDQSAC("MlpPolicy", "Pendulum-v1", buffer_device="cuda")', "buffer_device"),
    ('SoftDQN("MlpPolicy", "CartPole-v1", target_backup="redq")', "target_backup"),
    ('IQN("MlpPolicy", "CartPole-v1", risk_measure="var")', "risk_measure"),
    ('DoubleDQN("MlpPolicy", "CartPole-v1", autocast_dtype="float16")', "autocast_dtype"),
    ('DoubleDQN("MlpPolicy", "CartPole-v1", double=True)', "double"),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """
    :return: mypy's errors, of both scripts
    """
    folder = tmp_path_factory.mktemp("types")
    (folder / "good.py").write_text(GOOD)
    imports = "from sb3_ext import IQN, REDQSAC, DoubleDQN, SoftDQN\n"
    (folder / "bad.py").write_text(imports + "\n".join(line for line, _ in BAD) + "\n")
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "good.py", "bad.py"]
    package = Path(__file__).resolve().parents[2]
    # With the cache of `make check`, which has seen the package already
    command += ["--config-file", str(package / "pyproject.toml"), "--cache-dir", str(package / ".mypy_cache")]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return [line for line in result.stdout.splitlines() if "error:" in line]


def test_right_choices_pass(found: list[str]) -> None:
    assert [line for line in found if line.startswith("good.py")] == []


@pytest.mark.parametrize(("index", "name"), [(index, name) for index, (_, name) in enumerate(BAD)])
def test_wrong_choices_are_refused(index: int, name: str, found: list[str]) -> None:
    errors = [line for line in found if line.startswith(f"bad.py:{index + 2}:")]
    assert len(errors) == 1 and f'"{name}"' in errors[0], found
