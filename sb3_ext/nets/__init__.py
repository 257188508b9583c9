"""Network modules: torch and SB3's building blocks, no algorithm."""

from sb3_ext.nets.convolutions import ChannelsLastCNN, NatureConvolutions
from sb3_ext.nets.dueling import DuelingMLP
from sb3_ext.nets.ensemble import EnsembleLayerNorm, EnsembleLinear, EnsembleMLP
from sb3_ext.nets.implicit_quantile import CosineEmbedding
from sb3_ext.nets.precision import OutputLinear, with_output_linear

__all__ = [
    "ChannelsLastCNN",
    "CosineEmbedding",
    "DuelingMLP",
    "EnsembleLayerNorm",
    "EnsembleLinear",
    "EnsembleMLP",
    "NatureConvolutions",
    "OutputLinear",
    "with_output_linear",
]
