"""What streams of transitions hypothesis draws, and pairs of buffers that are fed with them."""

import copy
import pickle
from typing import Any

import numpy as np
from gymnasium import spaces
from hypothesis import strategies as st

from sb3_ext import FrameDedupReplayBuffer
from tests.support.stock import ONLY, Stock
from tests.support.streams import Part, StreamConfig

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


def new_config(parts: dict[str, tuple[Any, ...]], **kwargs: Any) -> StreamConfig:
    return StreamConfig(parts={key: Part(*part) for key, part in parts.items()}, **kwargs)


def new_pair(
    config: Any, n_stack: int | None = None, compression: str | None = None, **kwargs: Any
) -> tuple[Stock, FrameDedupReplayBuffer]:
    """SB3's buffer and the one under test, for the same arguments."""
    others = {key: value for key, value in kwargs.items() if key != "buffer_size"}
    arguments = kwargs["buffer_size"], config.observation_space, config.action_space
    stock = Stock(*arguments, n_envs=config.n_envs, **others)
    buffer = FrameDedupReplayBuffer(
        *arguments, device="cpu", n_envs=config.n_envs, n_stack=n_stack, compression=compression, **others
    )
    return stock, buffer


def stack_of(config: Any) -> int | None:
    """
    :param config: of a stream
    :return: ``n_stack``, where one number says it for the whole observation
    """
    n_stacks = {part.n_stack for part in config.parts.values()}
    return n_stacks.pop() if len(n_stacks) == 1 else None


def copies(buffer: FrameDedupReplayBuffer) -> list[FrameDedupReplayBuffer]:
    return [pickle.loads(pickle.dumps(buffer)), copy.deepcopy(buffer)]
