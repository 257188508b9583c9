"""The arrays of a buffer's slots, which SB3's have as attributes."""

import pickle

import numpy as np
import pytest
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer

from sb3_ext import (
    FrameDedupReplayBuffer,
    PrioritizedFrameDedupReplayBuffer,
    PrioritizedReplayBuffer,
)
from sb3_ext.buffers import ArrayReplayBuffer
from tests.support.frame_streams import copies
from tests.support.windows import ACTIONS, PRIORITIZED, SPACES, VECTOR, Recorder

SLOT_ARRAYS = ("actions", "rewards", "dones", "timeouts")


@pytest.mark.parametrize("buffer_class", [ArrayReplayBuffer, PrioritizedReplayBuffer])
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("n_steps", [0, 3, 13])
def test_arrays_of_observations_are_sb3s(buffer_class: type, space: str, n_steps: int) -> None:
    arguments = (2 * 8, SPACES[space], ACTIONS, "cpu", 2)
    stock = (DictReplayBuffer if space == "dict" else ReplayBuffer)(*arguments)
    buffer = buffer_class(*arguments)
    Recorder(SPACES[space], 2).play(n_steps, stock, buffer)
    for each in [buffer, *copies(buffer)]:
        for name in ("observations", "next_observations"):
            actual, expected = getattr(each, name), getattr(stock, name)
            assert hasattr(each, name) and isinstance(actual, type(expected))
            for key in expected if space == "dict" else [None]:
                one, other = (actual, expected) if key is None else (actual[key], expected[key])
                assert (one.dtype, one.shape) == (other.dtype, other.shape) and (one == other).all()
                assert not one.flags.writeable
                with pytest.raises(ValueError, match="read-only"):
                    one[0] = 1
        for name in SLOT_ARRAYS:
            assert (getattr(each, name) == getattr(stock, name)).all()


def test_views_show_what_is_stored_later() -> None:
    buffer = ArrayReplayBuffer(20, VECTOR, ACTIONS, "cpu", 2)
    recorder = Recorder(VECTOR, 2)
    recorder.play(1, buffer)
    view = buffer.observations
    recorder.play(1, buffer)
    assert (view[1, 1] == recorder.steps[1][1].obs).all()
    assert np.shares_memory(view, buffer.observations)


@pytest.mark.parametrize("buffer_class", [FrameDedupReplayBuffer, PrioritizedFrameDedupReplayBuffer])
@pytest.mark.parametrize("space", ["image", "dict"])
@pytest.mark.parametrize("n_steps", [0, 5])
def test_single_frames_are_no_array_of_observations(buffer_class: type, space: str, n_steps: int) -> None:
    buffer = buffer_class(20, SPACES[space], ACTIONS, "cpu", 2)
    Recorder(SPACES[space], 2).play(n_steps, buffer)
    for each in [buffer, *copies(buffer)]:
        for name in ("observations", "next_observations"):
            assert not hasattr(each, name)
            message = rf"{buffer_class.__name__} has no array {name}: call samples_at\(slots, envs\) or window\(slots, "
            with pytest.raises(AttributeError, match=message):
                getattr(each, name)


@pytest.mark.parametrize("buffer_class", [FrameDedupReplayBuffer, *PRIORITIZED, ArrayReplayBuffer])
@pytest.mark.parametrize("space", SPACES)
def test_arrays_are_zeros_without_memory_before_the_first_transition(buffer_class: type, space: str) -> None:
    n_slots = 10**12  # would take terabytes
    empty = buffer_class.__new__(buffer_class)
    assert not hasattr(empty, "rewards")  # nor is there a recursion without a constructor
    if buffer_class not in PRIORITIZED:  # their priorities are allocated at once
        buffer = buffer_class(n_slots * 2, SPACES[space], ACTIONS, "cpu", 2)
        for each in [buffer, *copies(buffer)]:
            assert each.actions.shape == (n_slots, 2, 2) and each.actions.dtype == np.float32
            for name in SLOT_ARRAYS[1:]:
                array = getattr(each, name)
                assert array.shape == (n_slots, 2) and array.dtype == np.float32
                assert not array[:: n_slots // 3].any() and not array.flags.writeable
            assert len(pickle.dumps(each)) < 20_000
    buffer = buffer_class(20, SPACES[space], ACTIONS, "cpu", 2)
    Recorder(SPACES[space], 2).play(3, buffer)
    assert buffer.rewards.flags.writeable
    buffer.reset()
    for each in [buffer, *copies(buffer)]:
        assert not each.rewards.any() and not each.rewards.flags.writeable
        Recorder(SPACES[space], 2).play(3, each)
        each.check_valid()
