"""The policies of NAF: a value, the best action, and how steeply the value falls around it."""

from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel, BasePolicy
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_ext.common.critic_policies import CnnCritic, CriticPolicy, MultiInputCritic
from sb3_ext.functional.naf import lower_triangular, precise_noise, quadratic_advantage
from sb3_ext.nets import OutputLinear, build_mlp


class NAFNetwork(BaseModel):
    """
    ``Q(s, a) = V(s) - 1/2 (a - mu)^T L L^T (a - mu)``, with mu in [-1, 1] by a tanh.

    :param net_arch: units of the hidden layers
    :param activation_fn: activation

    The other parameters are those of SB3's ``BaseModel``.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        net_arch: list[int],
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        activation_fn: type[nn.Module] = nn.ReLU,
        normalize_images: bool = True,
    ) -> None:
        super().__init__(
            observation_space, action_space, features_extractor=features_extractor, normalize_images=normalize_images
        )
        self.features_extractor: BaseFeaturesExtractor = features_extractor
        self.n_actions = get_action_dim(action_space)
        self.trunk = build_mlp(features_dim, net_arch, None, activation_fn)
        width = net_arch[-1] if net_arch else features_dim
        sizes = {"value": 1, "mean": self.n_actions, "entries": self.n_actions * (self.n_actions + 1) // 2}
        self.value, self.mean, self.entries = (
            OutputLinear.from_linear(nn.Linear(width, n_outputs)) for n_outputs in sizes.values()
        )

    def parts(self, obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """Return V, shape (B,), mu, shape (B, A), and L, shape (B, A, A)."""
        latent = self.trunk(self.extract_features(obs, self.features_extractor))
        lower = lower_triangular(self.entries(latent), self.n_actions)
        return self.value(latent).squeeze(1), th.tanh(self.mean(latent)), lower

    def forward(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        """Return the values of actions in [-1, 1], shape (B,)."""
        value, mean, lower = self.parts(obs)
        return value + quadratic_advantage(actions, mean, lower)


class NAFPolicy(CriticPolicy):
    """
    Takes the action at which the value is largest. Exploring, it adds noise with the covariance that the value has.

    ``exploration_scale`` is set by :class:`~sb3_ext.naf.naf.NAF`. The parameters are those of
    :class:`~sb3_ext.common.critic_policies.CriticPolicy`.
    """

    critic: NAFNetwork
    critic_target: NAFNetwork
    exploration_scale: float = 1.0

    def make_critic(self, arguments: dict[str, Any]) -> NAFNetwork:
        return NAFNetwork(**arguments)

    def _predict(self, obs: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        _, mean, lower = self.critic.parts(obs)
        if deterministic or self.exploration_scale == 0:
            return mean
        noise = precise_noise(lower, th.randn_like(mean), self.exploration_scale)
        return (mean + noise).clamp(-1.0, 1.0)


MlpPolicy = NAFPolicy


class CnnPolicy(CnnCritic, NAFPolicy):
    """For images, with SB3's ``NatureCNN``."""


class MultiInputPolicy(MultiInputCritic, NAFPolicy):
    """For dictionaries of observations, with SB3's ``CombinedExtractor``."""


POLICY_ALIASES: dict[str, type[BasePolicy]] = {
    "MlpPolicy": MlpPolicy,
    "CnnPolicy": CnnPolicy,
    "MultiInputPolicy": MultiInputPolicy,
}
