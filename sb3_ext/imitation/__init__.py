"""Learning from an expert: behavioural cloning and DAgger for the policies of SB3."""

from sb3_ext.imitation.bc import BC
from sb3_ext.imitation.dagger import DAgger
from sb3_ext.imitation.demonstrations import Demonstrations, Pairs, load_demonstrations
from sb3_ext.imitation.expert import Expert, as_expert

__all__ = ["BC", "DAgger", "Demonstrations", "Expert", "Pairs", "as_expert", "load_demonstrations"]
