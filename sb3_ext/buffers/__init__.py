"""Replay buffers."""

from sb3_ext.buffers.base import ArrayReplayBuffer
from sb3_ext.buffers.device import DeviceReplayBuffer
from sb3_ext.buffers.estimate import estimate_memory
from sb3_ext.buffers.float32 import Float32ReplayBuffer
from sb3_ext.buffers.frame_dedup import FrameDedupReplayBuffer
from sb3_ext.buffers.prioritized import PrioritizedFrameDedupReplayBuffer, PrioritizedReplayBuffer
from sb3_ext.buffers.samples import DictPrioritizedSamples, PrioritizedSamples, WindowSamples, sample_windows

__all__ = [
    "ArrayReplayBuffer",
    "DeviceReplayBuffer",
    "DictPrioritizedSamples",
    "Float32ReplayBuffer",
    "FrameDedupReplayBuffer",
    "PrioritizedFrameDedupReplayBuffer",
    "PrioritizedReplayBuffer",
    "PrioritizedSamples",
    "WindowSamples",
    "estimate_memory",
    "sample_windows",
]
