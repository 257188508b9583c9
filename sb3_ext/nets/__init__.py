"""Network modules built from torch and SB3, independent of any algorithm."""

from sb3_ext.nets.absent import NamesSubstitutes
from sb3_ext.nets.builder import LayerKind, PlainLayers, StackedLayers, build_mlp, build_residual_mlp, declare_output
from sb3_ext.nets.convolutions import ChannelsLastCNN, NatureConvolutions
from sb3_ext.nets.critic import EnsembleCritic
from sb3_ext.nets.dueling import DuelingMLP, build_action_values
from sb3_ext.nets.ensemble import EnsembleMLP, EnsembleNetwork
from sb3_ext.nets.heads import CategoricalHead, CriticHead, ScalarHead
from sb3_ext.nets.impala import ImpalaConvolutions
from sb3_ext.nets.implicit_quantile import CosineEmbedding
from sb3_ext.nets.layers import EnsembleLayerNorm, EnsembleLinear, OutputLinear
from sb3_ext.nets.noisy import NoisyLayers, NoisyLinear, noise_in
from sb3_ext.nets.normalization import EnsembleBatchNorm, EnsembleRMSNorm, InputBatchNorm
from sb3_ext.nets.residual import ResidualBlock

__all__ = [
    "CategoricalHead",
    "ChannelsLastCNN",
    "CosineEmbedding",
    "CriticHead",
    "DuelingMLP",
    "EnsembleBatchNorm",
    "EnsembleCritic",
    "EnsembleLayerNorm",
    "EnsembleLinear",
    "EnsembleMLP",
    "EnsembleNetwork",
    "EnsembleRMSNorm",
    "ImpalaConvolutions",
    "InputBatchNorm",
    "LayerKind",
    "NamesSubstitutes",
    "NatureConvolutions",
    "NoisyLayers",
    "NoisyLinear",
    "OutputLinear",
    "PlainLayers",
    "ResidualBlock",
    "ScalarHead",
    "StackedLayers",
    "build_action_values",
    "build_mlp",
    "build_residual_mlp",
    "declare_output",
    "noise_in",
]
