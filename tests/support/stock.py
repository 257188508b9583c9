"""SB3's replay buffer, in a form in which several environments and all kinds of observations can be compared."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

Obs = np.ndarray | dict[str, np.ndarray]

Transition = tuple[Obs, Obs, np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]

Samples = ReplayBufferSamples | DictReplayBufferSamples

# The one observation of spaces that are no dictionaries
ONLY = ""


def assert_same_field(actual: Any, expected: Any, name: str) -> None:
    if expected is None:
        assert actual is None, name
    elif isinstance(expected, dict):
        assert set(actual) == set(expected), name
        for key, value in expected.items():
            assert_same_field(actual[key], value, f"{name}[{key}]")
    else:
        assert isinstance(actual, th.Tensor), name
        assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape), name
        if actual.numpy().tobytes() != expected.numpy().tobytes():
            # Bytes and not values: NaN is itself, -0.0 is not 0.0
            rows = [i for i in range(len(actual)) if actual[i].numpy().tobytes() != expected[i].numpy().tobytes()]
            pytest.fail(f"{name} differs in rows {rows} of {len(actual)}")


def assert_same_samples(actual: Any, expected: Samples) -> None:
    """
    :param actual: a named tuple with at least the fields of the other one
    :param expected: what SB3's buffer returned
    """
    for name in expected._fields:
        assert_same_field(getattr(actual, name), getattr(expected, name), name)


def one_environment(buffer: ReplayBuffer, index: int) -> ReplayBuffer:
    """
    :param buffer: one of SB3's buffers
    :param index: an environment
    :return: a view of the column of that environment, so that SB3 has no choice which environment to draw from
    """
    view = copy.copy(buffer)
    view.n_envs = 1
    for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts"):
        value, column = getattr(buffer, name), np.s_[:, index : index + 1]
        setattr(view, name, {k: v[column] for k, v in value.items()} if isinstance(value, dict) else value[column])
    return view


def gather(parts: list[Any], rows: th.Tensor) -> Any:
    if parts[0] is None:
        return None
    if isinstance(parts[0], dict):
        return {key: gather([part[key] for part in parts], rows) for key in parts[0]}
    return th.cat(parts)[rows]


class Stock:
    """
    SB3's replay buffer for the same arguments. It has none for n-step returns of dictionaries: then one
    ``NStepReplayBuffer`` for every key.

    :param buffer_size: of all environments together
    :param observation_space:
    :param action_space:
    :param n_envs:
    :param n_steps:
    :param gamma: only read for n-step returns
    :param kwargs: further arguments of SB3's buffer
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        n_envs: int = 1,
        n_steps: int = 1,
        gamma: float = 0.99,
        **kwargs: Any,
    ) -> None:
        self.n_envs = n_envs
        n_step_kwargs = dict(n_steps=n_steps, gamma=gamma) if n_steps > 1 else {}

        def build(cls: type[ReplayBuffer], space: spaces.Space) -> ReplayBuffer:
            return cls(buffer_size, space, action_space, "cpu", n_envs=n_envs, **n_step_kwargs, **kwargs)

        self.buffers: dict[str, ReplayBuffer]
        if isinstance(observation_space, spaces.Dict) and n_steps > 1:
            self.buffers = {key: build(NStepReplayBuffer, space) for key, space in observation_space.spaces.items()}
        else:
            box_class = NStepReplayBuffer if n_steps > 1 else ReplayBuffer
            is_dict = isinstance(observation_space, spaces.Dict)
            self.buffers = {ONLY: build(DictReplayBuffer if is_dict else box_class, observation_space)}
        self.first = next(iter(self.buffers.values()))

    def add(self, *transition: Any) -> None:
        for key, buffer in self.buffers.items():
            obs, next_obs, *rest = copy.deepcopy(transition)
            buffer.add(*((obs, next_obs) if key == ONLY else (obs[key], next_obs[key])), *rest)

    def reset(self) -> None:
        for buffer in self.buffers.values():
            buffer.reset()

    def size(self) -> int:
        return self.first.size()

    def every_leaf(self) -> tuple[np.ndarray, np.ndarray]:
        """
        :return: slot and environment of everything stored
        """
        leaves = np.arange(self.size() * self.n_envs)
        return leaves // self.n_envs, leaves % self.n_envs

    def _merged(self, function: Callable[[ReplayBuffer], Samples], env: VecNormalize | None) -> Samples:
        """Every key with the same random numbers."""
        if ONLY in self.buffers:
            return function(self.buffers[ONLY])
        norm_obs = env.norm_obs if env is not None else False
        if env is not None:
            # It normalizes a dictionary, or else an array: the parts get their turn together below
            env.norm_obs = False
        state = np.random.get_state()
        samples = {}
        for key, buffer in self.buffers.items():
            np.random.set_state(state)
            samples[key] = function(buffer)
        if env is not None:
            env.norm_obs = norm_obs

        def together(name: str) -> dict[str, th.Tensor]:
            arrays = {key: getattr(sample, name).numpy() for key, sample in samples.items()}
            return {key: th.as_tensor(array) for key, array in (env.normalize_obs(arrays) if env else arrays).items()}

        first = next(iter(samples.values()))
        return DictReplayBufferSamples(
            observations=together("observations"),
            actions=first.actions,
            next_observations=together("next_observations"),
            dones=first.dones,
            rewards=first.rewards,
            discounts=first.discounts,
        )

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> Samples:
        return self._merged(lambda buffer: buffer.sample(batch_size, env=env), env)

    def at(self, slots: np.ndarray, envs: np.ndarray, env: VecNormalize | None = None) -> Samples:
        """
        :param slots: slot of each row
        :param envs: environment of each row
        :param env: for normalization
        :return: what SB3 would return if it drew these, without touching the global random numbers
        """
        state = np.random.get_state()
        parts = []
        for index in np.unique(envs):
            inds = slots[envs == index]
            parts.append(
                self._merged(lambda buffer, i=index, s=inds: one_environment(buffer, i)._get_samples(s, env), env)
            )
        np.random.set_state(state)
        # The parts are in the order of the environments: back to the order asked for
        rows = th.as_tensor(np.argsort(np.argsort(envs, kind="stable")))
        return type(parts[0])(*(gather(list(column), rows) for column in zip(*parts, strict=True)))


def assert_same_contents(buffer: Any, stock: Stock, env: VecNormalize | None = None) -> None:
    """Everything a buffer stores, and what it samples, against SB3's."""
    assert (buffer.pos, buffer.full, buffer.size()) == (stock.first.pos, stock.first.full, stock.size())
    buffer.check_valid()
    if stock.size() == 0:
        return
    slots, envs = stock.every_leaf()
    actual, expected = buffer.samples_at(slots, envs, env=env), stock.at(slots, envs, env)
    assert type(actual) is type(expected)
    assert_same_samples(actual, expected)
    state = np.random.get_state()
    samples = []
    for source in (stock, buffer):
        np.random.seed(5)
        samples.append(source.sample(13, env=env))
        # Later draws are the same, too
        samples.append(np.random.random())
    np.random.set_state(state)
    assert_same_samples(samples[2], samples[0])
    assert samples[3] == samples[1]
