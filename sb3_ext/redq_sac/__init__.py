"""Randomized Ensembled Double Q-learning on Soft Actor-Critic."""

from sb3_ext.redq_sac.conversion import from_sac
from sb3_ext.redq_sac.policies import CnnPolicy, MlpPolicy, MultiInputPolicy
from sb3_ext.redq_sac.redq_sac import REDQSAC

__all__ = ["REDQSAC", "CnnPolicy", "MlpPolicy", "MultiInputPolicy", "from_sac"]
