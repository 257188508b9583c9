"""The replay buffer on the device draws what SB3's draws; on a CPU, too, where this can be seen."""

import pickle
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ext import DeviceReplayBuffer

STATE = spaces.Box(-1, 1, (3,), np.float64)
ACTION = spaces.Box(-1, 1, (2,), np.float32)


def pair(**kwargs: Any) -> tuple[ReplayBuffer, DeviceReplayBuffer]:
    arguments: dict[str, Any] = dict(
        buffer_size=20, observation_space=STATE, action_space=ACTION, device="cpu", n_envs=2, **kwargs
    )
    return ReplayBuffer(**arguments), DeviceReplayBuffer(**arguments)


def add(buffers: tuple[ReplayBuffer, ...], n: int, rng: np.random.Generator) -> None:
    for _ in range(n):
        space = buffers[0].observation_space
        obs, next_obs = (rng.uniform(-1, 1, (2, *space.shape)).astype(space.dtype) for _ in range(2))
        action, reward = rng.uniform(-1, 1, (2, *ACTION.shape)), rng.normal(size=2)
        done, infos = rng.random(2) < 0.5, [{"TimeLimit.truncated": bool(rng.random() < 0.5)} for _ in range(2)]
        for buffer in buffers:
            buffer.add(obs, next_obs, action, reward, done, infos)


def assert_same_samples(expected: ReplayBuffer, actual: ReplayBuffer, env: VecNormalize | None = None) -> None:
    samples = []
    for buffer in (expected, actual):
        np.random.seed(3)
        samples.append(buffer.sample(64, env=env))
    for name in ("observations", "actions", "next_observations", "dones", "rewards"):
        one, other = (getattr(sample, name) for sample in samples)
        one = one.float() if one.dtype == th.float64 else one
        assert one.dtype == (other.float() if other.dtype == th.float64 else other).dtype
        assert one.shape == other.shape and th.equal(one, other.to(one.dtype)), name


@pytest.mark.parametrize("handle_timeout_termination", [True, False])
def test_samples_are_those_of_sb3(handle_timeout_termination: bool) -> None:
    rng = np.random.default_rng(0)
    buffers = pair(handle_timeout_termination=handle_timeout_termination)
    # Slots: 10. Some, some more, over the end, exactly once around, more than once around, nothing new
    for n in (3, 2, 7, 10, 23, 0, 1):
        add(buffers, n, rng)
        assert_same_samples(*buffers)
    add(buffers, 4, rng)
    assert_same_samples(buffers[0], pickle.loads(pickle.dumps(buffers[1])))
    assert_same_samples(*buffers)
    for buffer in buffers:
        buffer.reset()
    add(buffers, 5, rng)
    assert_same_samples(*buffers)


@pytest.mark.parametrize("slots", [[0, 3, 1], np.array([-1, 2]), th.tensor([4, 0])])
def test_slots_may_be_given_as_to_sb3(slots: Any) -> None:
    buffers = pair()
    add(buffers, 10, np.random.default_rng(0))
    rewards = []
    for buffer in buffers:
        np.random.seed(3)
        rewards.append(buffer._get_samples(slots).rewards)
        with pytest.raises(IndexError):
            buffer._get_samples(np.array([10]))
    assert th.equal(*rewards)


def test_samples_come_from_the_copy() -> None:
    buffers = pair()
    add(buffers, 5, np.random.default_rng(0))
    copied = buffers[1].sample(4)
    buffers[1].rewards.flags.writeable = True
    buffers[1].rewards[:] = 7.0  # on the host, behind its back
    assert copied.rewards.shape == (4, 1) and not (buffers[1].sample(50).rewards == 7.0).any()


def test_the_copy_is_not_saved() -> None:
    buffers = pair()
    add(buffers, 5, np.random.default_rng(0))
    before = len(pickle.dumps(buffers[1]))
    buffers[1].sample(4)
    assert len(pickle.dumps(buffers[1])) == before


def test_without_room_samples_come_from_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    buffers = pair()
    # 10 slots of 2 environments: 2 x 3 numbers of observations, 2 of actions, reward, done; 4 bytes each
    needed = 10 * 2 * (2 * 3 + 2 + 2) * 4
    add(buffers, 5, np.random.default_rng(0))
    monkeypatch.setattr(DeviceReplayBuffer, "_free_memory", lambda self: 2 * needed - 1)
    with pytest.warns(UserWarning, match=r"stays on the host: 8e-07 GB are more than the 8e-07 GB"):
        assert_same_samples(*buffers)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same_samples(*buffers)
    fits = pair()[1]
    monkeypatch.setattr(DeviceReplayBuffer, "_free_memory", lambda self: 2 * needed)
    add((fits,), 5, np.random.default_rng(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fits.sample(4)


def test_normalized_observations_come_from_the_host() -> None:
    env = VecNormalize(make_vec_env("Pendulum-v1", n_envs=2))
    env.obs_rms.mean[:] = 0.3
    buffers = tuple(
        cls(20, env.observation_space, env.action_space, device="cpu", n_envs=2)
        for cls in (ReplayBuffer, DeviceReplayBuffer)
    )
    rng = np.random.default_rng(0)
    for _ in range(5):
        obs, next_obs = rng.normal(size=(2, 2, 3))
        for buffer in buffers:
            buffer.add(obs, next_obs, np.zeros((2, 1)), np.ones(2), np.zeros(2), [{}, {}])
    assert_same_samples(*buffers, env=env)
    env.close()


def test_stock_sac_learns_the_same_with_it() -> None:
    states = []
    for cls in (ReplayBuffer, DeviceReplayBuffer):
        model = SAC(
            "MlpPolicy",
            "Pendulum-v1",
            replay_buffer_class=cls,
            learning_starts=20,
            seed=0,
            device="cpu",
            policy_kwargs=dict(net_arch=[8]),
        )
        states.append(model.learn(60).policy.state_dict())
    assert all(th.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(optimize_memory_usage=True), "optimize_memory_usage=True is not allowed"),
        (dict(observation_space=spaces.Dict(a=STATE)), "observation_space=Dict is not allowed"),
    ],
)
def test_what_it_cannot_do(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DeviceReplayBuffer(**{**dict(buffer_size=20, observation_space=STATE, action_space=ACTION), **kwargs})


def test_discrete_spaces() -> None:
    env = gym.make("FrozenLake-v1")
    buffers = tuple(
        cls(10, env.observation_space, env.action_space, device="cpu") for cls in (ReplayBuffer, DeviceReplayBuffer)
    )
    for state in range(6):
        for buffer in buffers:
            buffer.add(np.array([state]), np.array([state + 1]), np.array([2]), np.zeros(1), np.zeros(1), [{}])
    assert_same_samples(*buffers)


def test_what_is_written_from_outside_reaches_the_samples() -> None:
    buffers = pair()
    for buffer in buffers:  # as whoever fills a buffer from a file does
        buffer.rewards[:3] = np.arange(6).reshape(3, 2)
        buffer.pos = 3
    assert_same_samples(*buffers)
    add(buffers, 5, np.random.default_rng(0))
    assert_same_samples(*buffers)
    for buffer in buffers:
        buffer.rewards = 2 * buffer.rewards
        buffer.pos, buffer.full = 0, True
    assert_same_samples(*buffers)
    add(buffers, 2, np.random.default_rng(1))
    assert_same_samples(*buffers)
    for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(buffers[1], name)[0] = 1
    loaded = pickle.loads(pickle.dumps(buffers[1]))
    for buffer in (buffers[0], buffers[1], loaded):
        buffer.rewards[:] = 3.0  # a saved buffer is writeable until the next sample
    assert_same_samples(*buffers)
    assert_same_samples(buffers[0], loaded)
    for buffer in buffers:
        buffer.reset()
    add(buffers, 2, np.random.default_rng(2))
    assert_same_samples(*buffers)
