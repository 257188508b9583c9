"""The deduplicating buffer through its life: copied, reset, in files, normalized, refusing, changed by nobody."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_ext import FrameDedupReplayBuffer
from tests.support.environments import Blank
from tests.support.frame_streams import (
    copies,
    new_config,
    new_pair,
)
from tests.support.stock import (
    ONLY,
    assert_same_contents,
    assert_same_samples,
)
from tests.support.streams import Stream


@pytest.mark.parametrize("compression", [None, "lz4"])
@pytest.mark.parametrize("n_steps", [1, 3])
def test_a_copy_goes_on_by_itself(compression: str | None, n_steps: int) -> None:
    config = new_config(
        {"image": ("last", 4, 1), "vector": ("vector", 2, 3, "float32")}, n_envs=2, seed=8, p_interrupt=0.05
    )
    stock, buffer = new_pair(config, None, compression, buffer_size=26, n_steps=n_steps)
    stream = Stream(config)
    for n_adds in (0, 1, 5, 7, 20):
        for _ in range(n_adds):
            stream.feed(stock, buffer)
        for other in copies(buffer):
            other_stock = copy.deepcopy(stock)
            assert_same_contents(other, other_stock)
            other_stream = Stream(replace(config, seed=n_adds))
            for _ in range(20):
                other_stream.feed(other_stock, other)
                other.check_valid()
            assert_same_contents(other, other_stock)
        # And the original knows nothing of it
        assert_same_contents(buffer, stock)


@pytest.mark.parametrize("layout", [("transposed", 4, 1), ("vector", 1, 3, "float32")])
def test_a_reset_buffer_starts_again(layout: Any) -> None:
    config = new_config({ONLY: layout}, n_envs=2, seed=9)
    stock, buffer = new_pair(config, None, buffer_size=16)
    stream = Stream(config)
    for n_adds in (0, 3, 11, 20):
        for _ in range(n_adds):
            stream.feed(stock, buffer)
        stock.reset()
        buffer.reset()
        assert buffer.size() == 0
        assert_same_contents(buffer, stock)
        for _ in range(5):
            stream.feed(stock, buffer)
            assert_same_contents(buffer, stock)


@pytest.mark.parametrize("folder", [True, False], ids=["folder", "file"])
@pytest.mark.parametrize("compression", [None, "lz4"])
def test_frames_in_a_file(compression: str | None, folder: bool, tmp_path: Path) -> None:
    config = new_config({ONLY: ("transposed", 4, 1)}, n_envs=2, seed=10, p_interrupt=0.05, arrays="reused")
    stock, _ = new_pair(config, buffer_size=24)
    path = tmp_path if folder else tmp_path / "frames.bin"
    arguments = (24, config.observation_space, config.action_space, "cpu", 2)
    buffer = FrameDedupReplayBuffer(*arguments, compression=compression, storage_path=path)
    stream = Stream(config)
    for _ in range(40):
        stream.feed(stock, buffer)
        buffer.check_valid()
    assert_same_contents(buffer, stock)
    others = copies(buffer)
    for _ in range(15):
        stream.feed(stock, buffer, *others)
    for each in (buffer, *others):
        assert_same_contents(each, stock)
    if not folder:
        assert path.stat().st_size > 0
        # Somebody else's frames are not overwritten
        content = path.read_bytes()
        with pytest.raises((FileExistsError, ValueError)):
            other = FrameDedupReplayBuffer(*arguments, compression=compression, storage_path=path)
            stream.feed(other)
        assert path.read_bytes() == content
        assert_same_contents(buffer, stock)


def test_two_buffers_in_one_folder(tmp_path: Path) -> None:
    config = new_config({ONLY: ("first", 4, 1)}, n_envs=1, seed=11)
    pairs = []
    for index in range(2):
        stock, _ = new_pair(config, buffer_size=10)
        buffer = FrameDedupReplayBuffer(10, config.observation_space, config.action_space, "cpu", storage_path=tmp_path)
        pairs.append((stock, buffer, Stream(replace(config, seed=index))))
    for _ in range(25):
        for stock, buffer, stream in pairs:
            stream.feed(stock, buffer)
    for stock, buffer, _ in pairs:
        assert_same_contents(buffer, stock)


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize(
    "parts", [{ONLY: ("vector", 3, 2, "float32")}, {"image": ("last", 4, 1), "vector": ("vector", 2, 3, "float32")}]
)
def test_normalized_as_sb3_does(parts: Any, n_steps: int) -> None:
    config = new_config(parts, n_envs=2, seed=12)
    stock, buffer = new_pair(config, None, buffer_size=20, n_steps=n_steps)
    keys = None if ONLY in parts else ["vector"]
    env = VecNormalize(
        DummyVecEnv([lambda: Blank(config.observation_space, config.action_space)] * 2), norm_obs_keys=keys
    )
    stats = env.obs_rms if keys is None else env.obs_rms["vector"]
    stats.mean, stats.var = stats.mean + 0.3, stats.var * 1.7
    env.ret_rms.var = np.array(2.5)
    stream = Stream(config)
    for _ in range(33):
        stream.feed(stock, buffer)
    slots, envs = stock.every_leaf()
    plain, scaled = buffer.samples_at(slots, envs), buffer.samples_at(slots, envs, env=env)
    assert not th.equal(plain.rewards, scaled.rewards)
    assert_same_contents(buffer, stock, env)


def spoil(transition: list[Any], name: str, key: str) -> list[Any]:
    """
    :param transition: the arguments of ``add``
    :param name: what is wrong with it
    :param key: which observation, ``ONLY`` if there is just one
    :return: another list, wrong in one place
    """
    where, _, how = name.partition(" ")
    index = ["obs", "next_obs", "action", "reward", "done"].index(where)
    holder, position = (transition, index) if key == ONLY or index > 1 else (transition[index], key)
    array = holder[position]
    wrong = {
        "dtype": lambda: array.astype(str),
        "flat": lambda: array.reshape(-1),
        "row": lambda: array[:1],
        "long": lambda: np.concatenate([array, array, array]),
        "axis": lambda: array[..., None],
        "narrow": lambda: array[..., :-1],
    }[how]()
    if holder is transition:
        return [wrong if i == index else value for i, value in enumerate(transition)]
    return [{**holder, position: wrong} if i == index else value for i, value in enumerate(transition)]


OBS_ERRORS = [f"{where} {how}" for where in ("obs", "next_obs") for how in ("dtype", "flat", "row", "long", "narrow")]


@pytest.mark.parametrize("error", [*OBS_ERRORS, "action long", "reward long", "done long"])
@pytest.mark.parametrize("key", [ONLY, "image", "vector"])
@pytest.mark.parametrize("n_before", [0, 3, 12])
def test_a_refused_transition_leaves_no_trace(error: str, key: str, n_before: int) -> None:
    parts = {ONLY: ("last", 4, 1)} if key == ONLY else {"image": ("first", 4, 1), "vector": ("vector", 2, 3, "float32")}
    config = new_config(parts, n_envs=2, seed=13)
    stock, buffer = new_pair(config, None, buffer_size=16)
    stream = Stream(config)
    for _ in range(n_before):
        stream.feed(stock, buffer)
    wrong = spoil(list(copy.deepcopy(stream).step()), error, key)
    with pytest.raises(ValueError):
        buffer.add(*wrong)
    assert_same_contents(buffer, stock)
    for _ in range(10):
        stream.feed(stock, buffer)
        assert_same_contents(buffer, stock)


@pytest.mark.parametrize("where", [0, 1])
def test_a_missing_key_leaves_no_trace(where: int) -> None:
    config = new_config({"image": ("first", 4, 1), "vector": ("vector", 2, 3, "float32")}, n_envs=2, seed=14)
    stock, buffer = new_pair(config, None, buffer_size=16)
    stream = Stream(config)
    for _ in range(3):
        stream.feed(stock, buffer)
    wrong = list(copy.deepcopy(stream).step())
    wrong[where] = {"image": wrong[where]["image"]}
    with pytest.raises((ValueError, KeyError)):
        buffer.add(*wrong)
    assert_same_contents(buffer, stock)
    for _ in range(10):
        stream.feed(stock, buffer)
    assert_same_contents(buffer, stock)


def test_samples_at_keeps_order_and_repeats() -> None:
    config = new_config({ONLY: ("transposed", 4, 1)}, n_envs=3, seed=15)
    stock, buffer = new_pair(config, None, buffer_size=30)
    stream = Stream(config)
    for _ in range(17):
        stream.feed(stock, buffer)
    slots, envs = np.array([9, 0, 0, 3, 9, 7, 0]), np.array([2, 1, 0, 0, 2, 1, 1])
    assert_same_samples(buffer.samples_at(slots, envs), stock.at(slots, envs))
    assert_same_samples(buffer.samples_at(slots[:1], envs[:1]), stock.at(slots[:1], envs[:1]))


def test_what_was_sampled_does_not_change_afterwards() -> None:
    config = new_config({ONLY: ("first", 4, 1)}, n_envs=1, seed=16)
    stock, buffer = new_pair(config, None, buffer_size=5)
    stream = Stream(config)
    for _ in range(7):
        stream.feed(stock, buffer)
    slots, envs = stock.every_leaf()
    samples = buffer.samples_at(slots, envs)
    before = copy.deepcopy(samples)
    for _ in range(7):
        stream.feed(stock, buffer)
    for name in ("observations", "next_observations", "actions", "rewards", "dones"):
        assert th.equal(getattr(samples, name), getattr(before, name)), name
    # Nor does the buffer when the sample is written to
    for tensor in buffer.samples_at(slots, envs)[:5]:
        tensor.fill_(1)
    assert_same_contents(buffer, stock)


@pytest.mark.parametrize(
    "kwargs",
    [
        dict(buffer_size=3, n_envs=4),
        dict(buffer_size=8, n_envs=4, n_steps=3),
        dict(buffer_size=8, optimize_memory_usage=True),
        dict(buffer_size=8, compression="zip"),
        dict(buffer_size=8, n_stack=0),
        dict(buffer_size=8, n_steps=0),
    ],
    ids=str,
)
def test_arguments_that_make_no_sense(kwargs: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        FrameDedupReplayBuffer(
            observation_space=spaces.Box(0, 255, (4, 16, 13), np.uint8), action_space=spaces.Discrete(2), **kwargs
        )
