"""Implicit Quantile Networks."""

from sb3_ext.iqn.iqn import IQN
from sb3_ext.iqn.policies import CnnPolicy, MlpPolicy, MultiInputPolicy

__all__ = ["IQN", "CnnPolicy", "MlpPolicy", "MultiInputPolicy"]
