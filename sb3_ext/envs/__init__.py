"""Environments: Atari games at the speed of ALE's vector environment."""

from sb3_ext.envs.atari import AtariVecEnv, use_ale_vector

__all__ = ["AtariVecEnv", "use_ale_vector"]
