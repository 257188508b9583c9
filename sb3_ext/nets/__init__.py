"""Network modules built from torch and SB3, independent of any algorithm."""

from sb3_ext.nets.absent import NamesSubstitutes
from sb3_ext.nets.builder import LayerKind, PlainLayers, StackedLayers, build_mlp, declare_output
from sb3_ext.nets.convolutions import ChannelsLastCNN, NatureConvolutions
from sb3_ext.nets.critic import EnsembleCritic
from sb3_ext.nets.dueling import DuelingMLP, build_action_values
from sb3_ext.nets.ensemble import EnsembleMLP
from sb3_ext.nets.heads import CriticHead, ScalarHead
from sb3_ext.nets.implicit_quantile import CosineEmbedding
from sb3_ext.nets.layers import EnsembleLayerNorm, EnsembleLinear, OutputLinear

__all__ = [
    "ChannelsLastCNN",
    "CosineEmbedding",
    "CriticHead",
    "DuelingMLP",
    "EnsembleCritic",
    "EnsembleLayerNorm",
    "EnsembleLinear",
    "EnsembleMLP",
    "LayerKind",
    "NamesSubstitutes",
    "NatureConvolutions",
    "OutputLinear",
    "PlainLayers",
    "ScalarHead",
    "StackedLayers",
    "build_action_values",
    "build_mlp",
    "declare_output",
]
