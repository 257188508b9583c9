"""Policies that consist of a critic."""

from abc import abstractmethod
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from sb3_ext.common.arguments.compatibility import check_policy_fits
from sb3_ext.common.arguments.keywords import check_policy_kwargs, explain_policy_keywords
from sb3_ext.common.arguments.policies import check_policy_arguments
from sb3_ext.common.saved.complete import CompletelySaved
from sb3_ext.keywords import checks_keywords, known_base


class CriticPolicy(CompletelySaved, BasePolicy):
    """
    A policy with a ``critic``, a ``critic_target`` with the same weights at the beginning, and one optimizer.

    Its actions lie in [-1, 1] before ``predict`` scales them to the action space.

    :param net_arch: units of the hidden layers; ``None``: [256, 256], and none after ``NatureCNN``
    :param activation_fn: activation
    :param features_extractor_class: features extractor
    :param features_extractor_kwargs: its arguments
    :param normalize_images: whether to divide images by 255
    :param optimizer_class: optimizer
    :param optimizer_kwargs: its arguments, without the learning rate
    """

    critic: Any
    critic_target: Any

    @checks_keywords(explain_policy_keywords)
    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        net_arch: list[int] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        features_extractor_class: type[BaseFeaturesExtractor] = FlattenExtractor,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        given = {
            "net_arch": net_arch,
            "activation_fn": activation_fn,
            "features_extractor_class": features_extractor_class,
            "features_extractor_kwargs": features_extractor_kwargs,
            "normalize_images": normalize_images,
            "optimizer_class": optimizer_class,
            "optimizer_kwargs": optimizer_kwargs,
        }
        check_policy_arguments(given)
        check_policy_kwargs(type(self), given)
        check_policy_fits(observation_space, known_base(type(self)), given)
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class,
            features_extractor_kwargs,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            normalize_images=normalize_images,
            squash_output=True,
        )
        if net_arch is None:
            net_arch = [] if features_extractor_class is NatureCNN else [256, 256]
        self.net_arch, self.activation_fn = net_arch, activation_fn
        self.critic = self._make_network()
        self.critic_target = self._make_network()
        self.critic_target.load_state_dict(self.critic.state_dict())
        self.critic_target.set_training_mode(False)
        # The target is no leaf of any optimizer
        self.critic_target.requires_grad_(False)
        make_optimizer: Any = self.optimizer_class
        self.optimizer = make_optimizer(self.critic.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)

    def _make_network(self) -> nn.Module:
        extractor = self.make_features_extractor()
        arguments = self._update_features_extractor(
            dict(
                observation_space=self.observation_space,
                action_space=self.action_space,
                net_arch=self.net_arch,
                activation_fn=self.activation_fn,
                normalize_images=self.normalize_images,
            ),
            extractor,
        )
        return self.make_critic(arguments).to(self.device)

    @abstractmethod
    def make_critic(self, arguments: dict[str, Any]) -> nn.Module:
        """
        Hook: return a network from what SB3's networks take.

        :param arguments: spaces, ``net_arch``, ``activation_fn``, ``normalize_images``, and a features extractor with
            its ``features_dim``
        """

    def set_training_mode(self, mode: bool) -> None:
        self.critic.set_training_mode(mode)
        self.training = mode

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            **super()._get_constructor_parameters(),
            "net_arch": self.net_arch,
            "activation_fn": self.activation_fn,
            "lr_schedule": self._dummy_schedule,  # dummy lr schedule, not needed for loading policy alone
            "optimizer_class": self.optimizer_class,
            "optimizer_kwargs": self.optimizer_kwargs,
            "features_extractor_class": self.features_extractor_class,
            "features_extractor_kwargs": self.features_extractor_kwargs,
        }


class CnnCritic(CriticPolicy):
    """Mix-in for images, with SB3's ``NatureCNN``."""

    @checks_keywords(explain_policy_keywords)
    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        *,
        features_extractor_class: type[BaseFeaturesExtractor] = NatureCNN,
        **kwargs: Any,
    ) -> None:
        kwargs["features_extractor_class"] = features_extractor_class
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)


class MultiInputCritic(CriticPolicy):
    """Mix-in for dictionaries of observations, with SB3's ``CombinedExtractor``."""

    @checks_keywords(explain_policy_keywords)
    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        *,
        features_extractor_class: type[BaseFeaturesExtractor] = CombinedExtractor,
        **kwargs: Any,
    ) -> None:
        kwargs["features_extractor_class"] = features_extractor_class
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)
