"""
The buffer that stores every frame once, in stock DQN on real Atari games, against what SB3's buffer stores meanwhile.

The time limit and the buffers are small: episodes are truncated often, and the ring goes round several times.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium.wrappers import FrameStackObservation, ReshapeObservation, TimeLimit
from stable_baselines3 import DQN
from stable_baselines3.common.atari_wrappers import AtariWrapper
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_atari_env, make_vec_env
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack

from sb3_ext import FrameDedupReplayBuffer
from tests.support.stock import Stock, assert_same_contents

gym.register_envs(pytest.importorskip("ale_py"))

# The checker of gymnasium takes as long as the emulator
FAST = dict(disable_env_checker=True)


class RecordingBuffer(FrameDedupReplayBuffer):
    """Gives SB3's buffer the same transitions: copies, made before anybody saw them."""

    def __init__(
        self, buffer_size: int, observation_space: Any, action_space: Any, n_steps: int = 1, **kwargs: Any
    ) -> None:
        super().__init__(buffer_size, observation_space, action_space, n_steps=n_steps, **kwargs)
        stock_kwargs = {key: kwargs[key] for key in ("device", "n_envs", "optimize_memory_usage")}
        self.stock: ReplayBuffer
        if n_steps > 1:
            self.stock = NStepReplayBuffer(
                buffer_size, observation_space, action_space, n_steps=n_steps, **stock_kwargs
            )
        else:
            self.stock = ReplayBuffer(buffer_size, observation_space, action_space, **stock_kwargs)
        self.n_adds = self.n_terminated = self.n_truncated = self.n_interrupted = 0
        self._expected_obs: np.ndarray | None = None
        self._after_done = np.zeros(self.n_envs, bool)

    def add(self, obs: np.ndarray, next_obs: np.ndarray, *rest: Any) -> None:
        obs_copy, next_obs_copy, *rest_copy = copy.deepcopy((obs, next_obs, *rest))
        super().add(obs, next_obs, *rest)
        self.check_valid()
        self.stock.add(obs_copy, next_obs_copy, *rest_copy)
        self._count(obs_copy, next_obs_copy, rest_copy[2], rest_copy[3])

    def _count(self, obs: np.ndarray, next_obs: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
        truncated = np.array([info["TimeLimit.truncated"] for info in infos])
        self.n_adds += 1
        self.n_truncated += int(truncated.sum())
        self.n_terminated += int((dones & ~truncated).sum())
        if self._expected_obs is not None:
            same = (obs == self._expected_obs).all(axis=(1, 2, 3)) | self._after_done
            self.n_interrupted += int((~same).sum())
        self._expected_obs, self._after_done = next_obs, dones.copy()


class Comparison(BaseCallback):
    """
    Compares everything stored at regular intervals.

    :param compare: what to do
    :param every: after so many steps of the environments
    """

    def __init__(self, compare: Callable[[FrameDedupReplayBuffer], None], every: int = 37) -> None:
        super().__init__()
        self.compare, self.every, self.n_compared = compare, every, 0

    def _on_step(self) -> bool:
        if self.n_calls % self.every == 0:
            self.compare(self.model.replay_buffer)
            self.n_compared += 1
        return True


def atari(game: str, n_envs: int, seed: int = 1, agent_steps: int = 37) -> VecEnv:
    """
    :param game: without version
    :param n_envs:
    :param seed:
    :param agent_steps: time limit in steps of four frames
    :return: as rl_zoo3 makes it, but for the time limit
    """
    env = make_atari_env(
        f"{game}NoFrameskip-v4", n_envs, seed=seed, env_kwargs=dict(max_episode_steps=4 * agent_steps, **FAST)
    )
    return VecFrameStack(env, 4)


def gymnasium_stack(n_envs: int, padding: str) -> VecEnv:
    """Stacked by gymnasium, inside every environment, with a limit on the steps of the agent."""

    def make() -> gym.Env:
        env = AtariWrapper(gym.make("BreakoutNoFrameskip-v4", **FAST))
        env = FrameStackObservation(ReshapeObservation(env, (84, 84)), 4, padding_type=padding)
        return TimeLimit(env, 23)

    return make_vec_env(make, n_envs, seed=2)


def dqn(env: VecEnv, buffer_class: type[ReplayBuffer] | None, buffer_size: int = 90, **kwargs: Any) -> DQN:
    settings = dict(
        buffer_size=buffer_size,
        learning_starts=40,
        train_freq=16,
        batch_size=8,
        target_update_interval=64,
        exploration_fraction=0.5,
        seed=3,
        device="cpu",
    )
    return DQN(
        "MlpPolicy",
        env,
        replay_buffer_class=buffer_class,
        policy_kwargs=dict(net_arch=[8], features_extractor_class=FlattenExtractor),
        **(settings | kwargs),
    )


@pytest.fixture(scope="session")
def compare() -> Callable[[FrameDedupReplayBuffer], None]:
    def check(buffer: RecordingBuffer) -> None:
        stock = Stock.__new__(Stock)
        stock.n_envs, stock.first, stock.buffers = buffer.n_envs, buffer.stock, {"": buffer.stock}
        assert_same_contents(buffer, stock)

    return check


def learn(model: DQN, compare: Callable[[FrameDedupReplayBuffer], None], steps: int, **kwargs: Any) -> None:
    """
    :param model: with a recording buffer
    :param compare: what to do regularly
    :param steps: of each environment
    :param kwargs: further arguments of ``learn``
    """
    comparison = Comparison(compare)
    model.learn(steps * model.n_envs, callback=comparison, **kwargs)
    compare(model.replay_buffer)
    assert comparison.n_compared >= 1
    assert model._n_updates > 0


def run(env: VecEnv, compare: Callable[[FrameDedupReplayBuffer], None], buffer_size: int, **kwargs: Any) -> None:
    """Learn, learn again from a reset that no ``done`` announces, and go on without a reset."""
    model = dqn(env, RecordingBuffer, buffer_size, replay_buffer_kwargs=kwargs)
    learn(model, compare, 100)
    learn(model, compare, 60)
    learn(model, compare, 40, reset_num_timesteps=False)
    buffer = model.replay_buffer
    assert buffer.n_adds >= 3 * buffer.buffer_size
    assert buffer.n_truncated > 0
    assert buffer.n_interrupted > 0
    env.close()


def test_breakout(compare: Any) -> None:
    """The one run that is always there."""
    run(atari("Breakout", 3), compare, buffer_size=3 * 41)


@pytest.mark.slow
@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("compression", [None, "lz4"])
@pytest.mark.parametrize("game", ["Breakout", "MsPacman", "Pong"])
def test_games(game: str, compression: str | None, n_steps: int, compare: Any) -> None:
    run(atari(game, 2, agent_steps=50), compare, 2 * 60, compression=compression, n_steps=n_steps)


@pytest.mark.slow
@pytest.mark.parametrize("kwargs", [{}, {"n_stack": 4}, {"n_steps": 3, "n_stack": 4}], ids=str)
@pytest.mark.parametrize(("n_envs", "buffer_size"), [(1, 64), (4, 4 * 7), (3, 3 * 23 + 2)])
def test_sizes(n_envs: int, buffer_size: int, kwargs: dict[str, Any], compare: Any) -> None:
    run(atari("Breakout", n_envs), compare, buffer_size, **kwargs)


@pytest.mark.slow
@pytest.mark.parametrize("compression", [None, "lz4"])
def test_frames_in_a_file(compression: str | None, compare: Any, tmp_path: Path) -> None:
    run(atari("Breakout", 3), compare, 3 * 41, compression=compression, storage_path=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["reset", "zero"])
def test_stacked_by_gymnasium(padding: str, compare: Any) -> None:
    run(gymnasium_stack(3, padding), compare, 3 * 41)


@pytest.mark.slow
@pytest.mark.parametrize("kwargs", [{}, {"compression": "lz4"}, {"n_steps": 3}], ids=str)
@pytest.mark.parametrize("first_steps", [25, 90], ids=["part", "full"])
def test_a_loaded_buffer_goes_on(first_steps: int, kwargs: dict[str, Any], compare: Any, tmp_path: Path) -> None:
    """In a new model with new environments, before and after the ring has gone round."""
    model = dqn(atari("Breakout", 2), RecordingBuffer, 2 * 40, replay_buffer_kwargs=kwargs)
    model.learn(2 * first_steps)
    compare(model.replay_buffer)
    model.save_replay_buffer(tmp_path / "buffer")

    other = dqn(atari("Breakout", 2, seed=7), RecordingBuffer, 2 * 40, replay_buffer_kwargs=kwargs)
    other.load_replay_buffer(tmp_path / "buffer")
    n_adds = model.replay_buffer.n_adds
    assert other.replay_buffer.n_adds == n_adds >= first_steps
    assert other.replay_buffer.full == (first_steps > 40)
    compare(other.replay_buffer)
    learn(other, compare, 90)
    assert other.replay_buffer.n_adds >= n_adds + 90
    assert other.replay_buffer.n_interrupted > 0
    # The first model knows nothing of it
    assert model.replay_buffer.n_adds == n_adds
    compare(model.replay_buffer)


@pytest.mark.parametrize("n_steps", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_stock_dqn_learns_the_same(n_steps: int) -> None:
    """Not only the same samples: the policy they train acts, so that a difference would feed back."""
    variants = [
        (None, dict(n_steps=n_steps)),
        (FrameDedupReplayBuffer, dict(replay_buffer_kwargs=dict(n_steps=n_steps, gamma=0.99))),
    ]
    models = []
    for buffer_class, kwargs in variants:
        # Making a model seeds everything: one after the other
        model = dqn(atari("Breakout", 2), buffer_class, 2 * 50, learning_rate=1e-3, **kwargs)
        before = copy.deepcopy(model.policy.state_dict())
        models.append(model.learn(2 * 130))
    assert type(models[0].replay_buffer) is (NStepReplayBuffer if n_steps > 1 else ReplayBuffer)
    assert models[0]._n_updates == models[1]._n_updates > 5
    expected, actual = (model.policy.state_dict() for model in models)
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        assert th.equal(actual[name], value), name
    assert not all(th.equal(before[name], value) for name, value in expected.items())
