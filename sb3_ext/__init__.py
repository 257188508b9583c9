"""REDQ, value-based algorithms and replay buffers for Stable-Baselines3, sb3-contrib and rl_zoo3."""

from sb3_ext.buffers import (
    DeviceReplayBuffer,
    Float32ReplayBuffer,
    FrameDedupReplayBuffer,
    PrioritizedFrameDedupReplayBuffer,
    PrioritizedReplayBuffer,
    estimate_memory,
)
from sb3_ext.cem_q import CEMQ
from sb3_ext.diagnosis import DiagnosisCallback
from sb3_ext.double_dqn import DoubleDQN
from sb3_ext.envs import AtariVecEnv
from sb3_ext.imitation import BC, DAgger
from sb3_ext.iqn import IQN
from sb3_ext.naf import NAF
from sb3_ext.redq_sac import REDQSAC
from sb3_ext.soft_dqn import SoftDQN
from sb3_ext.speed.float32 import float32_matmul_precision

__version__ = "0.1.0"

__all__ = [
    "BC",
    "CEMQ",
    "IQN",
    "NAF",
    "REDQSAC",
    "AtariVecEnv",
    "DAgger",
    "DeviceReplayBuffer",
    "DiagnosisCallback",
    "DoubleDQN",
    "Float32ReplayBuffer",
    "FrameDedupReplayBuffer",
    "PrioritizedFrameDedupReplayBuffer",
    "PrioritizedReplayBuffer",
    "SoftDQN",
    "__version__",
    "estimate_memory",
    "float32_matmul_precision",
]
