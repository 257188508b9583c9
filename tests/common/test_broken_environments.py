"""What is not finite is refused where an environment returns it."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_ext import REDQSAC


class BreaksAtStep(gym.Env):
    """Gives what is not finite at one step, in one place; two steps an episode end it at step ``ends_at``."""

    def __init__(self, where: str, at: int, value: float = np.nan, as_dict: bool = False) -> None:
        box = spaces.Box(-1.0, 1.0, (3,), np.float32)
        self.as_dict, self.where, self.at, self.value = as_dict, where, at, value
        self.observation_space = spaces.Dict({"a": box, "b": box}) if as_dict else box
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.steps = 0

    def _observation(self, bad: bool) -> Any:
        observation = np.zeros(3, np.float32)
        observation[1] = self.value if bad else 0.0
        return {"a": np.zeros(3, np.float32), "b": observation} if self.as_dict else observation

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        return self._observation(self.where == "reset" and self.steps >= self.at), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        now = self.steps == self.at
        reward = self.value if now and self.where == "reward" else 0.0
        terminated = now and self.where in ("terminal", "reset")
        return self._observation(now and self.where in ("observation", "terminal")), reward, terminated, False, {}


@pytest.mark.parametrize("as_dict", [False, True])
@pytest.mark.parametrize(
    ("where", "what"),
    [
        ("reward", "reward"),
        ("observation", "observation"),
        ("terminal", "terminal observation"),
        ("reset", "observation"),
    ],
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_from_the_environment(where: str, what: str, as_dict: bool, value: float) -> None:
    policy = "MultiInputPolicy" if as_dict else "MlpPolicy"
    model = REDQSAC(
        policy, BreaksAtStep(where, at=12, value=value, as_dict=as_dict), policy_kwargs=dict(net_arch=[4], n_critics=2)
    )
    with pytest.raises(
        ValueError, match=rf"{what}.* is {value} at index .*time step 12: only finite numbers are allowed"
    ):
        model.learn(20)
    assert model.replay_buffer.pos == 11  # what came before is kept, the bad step is not stored


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("where", ["reward", "observation"])
def test_what_vec_normalize_would_clip_is_seen(where: str, training: bool) -> None:
    env = VecNormalize(DummyVecEnv([lambda: BreaksAtStep(where, at=12, value=np.inf)]), training=training)
    model = REDQSAC("MlpPolicy", env, policy_kwargs=dict(net_arch=[4], n_critics=2))
    with pytest.raises(ValueError, match=rf"{where} is inf at index .*time step 12"):
        model.learn(20)
    assert model.replay_buffer.pos == 11


def test_nan_in_the_first_observation() -> None:
    model = REDQSAC("MlpPolicy", BreaksAtStep("reset", at=0), policy_kwargs=dict(net_arch=[4]))
    with pytest.raises(ValueError, match=r"observation is nan at index \[0, 1\] \(environment first\), time step 0"):
        model.learn(10)
