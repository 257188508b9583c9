"""
Properties of the buffer that stores every frame once: whatever it is fed, it returns what SB3's buffers return, bit
for bit. The transitions are made up, with everything a wrapper, an environment or a caller could do to a stack.
"""

import copy
import pickle
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_ext import FrameDedupReplayBuffer

ONLY = ""
UNSTACKED = ["discrete", "multibinary", "multidiscrete"]
ACTION_SPACES = [
    spaces.Discrete(5),
    spaces.Box(-1, 1, (2,), np.float32),
    spaces.Box(-1, 1, (2,), np.float64),
    spaces.MultiDiscrete([3, 4]),
    spaces.MultiBinary(3),
]
LAYOUTS = [
    ("first", 4, 1),
    ("first", 3, 2),
    ("last", 4, 1),
    ("last", 2, 3),
    ("transposed", 4, 1),
    ("transposed", 3, 3),
    ("leading", 4, 1),
    ("leading", 3, 3),
    ("transposed", 4, 1, "uint8", 17),
    ("first", 4, 1, "int8"),
    ("last", 4, 2, "float32", 17),
    ("leading", 4, 1, "float64"),
    ("vector", 4, 2, "float32"),
    ("vector", 3, 1, "float64"),
    ("first", 1, 1),
    ("vector", 1, 6, "float32"),
    ("discrete", 1, 1),
    ("multibinary", 1, 4),
    ("multidiscrete", 1, 2),
]


@st.composite
def a_part(draw: st.DrawFn, kinds: list[str]) -> tuple[Any, ...]:
    kind = draw(st.sampled_from(kinds))
    n_stack = 1 if kind in UNSTACKED else draw(st.integers(1, 4))
    channels = 1 if kind == "discrete" else draw(st.integers(1, 3))
    dtypes = ["float32", "float64"] if kind == "vector" else ["uint8", "uint8", "uint8", "int8", "float32"]
    return kind, n_stack, channels, draw(st.sampled_from(dtypes)), draw(st.sampled_from([16, 17]))


@st.composite
def some_parts(draw: st.DrawFn) -> dict[str, tuple[Any, ...]]:
    images = ["first", "last", "transposed", "leading"]
    if draw(st.booleans()):
        return {ONLY: draw(a_part([*images, *images, "vector", *UNSTACKED]))}
    keys = draw(st.sampled_from([["image", "vector"], ["image", "flag", "vector"], ["left", "right"]]))
    kinds = {"flag": UNSTACKED, "vector": ["vector"]}
    return {key: draw(a_part(kinds.get(key, images))) for key in keys}


def probability(*values: float) -> st.SearchStrategy[float]:
    return st.sampled_from([0.0, *values])


STREAMS = st.fixed_dictionaries(
    dict(
        n_envs=st.integers(1, 4),
        action_space=st.sampled_from(ACTION_SPACES),
        seed=st.integers(0, 2**32 - 1),
        palette=st.sampled_from([0, 1, 2, 3]),
        padding=st.sampled_from(["zero", "first", "both"]),
        arrays=st.sampled_from(["fresh", "spoilt", "reused", "shuffled"]),
        black_steps=st.sampled_from([0, 1, 6]),
        p_static=probability(0.3, 1.0),
        p_black=probability(0.3),
        p_done=probability(0.05, 0.3, 1.0),
        p_interrupt=probability(0.1, 0.5),
        p_jump=probability(0.1, 1.0),
    )
)


@st.composite
def buffer_kwargs(draw: st.DrawFn, n_envs: int) -> dict[str, Any]:
    kwargs = dict(
        n_steps=draw(st.integers(1, 5)),
        gamma=draw(st.sampled_from([0.99, 0.5, 1.0])),
        handle_timeout_termination=draw(st.booleans()),
    )
    # A buffer of 1 always constructs, whatever the number of steps and environments
    capacity = st.integers(n_envs * kwargs["n_steps"], max(40, n_envs * kwargs["n_steps"]))
    return dict(buffer_size=draw(st.one_of(capacity, st.just(1))), **kwargs)


@pytest.fixture(scope="session")
def new_config(part_class: Any, config_class: Any) -> Callable[..., Any]:
    def build(parts: dict[str, tuple[Any, ...]], **kwargs: Any) -> Any:
        return config_class(parts={key: part_class(*part) for key, part in parts.items()}, **kwargs)

    return build


@pytest.fixture(scope="session")
def new_pair(stock_class: Any) -> Callable[..., Any]:
    """SB3's buffer and the one under test, for the same arguments."""

    def build(config: Any, n_stack: int | None = None, compression: str | None = None, **kwargs: Any) -> Any:
        space, action_space = config.observation_space, config.action_space
        stock = stock_class(kwargs["buffer_size"], space, action_space, n_envs=config.n_envs, **without_size(kwargs))
        buffer = FrameDedupReplayBuffer(
            kwargs["buffer_size"],
            space,
            action_space,
            device="cpu",
            n_envs=config.n_envs,
            n_stack=n_stack,
            compression=compression,
            **without_size(kwargs),
        )
        return stock, buffer

    return build


def without_size(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in kwargs.items() if key != "buffer_size"}


def stack_of(config: Any) -> int | None:
    """
    :param config: of a stream
    :return: ``n_stack``, where one number says it for the whole observation
    """
    n_stacks = {part.n_stack for part in config.parts.values()}
    return n_stacks.pop() if len(n_stacks) == 1 else None


def copies(buffer: FrameDedupReplayBuffer) -> list[FrameDedupReplayBuffer]:
    return [pickle.loads(pickle.dumps(buffer)), copy.deepcopy(buffer)]


def feed_and_compare(
    data: st.DataObject, tools: tuple[Any, ...], config: Any, compression: str | None, max_adds: int
) -> None:
    """One stream into SB3's buffer and the one under test, and from somewhere on into a copy of it, too."""
    new_pair, stream_class, same_contents = tools
    kwargs = data.draw(buffer_kwargs(config.n_envs))
    n_stack = data.draw(st.sampled_from([None, stack_of(config)]))
    n_adds = data.draw(st.integers(1, max_adds))
    compared = data.draw(st.sets(st.integers(0, n_adds - 1), max_size=3))
    copied = data.draw(st.integers(0, n_adds))
    stock, buffer = new_pair(config, n_stack, compression, **kwargs)
    stream = stream_class(config)
    buffers = [buffer]
    same_contents(buffer, stock)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(n_adds):
            if step == copied:
                buffers.insert(data.draw(st.integers(0, 1)), data.draw(st.sampled_from(copies(buffer))))
            stream.feed(stock, *buffers)
            for each in buffers:
                each.check_valid()
                if step in compared:
                    same_contents(each, stock)
    for each in buffers:
        same_contents(each, stock)
    messages = [str(warning.message) for warning in caught]
    # A copy may warn again
    assert len(caught) <= len(buffers) * len(config.parts), messages
    if n_stack is not None and not stream.jumped:
        assert not messages


@pytest.fixture(scope="session")
def tools(new_pair: Any, stream_class: Any, same_contents: Any) -> tuple[Any, ...]:
    return new_pair, stream_class, same_contents


@settings(max_examples=100)
@given(data=st.data(), parts=some_parts(), stream=STREAMS, compression=st.sampled_from([None, "lz4"]))
def test_any_stream_is_returned_bit_for_bit(
    data: st.DataObject, parts: Any, stream: Any, compression: str | None, new_config: Any, tools: Any
) -> None:
    feed_and_compare(data, tools, new_config(parts, **stream), compression, max_adds=60)


@pytest.mark.slow
@settings(max_examples=600)
@given(data=st.data(), parts=some_parts(), stream=STREAMS, compression=st.sampled_from([None, "lz4"]))
def test_many_streams_are_returned_bit_for_bit(
    data: st.DataObject, parts: Any, stream: Any, compression: str | None, new_config: Any, tools: Any
) -> None:
    feed_and_compare(data, tools, new_config(parts, **stream), compression, max_adds=120)


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("given_stack", [False, True], ids=["read off", "n_stack"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: "-".join(map(str, layout)))
def test_no_layout_warns_when_stacks_are_regular(
    layout: Any, given_stack: bool, n_steps: int, new_config: Any, tools: Any
) -> None:
    """Episodes that end, are truncated or interrupted, black and static screens: all of it is regular."""
    config = new_config(
        {ONLY: layout},
        n_envs=2,
        seed=3,
        padding="both",
        arrays="spoilt",
        black_steps=2,
        p_static=0.1,
        p_black=0.1,
        p_interrupt=0.05,
    )
    new_pair, stream_class, same_contents = tools
    stock, buffer = new_pair(config, layout[1] if given_stack else None, buffer_size=34, n_steps=n_steps)
    stream = stream_class(config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(60):
            stream.feed(stock, buffer)
            buffer.check_valid()
            if step % 20 == 7:
                same_contents(buffer, stock)
    same_contents(buffer, stock)


STACKED = [layout for layout in LAYOUTS if layout[1] > 1]
# Nobody looks for stacks in vectors unasked
JUMPS = [(layout, given) for layout in STACKED for given in (False, True) if given or layout[0] != "vector"]


@pytest.mark.parametrize(("layout", "given_stack"), JUMPS, ids=str)
def test_stacks_that_jump_warn_once_and_are_exact(layout: Any, given_stack: bool, new_config: Any, tools: Any) -> None:
    regular = new_config({ONLY: layout}, n_envs=2, seed=4, p_done=0.1)
    new_pair, stream_class, same_contents = tools
    stock, buffer = new_pair(regular, layout[1] if given_stack else None, buffer_size=30)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stream = stream_class(regular)
        for _ in range(8):
            stream.feed(stock, buffer)
    jumping = stream_class(replace(regular, p_jump=0.4, seed=5))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(40):
            jumping.feed(stock, buffer)
            buffer.check_valid()
    assert jumping.irregular
    assert len(caught) == 1, [str(warning.message) for warning in caught]
    same_contents(buffer, stock)


def test_two_images_that_jump_warn_once(new_config: Any, tools: Any) -> None:
    config = new_config({"left": ("first", 4, 1), "right": ("last", 4, 1)}, n_envs=2, seed=17, p_jump=0.5)
    new_pair, stream_class, same_contents = tools
    stock, buffer = new_pair(config, 4, buffer_size=30)
    stream = stream_class(config)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(20):
            stream.feed(stock, buffer)
    assert stream.irregular
    assert len(caught) == 1, [str(warning.message) for warning in caught]
    same_contents(buffer, stock)


@pytest.mark.parametrize("n_stack", [None, 1, 2])
def test_large_noisy_frames_compressed(n_stack: int | None) -> None:
    """Noise does not compress: so large that compressed frames are moved out and in while the ring goes round."""
    rng = np.random.default_rng(18)
    space = spaces.Box(0, 255, (2, 256, 256), np.uint8)
    arguments = (60, space, spaces.Discrete(2), "cpu")
    buffer = FrameDedupReplayBuffer(*arguments, n_stack=n_stack, compression="lz4")
    frames = rng.integers(256, size=(400, 256, 256), dtype=np.uint8)
    zero, false = np.zeros(1), np.zeros(1, bool)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for i in range(398):
            buffer.add(frames[None, i : i + 2], frames[None, i + 1 : i + 3], zero, zero, false, [{}])
            if i % 60 == 59:
                buffer.check_valid()
                samples = buffer.samples_at(np.arange(60), np.zeros(60, int))
                for slot in range(60):
                    first = i - 59 + slot
                    assert np.array_equal(samples.observations[slot].numpy(), frames[first : first + 2])
                    assert np.array_equal(samples.next_observations[slot].numpy(), frames[first + 1 : first + 3])


@pytest.mark.parametrize("layout", STACKED, ids=lambda layout: "-".join(map(str, layout)))
@pytest.mark.parametrize("capacity", [1, 2, 3, 5, 8])
def test_nothing_but_new_stacks_fits(layout: Any, capacity: int, new_config: Any, tools: Any) -> None:
    """The worst case for a store of frames: none of them is ever used twice."""
    config = new_config({ONLY: layout}, n_envs=2, seed=6, p_done=0.5, p_interrupt=0.5, p_jump=1.0, padding="first")
    new_pair, stream_class, same_contents = tools
    stock, buffer = new_pair(config, layout[1], buffer_size=2 * capacity)
    stream = stream_class(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(3 * capacity + 2):
            stream.feed(stock, buffer)
            same_contents(buffer, stock)


@pytest.mark.parametrize("compression", [None, "lz4"])
@pytest.mark.parametrize("capacity", [1, 2, 3])
def test_black_interludes_while_other_environments_go_on(
    capacity: int, compression: str | None, new_config: Any, tools: Any
) -> None:
    """For a while an environment has no frame of its own in the buffer, and the others write on."""
    config = new_config({ONLY: ("last", 2, 1)}, n_envs=3, seed=19, p_black=0.6, p_jump=1.0)
    new_pair, stream_class, same_contents = tools
    stock, buffer = new_pair(config, 2, compression, buffer_size=3 * capacity)
    stream = stream_class(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for step in range(100):
            stream.feed(stock, buffer)
            buffer.check_valid()
            if step % 5 == 0:
                same_contents(buffer, stock)


def test_alternating_regular_and_irregular_phases(new_config: Any, tools: Any) -> None:
    """Many frames for a slot, then few, then many again, while the ring goes round."""
    regular = new_config({ONLY: ("transposed", 4, 1)}, n_envs=3, seed=7, p_done=0.02)
    irregular = replace(regular, p_jump=1.0, p_done=0.5)
    new_pair, stream_class, same_contents = tools
    stock, buffer = new_pair(regular, 4, buffer_size=3 * 11)
    streams = [stream_class(regular), stream_class(irregular)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for length in (15, 7, 3, 20, 30, 1, 1, 11, 10, 12):
            for _ in range(length):
                streams[0].feed(stock, buffer)
                buffer.check_valid()
            same_contents(buffer, stock)
            streams.reverse()


@pytest.mark.parametrize("compression", [None, "lz4"])
@pytest.mark.parametrize("n_steps", [1, 3])
def test_a_copy_goes_on_by_itself(compression: str | None, n_steps: int, new_config: Any, tools: Any) -> None:
    config = new_config(
        {"image": ("last", 4, 1), "vector": ("vector", 2, 3, "float32")}, n_envs=2, seed=8, p_interrupt=0.05
    )
    new_pair, stream_class, same_contents = tools
    stock, buffer = new_pair(config, None, compression, buffer_size=26, n_steps=n_steps)
    stream = stream_class(config)
    for n_adds in (0, 1, 5, 7, 20):
        for _ in range(n_adds):
            stream.feed(stock, buffer)
        for other in copies(buffer):
            other_stock = copy.deepcopy(stock)
            same_contents(other, other_stock)
            other_stream = stream_class(replace(config, seed=n_adds))
            for _ in range(20):
                other_stream.feed(other_stock, other)
                other.check_valid()
            same_contents(other, other_stock)
        # And the original knows nothing of it
        same_contents(buffer, stock)


@pytest.mark.parametrize("layout", [("transposed", 4, 1), ("vector", 1, 3, "float32")])
def test_a_reset_buffer_starts_again(layout: Any, new_config: Any, tools: Any) -> None:
    config = new_config({ONLY: layout}, n_envs=2, seed=9)
    new_pair, stream_class, same_contents = tools
    stock, buffer = new_pair(config, None, buffer_size=16)
    stream = stream_class(config)
    for n_adds in (0, 3, 11, 20):
        for _ in range(n_adds):
            stream.feed(stock, buffer)
        stock.reset()
        buffer.reset()
        assert buffer.size() == 0
        same_contents(buffer, stock)
        for _ in range(5):
            stream.feed(stock, buffer)
            same_contents(buffer, stock)


@pytest.mark.parametrize("folder", [True, False], ids=["folder", "file"])
@pytest.mark.parametrize("compression", [None, "lz4"])
def test_frames_in_a_file(compression: str | None, folder: bool, tmp_path: Path, new_config: Any, tools: Any) -> None:
    config = new_config({ONLY: ("transposed", 4, 1)}, n_envs=2, seed=10, p_interrupt=0.05, arrays="reused")
    new_pair, stream_class, same_contents = tools
    stock, _ = new_pair(config, buffer_size=24)
    path = tmp_path if folder else tmp_path / "frames.bin"
    arguments = (24, config.observation_space, config.action_space, "cpu", 2)
    buffer = FrameDedupReplayBuffer(*arguments, compression=compression, storage_path=path)
    stream = stream_class(config)
    for _ in range(40):
        stream.feed(stock, buffer)
        buffer.check_valid()
    same_contents(buffer, stock)
    others = copies(buffer)
    for _ in range(15):
        stream.feed(stock, buffer, *others)
    for each in (buffer, *others):
        same_contents(each, stock)
    if not folder:
        assert path.stat().st_size > 0
        # Somebody else's frames are not overwritten
        content = path.read_bytes()
        with pytest.raises((FileExistsError, ValueError)):
            other = FrameDedupReplayBuffer(*arguments, compression=compression, storage_path=path)
            stream.feed(other)
        assert path.read_bytes() == content
        same_contents(buffer, stock)


def test_two_buffers_in_one_folder(tmp_path: Path, new_config: Any, tools: Any) -> None:
    config = new_config({ONLY: ("first", 4, 1)}, n_envs=1, seed=11)
    new_pair, stream_class, same_contents = tools
    pairs = []
    for index in range(2):
        stock, _ = new_pair(config, buffer_size=10)
        buffer = FrameDedupReplayBuffer(10, config.observation_space, config.action_space, "cpu", storage_path=tmp_path)
        pairs.append((stock, buffer, stream_class(replace(config, seed=index))))
    for _ in range(25):
        for stock, buffer, stream in pairs:
            stream.feed(stock, buffer)
    for stock, buffer, _ in pairs:
        same_contents(buffer, stock)


class Blank(gym.Env):
    """Only there for its spaces."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        self.observation_space, self.action_space = observation_space, action_space


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize(
    "parts", [{ONLY: ("vector", 3, 2, "float32")}, {"image": ("last", 4, 1), "vector": ("vector", 2, 3, "float32")}]
)
def test_normalized_as_sb3_does(parts: Any, n_steps: int, new_config: Any, tools: Any) -> None:
    config = new_config(parts, n_envs=2, seed=12)
    new_pair, stream_class, same_contents = tools
    stock, buffer = new_pair(config, None, buffer_size=20, n_steps=n_steps)
    keys = None if ONLY in parts else ["vector"]
    env = VecNormalize(
        DummyVecEnv([lambda: Blank(config.observation_space, config.action_space)] * 2), norm_obs_keys=keys
    )
    stats = env.obs_rms if keys is None else env.obs_rms["vector"]
    stats.mean, stats.var = stats.mean + 0.3, stats.var * 1.7
    env.ret_rms.var = np.array(2.5)
    stream = stream_class(config)
    for _ in range(33):
        stream.feed(stock, buffer)
    slots, envs = stock.every_leaf()
    plain, scaled = buffer.samples_at(slots, envs), buffer.samples_at(slots, envs, env=env)
    assert not th.equal(plain.rewards, scaled.rewards)
    same_contents(buffer, stock, env)


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
        "dtype": lambda: array.astype(np.float16),
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
def test_a_refused_transition_leaves_no_trace(error: str, key: str, n_before: int, new_config: Any, tools: Any) -> None:
    parts = {ONLY: ("last", 4, 1)} if key == ONLY else {"image": ("first", 4, 1), "vector": ("vector", 2, 3, "float32")}
    config = new_config(parts, n_envs=2, seed=13)
    new_pair, stream_class, same_contents = tools
    stock, buffer = new_pair(config, None, buffer_size=16)
    stream = stream_class(config)
    for _ in range(n_before):
        stream.feed(stock, buffer)
    wrong = spoil(list(copy.deepcopy(stream).step()), error, key)
    with pytest.raises(ValueError):
        buffer.add(*wrong)
    same_contents(buffer, stock)
    for _ in range(10):
        stream.feed(stock, buffer)
        same_contents(buffer, stock)


@pytest.mark.parametrize("where", [0, 1])
def test_a_missing_key_leaves_no_trace(where: int, new_config: Any, tools: Any) -> None:
    config = new_config({"image": ("first", 4, 1), "vector": ("vector", 2, 3, "float32")}, n_envs=2, seed=14)
    new_pair, stream_class, same_contents = tools
    stock, buffer = new_pair(config, None, buffer_size=16)
    stream = stream_class(config)
    for _ in range(3):
        stream.feed(stock, buffer)
    wrong = list(copy.deepcopy(stream).step())
    wrong[where] = {"image": wrong[where]["image"]}
    with pytest.raises((ValueError, KeyError)):
        buffer.add(*wrong)
    same_contents(buffer, stock)
    for _ in range(10):
        stream.feed(stock, buffer)
    same_contents(buffer, stock)


def test_samples_at_keeps_order_and_repeats(new_config: Any, tools: Any, same_samples: Any) -> None:
    config = new_config({ONLY: ("transposed", 4, 1)}, n_envs=3, seed=15)
    new_pair, stream_class, _ = tools
    stock, buffer = new_pair(config, None, buffer_size=30)
    stream = stream_class(config)
    for _ in range(17):
        stream.feed(stock, buffer)
    slots, envs = np.array([9, 0, 0, 3, 9, 7, 0]), np.array([2, 1, 0, 0, 2, 1, 1])
    same_samples(buffer.samples_at(slots, envs), stock.at(slots, envs))
    same_samples(buffer.samples_at(slots[:1], envs[:1]), stock.at(slots[:1], envs[:1]))


def test_what_was_sampled_does_not_change_afterwards(new_config: Any, tools: Any) -> None:
    config = new_config({ONLY: ("first", 4, 1)}, n_envs=1, seed=16)
    new_pair, stream_class, same_contents = tools
    stock, buffer = new_pair(config, None, buffer_size=5)
    stream = stream_class(config)
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
    same_contents(buffer, stock)


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
