"""What SB3's replay buffers take, ours take, and store the same."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer

from sb3_ext import FrameDedupReplayBuffer, PrioritizedFrameDedupReplayBuffer, PrioritizedReplayBuffer
from sb3_ext.buffers import ArrayReplayBuffer, DeviceReplayBuffer

OURS = [
    *(ArrayReplayBuffer, FrameDedupReplayBuffer, DeviceReplayBuffer),
    *(PrioritizedReplayBuffer, PrioritizedFrameDedupReplayBuffer),
]
VECTOR = spaces.Box(-9, 9, (4,), np.float32)
IMAGE = spaces.Box(0, 255, (1, 5, 7), np.uint8)
SPACES = {
    "vector": VECTOR,
    "image": IMAGE,
    "discrete": spaces.Discrete(6),
    "multi": spaces.MultiDiscrete([3, 4]),
    "binary": spaces.MultiBinary(3),
    "dict": spaces.Dict(a=VECTOR, b=spaces.Discrete(3), c=IMAGE),
}


def each_part(function: Callable[[np.ndarray], Any], observation: Any) -> Any:
    return (
        {key: function(part) for key, part in observation.items()}
        if isinstance(observation, dict)
        else function(observation)
    )


def observations(space: spaces.Space, n_envs: int) -> Any:
    samples = [space.sample() for _ in range(n_envs)]
    if isinstance(space, spaces.Dict):
        return {key: np.stack([np.asarray(sample[key]) for sample in samples]) for key in space.spaces}
    return np.stack([np.asarray(sample) for sample in samples])


def additions(space: spaces.Space, n_envs: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Arguments of `add` in many forms. SB3 takes some of them for some spaces only."""
    space.seed(0)
    usual: dict[str, Any] = dict(
        obs=observations(space, n_envs),
        next_obs=observations(space, n_envs),
        action=np.ones((n_envs, 1), dtype=np.int64),
        reward=np.arange(n_envs) - 0.5,
        done=np.arange(n_envs) % 2 == 0,
        infos=[{"TimeLimit.truncated": True}, {}][:n_envs],
    )
    yield "as in training", usual
    forms: dict[str, Callable[[np.ndarray], Any]] = {
        "float64": lambda part: part.astype(np.float64),
        "whole float32": lambda part: np.round(part).astype(np.float32),
        "int64": lambda part: part.astype(np.int64),
        "lists": lambda part: part.tolist(),
        "not contiguous": np.asfortranarray,
        "with axes of length 1": lambda part: part[None],
    }
    if n_envs == 1:
        forms["without the axis of environments"] = lambda part: part[0]
    for name, form in forms.items():
        yield name, {**usual, "obs": each_part(form, usual["obs"]), "next_obs": each_part(form, usual["next_obs"])}
    for name, changes in {
        "lists of numbers": dict(reward=usual["reward"].tolist(), done=usual["done"].tolist()),
        "one reward": dict(reward=1.5, done=False),
        "one numpy reward": dict(reward=np.float64(1.5), done=np.True_),
        "float32": dict(reward=usual["reward"].astype(np.float32), done=usual["done"].astype(np.float32)),
        "tuple of infos": dict(infos=tuple(usual["infos"])),
        "array of infos": dict(infos=np.array(usual["infos"])),
        "no infos": dict(infos=[]),
        "None": dict(infos=None),
        "flat actions": dict(action=np.ones(n_envs, dtype=np.int64)),
        "float actions": dict(action=np.ones((n_envs, 1))),
    }.items():
        yield name, {**usual, **changes}


@pytest.mark.parametrize("handles_timeouts", [True, False])
@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("cls", OURS)
def test_what_sb3_stores_is_stored(cls: Any, space: spaces.Space, n_envs: int, handles_timeouts: bool) -> None:
    is_dict = isinstance(space, spaces.Dict)
    if is_dict and cls is DeviceReplayBuffer:
        return
    n_accepted = 0
    for name, arguments in additions(space, n_envs):
        classes = (DictReplayBuffer if is_dict else ReplayBuffer, cls)
        stock, ours = (
            each(20, space, spaces.Discrete(3), "cpu", n_envs, handle_timeout_termination=handles_timeouts)
            for each in classes
        )
        try:
            stock.add(**arguments)
        except (ValueError, TypeError, AttributeError):
            continue
        n_accepted += 1
        ours.add(**arguments)
        for array in ("actions", "rewards", "dones", "timeouts"):
            assert (getattr(ours, array)[0] == getattr(stock, array)[0]).all(), (name, array)
        if cls is DeviceReplayBuffer:
            stored = ours.observations[0], ours.next_observations[0]
        else:
            stored = ours.read_observations(np.zeros(n_envs, dtype=int), np.arange(n_envs))
        for got, expected in zip(stored, (stock.observations, stock.next_observations), strict=True):
            for key in space.spaces if is_dict else [...]:
                part = expected[key] if is_dict else expected
                assert (got[key] == part[0]).all() and got[key].dtype == part.dtype, (name, key)
    assert n_accepted > 9


@pytest.mark.parametrize("cls", OURS)
def test_extend_takes_what_sb3_takes(cls: Any) -> None:
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(5, 4))
    rows = (obs, obs + 1, np.ones((5, 1), dtype=int), np.arange(5.0), np.zeros(5, dtype=bool), [[{}]] * 5)
    stock, ours = (each(20, VECTOR, spaces.Discrete(3), "cpu") for each in (ReplayBuffer, cls))
    for buffer in (stock, ours):
        buffer.extend(*rows)
    assert ours.size() == 5 and (ours.rewards[:5] == stock.rewards[:5]).all()


@pytest.mark.parametrize(
    "wrong", [np.full((2, 1, 5, 7), 0.5), np.full((2, 1, 5, 7), 256), np.full((2, 1, 5, 7), np.nan)]
)
def test_numbers_that_would_be_cut_off_are_refused(wrong: np.ndarray) -> None:
    """SB3 stores 0 for each of them."""
    buffer = FrameDedupReplayBuffer(20, IMAGE, spaces.Discrete(3), "cpu", 2)
    good = np.zeros((2, 1, 5, 7), dtype=np.uint8)
    with pytest.raises(ValueError, match=r"obs has shape .* uint8 only, or other numbers that are equal to such"):
        buffer.add(wrong, good, np.zeros((2, 1)), np.zeros(2), np.zeros(2), [{}, {}])
    assert buffer.size() == 0
