"""A replay buffer that stores each frame once."""

import os
import warnings
from typing import Any
from urllib.parse import quote

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_ext.buffers.base import LazyReplayBuffer
from sb3_ext.buffers.frames import COMPRESSIONS, Frames, LZ4Frames, RawFrames, import_lz4
from sb3_ext.buffers.memory import RAM, MappedFile, check_disk_space, check_memory
from sb3_ext.buffers.stacks import SLOTS_BETWEEN_SCANS, StackLayout, StackStore, possible_layouts
from sb3_ext.checks import check_choice, check_integer, check_path
from sb3_ext.keywords import among, checks_keywords

# After this number of steps one of several fitting layouts is chosen. A black or frozen screen fits all of them
_MOST_UNDECIDED = 128
# Assumed share of a frame that remains after lz4 compression; it depends on the game
_LZ4_RATIO = 0.15


class FrameDedupReplayBuffer(LazyReplayBuffer):
    """
    A drop-in ``replay_buffer_class`` that stores each frame of stacked observations once.

    With stacks of four frames SB3's default buffer stores each frame eight times. This buffer rebuilds observations
    from single frames when they are sampled. They equal those of SB3's buffer bit for bit, also around episode ends,
    resets and the write position. Other observations are stored whole, but not again where they equal the previous next
    observation.

    Observations and next observations of a sample may share memory, so do not change them in place.

    :param buffer_size: number of transitions, counted over all environments
    :param observation_space: observation space, dictionaries included
    :param device: PyTorch device of the samples
    :param optimize_memory_usage: must be False; SB3's algorithms pass it
    :param handle_timeout_termination: do not count a time limit as a termination: ``dones`` of samples are 0 there
    :param n_stack: number of frames in an observation; 1 stores observations whole. ``None`` detects it from the first
        observations. In a dictionary it applies to images only
    :param n_steps: number of steps of the returns; may be changed later, but algorithms of this package set theirs
        whenever they train, and so with ``gamma``
    :param gamma: discount factor of the returns; may be changed later
    :param store_log_probs: keep the log-probability of each action, for corrections of n-step returns
    :param compression: ``"lz4"`` compresses images without loss to a fraction of their size, and slows down sampling.
        It needs the package lz4
    :param storage_path: file on disk for the frames, or a folder in which to create one. An existing file is never
        overwritten. The file is removed together with the buffer
    :raises ValueError: naming the argument, its value and what is allowed
    :raises ImportError: if lz4 is not installed
    """

    @checks_keywords(among(ReplayBuffer))
    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        *,
        n_stack: int | None = None,
        n_steps: int = 1,
        gamma: float = 0.99,
        store_log_probs: bool = False,
        compression: str | None = None,
        storage_path: str | os.PathLike | None = None,
    ) -> None:
        super().__init__(
            buffer_size,
            observation_space,
            action_space,
            device,
            n_envs,
            optimize_memory_usage,
            handle_timeout_termination,
            n_steps=n_steps,
            gamma=gamma,
            store_log_probs=store_log_probs,
        )
        check_choice("compression", compression, COMPRESSIONS)
        if compression == "lz4":
            import_lz4()
        if storage_path is not None:
            check_path("storage_path", storage_path)
        if n_stack is not None:
            check_integer("n_stack", n_stack, minimum=1)
        self.n_stack = n_stack
        self.compression = compression
        self.storage_path = storage_path
        # For undecided keys, the layouts that fit all observations so far
        self._candidates: dict[str, list[StackLayout]] = {}
        self._has_warned = False
        self._check_n_stack()

    def _check_n_stack(self) -> None:
        if self.n_stack not in (None, 1) and not any(self._layouts(key) for key in self._subspaces):
            raise ValueError(
                f"n_stack={self.n_stack} must divide the first or the last axis of the observations, whose shape is "
                f"{self.obs_shape}, or be None"
            )

    def _layouts(self, key: str) -> list[StackLayout]:
        """Return the layouts that observations of this key may have, the most likely first."""
        shape = self._shape_of(key)
        n_stack = self.n_stack if not key or len(shape) > 1 else None
        return possible_layouts(shape, n_stack)

    def _whole_layout(self, key: str) -> StackLayout:
        """Return the layout of stacks with one frame each."""
        shape = self._shape_of(key)
        return StackLayout(shape or (1,), 0, 1)

    def _expected_frames(self, layout: StackLayout) -> int:
        # Each transition has one frame. More frames belong to the oldest stacks, wait for the next scan, or are empty
        # rows of chunks. One is the frame of zeros. Each end of an episode adds one more
        n_waiting = layout.n_stack + SLOTS_BETWEEN_SCANS + 2 * RawFrames.rows_per_chunk
        return (self.buffer_size + n_waiting) * self.n_envs + 1

    def _make_store(self, key: str, space: spaces.Space) -> StackStore:
        layouts = self._layouts(key)
        if not layouts:
            return self._new_store(key, self._whole_layout(key))
        if self.n_stack is not None and len(layouts) == 1:
            return self._new_store(key, layouts[0])
        # Until the layout is detected, observations are stored whole and in RAM
        self._candidates[key] = layouts
        layout = self._whole_layout(key)
        n_frames = min(self.buffer_size, _MOST_UNDECIDED) * self.n_envs
        return self._new_stack_store(key, layout, RawFrames(self._frame_bytes(key, layout), RAM(), n_frames))

    def _new_store(self, key: str, layout: StackLayout) -> StackStore:
        frames_class: type[RawFrames] | type[LZ4Frames] = LZ4Frames if self._compresses(key) else RawFrames
        memory: RAM | MappedFile = RAM()
        if self.storage_path is not None:
            path = os.fspath(self.storage_path)
            # A key may contain a slash
            memory = MappedFile(path if not key or os.path.isdir(path) else f"{path}.{quote(key, safe='')}")
        frames: Frames = frames_class(self._frame_bytes(key, layout), memory, self._expected_frames(layout))
        return self._new_stack_store(key, layout, frames)

    def _new_stack_store(self, key: str, layout: StackLayout, frames: Frames) -> StackStore:
        return StackStore(layout, self._dtype_of(key), self.buffer_size, self.n_envs, frames)

    def _compresses(self, key: str) -> bool:
        # Only images, because vectors hardly become smaller
        return self.compression == "lz4" and self._dtype_of(key) == np.uint8 and len(self._shape_of(key)) > 1

    def _dtype_of(self, key: str) -> np.dtype:
        return np.dtype(self._subspaces[key].dtype)

    def _frame_bytes(self, key: str, layout: StackLayout) -> int:
        return int(np.prod(layout.frame_shape)) * self._dtype_of(key).itemsize

    def _add_observations(self, key: str, observations: np.ndarray, next_observations: np.ndarray) -> None:
        if key in self._candidates:
            self._detect_layout(key, observations, next_observations)
        super()._add_observations(key, observations, next_observations)
        if not self._has_warned and not self._store(key).only_stacks:
            layout = self._store(key).layout
            self._warn_once(
                f"Observations of shape {layout.shape} are not always stacks of {layout.n_stack} frames that move on "
                "by one frame at each step: those that are not are stored whole, which takes more memory"
            )

    def _store(self, key: str) -> StackStore:
        assert self._stores is not None
        store = self._stores[key]
        assert isinstance(store, StackStore)  # `_make_store` makes no other kind
        return store

    def _warn_once(self, message: str) -> None:
        if not self._has_warned:
            warnings.warn(message, stacklevel=4)
        self._has_warned = True

    def _detect_layout(self, key: str, observations: np.ndarray, next_observations: np.ndarray) -> None:
        """Discard layouts that do not fit. When the layout is decided, replace the store by one with that layout."""
        fitting = [layout for layout in self._candidates[key] if layout.moved_on(observations, next_observations).all()]
        if len(fitting) > 1 and self.size() < _MOST_UNDECIDED:
            self._candidates[key] = fitting
            return
        if fitting or self.n_stack is not None:
            layout = (fitting or self._layouts(key))[0]
        else:
            layout = self._whole_layout(key)
            self._warn_once(
                f"Observations of shape {layout.shape} are no stacks of frames that move on by one frame at each step: "
                "they are stored whole. n_stack=1 says so beforehand, n_stack=... that they are stacks all the same"
            )
        self._change_layout(key, layout)
        del self._candidates[key]

    def _change_layout(self, key: str, layout: StackLayout) -> None:
        assert self._stores is not None
        if self.storage_path is None:
            # This layout may need more than the most likely one, which was checked at the first transition
            what = f"{type(self).__name__} of observations of shape {layout.shape} in {layout.n_stack} frames each"
            check_memory(self._expected_frame_bytes(key, layout), what)
        store, envs = self._new_store(key, layout), np.arange(self.n_envs)
        first = self.pos if self.full else 0
        for slot in (np.arange(first, first + self.size()) % self.buffer_size).tolist():
            pair = self._store(key).read(np.full(self.n_envs, slot), envs)
            store.add(slot, pair.observations, pair.next_observations)
        self._stores[key] = store

    def reset(self) -> None:
        super().reset()
        self._candidates = {}

    def _allocate(self) -> dict[str, Any]:
        if self.storage_path is not None:
            frames = (self._expected_frame_bytes(key, self._likely_layout(key)) for key in self._subspaces)
            check_disk_space(self.storage_path, sum(frames))
        return super()._allocate()

    def _expected_frame_bytes(self, key: str, layout: StackLayout) -> int:
        ratio = _LZ4_RATIO if self._compresses(key) else 1.0
        return int(self._expected_frames(layout) * self._frame_bytes(key, layout) * ratio)

    def _likely_layout(self, key: str) -> StackLayout:
        """Return the layout to reckon with until the observations have shown theirs."""
        layouts = self._layouts(key)
        if not layouts:
            return self._whole_layout(key)
        if self.n_stack is None and len(layouts[0].shape) == 3:
            # Channels in threes are colors rather than gray frames, and need more memory
            n_channels = layouts[0].shape[layouts[0].axis]
            if n_channels == 3:
                return self._whole_layout(key)
            colored = [layout for layout in layouts if 3 * layout.n_stack == n_channels]
            layouts = colored or layouts
        return layouts[0]

    def _memory_hint(self) -> str:
        most_likely = {key: self._layouts(key)[:1] for key in self._subspaces}
        has_colors = any(found and found != [self._likely_layout(key)] for key, found in most_likely.items())
        return " and colors (n_stack=3 or more: these are gray frames)" if has_colors else ""

    def expected_nbytes(self) -> int:
        """
        Estimate the bytes of RAM that the full buffer needs, with an assumed ratio of lz4 compression.

        Episodes of T steps add one frame for each T transitions, which is not counted.
        """
        int32 = np.dtype(np.int32).itemsize
        total = super().expected_nbytes()
        for key in self._subspaces:
            layout = self._likely_layout(key)
            # The row numbers of each stack
            total += 2 * layout.n_stack * int32 * self.buffer_size * self.n_envs
            total += 0 if self.storage_path is not None else self._expected_frame_bytes(key, layout)
        return total
