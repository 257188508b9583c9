"""Environments: Atari games at the speed of ALE's vector environment."""

from sb3_ext.envs.atari_replacement import use_ale_vector
from sb3_ext.envs.atari_settings import AtariSettings
from sb3_ext.envs.atari_vec_env import AtariVecEnv

__all__ = ["AtariSettings", "AtariVecEnv", "use_ale_vector"]
