"""Soft Q-learning with discrete actions."""

from sb3_ext.soft_dqn.policies import CnnPolicy, MlpPolicy, MultiInputPolicy
from sb3_ext.soft_dqn.soft_dqn import SoftDQN

__all__ = ["CnnPolicy", "MlpPolicy", "MultiInputPolicy", "SoftDQN"]
