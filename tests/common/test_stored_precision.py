"""What is not finite in the precision in which it is stored or trained with is refused before it is stored."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper, VecNormalize
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from sb3_ext import REDQSAC, DoubleDQN
from sb3_ext.buffers import ArrayReplayBuffer
from sb3_ext.checks import check_finite
from tests.support.models import CLASSES, make

each = pytest.mark.parametrize("cls", CLASSES)


class Large(gym.Env):
    """One value is ``value`` from step 30 on, in observations of any type."""

    def __init__(self, cls: Any, where: str, value: Any, dtype: Any = np.float32, as_dict: bool = False) -> None:
        box = spaces.Box(-np.inf, np.inf, (3,), dtype)
        self.observation_space = spaces.Dict({"a": box}) if as_dict else box
        is_continuous = issubclass(cls, REDQSAC)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32) if is_continuous else spaces.Discrete(2)
        self.where, self.value, self.as_dict, self.steps = where, value, as_dict, 0

    def _observation(self, is_large: bool) -> Any:
        # float64, whatever the space says
        observation = np.full(3, self.value if is_large else 0.5, np.float64)
        return {"a": observation} if self.as_dict else observation

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return self._observation(is_large=False), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.steps += 1
        now = self.steps == 30
        reward = self.value if now and self.where == "reward" else 1.0
        is_large = now and self.where in ("observation", "terminal observation")
        return self._observation(is_large), reward, now and self.where.startswith("terminal"), False, {}


class DoubleRewards(VecEnvWrapper):
    """Rewards as ``SubprocVecEnv`` returns them: not in ``DummyVecEnv``'s float32."""

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        observations, _, dones, infos = self.venv.step_wait()
        large = self.venv.envs[0]
        now = large.steps == 30 and large.where == "reward"
        return observations, np.array([large.value if now else 1.0]), dones, infos


def model_of(cls: Any, where: str, value: Any, normalized: bool = False, **env: Any) -> Any:
    venv: Any = DoubleRewards(DummyVecEnv([lambda: Large(cls, where, value, **env)]))
    policy = "MultiInputPolicy" if env.get("as_dict") else "MlpPolicy"
    return make(cls, VecNormalize(venv) if normalized else venv, policy, learning_starts=10**6)


LARGE = [
    ("reward", 1e300, {}),
    ("reward", 10**60, {}),  # an array of Python's integers
    ("observation", 1e300, dict(dtype=np.float64)),
    ("observation", -1e39, dict(dtype=np.float64, as_dict=True)),
    ("terminal observation", 1e300, dict(dtype=np.float64)),
    ("terminal observation", 1e300, dict(dtype=np.float32)),
    ("terminal observation", 1e5, dict(dtype=np.float16)),
    ("terminal observation", 1e5, dict(dtype=np.float16, as_dict=True)),
]


@each
@pytest.mark.parametrize(("where", "value", "env"), LARGE, ids=str)
@pytest.mark.filterwarnings("ignore:.*cast:RuntimeWarning")
def test_what_the_stored_precision_cannot_hold(cls: Any, where: str, value: Any, env: dict[str, Any]) -> None:
    model = model_of(cls, where, value, **env)
    with pytest.raises(ValueError, match=rf"{where}.* is .*, which float\d\d cannot hold, at index .*time step 30"):
        model.learn(40)
    assert model.replay_buffer.size() == 29


@each
@pytest.mark.parametrize("where", ["reward", "observation"])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_vec_normalize_stores_and_returns(cls: Any, where: str) -> None:
    # 1e300 squared makes the variance infinite, so the normalized value is 0
    model = model_of(cls, where, 1e300, normalized=True, dtype=np.float64)
    with pytest.raises(ValueError, match=f"{where}.* is 1e.300, which float32 cannot hold, at .*time step 30"):
        model.learn(40)
    # The original value is small, the normalized one is not
    model = model_of(cls, where, 1.0, normalized=True).learn(10)
    statistics = model.get_vec_normalize_env().ret_rms if where == "reward" else model.get_vec_normalize_env().obs_rms
    statistics.var = np.full_like(statistics.var, np.nan)
    with pytest.raises(ValueError, match=f"normalized {where} is nan at .*time step 11"):
        model.learn(10, reset_num_timesteps=False)
    assert model.replay_buffer.size() == 10


def test_actions_are_checked_before_the_environment_gets_them() -> None:
    noise = NormalActionNoise(np.array([np.nan]), np.ones(1))
    model = make(REDQSAC, action_noise=noise)
    with pytest.raises(ValueError, match=r"action is nan at index \[0, 0\] \(environment first\), time step 0"):
        model.learn(30)
    assert model.replay_buffer.size() == 0
    model = make(REDQSAC, learning_starts=5, random_steps=0)
    with th.no_grad():
        model.actor.mu.weight.fill_(np.inf)
        model.actor.mu.bias.fill_(-np.inf)
    model.actor.action_dist.sample = lambda: th.full((1, 1), np.nan)  # what an actor of one's own may return
    with pytest.raises(ValueError):
        model.learn(30)
    assert model.replay_buffer.size() == 0


@each
def test_rewards_of_hindsight_are_named(cls: Any) -> None:
    class Failing(BitFlippingEnv):
        def compute_reward(self, achieved: Any, desired: Any, infos: Any) -> Any:
            rewards = super().compute_reward(achieved, desired, infos)
            # Only a step of the environment has no infos
            return rewards if infos is None else rewards.astype(np.float64) * 1e300

    model = make(
        cls,
        Failing(n_bits=3, continuous=cls is REDQSAC),
        "MultiInputPolicy",
        replay_buffer_class=HerReplayBuffer,
        replay_buffer_kwargs=dict(goal_selection_strategy="final"),
    )
    with (
        np.errstate(over="ignore"),
        pytest.raises(ValueError, match=r"The minibatch's rewards contain (-inf|nan), as the replay buffer gave them"),
    ):
        model.learn(60)
    assert all(th.isfinite(value).all() for value in model.policy.state_dict().values())


@each
def test_sums_over_several_steps_are_named(cls: Any) -> None:
    model = make(
        cls,
        Large(cls, "none", 0.0),
        n_steps=3,
        gamma=1.0,
        replay_buffer_class=ArrayReplayBuffer,
        learning_starts=10**6,
    ).learn(20)
    model.replay_buffer.rewards[:] = 3e38
    with (
        np.errstate(over="ignore"),
        pytest.raises(ValueError, match="The minibatch's rewards contain inf"),
    ):
        model.train(1, 16)


def test_what_the_precision_holds_is_accepted() -> None:
    for value in (np.float64(3e38), np.arange(3), np.array([10**30], dtype=object), {"a": np.ones(2, np.float16)}):
        check_finite("value", value, step=0)
    check_finite("value", {"a": np.array([6e4])}, step=0, dtype={"a": np.float16})
    with pytest.raises(ValueError, match=r"value\['a'\] is 70000.0, which float16 cannot hold, at index \[0\]"):
        check_finite("value", {"a": np.array([7e4])}, step=0, is_batch=False, dtype={"a": np.float16})
    for cls in (REDQSAC, DoubleDQN):
        model_of(cls, "observation", 3e38, dtype=np.float64).learn(31)
