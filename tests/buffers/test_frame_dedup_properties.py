"""Random streams of transitions: what the deduplicating buffer returns is what SB3's returns, bit for bit."""

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_ext import FrameDedupReplayBuffer
from tests.support.frame_streams import (
    LAYOUTS,
    STREAMS,
    buffer_kwargs,
    copies,
    new_config,
    new_pair,
    some_parts,
    stack_of,
)
from tests.support.stock import ONLY, assert_same_contents
from tests.support.streams import Stream


def feed_and_compare(data: st.DataObject, config: Any, compression: str | None, max_adds: int) -> None:
    """One stream into SB3's buffer and the one under test, and from somewhere on into a copy of it, too."""
    kwargs = data.draw(buffer_kwargs(config.n_envs))
    n_stack = data.draw(st.sampled_from([None, stack_of(config)]))
    n_adds = data.draw(st.integers(1, max_adds))
    compared = data.draw(st.sets(st.integers(0, n_adds - 1), max_size=3))
    copied = data.draw(st.integers(0, n_adds))
    stock, buffer = new_pair(config, n_stack, compression, **kwargs)
    stream = Stream(config)
    buffers = [buffer]
    assert_same_contents(buffer, stock)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(n_adds):
            if step == copied:
                buffers.insert(data.draw(st.integers(0, 1)), data.draw(st.sampled_from(copies(buffer))))
            stream.feed(stock, *buffers)
            for each in buffers:
                each.check_valid()
                if step in compared:
                    assert_same_contents(each, stock)
    for each in buffers:
        assert_same_contents(each, stock)
    messages = [str(warning.message) for warning in caught]
    # A copy may warn again
    assert len(caught) <= len(buffers) * len(config.parts), messages
    if n_stack is not None and not stream.jumped:
        assert not messages


@settings(max_examples=100)
@given(data=st.data(), parts=some_parts(), stream=STREAMS, compression=st.sampled_from([None, "lz4"]))
def test_any_stream_is_returned_bit_for_bit(
    data: st.DataObject, parts: Any, stream: Any, compression: str | None
) -> None:
    feed_and_compare(data, new_config(parts, **stream), compression, max_adds=60)


@pytest.mark.slow
@settings(max_examples=600)
@given(data=st.data(), parts=some_parts(), stream=STREAMS, compression=st.sampled_from([None, "lz4"]))
def test_many_streams_are_returned_bit_for_bit(
    data: st.DataObject, parts: Any, stream: Any, compression: str | None
) -> None:
    feed_and_compare(data, new_config(parts, **stream), compression, max_adds=120)


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("given_stack", [False, True], ids=["read off", "n_stack"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: "-".join(map(str, layout)))
def test_no_layout_warns_when_stacks_are_regular(layout: Any, given_stack: bool, n_steps: int) -> None:
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
    stock, buffer = new_pair(config, layout[1] if given_stack else None, buffer_size=34, n_steps=n_steps)
    stream = Stream(config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(60):
            stream.feed(stock, buffer)
            buffer.check_valid()
            if step % 20 == 7:
                assert_same_contents(buffer, stock)
    assert_same_contents(buffer, stock)


STACKED = [layout for layout in LAYOUTS if layout[1] > 1]

# Nobody looks for stacks in vectors unasked
JUMPS = [(layout, given) for layout in STACKED for given in (False, True) if given or layout[0] != "vector"]


@pytest.mark.parametrize(("layout", "given_stack"), JUMPS, ids=str)
def test_stacks_that_jump_warn_once_and_are_exact(layout: Any, given_stack: bool) -> None:
    regular = new_config({ONLY: layout}, n_envs=2, seed=4, p_done=0.1)
    stock, buffer = new_pair(regular, layout[1] if given_stack else None, buffer_size=30)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stream = Stream(regular)
        for _ in range(8):
            stream.feed(stock, buffer)
    jumping = Stream(replace(regular, p_jump=0.4, seed=5))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(40):
            jumping.feed(stock, buffer)
            buffer.check_valid()
    assert jumping.irregular
    assert len(caught) == 1, [str(warning.message) for warning in caught]
    assert_same_contents(buffer, stock)


def test_two_images_that_jump_warn_once() -> None:
    config = new_config({"left": ("first", 4, 1), "right": ("last", 4, 1)}, n_envs=2, seed=17, p_jump=0.5)
    stock, buffer = new_pair(config, 4, buffer_size=30)
    stream = Stream(config)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(20):
            stream.feed(stock, buffer)
    assert stream.irregular
    assert len(caught) == 1, [str(warning.message) for warning in caught]
    assert_same_contents(buffer, stock)


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
def test_nothing_but_new_stacks_fits(layout: Any, capacity: int) -> None:
    """The worst case for a store of frames: none of them is ever used twice."""
    config = new_config({ONLY: layout}, n_envs=2, seed=6, p_done=0.5, p_interrupt=0.5, p_jump=1.0, padding="first")
    stock, buffer = new_pair(config, layout[1], buffer_size=2 * capacity)
    stream = Stream(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(3 * capacity + 2):
            stream.feed(stock, buffer)
            assert_same_contents(buffer, stock)


@pytest.mark.parametrize("compression", [None, "lz4"])
@pytest.mark.parametrize("capacity", [1, 2, 3])
def test_black_interludes_while_other_environments_go_on(capacity: int, compression: str | None) -> None:
    """For a while an environment has no frame of its own in the buffer, and the others write on."""
    config = new_config({ONLY: ("last", 2, 1)}, n_envs=3, seed=19, p_black=0.6, p_jump=1.0)
    stock, buffer = new_pair(config, 2, compression, buffer_size=3 * capacity)
    stream = Stream(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for step in range(100):
            stream.feed(stock, buffer)
            buffer.check_valid()
            if step % 5 == 0:
                assert_same_contents(buffer, stock)


def test_alternating_regular_and_irregular_phases() -> None:
    """Many frames for a slot, then few, then many again, while the ring goes round."""
    regular = new_config({ONLY: ("transposed", 4, 1)}, n_envs=3, seed=7, p_done=0.02)
    irregular = replace(regular, p_jump=1.0, p_done=0.5)
    stock, buffer = new_pair(regular, 4, buffer_size=3 * 11)
    streams = [Stream(regular), Stream(irregular)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for length in (15, 7, 3, 20, 30, 1, 1, 11, 10, 12):
            for _ in range(length):
                streams[0].feed(stock, buffer)
                buffer.check_valid()
            assert_same_contents(buffer, stock)
            streams.reverse()
