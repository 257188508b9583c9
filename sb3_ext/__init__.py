"""REDQ and its relatives for Stable-Baselines3, sb3-contrib and rl_zoo3."""

from sb3_ext.buffers import (
    FrameDedupReplayBuffer,
    PrioritizedFrameDedupReplayBuffer,
    PrioritizedReplayBuffer,
    estimate_memory,
)
from sb3_ext.redq_sac import REDQSAC

__version__ = "0.1.0"

__all__ = [
    "REDQSAC",
    "FrameDedupReplayBuffer",
    "PrioritizedFrameDedupReplayBuffer",
    "PrioritizedReplayBuffer",
    "__version__",
    "estimate_memory",
]
