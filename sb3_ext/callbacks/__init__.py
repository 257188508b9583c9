"""Callbacks for any model of SB3."""

from sb3_ext.callbacks.plateau import ReduceLearningRateOnPlateau
from sb3_ext.callbacks.system_monitor import SystemMonitorCallback

__all__ = ["ReduceLearningRateOnPlateau", "SystemMonitorCallback"]
