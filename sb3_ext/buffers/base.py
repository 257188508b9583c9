"""What the replay buffers of this package have in common."""

from abc import abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ext.buffers.memory import check_memory
from sb3_ext.buffers.n_step import n_step_lengths, n_step_return
from sb3_ext.buffers.pickling import full_length, pieces_of
from sb3_ext.checks import check_integer, check_interval

Observations = np.ndarray | dict[str, np.ndarray]
# Of a LazyReplayBuffer, besides the observations: one row a slot
_SLOT_ARRAYS = ("actions", "rewards", "dones", "timeouts")
SelfPair = TypeVar("SelfPair", bound="ObservationPair")


class ObservationPair(Protocol):
    """Observations and next observations, however they lie in memory."""

    @property
    def observations(self) -> Any: ...

    @property
    def next_observations(self) -> Any: ...

    def map(self: SelfPair, function: Callable[[Any], Any]) -> SelfPair: ...


class ObservationStore(Protocol):
    """The observations and next observations of a replay buffer, or of one key of them."""

    def add(self, slot: int, observations: np.ndarray, next_observations: np.ndarray) -> None: ...

    def read(self, slots: np.ndarray, envs: np.ndarray, next_slots: np.ndarray | None = None) -> ObservationPair: ...

    def nbytes(self) -> int: ...

    def check_valid(self) -> None: ...


class Arrays(NamedTuple):
    """
    :param observations: shape (B, ``*shape``)
    :param next_observations: shape (B, ``*shape``)
    """

    observations: Any
    next_observations: Any

    def map(self, function: Callable[[Any], Any]) -> "Arrays":
        return Arrays(function(self.observations), function(self.next_observations))


class ArrayStore:
    """
    Observations and next observations in an array each, as SB3's buffers have them.

    :param shape: of an observation
    :param dtype: of an observation
    :param capacity: number of slots of each environment
    :param n_envs: number of environments
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, capacity: int, n_envs: int) -> None:
        self.arrays = Arrays(*(np.zeros((capacity, n_envs, *shape), dtype=dtype) for _ in range(2)))
        self._n_filled = 0

    def add(self, slot: int, observations: np.ndarray, next_observations: np.ndarray) -> None:
        self.arrays.observations[slot] = observations
        self.arrays.next_observations[slot] = next_observations
        self._n_filled = max(self._n_filled, slot + 1)

    def read(self, slots: np.ndarray, envs: np.ndarray, next_slots: np.ndarray | None = None) -> Arrays:
        last = slots if next_slots is None else next_slots
        return Arrays(self.arrays.observations[slots, envs], self.arrays.next_observations[last, envs])

    def nbytes(self) -> int:
        return sum(array[: self._n_filled].nbytes for array in self.arrays)

    def check_valid(self) -> None:
        assert self._n_filled <= len(self.arrays.observations), "there are more slots filled than there are"

    def __reduce__(self) -> tuple[Any, ...]:
        capacity, n_envs, *shape = self.arrays.observations.shape
        filled = [_as_bytes(array[: self._n_filled]) for array in self.arrays]
        pieces = [piece for index, data in enumerate(filled) for piece in pieces_of(self, data, index)]
        state = {"_n_filled": self._n_filled, "pieces": pieces}
        return ArrayStore, (tuple(shape), self.arrays.observations.dtype, capacity, n_envs), state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._n_filled = state["_n_filled"]  # the pieces are in their places already

    def restore_piece(self, array: int, start: int, data: np.ndarray) -> None:
        _as_bytes(self.arrays[array])[start : start + len(data)] = data


def _as_bytes(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(np.uint8)


class LazyReplayBuffer(ReplayBuffer):
    """
    SB3's replay buffer with its parts in reach: memory is allocated when the first transition comes, how observations
    are stored is a subclass's to say, n-step returns and dictionaries of observations go with all of them.

    What :meth:`sample` returns is equal, to the bit, to what SB3's ``ReplayBuffer`` (``n_steps=1``),
    ``NStepReplayBuffer`` and ``DictReplayBuffer`` return for the same transitions and the same state of numpy's random
    generator.

    :param buffer_size: number of transitions, of all environments together
    :param observation_space: observation space
    :param action_space: action space
    :param device: PyTorch device of the samples
    :param n_envs: number of environments
    :param optimize_memory_usage: not supported; it is there because SB3's algorithms pass it
    :param handle_timeout_termination: treat the end by a time limit as no end: the sample's ``dones`` are 0 there
    :param n_steps: number of steps of the returns
    :param gamma: discount factor of those returns
    :raises ValueError: naming the argument, its value and what is allowed
    """

    actions: np.ndarray
    rewards: np.ndarray
    dones: np.ndarray
    timeouts: np.ndarray

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
        n_steps: int = 1,
        gamma: float = 0.99,
    ) -> None:
        _check_arguments(buffer_size, n_envs, n_steps, gamma)
        if optimize_memory_usage:
            raise ValueError(
                f"optimize_memory_usage={optimize_memory_usage!r} must be False: SB3's variant loses the last "
                f"observation of each episode, {type(self).__name__} has its own means"
            )
        # Not ReplayBuffer's: it allocates, which here is left to the first transition. rl_zoo3's `enjoy` and
        # `record_video` load models, with buffers of the full size, only to look at them.
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs=n_envs)
        self.buffer_size = max(buffer_size // n_envs, 1)
        self.optimize_memory_usage = False
        self.handle_timeout_termination = handle_timeout_termination
        self.n_steps = n_steps
        self.gamma = gamma
        self._stores: dict[str, ObservationStore] | None = None
        self._memory_checked = False

    @abstractmethod
    def _make_store(self, key: str, space: spaces.Space) -> ObservationStore:
        """
        :param key: of the observations; the empty string if they are no dictionary
        :param space: the observations' space, or that of the key
        :return: what stores them, empty
        """

    def expected_nbytes(self) -> int:
        """
        :return: bytes of RAM needed when it is full, as far as they are known beforehand
        """
        return self._slot_nbytes() * self.buffer_size * self.n_envs  # and the observations, which a subclass adds

    @cached_property
    def _subspaces(self) -> dict[str, spaces.Space]:
        if isinstance(self.observation_space, spaces.Dict):
            return dict(self.observation_space.spaces)
        return {"": self.observation_space}

    @cached_property
    def _shapes_and_dtypes(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """
        :return: of the observations of all environments
        """
        subspaces = self._subspaces.items()
        return {key: ((self.n_envs, *self._shape_of(key)), np.dtype(space.dtype)) for key, space in subspaces}

    def _shape_of(self, key: str) -> tuple[int, ...]:
        return self.obs_shape[key] if isinstance(self.obs_shape, dict) else self.obs_shape

    def _slot_nbytes(self) -> int:
        """
        :return: bytes of one transition without its observations
        """
        return self.action_dim * self._action_dtype().itemsize + 3 * np.dtype(np.float32).itemsize

    def _action_dtype(self) -> np.dtype:
        return np.dtype(self._maybe_cast_dtype(self.action_space.dtype))

    def _allocate(self) -> dict[str, ObservationStore]:
        stores = {key: self._make_store(key, space) for key, space in self._subspaces.items()}
        slots = (self.buffer_size, self.n_envs)
        self.actions = np.zeros((*slots, self.action_dim), dtype=self._action_dtype())
        self.rewards, self.dones, self.timeouts = (np.zeros(slots, dtype=np.float32) for _ in range(3))
        return stores

    def _checked(self, what: str, observations: Observations) -> dict[str, np.ndarray]:
        """
        :return: the observations of each key, shape (n_envs, ``*shape``)
        :raises ValueError: if they are not what the space says
        """
        arrays = {}
        for key, (shape, dtype) in self._shapes_and_dtypes.items():
            array = np.asarray(observations[key] if key else observations)
            if array.shape == (self.n_envs,) and isinstance(self._subspaces[key], spaces.Discrete):
                array = array.reshape(shape)
            if array.shape != shape or array.dtype != dtype:
                name = f"{what}[{key!r}]" if key else what
                raise ValueError(
                    f"{name} has shape {array.shape} and dtype {array.dtype}: the observation space and "
                    f"n_envs={self.n_envs} allow {shape} and {dtype} only"
                )
            arrays[key] = array
        return arrays

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

        :param obs: observations, shape (n_envs, ``*shape``), or a dictionary of them
        :param next_obs: those after the action; at the end of an episode its last ones, not the next episode's first
        :param action: shape (n_envs, action_dim)
        :param reward: shape (n_envs,)
        :param done: whether the episode has ended, shape (n_envs,)
        :param infos: ``"TimeLimit.truncated"`` in them says that a time limit ended it
        :raises ValueError: if something has another shape, or an observation another dtype, than the spaces say;
            nothing is stored then
        :raises MemoryError: at the first transition, if the full buffer will not fit into the RAM that is free
        """
        observations, next_observations = self._checked("obs", obs), self._checked("next_obs", next_obs)
        # All of it before anything is stored
        action = np.asarray(action).reshape(self.n_envs, self.action_dim)
        reward, done = self._one_for_each("reward", reward), self._one_for_each("done", done)
        truncated = self._one_for_each("infos", [info.get("TimeLimit.truncated", False) for info in infos])
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
            self.timeouts[self.pos] = truncated
        self.pos += 1
        if self.pos == self.buffer_size:
            self.full = True
            self.pos = 0

    def _one_for_each(self, what: str, values: Any) -> np.ndarray:
        array = np.asarray(values)
        if array.size != self.n_envs:
            raise ValueError(f"{what} has shape {array.shape}: n_envs={self.n_envs} allows ({self.n_envs},) only")
        return array.reshape(-1)

    def _check_memory(self) -> None:
        what = f"{type(self).__name__} with buffer_size={self.buffer_size * self.n_envs}"
        # (A buffer that was loaded has some of it already)
        check_memory(self.expected_nbytes() - self.nbytes(), what)
        self._memory_checked = True

    def _add_observations(self, key: str, observations: np.ndarray, next_observations: np.ndarray) -> None:
        assert self._stores is not None
        self._stores[key].add(self.pos, observations, next_observations)

    def reset(self) -> None:
        """
        Forget all transitions, and give the memory of their observations back.
        """
        super().reset()
        self._stores = None

    def _check_not_empty(self) -> None:
        if self.size() == 0:
            raise ValueError(f"{type(self).__name__} is empty: nothing can be sampled")

    def sample(  # type: ignore[override]
        self, batch_size: int, env: VecNormalize | None = None
    ) -> ReplayBufferSamples | DictReplayBufferSamples:
        """
        :param batch_size: number of transitions
        :param env: normalises observations and rewards
        :return: transitions drawn uniformly, with replacement. Observations and next observations may share memory
        """
        self._check_not_empty()
        return super().sample(batch_size, env)

    def _get_samples(  # type: ignore[override]
        self, batch_inds: np.ndarray, env: VecNormalize | None = None
    ) -> ReplayBufferSamples | DictReplayBufferSamples:
        # As SB3 draws it
        return self.samples_at(batch_inds, np.random.randint(0, high=self.n_envs, size=(len(batch_inds),)), env)

    def samples_at(
        self, batch_inds: np.ndarray, env_indices: np.ndarray, env: VecNormalize | None = None
    ) -> ReplayBufferSamples | DictReplayBufferSamples:
        """
        :param batch_inds: slots, shape (B,)
        :param env_indices: environments, shape (B,)
        :param env: normalises observations and rewards
        :return: those transitions
        """
        if self.n_steps == 1:
            last, discounts = None, None
            end, rewards = batch_inds, self._normalize_reward(self.rewards[batch_inds, env_indices].reshape(-1, 1), env)
        else:
            rewards, discounts, end = self._n_step_returns(batch_inds, env_indices, env)
            last = end
        dones = self.dones[end, env_indices] * (1 - self.timeouts[end, env_indices])
        observations, next_observations = self._read(batch_inds, env_indices, last, env)
        is_dict = isinstance(self.observation_space, spaces.Dict)
        return (DictReplayBufferSamples if is_dict else ReplayBufferSamples)(
            observations=observations,
            actions=self._to_tensor(self.actions[batch_inds, env_indices]),
            next_observations=next_observations,
            dones=self._to_tensor(dones.reshape(-1, 1)),
            rewards=self._to_tensor(rewards),
            discounts=None if discounts is None else self._to_tensor(discounts),
        )

    def _to_tensor(self, array: np.ndarray) -> th.Tensor:
        # Whatever was gathered is a copy already
        return self.to_torch(array, copy=False)

    def _n_step_returns(
        self, slots: np.ndarray, envs: np.ndarray, env: VecNormalize | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """
        :return: returns and discounts, shape (B, 1), and the slots of their last steps, shape (B,)
        """
        steps = (slots[:, None] + np.arange(self.n_steps)) % self.buffer_size
        at = (steps, envs[:, None])
        newest = steps == (self.pos - 1) % self.buffer_size
        ends = (self.dones[at] != 0) | (self.timeouts[at] != 0) | newest
        lengths = n_step_lengths(ends)
        rewards = self._normalize_reward(self.rewards[at], env)
        returns, discounts = n_step_return(rewards, lengths, self.gamma)
        return returns, discounts, (slots + lengths - 1) % self.buffer_size

    def _read(
        self, slots: np.ndarray, envs: np.ndarray, next_slots: np.ndarray | None, env: VecNormalize | None
    ) -> tuple[Any, Any]:
        """
        :return: observations and next observations, tensors or dictionaries of them
        """
        assert self._stores is not None
        pairs = {key: store.read(slots, envs, next_slots) for key, store in self._stores.items()}
        if env is None:
            # To the device as they lie in memory: frames in common go there once
            pairs = {key: pair.map(self._to_tensor) for key, pair in pairs.items()}
        both = []
        for name in ("observations", "next_observations"):
            values = {key: getattr(pair, name) for key, pair in pairs.items()}
            value: Any = values if isinstance(self.observation_space, spaces.Dict) else values[""]
            if env is not None:
                value = self._normalize_obs(value, env)
                value = (
                    {k: self._to_tensor(v) for k, v in value.items()}
                    if isinstance(value, dict)
                    else self._to_tensor(value)
                )
            both.append(value)
        return both[0], both[1]

    def nbytes(self) -> int:
        """
        :return: how many bytes are in use
        """
        stores = self._stores or {}
        return self.size() * self.n_envs * self._slot_nbytes() + sum(store.nbytes() for store in stores.values())

    def __getstate__(self) -> dict[str, Any]:
        state = {**self.__dict__, "_memory_checked": False}
        for name in _SLOT_ARRAYS:
            if name in state:
                state[name] = state[name][: self.size()]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for name in _SLOT_ARRAYS:
            if name in state:
                setattr(self, name, full_length(state[name], self.buffer_size))

    def check_valid(self) -> None:
        """
        For tests: whether what the buffer holds is consistent.

        :raises AssertionError: if it is not
        """
        assert 0 <= self.pos < self.buffer_size, "the write position lies outside"
        assert (self._stores is not None) == (self.size() > 0), "transitions without memory, or memory without them"
        for store in (self._stores or {}).values():
            store.check_valid()


class ArrayReplayBuffer(LazyReplayBuffer):
    """
    Observations and next observations in arrays, as in SB3's default buffer.

    Arguments: those of :class:`LazyReplayBuffer`.
    """

    def _make_store(self, key: str, space: spaces.Space) -> ArrayStore:
        return ArrayStore(self._shape_of(key), np.dtype(space.dtype), self.buffer_size, self.n_envs)

    def expected_nbytes(self) -> int:
        observations = sum(
            int(np.prod(self._shape_of(key))) * np.dtype(space.dtype).itemsize for key, space in self._subspaces.items()
        )
        return super().expected_nbytes() + 2 * observations * self.buffer_size * self.n_envs


def _check_arguments(buffer_size: int, n_envs: int, n_steps: int, gamma: float) -> None:
    check_integer("buffer_size", buffer_size, minimum=1)
    check_integer("n_envs", n_envs, minimum=1)
    check_integer("n_steps", n_steps, minimum=1)
    check_interval("gamma", gamma, 0.0, 1.0, "in [0, 1]")
    # Models are played back with a buffer for one transition
    if buffer_size > 1 and buffer_size < n_envs:
        raise ValueError(f"buffer_size={buffer_size} must be 1 or at least n_envs={n_envs}")
    if buffer_size > 1 and buffer_size // n_envs < n_steps:
        raise ValueError(
            f"buffer_size={buffer_size} with n_envs={n_envs} holds {buffer_size // n_envs} steps of each environment: "
            f"n_steps={n_steps} is more, so buffer_size must be 1 or at least {n_steps * n_envs}"
        )
