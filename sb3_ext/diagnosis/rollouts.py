"""Monte-Carlo returns of the policy that the critics estimate."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_ext.common.probe import PolicyStep
from sb3_ext.functional.diagnosis import n_known_returns, soft_returns


class Horizon(NamedTuple):
    """
    How far episodes are followed.

    :param n_states: only so many states of an episode are measured, the first ones
    :param tail: how many rewards a return must hold, see :func:`~sb3_ext.functional.diagnosis.tail_length`
    :param time_limit_is_terminal: whether the critics take a time limit for the end of all rewards
    """

    n_states: int
    tail: int | None
    time_limit_is_terminal: bool

    @property
    def n_steps(self) -> int:
        """The number of steps after which nothing more is needed of an episode."""
        return self.n_states + max((self.tail or 0) - 1, 0)


class Discounting(NamedTuple):
    """
    How rewards become the returns that the critics estimate.

    :param gamma: discount, in [0, 1]
    :param n_steps: n >= 1: the critics learn from n-step returns
    """

    gamma: float
    n_steps: int


class Pairs(NamedTuple):
    """
    State-action pairs.

    :param q_values: the mean of the critics, shape (M,)
    :param returns: what the policy earned from there on, shape (M,)
    """

    q_values: th.Tensor
    returns: th.Tensor


class Episode:
    """The numbers that are kept of an episode, without its observations."""

    def __init__(self) -> None:
        self.rewards: list[float] = []
        self.entropy_bonuses: list[float] = []
        self.reward_bonuses: list[float] = []
        self.q_values: list[float] = []
        self.terminated = False

    def pairs(self, horizon: Horizon, discounting: Discounting) -> Pairs:
        """The state-action pairs whose return is known."""
        gamma, n_steps = discounting
        rewards = th.tensor(self.rewards, dtype=th.float64)
        bonuses, added = (th.tensor(b, dtype=th.float64) for b in (self.entropy_bonuses, self.reward_bonuses))
        returns = soft_returns(rewards, bonuses, gamma, n_steps, added)
        n_known = min(n_known_returns(len(rewards), self.terminated, horizon.tail), horizon.n_states)
        return Pairs(th.tensor(self.q_values[:n_known], dtype=th.float64), returns[:n_known])


def monte_carlo_pairs(
    env: VecEnv, act: Callable[[Any], PolicyStep], n_episodes: int, horizon: Horizon, discounting: Discounting
) -> Pairs:
    """
    Play episodes, and compare what the critics promise with what comes.

    :param act: from the observations of all environments to a step of the policy
    """
    pairs: list[Pairs] = []
    remaining = n_episodes
    while remaining > 0:
        # Episodes begin together, in rounds. To take whatever ends first would prefer short episodes.
        n_envs = min(remaining, env.num_envs)
        pairs += [episode.pairs(horizon, discounting) for episode in _play(env, act, n_envs, horizon)]
        remaining -= n_envs
    return Pairs(*(th.cat(parts) for parts in zip(*pairs, strict=True)))


def _play(env: VecEnv, act: Callable[[Any], PolicyStep], n_envs: int, horizon: Horizon) -> list[Episode]:
    """Play one episode of each of the first ``n_envs`` environments."""
    episodes = [Episode() for _ in range(n_envs)]
    running = set(range(n_envs))
    obs = env.reset()
    for _ in range(horizon.n_steps):
        step = act(obs)
        obs, rewards, dones, infos = env.step(step.actions)
        bonuses, added = step.entropy_bonuses.tolist(), step.reward_bonuses.tolist()
        q_values = step.q_values.mean(dim=0).tolist()
        for index in sorted(running):
            episode = episodes[index]
            episode.rewards.append(float(rewards[index]))
            episode.entropy_bonuses.append(bonuses[index])
            episode.reward_bonuses.append(added[index])
            episode.q_values.append(q_values[index])
            if dones[index]:
                is_cut = infos[index].get("TimeLimit.truncated", False)
                episode.terminated = horizon.time_limit_is_terminal or not is_cut
                running.remove(index)
        if not running:
            break
    return episodes


@contextmanager
def undisturbed(model: BaseAlgorithm, seed: int) -> Iterator[None]:
    """
    Keep the training unaware of what happens inside, in evaluation mode and without gradients.

    Afterwards the random numbers, the modes of the networks and the noise of gSDE are what they were.
    """
    modes = [(module, module.training) for module in model.policy.modules()]
    distribution = getattr(getattr(model, "actor", None), "action_dist", None)
    noise = None if distribution is None else dict(vars(distribution))
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = list(range(th.cuda.device_count())) if model.device.type == "cuda" else []
    with th.random.fork_rng(devices=devices), th.no_grad():
        random.seed(seed)
        np.random.seed(seed)
        th.manual_seed(seed)
        try:
            model.policy.set_training_mode(False)
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            if distribution is not None and noise is not None:
                vars(distribution).clear()
                vars(distribution).update(noise)
            random.setstate(python_state)
            np.random.set_state(numpy_state)
