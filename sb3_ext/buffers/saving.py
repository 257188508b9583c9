"""
Saving and loading of replay buffers that loses no data if it fails.

SB3 overwrites the target file, so an interruption loses both the old file and the new one. Here the new file is written
beside the old one, and renamed when it is complete and on the disk.
"""

import io
import os
import pathlib
import pickle
import sys
import warnings
from typing import IO, Any

import numpy as np
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.save_util import open_path
from tqdm import tqdm

from sb3_ext.buffers.base import LazyReplayBuffer
from sb3_ext.buffers.memory import copies_stored_in
from sb3_ext.files import beside_folders, complete_file

# From this number of bytes on, a progress bar is shown
_LARGE = 10**9


class _WriterWithProgress:
    """A file for pickle to write to, with a progress bar."""

    def __init__(self, file: IO[bytes], bar: tqdm) -> None:
        self._file = file
        self._bar = bar

    def write(self, data: Any) -> int:
        written = self._file.write(data)
        self._bar.update(written)
        return written


class _ReaderWithProgress(io.BufferedReader):
    """A file for pickle to read from, with a progress bar."""

    def __init__(self, file: io.FileIO, bar: tqdm) -> None:
        super().__init__(file)
        self._bar = bar

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self._bar.update(len(data))
        return data

    def readinto(self, target: Any) -> int:
        n_read = super().readinto(target)
        self._bar.update(n_read)
        return n_read


def _bar(n_bytes: int, what: str) -> tqdm:
    return tqdm(total=n_bytes, unit="B", unit_scale=True, desc=what, file=sys.stderr, disable=n_bytes < _LARGE)


def _pickle(replay_buffer: ReplayBuffer, file: IO[bytes]) -> None:
    with _bar(_nbytes(replay_buffer), "Saving the replay buffer") as bar:
        pickle.dump(replay_buffer, _WriterWithProgress(file, bar), protocol=pickle.HIGHEST_PROTOCOL)


def _nbytes(replay_buffer: ReplayBuffer) -> int:
    if isinstance(replay_buffer, LazyReplayBuffer):
        return replay_buffer.nbytes()
    values = list(vars(replay_buffer).values())
    values += [part for value in values if isinstance(value, dict) for part in value.values()]
    return sum(value.nbytes for value in values if isinstance(value, np.ndarray))


def save_replay_buffer(model: OffPolicyAlgorithm, path: str | pathlib.Path | io.BufferedIOBase) -> None:
    """
    Save a replay buffer as SB3 does, but keep an earlier file if saving is interrupted, even by ``kill -9``.

    The algorithms of this package use it in ``model.save_replay_buffer(path)``. Call this function for SB3's own.

    :param path: file name, or an open file. ``.pkl`` is added if it has no suffix, and ``_2`` to that of a folder
    :raises ValueError: if the model has no replay buffer
    :raises TypeError: if ``path`` is neither
    """
    if model.replay_buffer is None:
        raise ValueError(f"this {type(model).__name__} has no replay buffer to save")
    if not isinstance(path, (str, pathlib.Path)) and not hasattr(path, "write"):
        raise TypeError(f"path={path!r} must be a file name, as a string or a pathlib.Path, or an open file")
    with complete_file(beside_folders(path, ".pkl", stack_level=3)) as file:
        _pickle(model.replay_buffer, file)


def load_replay_buffer(
    model: OffPolicyAlgorithm, path: str | pathlib.Path | io.BufferedIOBase, truncate_last_traj: bool = True
) -> None:
    """
    Load a replay buffer as SB3 does, but keep the model's buffer if the file is damaged or does not fit the model.

    Frames on disk go beside the ``storage_path`` of the model's buffer, or else into the folder where they were.

    The algorithms of this package use it in ``model.load_replay_buffer(path)``. Call this function for SB3's own.

    :param path: file name, or an open file
    :param truncate_last_traj: whether the last episode of a ``HerReplayBuffer`` counts as finished
    :raises ValueError: if the file cannot be read, or its buffer belongs to another environment
    :raises OSError: if there is no such file
    """
    before = model.replay_buffer
    storage_path = getattr(before, "storage_path", None)
    try:
        with copies_stored_in(storage_path):
            _load(model, path, truncate_last_traj)
        _check_fits(model, path)
    except BaseException as error:
        model.replay_buffer = before
        if isinstance(error, (OSError, MemoryError, _DoesNotFit)) or not isinstance(error, Exception):
            raise
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} cannot be loaded as a replay buffer of this model: {reason}") from error
    assert model.replay_buffer is not None
    model.replay_buffer.device = model.device  # the file may come from another machine
    loaded: Any = model.replay_buffer
    if storage_path is not None and getattr(loaded, "storage_path", None) is not None:
        loaded.storage_path = storage_path
    found, expected = (getattr(buffer, "n_steps", 1) for buffer in (model.replay_buffer, before))
    if before is not None and found != expected:
        warnings.warn(f"the replay buffer in {path} has n_steps={found}, not {expected} as this model's", stacklevel=3)


def _load(model: OffPolicyAlgorithm, path: Any, truncate_last_traj: bool) -> None:
    if not isinstance(path, (str, pathlib.Path)):
        OffPolicyAlgorithm.load_replay_buffer(model, path, truncate_last_traj)
        return
    found = open_path(path, "r", verbose=model.verbose, suffix="pkl")  # with SB3's rules for the suffix
    found.close()
    with (
        io.FileIO(found.name) as raw,
        _bar(os.fstat(raw.fileno()).st_size, "Loading the replay buffer") as bar,
        _ReaderWithProgress(raw, bar) as file,
    ):
        OffPolicyAlgorithm.load_replay_buffer(model, file, truncate_last_traj)


class _DoesNotFit(ValueError):
    """The replay buffer belongs to another environment."""


def _check_fits(model: OffPolicyAlgorithm, path: Any) -> None:
    replay_buffer = model.replay_buffer
    for name in ("n_envs", "observation_space", "action_space"):
        expected, found = getattr(model, name), getattr(replay_buffer, name)
        if found != expected:
            raise _DoesNotFit(f"the replay buffer in {path} has {name}={found}, this model {name}={expected}")
