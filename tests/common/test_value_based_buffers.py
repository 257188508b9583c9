"""The value-based algorithms with every kind of replay buffer, observation and environment."""

from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import FakeImageEnv, SimpleMultiObsEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from sb3_ext import (
    DoubleDQN,
    FrameDedupReplayBuffer,
    PrioritizedFrameDedupReplayBuffer,
    PrioritizedReplayBuffer,
)
from sb3_ext.buffers.samples import minibatch_weights
from tests.support.environments import Vectors
from tests.support.models import each_value_based, learn_and_check, make

PER: dict[str, Any] = dict(replay_buffer_class=PrioritizedReplayBuffer)


@pytest.mark.filterwarnings("ignore:Observations of shape")
@pytest.mark.parametrize(
    ("buffer_class", "n_steps"),
    [
        (PrioritizedReplayBuffer, 3),
        (FrameDedupReplayBuffer, 1),
        (PrioritizedFrameDedupReplayBuffer, 3),
        (NStepReplayBuffer, 3),
    ],
)
@each_value_based
def test_replay_buffers(cls: Any, n_steps: int, buffer_class: type[ReplayBuffer]) -> None:
    model = learn_and_check(cls, "CartPole-v1", replay_buffer_class=buffer_class, n_steps=n_steps)
    buffer = model.replay_buffer
    assert type(buffer) is buffer_class and buffer.n_steps == n_steps
    if "Prioritized" in buffer_class.__name__:
        assert len(np.unique(buffer.priorities)) > 10
        buffer.check_valid()


@each_value_based
def test_stacked_images_of_several_environments(cls: Any) -> None:
    def make_env() -> FakeImageEnv:
        return FakeImageEnv(action_dim=2, screen_height=36, screen_width=36, n_channels=1)

    env = VecFrameStack(make_vec_env(make_env, n_envs=2, seed=0), n_stack=3)
    model = learn_and_check(
        cls,
        env,
        total_timesteps=80,
        policy="CnnPolicy",
        policy_kwargs=dict(net_arch=[6], dueling=True, features_extractor_kwargs=dict(features_dim=8)),
        batch_size=4,
        replay_buffer_class=PrioritizedFrameDedupReplayBuffer,
        n_steps=3,
    )
    assert model.replay_buffer.n_envs == 2 and model.replay_buffer.n_steps == 3


@pytest.mark.parametrize("buffer", [{}, PER], ids=["uniform", "PER"])
@each_value_based
def test_dictionary_observations(cls: Any, buffer: dict[str, Any]) -> None:
    learn_and_check(
        cls,
        make_vec_env(SimpleMultiObsEnv, n_envs=2),
        total_timesteps=80,
        policy="MultiInputPolicy",
        policy_kwargs=dict(net_arch=[6], features_extractor_kwargs=dict(cnn_output_dim=8)),
        batch_size=4,
        **buffer,
    )


@each_value_based
def test_normalized_and_discrete_observations(cls: Any) -> None:
    learn_and_check(cls, VecNormalize(make_vec_env("CartPole-v1", n_envs=3, seed=0)))
    learn_and_check(cls, "FrozenLake-v1")


@each_value_based
def test_nan_from_the_environment_is_refused(cls: Any) -> None:
    class Broken(Vectors):
        def step(self, action: int) -> Any:
            observation, _, *rest = super().step(action)
            return observation, np.nan, *rest

    with pytest.raises(ValueError, match=r"reward is nan at index \[0\]"):
        make(cls, DummyVecEnv([Broken])).learn(5)


@pytest.mark.parametrize("progress_remaining", [1.0, 0.3])
def test_priorities_to_the_power_of_zero_weigh_nothing(progress_remaining: float) -> None:
    model = make(DoubleDQN, **PER, replay_buffer_kwargs=dict(alpha=0.0), train_freq=1).learn(60)
    assert len(np.unique(model.replay_buffer.priorities)) == 1
    batch = model.replay_buffer.sample_prioritized(16, progress_remaining=progress_remaining)
    weights = minibatch_weights(batch)
    assert weights is not None and th.equal(weights, th.ones(16))
