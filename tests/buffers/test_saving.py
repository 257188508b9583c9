"""Replay buffers are saved whole or not at all, and loaded whole or not at all."""

import os
import pickle
import subprocess
import sys
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env

from sb3_ext import REDQSAC, FrameDedupReplayBuffer
from sb3_ext.buffers.saving import load_replay_buffer, save_replay_buffer


def pendulum_model(algorithm: type = REDQSAC, **kwargs: Any) -> Any:
    small = dict(policy_kwargs=dict(net_arch=[8]), learning_starts=1000, buffer_size=300, device="cpu", seed=0)
    return algorithm("MlpPolicy", "Pendulum-v1", **{**small, **kwargs})


@pytest.mark.parametrize("algorithm", [REDQSAC, SAC])
def test_a_failure_leaves_the_earlier_file(algorithm: type, tmp_path: Path) -> None:
    model = pendulum_model(algorithm)
    model.learn(50)
    save_replay_buffer(model, tmp_path / "new folder" / "buffer")
    path = tmp_path / "new folder" / "buffer.pkl"
    before = path.read_bytes()
    model.replay_buffer.cannot_be_pickled = lambda: None
    with pytest.raises((pickle.PicklingError, AttributeError)):
        save_replay_buffer(model, path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]  # nothing half-written is left
    other = pendulum_model(algorithm)
    load_replay_buffer(other, path)
    assert (other.replay_buffer.rewards == model.replay_buffer.rewards).all()


def test_our_algorithms_save_this_way_by_themselves(tmp_path: Path) -> None:
    model = pendulum_model()
    model.learn(20)
    model.save_replay_buffer(str(tmp_path / "buffer.pkl"))
    model.replay_buffer.cannot_be_pickled = lambda: None
    with pytest.raises((pickle.PicklingError, AttributeError)):
        model.save_replay_buffer(str(tmp_path / "buffer.pkl"))
    other = pendulum_model()
    other.load_replay_buffer(str(tmp_path / "buffer.pkl"))
    assert other.replay_buffer.size() == 20


@pytest.mark.parametrize("algorithm", [REDQSAC, SAC])
@pytest.mark.parametrize("content", ["truncated", "foreign", "text", "empty", "model"])
def test_what_cannot_be_read_leaves_the_model_as_it_was(algorithm: type, content: str, tmp_path: Path) -> None:
    model = pendulum_model(algorithm)
    model.learn(20)
    path = tmp_path / "buffer.pkl"
    save_replay_buffer(model, path)
    if content == "model":
        model.save(path)
    else:
        whole = path.read_bytes()
        foreign = pickle.dumps({"not": "a buffer"})
        path.write_bytes(
            {"truncated": whole[: len(whole) // 2], "foreign": foreign, "text": b"hello", "empty": b""}[content]
        )
    kept = model.replay_buffer
    with pytest.raises(ValueError, match=r"buffer\.pkl cannot be loaded as a replay buffer of this model"):
        load_replay_buffer(model, path)
    assert model.replay_buffer is kept
    with pytest.raises(FileNotFoundError):
        load_replay_buffer(model, tmp_path / "missing.pkl")
    assert model.replay_buffer is kept


def test_a_buffer_of_another_environment_is_refused(tmp_path: Path) -> None:
    two = REDQSAC("MlpPolicy", make_vec_env("Pendulum-v1", 2), buffer_size=300)
    save_replay_buffer(two, tmp_path / "two.pkl")
    one = pendulum_model()
    with pytest.raises(ValueError, match="has n_envs=2, this model n_envs=1"):
        one.load_replay_buffer(tmp_path / "two.pkl")
    cart = DQN("MlpPolicy", "CartPole-v1", buffer_size=300)
    with pytest.raises(ValueError, match="observation_space"):
        load_replay_buffer(cart, _saved(one, tmp_path / "one.pkl"))


def _saved(model: Any, path: Path) -> Path:
    save_replay_buffer(model, path)
    return path


class ImagesForSAC(gym.Env):
    """Moving images and a continuous action."""

    observation_space = spaces.Box(0, 255, (4, 40, 40), np.uint8)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.obs = np.zeros((4, 40, 40), dtype=np.uint8)
        return self.obs, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.obs = np.concatenate([self.obs[1:], self.np_random.integers(0, 255, (1, 40, 40), dtype=np.uint8)])
        return self.obs, 0.0, False, self.np_random.random() < 0.01, {}


def image_model() -> REDQSAC:
    return REDQSAC(
        "CnnPolicy",
        ImagesForSAC(),
        buffer_size=20_000,
        learning_starts=100_000,
        replay_buffer_class=FrameDedupReplayBuffer,
        policy_kwargs=dict(n_critics=2, net_arch=[8]),
        device="cpu",
        seed=0,
    )


_KILLED = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("test_saving", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
model = module.image_model()
model.learn(20_000)
model.save_replay_buffer(sys.argv[2])
print("saved", flush=True)
model.replay_buffer.rewards[:] = 7.0
while True:
    model.save_replay_buffer(sys.argv[2])
    print("again", flush=True)
"""


@pytest.mark.slow
def test_kill_9_while_saving_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "buffer.pkl"
    process = subprocess.Popen([sys.executable, "-c", _KILLED, __file__, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "saved\n"

    def partial_files() -> list[Path]:
        return list(tmp_path.glob(f".buffer.pkl.*.{process.pid}.*.partial"))

    def is_half_written() -> bool:
        with suppress(FileNotFoundError):  # it has become the file since it was listed
            return any(0 < partial.stat().st_size < size for partial in partial_files())
        return False

    size = path.stat().st_size
    deadline = time.monotonic() + 120
    # In the midst of it: something is written, and it is not all
    while not is_half_written() and time.monotonic() < deadline:
        pass
    process.kill()
    process.wait()
    assert partial_files(), "it was not killed while it was saving"
    model = image_model()
    model.load_replay_buffer(path)
    assert model.replay_buffer.size() == 20_000
    model.replay_buffer.check_valid()
    model.save_replay_buffer(path)  # and what was left behind is in nobody's way
    assert not partial_files()


@pytest.mark.parametrize("n_steps", [400, 900])
def test_neither_saving_nor_loading_needs_the_frames_twice(n_steps: int, tmp_path: Path) -> None:
    space = spaces.Box(0, 255, (2, 200, 400), np.uint8)
    buffer = FrameDedupReplayBuffer(800, space, spaces.Discrete(2), "cpu")
    rng = np.random.default_rng(0)
    obs = np.zeros((1, 2, 200, 400), dtype=np.uint8)
    for _ in range(n_steps):
        next_obs = np.concatenate([obs[:, 1:], rng.integers(0, 255, (1, 1, 200, 400), dtype=np.uint8)], axis=1)
        buffer.add(obs, next_obs, np.zeros((1, 1)), np.zeros(1), np.zeros(1), [{}])
        obs = next_obs
    frames = min(n_steps, 800) * 200 * 400
    tracemalloc.start()
    with (tmp_path / "buffer.pkl").open("wb") as file:
        pickle.dump(buffer, file, protocol=pickle.HIGHEST_PROTOCOL)
    assert tracemalloc.get_traced_memory()[1] < 0.1 * frames
    tracemalloc.reset_peak()
    with (tmp_path / "buffer.pkl").open("rb") as file:
        loaded = pickle.load(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The frames, as allocated for the full buffer, and one piece of 64 MiB
    assert peak < 834 * 200 * 400 + 2**26 + 0.1 * frames
    assert (tmp_path / "buffer.pkl").stat().st_size < frames * 1.1
    loaded.check_valid()
    np.testing.assert_array_equal(
        loaded.samples_at([n_steps - 1 if n_steps < 800 else 50], [0]).observations,
        buffer.samples_at([n_steps - 1 if n_steps < 800 else 50], [0]).observations,
    )


def test_a_large_buffer_shows_its_progress(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sb3_ext.buffers.saving._LARGE", 1000)
    model = pendulum_model(SAC)
    model.learn(300)
    save_replay_buffer(model, tmp_path / "buffer.pkl")
    load_replay_buffer(model, tmp_path / "buffer.pkl")
    progress = capsys.readouterr().err
    assert "Saving the replay buffer" in progress
    assert "Loading the replay buffer" in progress
    with (tmp_path / "buffer.pkl").open("rb") as file:
        assert isinstance(pickle.load(file), ReplayBuffer)


def test_an_open_file_will_do(tmp_path: Path) -> None:
    model = pendulum_model()
    model.learn(10)
    with (tmp_path / "x").open("wb") as file:
        model.save_replay_buffer(file)
    with (tmp_path / "x").open("rb") as file:
        model.load_replay_buffer(file)
    assert model.replay_buffer.size() == 10
    assert os.listdir(tmp_path) == ["x"]


def test_links_and_permissions_stay(tmp_path: Path) -> None:
    model = pendulum_model()
    model.learn(10)
    target, link = tmp_path / "disk" / "buffer.pkl", tmp_path / "buffer.pkl"
    target.parent.mkdir()
    target.write_bytes(b"old")
    target.chmod(0o604)
    link.symlink_to(target)
    model.save_replay_buffer(link)
    assert link.is_symlink()
    assert target.stat().st_mode & 0o777 == 0o604
    model.load_replay_buffer(link)
    assert model.replay_buffer.size() == 10


def test_a_folder_is_not_written_to(tmp_path: Path) -> None:
    model = pendulum_model()
    model.learn(10)
    (tmp_path / "buffer.pkl").mkdir()
    with pytest.warns(UserWarning, match=r"buffer.pkl' is a folder. Will save instead to .*buffer.pkl_2"):
        model.save_replay_buffer(tmp_path / "buffer")
    model.load_replay_buffer(tmp_path / "buffer.pkl_2")
    assert model.replay_buffer.size() == 10 and not list((tmp_path / "buffer.pkl").iterdir())


def test_other_n_steps_are_pointed_out(tmp_path: Path) -> None:
    """Where the loaded buffer cannot follow the model: it forms no n-step returns."""
    pendulum_model().save_replay_buffer(tmp_path / "buffer.pkl")
    with pytest.warns(UserWarning, match="has n_steps=1, not 3 as this model's"):
        pendulum_model(n_steps=3).load_replay_buffer(tmp_path / "buffer.pkl")


def test_a_loaded_buffer_is_measured_against_the_memory_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = pendulum_model(replay_buffer_class=FrameDedupReplayBuffer)
    model.learn(10)
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    model.load_replay_buffer(tmp_path / "buffer.pkl")
    monkeypatch.setattr("sb3_ext.buffers.memory.available_memory", lambda: 0)
    with pytest.raises(MemoryError, match="FrameDedupReplayBuffer with buffer_size=300 needs"):
        model.learn(10, reset_num_timesteps=False)


def test_frames_on_disk_are_loaded_where_the_model_has_them(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()

    def make(folder: Path | None) -> Any:
        kwargs = {} if folder is None else dict(storage_path=folder / "frames")
        return pendulum_model(replay_buffer_class=FrameDedupReplayBuffer, replay_buffer_kwargs=kwargs)

    model = make(here)
    model.learn(20)
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    other = make(there)
    other.load_replay_buffer(tmp_path / "buffer.pkl")
    assert list(here.iterdir()) == [here / "frames"] and len(list(there.iterdir())) == 1
    rows = np.arange(20)
    loaded, saved = (each.replay_buffer._get_samples(rows) for each in (other, model))
    assert (loaded.observations == saved.observations).all()
    other.learn(20, reset_num_timesteps=False)
    assert other.replay_buffer.size() == 40
    del model
    here.rename(tmp_path / "gone")
    make(there).load_replay_buffer(tmp_path / "buffer.pkl")
    make(None).save_replay_buffer(tmp_path / "in_memory.pkl")
    loaded = make(there)
    loaded.load_replay_buffer(tmp_path / "in_memory.pkl")
    assert loaded.replay_buffer.storage_path is None
    with pytest.raises(FileNotFoundError, match=r"storage_path is in a folder that does not exist.*here"):
        make(None).load_replay_buffer(tmp_path / "buffer.pkl")
