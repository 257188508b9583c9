"""Q-learning with normalized advantage functions."""

from sb3_ext.naf.naf import NAF

__all__ = ["NAF"]
