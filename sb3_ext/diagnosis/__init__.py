"""Measurements that tell why a training works or fails."""

from sb3_ext.diagnosis.callback import DiagnosisCallback

__all__ = ["DiagnosisCallback"]
