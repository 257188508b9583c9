"""An environment with impossible actions, and networks that mask them."""

import functools
import math
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork

from sb3_ext import IQN, DoubleDQN, SoftDQN, double_dqn, iqn, soft_dqn
from sb3_ext.common.value_policies import ValueNetwork
from sb3_ext.double_dqn.policies import CategoricalNetwork
from sb3_ext.iqn.policies import ImplicitQuantileNetwork
from sb3_ext.soft_dqn.policies import BoltzmannNetwork

A, LARGEST = 4, 9
NETWORKS: dict[Any, Any] = {DoubleDQN: ValueNetwork, SoftDQN: BoltzmannNetwork, IQN: ImplicitQuantileNetwork}
_ROOMS: dict[Any, Any] = {DoubleDQN: double_dqn, SoftDQN: soft_dqn, IQN: iqn}


class Pile(gym.Env):
    """
    Take 1 to 4 things from a pile, never more than there are, for a reward of each. At the end nothing is possible.

    The observation is the size and the mask, in one vector or in a dictionary.

    :param is_strict: whether an impossible action is an error, or only ends the episode
    """

    action_space = spaces.Discrete(A)

    def __init__(self, as_dict: bool = False, is_strict: bool = True) -> None:
        self.as_dict, self.is_strict, self.n_impossible = as_dict, is_strict, 0
        size = spaces.Box(0, 1, (1,), np.float32)
        self.observation_space: gym.Space = spaces.Box(0, 1, (1 + A,), np.float32)
        if as_dict:
            self.observation_space = spaces.Dict({"size": size, "mask": spaces.MultiBinary(A)})

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.size = int(self.np_random.integers(1, LARGEST + 1))
        return self.observe(), {}

    def observe(self) -> Any:
        size, mask = np.array([self.size / LARGEST], np.float32), np.arange(1, A + 1) <= self.size
        if self.as_dict:
            return {"size": size, "mask": mask.astype(np.int8)}
        return np.concatenate([size, mask.astype(np.float32)])

    def step(self, action: int) -> Any:
        if action + 1 > self.size:
            assert not self.is_strict, f"{action + 1} of {self.size}"
            self.n_impossible += 1
            return self.observe(), -1.0, True, False, {}
        self.size -= int(action) + 1
        return self.observe(), math.sin(self.size), self.size == 0, False, {}


def mask_of(obs: Any) -> th.Tensor:
    return obs["mask"].bool() if isinstance(obs, dict) else obs[:, -A:].bool()


class Hooked:
    """Before the class of a network: masks by the hook."""

    def allowed_actions(self, obs: Any) -> th.Tensor:
        return mask_of(obs)


class ByHand:
    """Before the class of a network: masks the outputs, as users do without the hook."""

    masked_value: ClassVar[float] = -math.inf

    def forward(self, obs: Any) -> th.Tensor:
        return super().forward(obs).masked_fill(~mask_of(obs), self.masked_value)

    def quantiles(self, obs: Any, taus: th.Tensor) -> th.Tensor:
        quantiles = super().quantiles(obs, taus)
        return quantiles.masked_fill(~mask_of(obs).unsqueeze(1), self.masked_value)


@functools.cache
def masked_policy(cls: Any, how: str, as_dict: bool = False, head: str | None = None) -> type[DQNPolicy]:
    """
    A policy class of an algorithm.

    :param how: ``"hook"``, or the value of masked actions
    :param head: that of ``DoubleDQN``
    """
    parent = NETWORKS[cls] if head is None else CategoricalNetwork
    before: Any = Hooked if how == "hook" else type("ByHandWithValue", (ByHand,), {"masked_value": float(how)})
    network: type[QNetwork] = type("MaskedNetwork", (before, parent), {})
    base = _ROOMS[cls].MultiInputPolicy if as_dict else _ROOMS[cls].MlpPolicy
    return type("MaskedPolicy", (base,), {"network_class": network})
