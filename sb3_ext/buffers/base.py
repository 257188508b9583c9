"""The base classes of the replay buffers of this package: how transitions, n-step returns and windows are sampled."""

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ext.buffers.n_step import n_step_return
from sb3_ext.buffers.samples import Draw, WindowSamples
from sb3_ext.buffers.storage import ArrayStore
from sb3_ext.buffers.transitions import TransitionStorage, empty_array
from sb3_ext.buffers.windows import Window
from sb3_ext.checks import check_integer, check_interval
from sb3_ext.keywords import among, checks_keywords


class LazyReplayBuffer(TransitionStorage):
    """
    A replay buffer that allocates memory at the first transition and leaves the storage of observations to subclasses.

    :meth:`sample` returns what SB3's ``ReplayBuffer`` (``n_steps=1``), ``NStepReplayBuffer`` and ``DictReplayBuffer``
    return for the same transitions and the same state of numpy's random generator, bit for bit.

    :param buffer_size: number of transitions, counted over all environments
    :param observation_space: observation space
    :param action_space: action space
    :param device: PyTorch device of the samples
    :param n_envs: number of environments
    :param optimize_memory_usage: not supported; SB3's algorithms pass it
    :param handle_timeout_termination: count the end by a time limit as no termination: ``dones`` of samples are 0 there
    :param n_steps: number of steps of the returns; may be changed later, but algorithms of this package set theirs
        whenever they train, and so with ``gamma``
    :param gamma: discount factor of the returns; may be changed later
    :param store_log_probs: keep the log-probability of each action, for corrections of n-step returns
    :raises ValueError: naming the argument, its value and what is allowed
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
        n_steps: int = 1,
        gamma: float = 0.99,
        store_log_probs: bool = False,
    ) -> None:
        super().__init__(
            buffer_size,
            observation_space,
            action_space,
            device,
            n_envs,
            optimize_memory_usage,
            handle_timeout_termination,
            store_log_probs=store_log_probs,
        )
        self.n_steps = n_steps
        self.gamma = gamma

    @property
    def n_steps(self) -> int:
        """
        :return: number of steps of the returns. Stored transitions do not depend on it, so it can be set at any time
        :raises ValueError: when it is set to less than 1, or to more steps than the buffer holds of each environment
        """
        return self._n_steps

    @n_steps.setter
    def n_steps(self, n_steps: int) -> None:
        check_integer("n_steps", n_steps, minimum=1)
        size, n_envs = self._requested_size, self.n_envs
        # Size 1 is always allowed, because models are played back with a buffer for one transition
        if size > 1 and size // n_envs < n_steps:
            raise ValueError(
                f"buffer_size={size} with n_envs={n_envs} holds {size // n_envs} steps of each environment: "
                f"n_steps={n_steps} is more, so buffer_size must be 1 or at least {n_steps * n_envs}"
            )
        self._n_steps = n_steps

    @property
    def gamma(self) -> float:
        """
        :return: discount factor of the returns; it can be set at any time
        :raises ValueError: when it is set to something outside [0, 1]
        """
        return self._gamma

    @gamma.setter
    def gamma(self, gamma: float) -> None:
        check_interval("gamma", gamma, 0.0, 1.0, "in [0, 1]")
        self._gamma = gamma

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Files written before n_steps and gamma were properties
        state = {{"n_steps": "_n_steps", "gamma": "_gamma"}.get(name, name): value for name, value in state.items()}
        n_slots = state["buffer_size"]
        state.setdefault("_requested_size", n_slots * state["n_envs"] if n_slots > 1 else 1)
        super().__setstate__(state)

    def _check_not_empty(self) -> None:
        if self.size() == 0:
            raise ValueError(f"{type(self).__name__} is empty: nothing can be sampled")

    def draw(self, batch_size: int, progress_remaining: float = 1.0) -> Draw:
        """
        Choose stored transitions uniformly, with replacement, with the random numbers that SB3 uses.

        :param progress_remaining: 1 at the beginning of the training, 0 at its end; not used here
        :raises ValueError: if the buffer is empty
        """
        self._check_not_empty()
        slots = np.random.randint(0, self.size(), size=batch_size)
        return Draw(slots, self._draw_envs(batch_size))

    def _draw_envs(self, batch_size: int) -> np.ndarray:
        return np.random.randint(0, high=self.n_envs, size=(batch_size,))

    def sample(  # type: ignore[override]
        self, batch_size: int, env: VecNormalize | None = None
    ) -> ReplayBufferSamples | DictReplayBufferSamples:
        """Draw transitions uniformly, with replacement. Observations and next observations may share memory."""
        drawn = self.draw(batch_size)
        return self.samples_at(drawn.slots, drawn.envs, env)

    def _get_samples(  # type: ignore[override]
        self, batch_inds: np.ndarray, env: VecNormalize | None = None
    ) -> ReplayBufferSamples | DictReplayBufferSamples:
        # SB3's hook, for callers that chose the slots themselves
        return self.samples_at(batch_inds, self._draw_envs(len(batch_inds)), env)

    def samples_at(
        self, batch_inds: np.ndarray, env_indices: np.ndarray, env: VecNormalize | None = None
    ) -> ReplayBufferSamples | DictReplayBufferSamples:
        """Return the transitions at B slots and environments, with n-step returns if ``n_steps`` exceeds 1."""
        slots, envs = np.asarray(batch_inds), np.asarray(env_indices)
        if self.n_steps == 1:
            last, discounts = None, None
            rewards = self._normalize_reward(self.rewards[slots, envs].reshape(-1, 1), env)
        else:
            window = Window(self, slots, envs, self.n_steps)
            last = window.last_slots
            # SB3 normalizes each reward, then sums up
            step_rewards = self._normalize_reward(window.unmasked_rewards, env)
            rewards, discounts = n_step_return(step_rewards, window.lengths, self.gamma)
        dones = self.terminated_at(slots if last is None else last, envs)
        observations, next_observations = self._read_tensors(slots, envs, last, env)
        is_dict = isinstance(self.observation_space, spaces.Dict)
        return (DictReplayBufferSamples if is_dict else ReplayBufferSamples)(
            observations=observations,
            actions=self._to_tensor(self.actions[slots, envs]),
            next_observations=next_observations,
            dones=self._to_tensor(dones.reshape(-1, 1)),
            rewards=self._to_tensor(rewards),
            discounts=None if discounts is None else self._to_tensor(discounts),
        )

    def window(self, slots: np.ndarray, envs: np.ndarray, length: int) -> Window:
        """
        Find the consecutive transitions that begin with each of B given ones.

        A window stops after the last step of an episode and after the newest stored transition, as n-step returns do.

        :param slots: slots of the first transitions, shape (B,)
        :param envs: their environments, shape (B,)
        :param length: number of steps L, at least 1
        :return: numpy arrays of shape (B, L, ...), among them the mask ``valid``
        :raises ValueError: if the buffer is empty, or there is no transition in one of the places
        """
        check_integer("length", length, minimum=1)
        self._check_not_empty()
        places = {"slots": (np.asarray(slots), self.size()), "envs": (np.asarray(envs), self.n_envs)}
        for name, (values, limit) in places.items():
            if values.ndim != 1 or (values.size and not 0 <= values.min() <= values.max() < limit):
                raise ValueError(f"{name} must be integers in [0, {limit}), shape (B,)")
        return Window(self, places["slots"][0], places["envs"][0], length)

    def sample_windows(
        self, length: int, batch_size: int, env: VecNormalize | None = None, progress_remaining: float = 1.0
    ) -> WindowSamples:
        """
        Draw B windows as :meth:`draw` chooses their first transitions. They do not depend on ``n_steps``.

        :param length: number of steps L of each window
        :return: tensors of shape (B, L, ...); ``weights`` and ``indices`` only from a prioritized buffer
        """
        drawn = self.draw(batch_size, progress_remaining)
        window = self.window(drawn.slots, drawn.envs, length)
        flat = self._read_tensors(window.slots.ravel(), window.envs.ravel(), None, env)
        observations, next_observations = (_with_steps(tensors, (batch_size, length)) for tensors in flat)
        return WindowSamples(
            observations=observations,
            actions=self._to_tensor(window.actions),
            next_observations=next_observations,
            dones=self._to_tensor(window.dones),
            rewards=self._to_tensor(self._normalize_reward(window.rewards, env)),
            discounts=None,
            valid=self._to_tensor(window.valid),
            weights=None if drawn.weights is None else self._to_tensor(drawn.weights),
            indices=None if drawn.indices is None else th.from_numpy(drawn.indices),
            log_probs=self._to_tensor(window.log_probs) if self.store_log_probs else None,
        )

    def _to_tensor(self, array: np.ndarray) -> th.Tensor:
        # What was gathered from the buffer is a copy already
        return self.to_torch(array, copy=False)

    def _read_tensors(
        self, slots: np.ndarray, envs: np.ndarray, next_slots: np.ndarray | None, env: VecNormalize | None
    ) -> tuple[Any, Any]:
        """Read observations and next observations, tensors or dictionaries of them."""
        pairs = self._read_pairs(slots, envs, next_slots)
        names = ("observations", "next_observations")
        if env is None:
            # Frames that both have in common are moved to the device once
            pairs = {key: pair.map(self._to_tensor) for key, pair in pairs.items()}
            first, second = (self._joined(pairs, name) for name in names)
        else:
            first, second = (self._normalized_tensors(self._joined(pairs, name), env) for name in names)
        return first, second

    def _normalized_tensors(self, observations: Any, env: VecNormalize) -> Any:
        normalized = self._normalize_obs(observations, env)
        if isinstance(normalized, dict):
            return {key: self._to_tensor(array) for key, array in normalized.items()}
        return self._to_tensor(normalized)


def _with_steps(observations: Any, shape: tuple[int, int]) -> Any:
    """Split the first axis of a tensor, or of each in a dictionary, from B * L into (B, L)."""
    if isinstance(observations, dict):
        return {key: tensor.unflatten(0, shape) for key, tensor in observations.items()}
    return observations.unflatten(0, shape)


class ArrayReplayBuffer(LazyReplayBuffer):
    """Stores observations in arrays, as SB3's default buffer does. Arguments: those of :class:`LazyReplayBuffer`."""

    def _make_store(self, key: str, space: spaces.Space) -> ArrayStore:
        return ArrayStore(self._shape_of(key), np.dtype(space.dtype), self.buffer_size, self.n_envs)

    @property
    def observations(self) -> Any:  # type: ignore[override]
        """
        A read-only view of all slots, shape (buffer_size, n_envs, ``*shape``), or a dictionary of such views.

        Before the first transition it is zeros that take no memory.
        """
        return self._views("observations")

    @property
    def next_observations(self) -> Any:  # type: ignore[override]
        """The same as :meth:`observations`, for next observations."""
        return self._views("next_observations")

    def _views(self, name: str) -> Any:
        views = {key: self._view(key, name) for key in self._subspaces}
        return views if isinstance(self.observation_space, spaces.Dict) else views[""]

    def _view(self, key: str, name: str) -> np.ndarray:
        if self._stores is None:
            shape, dtype = self._shapes_and_dtypes[key]
            return empty_array((self.buffer_size, *shape), dtype)
        store = self._stores[key]
        assert isinstance(store, ArrayStore)
        view = getattr(store.arrays, name).view()
        view.flags.writeable = False
        return view

    def expected_nbytes(self) -> int:
        sizes = (int(np.prod(shape)) * dtype.itemsize for shape, dtype in self._shapes_and_dtypes.values())
        return super().expected_nbytes() + 2 * sum(sizes) * self.buffer_size
