"""Network modules: torch and SB3's building blocks, no algorithm."""

from sb3_ext.nets.ensemble import EnsembleLayerNorm, EnsembleLinear, EnsembleMLP

__all__ = ["EnsembleLayerNorm", "EnsembleLinear", "EnsembleMLP"]
