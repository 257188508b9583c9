"""Where demonstrations come from: replay buffers, files, data sets; actions in the units of the environment."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.env_util import make_vec_env

from sb3_ext import BC, DoubleDQN, FrameDedupReplayBuffer
from sb3_ext.imitation import load_demonstrations


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
    pytest.importorskip("h5py")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    notes = Notes(gym.make("CartPole-v1"))
    env = minari.DataCollector(notes)
    for seed in range(3):
        env.reset(seed=seed)
        env.action_space.seed(seed)
        ended = False
        while not ended:
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            ended = terminated or truncated
    env.create_dataset(dataset_id="cartpole/test-v0", algorithm_name="random", author="a", author_email="a@b.c")
    pairs = load_demonstrations("minari:cartpole/test-v0", env.observation_space, env.action_space)
    assert np.array_equal(pairs.actions, np.array(notes.done))
    np.testing.assert_allclose(pairs.observations, np.array(notes.seen))
