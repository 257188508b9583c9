"""Wrong arguments and transitions are named, and change nothing."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_ext import (
    FrameDedupReplayBuffer,
    PrioritizedFrameDedupReplayBuffer,
    PrioritizedReplayBuffer,
    estimate_memory,
)
from sb3_ext.buffers.frames import LZ4Frames, RawFrames
from tests.support.frames import ACTIONS, fill, make

OURS = (FrameDedupReplayBuffer, PrioritizedReplayBuffer, PrioritizedFrameDedupReplayBuffer)


@pytest.mark.parametrize("buffer_class", OURS)
@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(optimize_memory_usage=True), "optimize_memory_usage=True must be False"),
        (dict(buffer_size=0), "buffer_size=0 must be an integer of at least 1"),
        (dict(buffer_size=3, n_envs=4), "buffer_size=3 must be 1 or at least n_envs=4"),
        (dict(buffer_size=8, n_envs=4, n_steps=3), "buffer_size must be 1 or at least 12"),
        (dict(n_steps=0), "n_steps=0 must be an integer of at least 1"),
        (dict(gamma=1.5), "gamma=1.5 must be in [0, 1]"),
    ],
)
def test_wrong_arguments_are_named(buffer_class: type, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make(buffer_class, **kwargs)


@pytest.mark.parametrize("buffer_class", OURS[1:])
@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(alpha=-0.1), "alpha=-0.1 must be a number >= 0"),
        (dict(beta=1.1), "beta=1.1 must be in [0, 1]"),
        (dict(eps=0.0), "eps=0.0 must be a number > 0"),
    ],
)
def test_wrong_priorities_are_named(buffer_class: type, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make(buffer_class, **kwargs)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(compression="zip"), "compression='zip' is not one of None, 'lz4'"),
        (dict(n_stack=0), "n_stack=0 must be an integer of at least 1"),
        (dict(n_stack=2), "n_stack=2 must divide the first or the last axis"),
    ],
)
def test_wrong_frames_are_named(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make(**kwargs)


@pytest.mark.parametrize("buffer_class", OURS)
@pytest.mark.parametrize("n_envs", [1, 16])
def test_a_buffer_for_playback_can_always_be_made(buffer_class: type, n_envs: int) -> None:
    assert make(buffer_class, buffer_size=1, n_envs=n_envs, n_steps=5).buffer_size == 1


@pytest.mark.parametrize("buffer_class", OURS)
def test_observations_unlike_the_space_are_not_stored(buffer_class: type) -> None:
    buffer = make(buffer_class)
    fill(buffer, 2)
    rest = (np.zeros((2, 1), dtype=int), np.zeros(2), np.zeros(2, dtype=bool), [{}] * 2)
    good = np.zeros((2, 3, 5, 7), dtype=np.uint8)
    for bad in (good + np.float32(0.5), good.astype(int) - 1, good[:1], good[:, :, :4], good.transpose(0, 2, 3, 1)):
        with pytest.raises(ValueError, match=r"next_obs has shape .* allow \(2, 3, 5, 7\) and uint8 only"):
            buffer.add(good, bad, *rest)
        with pytest.raises(ValueError, match=r"obs has shape"):
            buffer.add(bad, good, *rest)
    assert buffer.size() == 2
    buffer.check_valid()


def test_an_empty_buffer_cannot_be_sampled() -> None:
    with pytest.raises(ValueError, match="FrameDedupReplayBuffer is empty"):
        make().sample(3)
    with pytest.raises(ValueError, match="PrioritizedReplayBuffer is empty"):
        make(PrioritizedReplayBuffer).sample_prioritized(3)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="storage_path is in a folder that does not exist"):
        fill(make(storage_path=tmp_path / "no" / "frames", n_stack=3), 1)


@pytest.mark.parametrize("compression", [None, "lz4"])
def test_an_interrupted_step_can_be_stored_again(compression: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    # Small, so that many segments become free and are used again
    monkeypatch.setattr("sb3_ext.buffers.frames._SEGMENT_BYTES", 1000)
    monkeypatch.setattr("sb3_ext.buffers.frames._EXTENT_BYTES", 1000)
    buffer = make(n_stack=3, compression=compression)
    frames_class = RawFrames if compression is None else LZ4Frames
    write, n_calls = frames_class.write, 0

    def interrupted(self: Any, rows: np.ndarray, frames: np.ndarray) -> None:
        nonlocal n_calls
        n_calls += 1
        if n_calls % 5 == 0:
            write(self, rows[:1], frames[:1])  # some of them
        if n_calls % 5 in (0, 2):
            raise KeyboardInterrupt
        write(self, rows, frames)

    rng = np.random.default_rng(0)
    obs = rng.integers(1, 255, (2, 3, 5, 7), dtype=np.uint8)
    stored: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    n_interruptions = 0
    for step in range(300):
        next_obs = np.concatenate([obs[:, 1:], rng.integers(1, 255, (2, 1, 5, 7), dtype=np.uint8)], axis=1)
        slot = buffer.pos
        with monkeypatch.context() as patch:
            if step % 3 == 2:
                patch.setattr(frames_class, "write", interrupted)
            try:
                buffer.add(obs, next_obs, np.zeros((2, 1), dtype=int), np.ones(2), np.zeros(2, dtype=bool), [{}] * 2)
            except KeyboardInterrupt:
                n_interruptions += 1
        if buffer.pos == slot:
            buffer.add(obs, next_obs, np.zeros((2, 1), dtype=int), np.ones(2), np.zeros(2, dtype=bool), [{}] * 2)
        stored[slot] = (obs, next_obs)
        for env in range(2):
            got = buffer.samples_at(np.array([*stored]), np.full(len(stored), env))
            assert (got.observations.numpy() == [pair[0][env] for pair in stored.values()]).all()
            assert (got.next_observations.numpy() == [pair[1][env] for pair in stored.values()]).all()
        buffer.check_valid()
        obs = next_obs
    assert n_interruptions > 30


def test_refused_infos_leave_no_trace() -> None:
    buffer, stock = make(n_stack=3), ReplayBuffer(20, spaces.Box(0, 255, (3, 5, 7), np.uint8), ACTIONS, "cpu", 2)
    rng = np.random.default_rng(0)
    obs = rng.integers(1, 255, (2, 3, 5, 7), dtype=np.uint8)
    for step in range(8):
        next_obs = np.concatenate([obs[:, 1:], rng.integers(1, 255, (2, 1, 5, 7), dtype=np.uint8)], axis=1)
        rest = (np.zeros((2, 1), dtype=int), np.ones(2), np.zeros(2, dtype=bool))
        if step == 3:
            with pytest.raises(ValueError, match="infos has shape"):
                buffer.add(obs, next_obs, *rest, [{}] * 3)
        else:
            buffer.add(obs, next_obs, *rest, [{}] * 2)
            stock.add(obs, next_obs, *rest, [{}] * 2)
        obs = next_obs
    for env in range(2):
        got = buffer.samples_at(np.arange(7), np.full(7, env))
        assert (got.observations.numpy() == stock.observations[:7, env]).all()
        assert (got.next_observations.numpy() == stock.next_observations[:7, env]).all()


def test_vectors_are_not_compressed() -> None:
    space = spaces.Dict({"cam/rgb": spaces.Box(0, 255, (4, 8, 8), np.uint8), "v": spaces.Box(-1, 1, (376,))})
    per_slot = estimate_memory(FrameDedupReplayBuffer, 10**5, space, ACTIONS, compression="lz4") / 10**5
    assert per_slot > 376 * 4
