"""Q-learning with continuous actions whose maxima are sought."""

from sb3_ext.cem_q.cem_q import CEMQ

__all__ = ["CEMQ"]
