"""
Save and load replay buffers so that nothing is lost when it goes wrong.

SB3 opens the target file for writing first: whoever is interrupted while saving has neither the old file nor the new
one. Here the new file is written beside the old one and takes its name when it is complete and on the disk.
"""

import io
import os
import pathlib
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from tqdm import tqdm

from sb3_ext.buffers.base import LazyReplayBuffer

# From here on a person would like to see that something is going on
_LARGE = 10**9


@contextmanager
def replaced_when_complete(path: pathlib.Path) -> Iterator[IO[bytes]]:
    """
    Write a file of which readers see either the old or the new content, whatever happens in between.

    :param path: of the file; its folder is created
    :return: the open file to write to
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # What a killed process leaves behind is overwritten by the next one
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if os.name == "posix":
        # The new name, too, has to be on the disk
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class _WithProgress:
    """
    What pickle needs of a file, with a bar that moves as bytes are written.

    :param file: to write to
    :param bar: to move
    """

    def __init__(self, file: IO[bytes], bar: tqdm) -> None:
        self._file = file
        self._bar = bar

    def write(self, data: Any) -> int:
        written = self._file.write(data)
        self._bar.update(written)
        return written


def _pickle(replay_buffer: ReplayBuffer, file: IO[bytes]) -> None:
    n_bytes = _nbytes(replay_buffer)
    if n_bytes < _LARGE:
        pickle.dump(replay_buffer, file, protocol=pickle.HIGHEST_PROTOCOL)
        return
    with tqdm(total=n_bytes, unit="B", unit_scale=True, desc="Saving the replay buffer", file=sys.stderr) as bar:
        pickle.dump(replay_buffer, _WithProgress(file, bar), protocol=pickle.HIGHEST_PROTOCOL)


def _nbytes(replay_buffer: ReplayBuffer) -> int:
    if isinstance(replay_buffer, LazyReplayBuffer):
        return replay_buffer.nbytes()
    return sum(value.nbytes for value in vars(replay_buffer).values() if isinstance(value, np.ndarray))


def save_replay_buffer(model: OffPolicyAlgorithm, path: str | pathlib.Path | io.BufferedIOBase) -> None:
    """
    As ``model.save_replay_buffer(path)`` of SB3, but an interruption, even ``kill -9``, leaves the earlier file of that
    name as it was. The algorithms of this package do it by themselves; call this for SB3's own.

    :param model: whose replay buffer is saved
    :param path: of the file (``.pkl`` is added where there is no suffix), or an open file
    :raises ValueError: if there is no replay buffer
    """
    if model.replay_buffer is None:
        raise ValueError(f"this {type(model).__name__} has no replay buffer to save")
    if not isinstance(path, (str, pathlib.Path)):
        _pickle(model.replay_buffer, path)  # type: ignore[arg-type]
        return
    target = pathlib.Path(path)
    with replaced_when_complete(target if target.suffix else target.with_suffix(".pkl")) as file:
        _pickle(model.replay_buffer, file)


def load_replay_buffer(
    model: OffPolicyAlgorithm, path: str | pathlib.Path | io.BufferedIOBase, truncate_last_traj: bool = True
) -> None:
    """
    As ``model.load_replay_buffer(path)`` of SB3, but a file that is truncated, holds something else, or a buffer for
    another environment, gives a clear error and leaves the model with the buffer it had. The algorithms of this package
    do it by themselves; call this for SB3's own.

    :param model: that gets the replay buffer
    :param path: of the file, or an open file
    :param truncate_last_traj: for ``HerReplayBuffer``: whether the last episode in it counts as finished
    :raises ValueError: if the file cannot be read, or its buffer does not fit the model
    :raises OSError: if there is no such file
    """
    before = model.replay_buffer
    try:
        OffPolicyAlgorithm.load_replay_buffer(model, path, truncate_last_traj)
        _check_fits(model, path)
    except BaseException as error:
        model.replay_buffer = before
        if isinstance(error, (OSError, MemoryError, _DoesNotFit)) or not isinstance(error, Exception):
            raise
        raise ValueError(f"{path} holds no replay buffer that can be read: {type(error).__name__}: {error}") from error
    assert model.replay_buffer is not None
    model.replay_buffer.device = model.device  # it may have been saved on another machine


class _DoesNotFit(ValueError):
    """A replay buffer of another environment."""


def _check_fits(model: OffPolicyAlgorithm, path: Any) -> None:
    replay_buffer = model.replay_buffer
    for name in ("n_envs", "observation_space", "action_space"):
        expected, found = getattr(model, name), getattr(replay_buffer, name)
        if found != expected:
            raise _DoesNotFit(f"the replay buffer in {path} has {name}={found}, this model {name}={expected}")
