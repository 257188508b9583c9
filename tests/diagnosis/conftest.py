"""The environments of the tests, by name."""

from typing import Any

import gymnasium as gym
import pytest

from .helpers import EndlessReward


@pytest.fixture(autouse=True, scope="module")
def registered() -> Any:
    gym.register("EndlessReward-v0", EndlessReward, disable_env_checker=True)
    gym.register("LimitedReward-v0", EndlessReward, max_episode_steps=20, disable_env_checker=True)
    yield
    del gym.registry["EndlessReward-v0"], gym.registry["LimitedReward-v0"]
