"""
An environment whose values are known in closed form, and models that are measured in it.

The reward is 1 for ever, so that every policy's Q is 1 / (1 - gamma). With an entropy bonus b in every later state it
is gamma b / (1 - gamma) more.
"""

import csv
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from sb3_contrib import QRDQN, TQC, CrossQ
from stable_baselines3 import DDPG, DQN, SAC, TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from torch import nn

from sb3_ext import CEMQ, IQN, NAF, REDQSAC, DoubleDQN, SoftDQN
from sb3_ext.diagnosis import DiagnosisCallback
from sb3_ext.diagnosis.probes import probe_for

GAMMA = 0.9
VALUE = 1 / (1 - GAMMA)
VALUE_BASED = (DQN, QRDQN, DoubleDQN, SoftDQN, IQN)
ACTOR_CRITIC = (SAC, TD3, DDPG, TQC, CrossQ, REDQSAC)
NO_ACTOR = (CEMQ, NAF)


class EndlessReward(gym.Env):
    """Reward 1 at every step, random observations, no end."""

    def __init__(self, actions: str = "continuous", observations: str = "vector") -> None:
        self.action_space = spaces.Box(-2.0, 2.0, (2,)) if actions == "continuous" else spaces.Discrete(3)
        vector, image = spaces.Box(-1.0, 1.0, (5,)), spaces.Box(0, 255, (36, 36, 1), np.uint8)
        choices = {"vector": vector, "image": image, "dict": spaces.Dict({"image": image, "vector": vector})}
        self.observation_space = choices[observations]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        return self.observation_space.sample(), 1.0, False, False, {}


def make_model(
    cls: type[OffPolicyAlgorithm],
    env: Any = "EndlessReward-v0",
    observations: str = "vector",
    n_envs: int = 1,
    **kwargs: Any,
) -> Any:
    actions = "discrete" if cls in VALUE_BASED else "continuous"
    if isinstance(env, str):
        env = make_vec_env(env, n_envs, env_kwargs=dict(actions=actions, observations=observations))
    policy = {"vector": "MlpPolicy", "image": "CnnPolicy", "dict": "MultiInputPolicy"}[observations]
    policy_kwargs: dict[str, Any] = dict(net_arch=[16, 17])
    if observations == "image":
        policy_kwargs["features_extractor_kwargs"] = dict(features_dim=13)
    if observations == "dict":
        policy_kwargs["features_extractor_kwargs"] = dict(cnn_output_dim=13)
    settings: dict[str, Any] = dict(gamma=GAMMA, learning_starts=10, buffer_size=500, batch_size=8, seed=1)
    if cls is REDQSAC:
        settings |= dict(gradient_steps=2, policy_delay=2)
        policy_kwargs["n_critics"] = 3
    if cls is IQN:
        settings |= dict(n_quantile_samples=4, n_target_quantile_samples=5, n_action_quantile_samples=6)
    if cls is QRDQN:
        policy_kwargs["n_quantiles"] = 7
    policy_kwargs |= kwargs.pop("policy_kwargs", {})
    return cls(policy, env, policy_kwargs=policy_kwargs, device="cpu", **(settings | kwargs))


def rows_of(path: Path) -> list[dict[str, float | None]]:
    with path.open() as file:
        return [{name: float(text) if text else None for name, text in row.items()} for row in csv.DictReader(file)]


def measured(model: Any, folder: Path, total_timesteps: int = 40, **kwargs: Any) -> dict[str, float | None]:
    """The last row after so many steps, measured at the last one."""
    path = folder / "diagnosis.csv"
    settings: dict[str, Any] = dict(n_episodes=2, max_steps=30, batch_size=32, seed=3, csv_path=path)
    model.learn(total_timesteps, callback=DiagnosisCallback(total_timesteps, **(settings | kwargs)))
    return rows_of(path)[-1]


def predict_value(model: Any, value: float) -> None:
    """Make all critics say one number everywhere."""
    probe = probe_for(model)
    for layer in {id(layer): layer for layers in probe.heads for layer in layers}.values():
        nn.init.zeros_(layer.weight)
        nn.init.constant_(layer.bias, value)
