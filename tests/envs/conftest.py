"""Environments of SB3 and of this package that play the same game, and the comparison of what they return."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_ext import AtariVecEnv

N_ENVS = 2
# With this seed and the next one, sticky actions are those of SB3: docs/atari.md explains which seeds do that
SEED = 15


def make_sb3_atari(
    env_id: str, n_envs: int = N_ENVS, seed: int = SEED, env: dict | None = None, **wrapper: Any
) -> DummyVecEnv:
    """
    SB3's environments. They have no random no-ops and no sticky actions unless an argument asks for them.

    :param env: arguments of ``gymnasium.make``
    :param wrapper: arguments of ``AtariWrapper``
    """
    env_kwargs = {"frameskip": 1, "repeat_action_probability": 0.0, **(env or {})}
    venv = make_atari_env(env_id, n_envs, seed, wrapper_kwargs={"noop_max": 0, **wrapper}, env_kwargs=env_kwargs)
    assert isinstance(venv, DummyVecEnv)
    return venv


def make_ale_atari(env_id: str, n_envs: int = N_ENVS, seed: int | None = SEED, **kwargs: Any) -> AtariVecEnv:
    """This package's environments, with the same defaults as ``make_sb3_atari``."""
    return AtariVecEnv(env_id, n_envs, **{"seed": seed, "noop_max": 0, "repeat_action_probability": 0.0, **kwargs})


class Trace:
    """
    Everything that an environment returned, starting with its first reset.

    :param venv: it is played with random actions, which are the same for every environment, and then closed
    :param n_steps: number of steps
    """

    def __init__(self, venv: VecEnv, n_steps: int) -> None:
        rng = np.random.default_rng(0)
        self.observations, self.rewards, self.dones = [venv.reset()], [], []
        self.infos: list[list[dict[str, Any]]] = []
        for _ in range(n_steps):
            obs, rewards, dones, infos = venv.step(rng.integers(0, venv.action_space.n, venv.num_envs))
            self.observations.append(obs)
            self.rewards.append(rewards)
            self.dones.append(dones)
            self.infos.append(infos)
        venv.close()

    def episodes(self) -> list[tuple]:
        """:return: step, environment, return and length of each whole game"""
        return [
            (step, env, info["episode"]["r"], info["episode"]["l"])
            for step, infos in enumerate(self.infos)
            for env, info in enumerate(infos)
            if "episode" in info
        ]

    def terminal(self, at_game_over: bool) -> dict[tuple[int, int], np.ndarray]:
        """:return: terminal observations by step and environment, either at the end of games or before"""
        return {
            (step, env): info["terminal_observation"]
            for step, infos in enumerate(self.infos)
            for env, info in enumerate(infos)
            if "terminal_observation" in info and ("episode" in info) == at_game_over
        }

    def plain_infos(self) -> list[list[dict[str, Any]]]:
        """:return: infos without the entries that are compared in other ways"""
        left_out = ("terminal_observation", "episode", "seeds")
        return [[{k: v for k, v in info.items() if k not in left_out} for info in infos] for infos in self.infos]


def assert_same_traces(expected: Trace, actual: Trace) -> None:
    """Everything is equal to the bit, except that terminal observations at the end of a game have their own test."""
    for name in ("observations", "rewards", "dones"):
        for one, other in zip(getattr(expected, name), getattr(actual, name), strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other, err_msg=name)
    assert expected.plain_infos() == actual.plain_infos()
    assert expected.episodes() == actual.episodes()
    lost, also_lost = expected.terminal(at_game_over=False), actual.terminal(at_game_over=False)
    assert lost.keys() == also_lost.keys()
    for key, observation in lost.items():
        assert observation.shape == also_lost[key].shape
        np.testing.assert_array_equal(observation, also_lost[key])
    assert expected.terminal(at_game_over=True).keys() == actual.terminal(at_game_over=True).keys()


@pytest.fixture(scope="session")
def sb3_atari() -> Callable[..., DummyVecEnv]:
    return make_sb3_atari


@pytest.fixture(scope="session")
def ale_atari() -> Callable[..., AtariVecEnv]:
    return make_ale_atari


@pytest.fixture(scope="session")
def play() -> type[Trace]:
    return Trace


@pytest.fixture(scope="session")
def same_traces() -> Callable[[Trace, Trace], None]:
    return assert_same_traces
