"""Where demonstrations come from: replay buffers, files, data sets; actions in the units of the environment."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.sac.policies import SACPolicy

from sb3_ext import BC, DAgger, DoubleDQN, FrameDedupReplayBuffer
from sb3_ext.imitation import Demonstrations, Pairs, load_demonstrations


class Notes(gym.Wrapper):
    """Notes what was observed and done."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.seen: list[Any] = []
        self.done: list[Any] = []

    def reset(self, **kwargs: Any) -> Any:
        self.last, info = self.env.reset(**kwargs)
        return self.last, info

    def step(self, action: Any) -> Any:
        self.seen.append(self.last)
        self.done.append(action)
        self.last, *rest = self.env.step(action)
        return self.last, *rest


@pytest.mark.parametrize("as_file", [False, True])
def test_a_replay_buffer_of_sac(as_file: bool, tmp_path: Path) -> None:
    notes = Notes(gym.make("Pendulum-v1", max_episode_steps=30))  # torques from -2 to 2
    model = SAC("MlpPolicy", notes, buffer_size=50, learning_starts=1000, seed=0).learn(80)
    source: Any = model.replay_buffer
    if as_file:
        source = tmp_path / "replay_buffer.pkl"
        model.save_replay_buffer(source)
    pairs = load_demonstrations(source, model.observation_space, model.action_space)
    # The last 50 steps, oldest first
    np.testing.assert_allclose(pairs.actions, np.array(notes.done[-50:]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pairs.observations, np.array(notes.seen[-50:]), rtol=1e-5)
    assert np.abs(pairs.actions).max() > 1
    cloned = BC("MlpPolicy", notes, demonstrations=source, validation_fraction=0.0).learn(5)
    assert len(cloned.data) == 50


@pytest.mark.parametrize("buffer_class", [None, FrameDedupReplayBuffer])
def test_a_replay_buffer_of_several_environments(buffer_class: Any) -> None:
    env = make_vec_env("CartPole-v1", 3, wrapper_class=Notes)
    arguments: dict[str, Any] = {} if buffer_class is None else dict(replay_buffer_class=buffer_class)
    cls = DQN if buffer_class is None else DoubleDQN
    model = cls("MlpPolicy", env, buffer_size=300, learning_starts=1000, seed=0, **arguments).learn(60)
    pairs = load_demonstrations(model.replay_buffer, env.observation_space, env.action_space)
    assert len(pairs) == 60
    for place, notes in enumerate(env.envs):
        wrapped = notes
        while not isinstance(wrapped, Notes):
            wrapped = wrapped.env
        rows = np.arange(place, 60, 3)
        assert np.array_equal(pairs.actions[rows], np.array(wrapped.done))
        np.testing.assert_allclose(pairs.observations[rows], np.array(wrapped.seen))


def test_a_full_buffer_that_saves_memory_has_one_pair_less() -> None:
    space = spaces.Box(-100, 100, (1,))
    buffer = ReplayBuffer(5, space, spaces.Discrete(100), optimize_memory_usage=True, handle_timeout_termination=False)
    for step in range(8):
        obs = np.full((1, 1), step, dtype=np.float32)
        buffer.add(obs, obs + 1, np.array([[step]]), np.zeros(1), np.zeros(1), [{}])
    pairs = load_demonstrations(buffer, space, spaces.Discrete(100))
    assert pairs.observations.ravel().tolist() == pairs.actions.ravel().tolist() == [4, 5, 6, 7]


def test_an_empty_replay_buffer() -> None:
    model = SAC("MlpPolicy", "Pendulum-v1", buffer_size=50)
    with pytest.raises(ValueError, match="the replay buffer is empty"):
        BC("MlpPolicy", "Pendulum-v1", demonstrations=model.replay_buffer)


def test_a_dictionary_of_observations_in_a_file(tmp_path: Path) -> None:
    space = gym.spaces.Dict(a=gym.spaces.Box(-1, 1, (2,), np.float32), b=gym.spaces.Discrete(3))
    actions, a, b = np.array([0, 1]), np.array([[0.5, 0.1], [0.2, 0.3]], np.float32), np.array([0, 2])
    np.savez(tmp_path / "pairs.npz", actions=actions, **{"observations/a": a, "observations/b": b})
    pairs = load_demonstrations(tmp_path / "pairs.npz", space, gym.spaces.Discrete(2))
    assert np.array_equal(pairs.observations["a"], a) and pairs.observations["b"].ravel().tolist() == [0, 2]
    np.savez(tmp_path / "part.npz", actions=actions, **{"observations/a": a})
    with pytest.raises(ValueError, match=r"observations have the keys \['a'\], but the environment's are \['a', 'b'\]"):
        load_demonstrations(tmp_path / "part.npz", space, gym.spaces.Discrete(2))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_data_set_of_minari(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    minari = pytest.importorskip("minari")
    data_collector = pytest.importorskip("minari.data_collector")
    pytest.importorskip("h5py")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    env = Notes(gym.make("CartPole-v1"))
    episodes = []
    for seed in range(3):
        first, _ = env.reset(seed=seed)
        env.action_space.seed(seed)
        episode = data_collector.EpisodeBuffer(
            seed=seed, observations=[first], actions=[]
        )  # one observation more than actions
        ended = False
        while not ended:
            action = env.action_space.sample()
            observation, reward, terminated, truncated, _ = env.step(action)
            ended = terminated or truncated
            episode.observations.append(observation)
            episode.actions.append(action)
            episode.rewards.append(reward)
            episode.terminations.append(terminated)
            episode.truncations.append(truncated)
        episodes.append(episode)
    # minari.DataCollector would need JAX
    minari.create_dataset_from_buffers(
        "cartpole/test-v0", episodes, env=env, algorithm_name="random", author="a", author_email="a@b.c"
    )
    pairs = load_demonstrations("minari:cartpole/test-v0", env.observation_space, env.action_space)
    assert np.array_equal(pairs.actions, np.array(env.done))
    np.testing.assert_allclose(pairs.observations, np.array(env.seen))


IMAGE = gym.spaces.Box(0, 255, (3, 40, 36), np.uint8)  # channels first, as SB3 makes them


def test_images_have_their_channels_last_in_files(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 255, (4, 40, 36, 3), dtype=np.uint8)
    np.savez(tmp_path / "pairs.npz", observations=pictures, actions=np.zeros(4, np.int64))
    pairs = load_demonstrations(tmp_path / "pairs.npz", IMAGE, gym.spaces.Discrete(2))
    assert np.array_equal(pairs.observations, pictures.transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("observations", "actions", "space", "message"),
    [
        (np.zeros((4, 36, 40, 3), np.uint8), [0, 0, 0, 0], IMAGE, r"observations have shape \(4, 36, 40, 3\)"),
        (np.full((4, 3, 40, 36), 0.7), [0, 0, 0, 0], IMAGE, r"observations\[0\]=0.7 lies outside of Box\(0, 255"),
        (np.zeros((4, 1, 2)), [0, 0, 0, 0], gym.spaces.Box(-1, 1, (2,)), r"observations have shape \(4, 1, 2\)"),
        (np.zeros((4, 2)), [0, 1, 0.7, 1], gym.spaces.Box(-1, 1, (2,)), r"actions\[2\]=0.7 lies outside of Discrete"),
        ([0, 1, 5, 2], [0, 1, 0, 1], gym.spaces.Discrete(3), r"observations\[2\]=5 lies outside of Discrete\(3\)"),
        (
            [[0, 1], [1, 3], [0, 0], [1, 1]],
            [0] * 4,
            gym.spaces.MultiDiscrete([2, 3]),
            r"observations\[1\]=\[1 3\] lies",
        ),
    ],
)
def test_numbers_that_do_not_fit(observations: Any, actions: Any, space: Any, message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "pairs.npz", observations=np.asarray(observations), actions=np.asarray(actions))
    with pytest.raises(ValueError, match=message):
        load_demonstrations(tmp_path / "pairs.npz", space, gym.spaces.Discrete(2))


def test_loaded_and_collected_pairs_join(tmp_path: Path) -> None:
    env = gym.make("FrozenLake-v1")  # discrete observations
    teacher = PPO("MlpPolicy", env, n_steps=16, batch_size=16, seed=0)
    first = BC("MlpPolicy", env, expert=teacher, n_demonstrations=30).learn(2)
    first.save_demonstrations(tmp_path / "pairs.npz")
    arguments: dict[str, Any] = dict(expert=teacher, train_freq=20, gradient_steps=3)
    model = DAgger("MlpPolicy", env, demonstrations=tmp_path / "pairs.npz", **arguments).learn(40)
    assert len(model.data) == 70 and model.data.pairs.observations.shape == (70,)


def test_validation_looks_at_old_and_new_pairs() -> None:
    data = Demonstrations(0.5, np.random.default_rng(0))
    for value in range(2000):
        data.add(Pairs(np.full((1, 1), value), np.zeros(1)))
    seen = data.validation(100).observations.ravel()
    assert len(seen) == 100 and seen.min() < 40 and seen.max() > 1960


def test_actions_with_two_axes() -> None:
    class Square(gym.Env):
        observation_space = gym.spaces.Box(-1, 1, (3,), np.float32)
        action_space = gym.spaces.Box(-1, 1, (2, 2), np.float32)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            return self.np_random.uniform(-1, 1, 3).astype(np.float32), {}

        def step(self, action: Any) -> Any:
            assert action.shape == (2, 2)
            return self.reset()[0], 0.0, bool(self.np_random.random() < 0.2), False, {}

    for policy in ("MlpPolicy", SACPolicy):
        teacher = PPO("MlpPolicy", Square(), n_steps=16, batch_size=16, seed=0)
        assert BC(policy, Square(), expert=teacher, n_demonstrations=60).learn(5)._n_updates == 5
        model = DAgger(policy, Square(), expert=teacher, train_freq=30, gradient_steps=3).learn(60)
        assert model._n_updates == 6 and model.data.pairs.actions.shape == (60, 2, 2)
