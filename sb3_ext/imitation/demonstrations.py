"""What an expert did: pairs of observations and actions, from files or collected."""

import importlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.save_util import load_from_pkl

from sb3_ext.buffers.samples import map_observations
from sb3_ext.files import complete_file

#: An array of observations, or a dictionary of them
Observations = Any
_MINARI = "minari:"
_ALLOWED = (
    "a replay buffer or the .pkl file of one, an .npz file with the arrays observations and actions, or "
    "'minari:<name of a data set>'"
)


class Pairs(NamedTuple):
    """
    Observations and what the expert did there.

    :param observations: shape (n, ``*shape``), or a dictionary of such arrays
    :param actions: as the environment takes them, shape (n, ``*shape``), or (n,) for discrete ones
    """

    observations: Observations
    actions: np.ndarray

    def __len__(self) -> int:
        return len(self.actions)

    def at(self, rows: np.ndarray) -> "Pairs":
        """Return the pairs of some rows, shape (B,)."""
        return Pairs(map_observations(lambda part: part[rows], self.observations), self.actions[rows])


def joined(parts: list[Pairs]) -> Pairs:
    """Put several lots of pairs behind each other."""
    first = parts[0].observations
    actions = np.concatenate([part.actions for part in parts])
    if isinstance(first, dict):
        return Pairs({key: np.concatenate([part.observations[key] for part in parts]) for key in first}, actions)
    return Pairs(np.concatenate([part.observations for part in parts]), actions)


class Demonstrations:
    """
    All pairs so far. A fraction of them, chosen at random as they come, is held out for validation.

    :param validation_fraction: in [0, 1)
    :param rng: chooses what is held out
    """

    def __init__(self, validation_fraction: float, rng: np.random.Generator) -> None:
        self.validation_fraction, self._rng = validation_fraction, rng
        # Lots that are not joined yet
        self._lots: list[Pairs] = []
        self._held_out: list[np.ndarray] = []
        self._all: Pairs | None = None
        self._n_pairs = 0
        self.training_rows = np.empty(0, np.int64)
        self.validation_rows = np.empty(0, np.int64)

    def __len__(self) -> int:
        return self._n_pairs

    def add(self, pairs: Pairs) -> None:
        """Append copies of pairs. At least one is always left to learn from."""
        pairs = pairs.at(np.arange(len(pairs)))
        held_out = self._rng.random(len(pairs)) < self.validation_fraction
        if len(self) == 0:
            held_out[:1] = False
        self._lots.append(pairs)
        self._held_out.append(held_out)
        self._n_pairs += len(pairs)
        self._all = None

    @property
    def pairs(self) -> Pairs:
        """All pairs, in the order in which they came."""
        if self._all is None:
            self._all, held_out = joined(self._lots), np.concatenate(self._held_out)
            self._lots, self._held_out = [self._all], [held_out]
            self.training_rows, self.validation_rows = np.flatnonzero(~held_out), np.flatnonzero(held_out)
        return self._all

    def sample(self, batch_size: int) -> Pairs:
        """Draw pairs that are not held out, with replacement, by numpy's global generator as SB3's buffers do."""
        pairs = self.pairs
        return pairs.at(self.training_rows[np.random.randint(0, len(self.training_rows), batch_size)])

    def epoch_rows(self, n_epochs: int, batch_size: int) -> list[np.ndarray]:
        """
        Go through the rows of all pairs that are not held out, each time in another order.

        Numpy's global generator chooses it.

        :param batch_size: pairs in each minibatch, at most. All have nearly the same number
        :return: the rows of one minibatch after the other
        """
        _, rows = self.pairs, self.training_rows
        n_minibatches = math.ceil(len(rows) / batch_size)
        epochs = [np.array_split(np.random.permutation(rows), n_minibatches) for _ in range(n_epochs)]
        return [minibatch for epoch in epochs for minibatch in epoch]

    def validation(self, at_most: int) -> Pairs | None:
        """Return pairs that are held out, old and new ones alike, ``None`` without any."""
        pairs, rows = self.pairs, self.validation_rows
        if len(rows) == 0:
            return None
        return pairs.at(rows[np.linspace(0, len(rows) - 1, min(at_most, len(rows))).astype(np.int64)])

    def save(self, path: str | os.PathLike) -> None:
        """
        Write all pairs into an .npz file that ``demonstrations=`` reads.

        With a dictionary of observations its keys follow ``observations/``. An interruption leaves an earlier file
        intact.
        """
        pairs = self.pairs
        observations = pairs.observations
        parts = {"observations": observations}
        if isinstance(observations, dict):
            parts = {f"observations/{key}": part for key, part in observations.items()}
        with complete_file(Path(path)) as file:
            np.savez_compressed(file, actions=pairs.actions, **parts)


def load_demonstrations(source: Any, observation_space: spaces.Space, action_space: spaces.Space) -> Pairs:
    """
    Read demonstrations, and check them.

    :param source: a replay buffer or the .pkl file of one, an .npz file, or ``"minari:<name of a data set>"``
    :raises ValueError: if it is none of these, or does not fit the spaces, or a number is NaN or infinite
    :raises OSError: if there is no such file
    :raises ImportError: for a Minari data set if minari is not installed
    """
    if isinstance(source, ReplayBuffer):
        pairs = _of_buffer(source)
    elif isinstance(source, str) and source.startswith(_MINARI):
        pairs = _of_minari(source.removeprefix(_MINARI))
    elif isinstance(source, (str, os.PathLike)):
        pairs = _of_file(Path(source))
    else:
        raise ValueError(f"demonstrations={source!r} must be {_ALLOWED}")
    what = f"demonstrations={source!r}" if isinstance(source, (str, os.PathLike)) else "demonstrations"
    return as_pairs(what, pairs, observation_space, action_space)


def _of_file(path: Path) -> Pairs:
    if not path.is_file():
        raise FileNotFoundError(f"demonstrations={str(path)!r}: there is no such file")
    if path.suffix == ".npz":
        return _of_arrays(path)
    buffer = load_from_pkl(path) if path.suffix == ".pkl" else None
    if not isinstance(buffer, ReplayBuffer):
        raise ValueError(f"demonstrations={str(path)!r} must be {_ALLOWED}")
    return _of_buffer(buffer)


def _of_arrays(path: Path) -> Pairs:
    with np.load(path) as arrays:
        names, prefix = set(arrays.files), "observations/"
        parts = {name.removeprefix(prefix): arrays[name] for name in names if name.startswith(prefix)}
        if "actions" not in names or not (parts or "observations" in names):
            raise ValueError(
                f"demonstrations={str(path)!r} has the arrays {', '.join(sorted(names))}: it needs observations (or "
                "observations/<key> for each key of a dictionary) and actions"
            )
        return Pairs(parts or arrays["observations"], arrays["actions"])


def _of_buffer(buffer: ReplayBuffer) -> Pairs:
    n_stored = buffer.size()
    if n_stored == 0:
        raise ValueError("demonstrations: the replay buffer is empty")
    # Oldest first, one environment after the other
    first = buffer.pos if buffer.full else 0
    if buffer.full and getattr(buffer, "optimize_memory_usage", False):
        # The oldest observation has made room for the newest next one
        first, n_stored = first + 1, n_stored - 1
    slots = np.repeat((first + np.arange(n_stored)) % buffer.buffer_size, buffer.n_envs)
    envs = np.tile(np.arange(buffer.n_envs), n_stored)
    if hasattr(buffer, "read_observations"):
        observations, _ = buffer.read_observations(slots, envs)
    elif isinstance(buffer.observations, dict):
        observations = {key: part[slots, envs] for key, part in buffer.observations.items()}
    else:
        observations = buffer.observations[slots, envs]
    actions = buffer.actions[slots, envs]
    if isinstance(buffer.action_space, spaces.Box):
        low, high = buffer.action_space.low.ravel(), buffer.action_space.high.ravel()
        # SB3 stores actions scaled to [-1, 1]
        actions = (low + 0.5 * (actions + 1.0) * (high - low)).astype(buffer.action_space.dtype)
    return Pairs(observations, actions)


def _of_minari(name: str) -> Pairs:
    try:
        minari = importlib.import_module("minari")
    except ImportError as error:
        raise ImportError(f"demonstrations='{_MINARI}{name}' needs Minari: pip install 'minari[hdf5]'") from error
    episodes = list(_minari_episodes(minari.load_dataset(name)))
    if not episodes:
        raise ValueError(f"demonstrations='{_MINARI}{name}' has no episodes")
    return joined(episodes)


def _minari_episodes(data_set: Any) -> Iterator[Pairs]:
    for episode in data_set.iterate_episodes():
        observations, actions = map_observations(np.asarray, episode.observations), np.asarray(episode.actions)
        yield Pairs(observations, actions).at(np.arange(len(actions)))  # there is one observation more


def as_pairs(what: str, pairs: Pairs, observation_space: spaces.Space, action_space: spaces.Space) -> Pairs:
    """
    Return pairs in the shapes and dtypes of the spaces.

    :param what: what they are, for the message
    :raises ValueError: if they do not fit
    """
    n_pairs = len(pairs.actions)
    if n_pairs == 0:
        raise ValueError(f"{what} has no actions")
    actions = _in_space(f"{what}: actions", pairs.actions, n_pairs, action_space)
    if isinstance(action_space, spaces.Box):
        _check_bounds(f"{what}: actions", actions, action_space)
    if isinstance(observation_space, spaces.Dict):
        if not isinstance(pairs.observations, dict) or pairs.observations.keys() != observation_space.spaces.keys():
            found = sorted(pairs.observations) if isinstance(pairs.observations, dict) else "one array"
            raise ValueError(
                f"{what}: observations have the keys {found}, but the environment's are "
                f"{sorted(observation_space.spaces)}"
            )
        parts = pairs.observations.items()
        observations: Any = {
            key: _in_space(f"{what}: observations[{key!r}]", part, n_pairs, observation_space[key])
            for key, part in parts
        }
    elif isinstance(pairs.observations, dict):
        raise ValueError(f"{what}: observations are a dictionary, but observation_space={observation_space}")
    else:
        observations = _in_space(f"{what}: observations", pairs.observations, n_pairs, observation_space)
    return Pairs(observations, actions)


def _check_bounds(what: str, actions: np.ndarray, space: spaces.Box) -> None:
    # Rounding may put a scaled action a little beyond its bound
    margin = 1e-5 * (space.high - space.low)
    is_inside = (actions >= space.low - margin) & (actions <= space.high + margin)
    if not is_inside.all():
        raise ValueError(f"{_first(what, actions, ~is_inside)} lies outside of {space}")


def _in_space(what: str, values: Any, n_pairs: int, space: spaces.Space) -> np.ndarray:
    """Return numbers as the space has them, shape (n, ``*shape``). Flat ones and images with channels last fit, too."""
    array, shape = np.asarray(values), space.shape
    assert shape is not None
    if is_image_space(space) and array.shape == (n_pairs, *shape[1:], shape[0]):
        array = np.moveaxis(array, -1, 1)  # as SB3 does to environments
    is_flat = array.shape == (n_pairs, int(np.prod(shape)))
    if array.dtype.kind not in "biuf" or not (array.shape == (n_pairs, *shape) or is_flat):
        raise ValueError(
            f"{what} have shape {array.shape} and dtype {array.dtype}: {space} with {n_pairs} actions needs numbers of "
            f"shape {(n_pairs, *shape)}"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{_first(what, array, ~np.isfinite(array))} is not finite")
    stored = array.reshape(n_pairs, *shape).astype(space.dtype)
    fits = np.ones(stored.shape, dtype=bool)
    if stored.dtype.kind != "f":
        fits = stored == array.reshape(stored.shape)
    if isinstance(space, spaces.Discrete):
        fits &= (stored >= space.start) & (stored < space.start + space.n)
    elif isinstance(space, spaces.MultiDiscrete):
        fits &= (stored >= space.start) & (stored < space.start + space.nvec)
    if not fits.all():
        raise ValueError(f"{_first(what, array, ~fits.reshape(array.shape))} lies outside of {space}")
    return stored


def _first(what: str, array: np.ndarray, is_wrong: np.ndarray) -> str:
    """Name the first of n entries with a wrong number: all of it, or of a large one that number."""
    row = int(np.flatnonzero(is_wrong.reshape(len(array), -1).any(axis=1))[0])
    shown = array[row] if array[row].size <= 10 else array[row][is_wrong[row]][0]
    return f"{what}[{row}]={shown}"
