"""What a replay buffer stores. How it samples from that is in ``base``."""

from abc import abstractmethod
from functools import cached_property
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer

from sb3_ext.buffers.incoming import as_stored, one_per_env
from sb3_ext.buffers.memory import check_memory
from sb3_ext.buffers.pickling import full_length
from sb3_ext.buffers.spaces import check_storable
from sb3_ext.buffers.storage import ObservationPair, ObservationStore
from sb3_ext.checks import check_choice, check_device, check_integer
from sb3_ext.keywords import among, checks_keywords

Observations = np.ndarray | dict[str, np.ndarray]
#: Where in ``infos`` an algorithm puts the log-probability of its action
LOG_PROB_KEY = "action_log_prob"


class TransitionStorage(ReplayBuffer):
    """
    The part of a replay buffer that stores transitions. Subclasses decide how observations are kept.

    Memory is allocated with the first transition. Until then ``actions``, ``rewards``, ``dones``, ``timeouts`` and
    ``log_probs`` are read-only zeros that take no memory.

    :param buffer_size: number of transitions, counted over all environments
    :param observation_space: observation space
    :param action_space: action space
    :param device: PyTorch device of the samples
    :param n_envs: number of environments
    :param optimize_memory_usage: not supported; SB3's algorithms pass it
    :param handle_timeout_termination: count the end by a time limit as no termination
    :param store_log_probs: keep the log-probability of each action, which ``add`` finds in ``infos``
    :raises ValueError: naming the argument, its value and what is allowed
    """

    actions: np.ndarray
    rewards: np.ndarray
    dones: np.ndarray
    timeouts: np.ndarray
    #: Only with ``store_log_probs``
    log_probs: np.ndarray
    store_log_probs: bool = False  # for files from before there was such an argument

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
        store_log_probs: bool = False,
    ) -> None:
        check_integer("buffer_size", buffer_size, minimum=1)
        check_integer("n_envs", n_envs, minimum=1)
        # Size 1 is always allowed, because models are played back with a buffer for one transition
        if buffer_size > 1 and buffer_size < n_envs:
            raise ValueError(f"buffer_size={buffer_size} must be 1 or at least n_envs={n_envs}")
        check_choice("optimize_memory_usage", optimize_memory_usage, (True, False))
        if optimize_memory_usage:
            raise ValueError(
                f"optimize_memory_usage={optimize_memory_usage!r} must be False: SB3's variant loses the last "
                f"observation of each episode, {type(self).__name__} has its own means"
            )
        check_storable(observation_space, action_space)
        check_device("device", device)
        check_choice("handle_timeout_termination", handle_timeout_termination, (True, False))
        check_choice("store_log_probs", store_log_probs, (True, False))
        # ReplayBuffer's constructor would allocate at once. rl_zoo3's `enjoy` and `record_video` load models with
        # buffers of full size that they never fill.
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs=n_envs)
        self._requested_size = buffer_size
        self.buffer_size = max(buffer_size // n_envs, 1)
        self.optimize_memory_usage = False
        self.handle_timeout_termination = handle_timeout_termination
        self.store_log_probs = store_log_probs
        self._stores: dict[str, ObservationStore] | None = None
        self._memory_checked = False
        self._release_arrays()

    @abstractmethod
    def _make_store(self, key: str, space: spaces.Space) -> ObservationStore:
        """Make an empty store for one key of the observations, an empty string if they are not a dictionary."""

    @property
    def observations(self) -> Any:  # type: ignore[override]
        """SB3's arrays of observations. Without any, an AttributeError names what reads observations."""
        raise self._has_no_array("observations")

    @property
    def next_observations(self) -> Any:  # type: ignore[override]
        """SB3's arrays of next observations. Without any, an AttributeError names what reads observations."""
        raise self._has_no_array("next_observations")

    def _has_no_array(self, name: str) -> AttributeError:
        return AttributeError(
            f"{type(self).__name__} has no array {name}: call samples_at(slots, envs) or window(slots, envs, length)"
        )

    @cached_property
    def _subspaces(self) -> dict[str, spaces.Space]:
        if isinstance(self.observation_space, spaces.Dict):
            return dict(self.observation_space.spaces)
        return {"": self.observation_space}

    @cached_property
    def _shapes_and_dtypes(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape and dtype of what ``add`` receives for each key."""
        subspaces = self._subspaces.items()
        return {key: ((self.n_envs, *self._shape_of(key)), np.dtype(space.dtype)) for key, space in subspaces}

    def _shape_of(self, key: str) -> tuple[int, ...]:
        return self.obs_shape[key] if isinstance(self.obs_shape, dict) else self.obs_shape

    def _slot_array_types(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape and dtype of each array with one row per slot."""
        slots, float32 = (self.buffer_size, self.n_envs), np.dtype(np.float32)
        action_dtype = np.dtype(self._maybe_cast_dtype(self.action_space.dtype))
        names = ("rewards", "dones", "timeouts", *(("log_probs",) if self.store_log_probs else ()))
        per_step = dict.fromkeys(names, (slots, float32))
        return {"actions": ((*slots, self.action_dim), action_dtype), **per_step}

    def _transition_nbytes(self) -> int:
        """Bytes of one transition without its observations."""
        return sum(int(np.prod(shape[2:])) * dtype.itemsize for shape, dtype in self._slot_array_types().values())

    def expected_nbytes(self) -> int:
        """Bytes of RAM that the full buffer needs, as far as they are known beforehand."""
        # Subclasses add the bytes of the observations
        return self._transition_nbytes() * self.buffer_size * self.n_envs

    def _allocate(self) -> dict[str, ObservationStore]:
        stores = {key: self._make_store(key, space) for key, space in self._subspaces.items()}
        for name, (shape, dtype) in self._slot_array_types().items():
            setattr(self, name, np.zeros(shape, dtype=dtype))
        return stores

    def _release_arrays(self) -> None:
        for name, (shape, dtype) in self._slot_array_types().items():
            setattr(self, name, empty_array(shape, dtype))

    def _checked(self, what: str, observations: Observations) -> dict[str, np.ndarray]:
        """Return the observations of each key, shape (n_envs, ``*shape``). Others raise a ValueError."""
        parts: Any = observations if isinstance(self.observation_space, spaces.Dict) else {"": observations}
        return {
            key: as_stored(f"{what}[{key!r}]" if key else what, parts[key], shape, dtype)
            for key, (shape, dtype) in self._shapes_and_dtypes.items()
        }

    def add(
        self,
        obs: Observations,
        next_obs: Observations,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """
        Store one transition of each environment.

        Other numbers than those of the space's dtype are converted, if they keep their values.

        :param obs: observations, shape (n_envs, ``*shape``), or a dictionary of them
        :param next_obs: observations after the action. At the end of an episode this is its last observation, not the
            first one of the next episode
        :param action: shape (n_envs, action_dim)
        :param reward: shape (n_envs,)
        :param done: whether the episode has ended, shape (n_envs,)
        :param infos: ``"TimeLimit.truncated"`` in them marks an end by a time limit. They are not read without
            ``handle_timeout_termination``. With ``store_log_probs`` ``"action_log_prob"`` in each is log mu(a|s)
        :raises ValueError: if a shape, or the values of an observation, do not fit the space, or a log-probability is
            missing; nothing is stored
        :raises MemoryError: at the first transition, if the full buffer will not fit into the free RAM
        """
        # Everything is checked before anything is stored
        observations, next_observations = self._checked("obs", obs), self._checked("next_obs", next_obs)
        action = np.asarray(action).reshape(self.n_envs, self.action_dim)
        reward, done = one_per_env("reward", reward, self.n_envs), one_per_env("done", done, self.n_envs)
        if self.handle_timeout_termination:
            truncated = [info.get("TimeLimit.truncated", False) for info in infos]
            timeouts = one_per_env("infos", truncated, self.n_envs)
        if self.store_log_probs:
            log_probs = self._log_probs_in(infos)
        if not self._memory_checked:
            self._check_memory()
        if self._stores is None:
            self._stores = self._allocate()
        for key in observations:
            self._add_observations(key, observations[key], next_observations[key])
        self.actions[self.pos] = action
        self.rewards[self.pos] = reward
        self.dones[self.pos] = done
        if self.handle_timeout_termination:
            self.timeouts[self.pos] = timeouts
        if self.store_log_probs:
            self.log_probs[self.pos] = log_probs
        self.pos += 1
        if self.pos == self.buffer_size:
            self.full = True
            self.pos = 0

    def _log_probs_in(self, infos: list[dict[str, Any]]) -> np.ndarray:
        missing = [env for env, info in enumerate(infos) if LOG_PROB_KEY not in info]
        if missing:
            raise ValueError(
                f"infos[{missing[0]}] has no {LOG_PROB_KEY!r}, which store_log_probs=True needs: algorithms of this "
                "package put it there with n_step_correction='retrace' or 'importance'"
            )
        return one_per_env("infos", [info[LOG_PROB_KEY] for info in infos], self.n_envs)

    def _memory_hint(self) -> str:
        """Hook: say what the estimate assumes, for the error of a buffer that is too large."""
        return ""

    def _check_memory(self) -> None:
        what = f"{type(self).__name__} with buffer_size={self.buffer_size * self.n_envs}{self._memory_hint()}"
        # A loaded buffer already occupies part of what it will need
        check_memory(self.expected_nbytes() - self.nbytes(), what)
        self._memory_checked = True

    def _add_observations(self, key: str, observations: np.ndarray, next_observations: np.ndarray) -> None:
        assert self._stores is not None
        self._stores[key].add(self.pos, observations, next_observations)

    def reset(self) -> None:
        """Remove all transitions and free their memory."""
        super().reset()
        self._stores = None
        self._release_arrays()

    def ends_at(self, slots: np.ndarray, envs: np.ndarray) -> np.ndarray:
        """
        Tell which transitions are the newest stored or the last of their episodes (terminated or truncated).

        The shapes of both arguments broadcast.
        """
        # Flat indices are faster than pairs
        flat = slots * self.n_envs + envs
        ended = np.logical_or(self.dones.take(flat), self.timeouts.take(flat))
        return ended | (slots == (self.pos - 1) % self.buffer_size)

    def terminated_at(self, slots: np.ndarray, envs: np.ndarray) -> np.ndarray:
        """1 where the episode terminated, 0 where it goes on or was truncated, float32, shape of the arguments."""
        flat = slots * self.n_envs + envs
        return self.dones.take(flat) * (1 - self.timeouts.take(flat))

    def read_observations(self, slots: np.ndarray, envs: np.ndarray) -> tuple[Observations, Observations]:
        """
        Read observations and next observations, arrays of shape (B, ``*shape``) or dictionaries of them.

        They may share memory with each other, but not with the buffer.
        """
        pairs = self._read_pairs(slots, envs)
        return self._joined(pairs, "observations"), self._joined(pairs, "next_observations")

    def _read_pairs(
        self, slots: np.ndarray, envs: np.ndarray, next_slots: np.ndarray | None = None
    ) -> dict[str, ObservationPair]:
        assert self._stores is not None
        return {key: store.read(slots, envs, next_slots) for key, store in self._stores.items()}

    def _joined(self, pairs: dict[str, ObservationPair], name: str) -> Any:
        values = {key: getattr(pair, name) for key, pair in pairs.items()}
        return values if isinstance(self.observation_space, spaces.Dict) else values[""]

    def nbytes(self) -> int:
        """Number of bytes in use."""
        stores = self._stores or {}
        return self.size() * self.n_envs * self._transition_nbytes() + sum(store.nbytes() for store in stores.values())

    def __getstate__(self) -> dict[str, Any]:
        state = {**self.__dict__, "_memory_checked": False}
        for name in self._slot_array_types():
            state[name] = state[name][: self.size()]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._stores is None:
            self._release_arrays()
            return
        for name in self._slot_array_types():
            setattr(self, name, full_length(state[name], self.buffer_size))

    def check_valid(self) -> None:
        """Raise an AssertionError if the contents are inconsistent; for tests."""
        assert 0 <= self.pos < self.buffer_size, "the write position lies outside"
        assert (self._stores is not None) == (self.size() > 0), "transitions without memory, or memory without them"
        for store in (self._stores or {}).values():
            store.check_valid()


def empty_array(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Make read-only zeros that take the memory of one number."""
    return np.broadcast_to(np.zeros((), dtype=dtype), shape)
