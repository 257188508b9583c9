"""Which ids are Atari games that can be played, and what is needed for it."""

import sys

import gymnasium as gym
import pytest

from sb3_ext import AtariVecEnv

gym.register_envs(pytest.importorskip("ale_py"))


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("CartPole-v1", r"env_id='CartPole-v1' is not an Atari game"),
        ("NoSuchGame-v4", r"env_id='NoSuchGame-v4' is not a registered id"),
        ("Boxing-v4", r"Boxing-v4: frameskip=\(2, 5\)"),
    ],
)
def test_ids_are_checked(env_id: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AtariVecEnv(env_id)


def test_without_ale_py_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ale_py.vector_env", None)
    with pytest.raises(ImportError, match=r'pip install "ale-py>=0.11.2" opencv-python'):
        AtariVecEnv("ALE/Boxing-v5")
