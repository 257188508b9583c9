"""The float32 buffer draws what SB3's draws, and learning with it is the same to the bit."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_ext import REDQSAC, DoubleDQN, Float32ReplayBuffer, estimate_memory

ACTION = spaces.Box(-1, 1, (2,), np.float32)
SMALL: dict[str, Any] = dict(learning_starts=10, batch_size=8, buffer_size=50, seed=0, device="cpu")


class Pendulum64(gym.ObservationWrapper):
    """Pendulum with the same numbers as float64, and a little beyond float32's precision."""

    def __init__(self) -> None:
        super().__init__(gym.make("Pendulum-v1"))
        self.observation_space = spaces.Box(-10, 10, (3,), np.float64)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return observation.astype(np.float64) * (1 + 1e-12)


@pytest.mark.parametrize("optimize_memory_usage", [True, False])
def test_samples_are_those_of_sb3_in_single_precision(optimize_memory_usage: bool) -> None:
    space, rng = spaces.Box(-1, 1, (3, 2), np.float64), np.random.default_rng(0)
    options = dict(optimize_memory_usage=optimize_memory_usage, handle_timeout_termination=not optimize_memory_usage)
    buffers = [cls(20, space, ACTION, "cpu", 2, **options) for cls in (ReplayBuffer, Float32ReplayBuffer)]
    for _ in range(13):
        obs, next_obs = rng.uniform(-1, 1, (2, 2, 3, 2))
        action, reward, done = rng.uniform(-1, 1, (2, 2)), rng.normal(size=2), rng.random(2) < 0.5
        for buffer in buffers:
            buffer.add(obs, next_obs, action, reward, done, [{"TimeLimit.truncated": True}, {}])
    samples = []
    for buffer in buffers:
        np.random.seed(3)
        samples.append(buffer.sample(64))
    for name in ("observations", "next_observations", "actions", "rewards", "dones"):
        expected, actual = (getattr(sample, name) for sample in samples)
        assert actual.dtype == th.float32 and th.equal(expected.float(), actual), name
    assert buffers[1].observations.nbytes * 2 == buffers[0].observations.nbytes
    assert buffers[1].observation_space is space


@pytest.mark.parametrize("space", [spaces.Box(0, 255, (3, 4, 4), np.uint8), spaces.Discrete(5)])
def test_other_observations_keep_their_type(space: spaces.Space) -> None:
    ours, theirs = (cls(20, space, ACTION, "cpu") for cls in (Float32ReplayBuffer, ReplayBuffer))
    assert ours.observations.dtype == theirs.observations.dtype


@pytest.mark.parametrize("cls", [REDQSAC, SAC])
def test_learning_is_the_same_to_the_bit(cls: Any) -> None:
    parameters = []
    for buffer_class in (Float32ReplayBuffer, ReplayBuffer):
        model = cls("MlpPolicy", Pendulum64(), replay_buffer_class=buffer_class, **SMALL)
        parameters.append(model.learn(25).policy.state_dict())
    assert all(th.equal(parameters[0][name], parameters[1][name]) for name in parameters[0])


def test_it_is_the_default_only_where_samples_are_equal() -> None:
    normalized = VecNormalize(DummyVecEnv([Pendulum64]), norm_reward=False)
    assert type(REDQSAC("MlpPolicy", normalized, **SMALL).replay_buffer) is ReplayBuffer
    assert type(REDQSAC("MlpPolicy", Pendulum64(), **SMALL).replay_buffer) is Float32ReplayBuffer
    assert type(REDQSAC("MlpPolicy", "Pendulum-v1", **SMALL).replay_buffer) is ReplayBuffer
    assert type(DoubleDQN("MlpPolicy", "CartPole-v1", **SMALL).replay_buffer) is ReplayBuffer
    assert not isinstance(REDQSAC("MlpPolicy", Pendulum64(), n_steps=3, **SMALL).replay_buffer, Float32ReplayBuffer)
    assert (
        type(
            REDQSAC(
                "MlpPolicy",
                Pendulum64(),
                optimize_memory_usage=True,
                replay_buffer_kwargs=dict(handle_timeout_termination=False),
                **SMALL,
            ).replay_buffer
        )
        is ReplayBuffer
    )


def test_the_choice_follows_the_arguments_at_load(tmp_path: Any) -> None:
    REDQSAC("MlpPolicy", Pendulum64(), **SMALL).learn(12).save(tmp_path / "model")
    assert type(REDQSAC.load(tmp_path / "model", Pendulum64()).replay_buffer) is Float32ReplayBuffer
    again = REDQSAC.load(tmp_path / "model", VecNormalize(DummyVecEnv([Pendulum64])))
    assert type(again.replay_buffer) is ReplayBuffer


def test_estimated_memory_is_that_of_the_arrays() -> None:
    space = spaces.Box(-1, 1, (376,), np.float64)
    estimates = [estimate_memory(cls, 1000, space, ACTION) for cls in (Float32ReplayBuffer, ReplayBuffer)]
    assert estimates[1] - estimates[0] == 2 * 1000 * 376 * 4


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (
            dict(observation_space=spaces.Dict(a=ACTION)),
            "observation_space=Dict is not allowed with Float32",
        ),
        (dict(buffer_size=0), "buffer_size=0 must be"),
        (dict(device="gpu"), "device='gpu'"),
        (dict(optimize_memory_usage=3), "optimize_memory_usage=3"),
    ],
)
def test_wrong_arguments(wrong: dict[str, Any], expected: str) -> None:
    arguments: dict[str, Any] = dict(buffer_size=20, observation_space=ACTION, action_space=ACTION, device="cpu")
    with pytest.raises(ValueError, match=expected):
        Float32ReplayBuffer(**{**arguments, **wrong})
