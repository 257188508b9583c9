"""Policies of the value-based algorithms without an algorithm."""

import math
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from torch import nn

A, N_INPUTS = 3, 4
OBSERVATIONS = spaces.Box(-np.inf, np.inf, (N_INPUTS,), np.float32)
IMAGES = spaces.Box(0, 255, (2, 36, 40), np.uint8)
ACTIONS = spaces.Discrete(A)


def make_policy(cls: Any, observations: gym.Space = OBSERVATIONS, **kwargs: Any) -> Any:
    th.manual_seed(0)
    policy = cls(observations, ACTIONS, lambda _: 1e-3, **kwargs)
    for parameter in policy.parameters():
        parameter.data = th.randn_like(parameter) / math.sqrt(parameter.shape[-1])
    return policy


def count_calls(module: nn.Module) -> list[int]:
    calls: list[int] = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls
