"""`n_steps` and `gamma` of a buffer, changed between two samples."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer

from sb3_ext import (
    FrameDedupReplayBuffer,
)
from sb3_ext.buffers import ArrayReplayBuffer
from tests.support.stock import assert_same_samples
from tests.support.windows import ACTIONS, PRIORITIZED, VECTOR, Recorder

SETTABLE = [FrameDedupReplayBuffer, *PRIORITIZED, ArrayReplayBuffer]


@pytest.mark.parametrize("buffer_class", SETTABLE)
def test_n_steps_and_gamma_can_be_changed(buffer_class: type) -> None:
    arguments = (2 * 9, VECTOR, ACTIONS, "cpu", 2)
    buffer = buffer_class(*arguments)
    stocks: list[Any] = [ReplayBuffer(*arguments), *(NStepReplayBuffer(*arguments, n_steps=n) for n in (3, 5))]
    stocks[2].gamma = 0.7
    Recorder(VECTOR, 2).play(12, buffer, *stocks)
    batch_inds = np.random.default_rng(0).integers(9, size=40)
    for source in (buffer, pickle.loads(pickle.dumps(buffer)), copy.deepcopy(buffer)):
        for stock, n_steps, gamma in ((stocks[0], 1, 0.99), (stocks[1], 3, 0.99), (stocks[2], 5, 0.7)):
            source.n_steps, source.gamma = n_steps, gamma
            for each in (source, pickle.loads(pickle.dumps(source)), copy.deepcopy(source)):
                assert (each.n_steps, each.gamma) == (n_steps, gamma)
                np.random.seed(1)
                expected = stock._get_samples(batch_inds)
                np.random.seed(1)
                envs = np.random.randint(0, high=2, size=40)
                assert_same_samples(each.samples_at(batch_inds, envs), expected)


@pytest.mark.parametrize("buffer_class", SETTABLE)
@pytest.mark.parametrize("n_stored", [0, 3])
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("n_steps", 0, "n_steps=0 must be an integer of at least 1"),
        ("n_steps", 2.5, "n_steps=2.5 must be an integer of at least 1"),
        (
            "n_steps",
            3,
            r"buffer_size=9 with n_envs=4 holds 2 steps of each environment: n_steps=3 is more.*at least 12",
        ),
        ("gamma", 1.5, r"gamma=1.5 must be in \[0, 1\]"),
        ("gamma", float("nan"), r"gamma=nan must be in \[0, 1\]"),
    ],
)
def test_wrong_values_are_refused_later_as_in_the_constructor(
    buffer_class: type, n_stored: int, name: str, value: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        buffer_class(9, VECTOR, ACTIONS, "cpu", 4, **{name: value})
    buffer = buffer_class(9, VECTOR, ACTIONS, "cpu", 4, n_steps=2, gamma=0.5)
    Recorder(VECTOR, 4).play(n_stored, buffer)
    for each in (buffer, pickle.loads(pickle.dumps(buffer))):
        with pytest.raises(ValueError, match=message):
            setattr(each, name, value)
        assert (each.n_steps, each.gamma) == (2, 0.5)


def test_a_buffer_for_playback_takes_any_n_steps() -> None:
    buffer = ArrayReplayBuffer(1, VECTOR, ACTIONS, "cpu", 4)
    buffer.n_steps = 7
    pickle.loads(pickle.dumps(buffer)).n_steps = 8
    small = ArrayReplayBuffer(4, VECTOR, ACTIONS, "cpu", 4)
    with pytest.raises(ValueError, match="buffer_size=4 with n_envs=4 holds 1 steps"):
        small.n_steps = 2


@pytest.mark.parametrize(("buffer_size", "allowed", "refused"), [(12, 3, 4), (1, 9, None)])
def test_files_in_which_n_steps_is_a_plain_attribute_are_read(
    buffer_size: int, allowed: int, refused: int | None
) -> None:
    state = ArrayReplayBuffer(buffer_size, VECTOR, ACTIONS, "cpu", 4, n_steps=2, gamma=0.7).__getstate__()
    state = {{"_n_steps": "n_steps", "_gamma": "gamma"}.get(name, name): value for name, value in state.items()}
    # These had no arrays before the first transition
    for name in ("_requested_size", "actions", "rewards", "dones", "timeouts"):
        del state[name]
    loaded = ArrayReplayBuffer.__new__(ArrayReplayBuffer)
    loaded.__setstate__(state)
    assert (loaded.n_steps, loaded.gamma) == (2, 0.7)
    loaded.n_steps = allowed
    if refused is not None:
        with pytest.raises(ValueError, match="buffer_size=12 with n_envs=4"):
            loaded.n_steps = refused
    Recorder(VECTOR, 4).play(5, loaded)
    loaded.check_valid()
