"""SAC's policies with a stacked ensemble of critics."""

import math
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.sac.policies import Actor, SACPolicy
from torch import nn

from sb3_ext.checks import check_integer, check_interval
from sb3_ext.nets import EnsembleMLP, OutputLinear
from sb3_ext.speed.optimizers import with_fused_adam


class EnsembleCritic(ContinuousCritic):
    """
    SB3's ``ContinuousCritic`` with its networks stacked: one features extractor, N heads evaluated together.

    ``critic(obs, actions)`` still returns a tuple of N tensors of shape (B, 1).

    :param n_critics: N
    :param layer_norm: normalise the hidden layers
    :param dropout: dropout probability of the hidden layers

    The other parameters are those of ``ContinuousCritic``.
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
        n_critics: int = 10,
        share_features_extractor: bool = True,
        layer_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            net_arch,
            features_extractor,
            features_dim,
            activation_fn,
            normalize_images,
            n_critics=0,  # the parent's networks, one module each, are what the ensemble replaces
            share_features_extractor=share_features_extractor,
        )
        self.n_critics = n_critics
        n_inputs = features_dim + spaces.utils.flatdim(action_space)
        self.ensemble = EnsembleMLP(n_critics, n_inputs, net_arch, activation_fn, layer_norm, dropout)

    def stacked(
        self, obs: PyTorchObs, actions: th.Tensor, members: th.Tensor | None = None, frozen: bool = False
    ) -> th.Tensor:
        """
        The values of several critics as one tensor.

        :param obs: observations of B states
        :param actions: one action for each state, shape (B, A), or K of them, shape (K, B, A)
        :param members: indices of the M critics to evaluate, all N if ``None``
        :param frozen: let no gradient reach the critics, only the actions (the actor's update)
        :return: shape (M, B) or (M, K, B)
        """
        # A shared extractor learns from the policy's loss alone, as in SB3
        with th.set_grad_enabled(th.is_grad_enabled() and not self.share_features_extractor and not frozen):
            features = self.extract_features(obs, self.features_extractor)
        inputs = th.cat([features.expand(*actions.shape[:-1], -1), actions], dim=-1)
        q_values = self.ensemble(inputs.flatten(end_dim=-2), members, frozen)
        return q_values.unflatten(1, actions.shape[:-1])

    def forward(self, obs: PyTorchObs, actions: th.Tensor) -> tuple[th.Tensor, ...]:
        return tuple(self.stacked(obs, actions).unsqueeze(-1))

    def q1_forward(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        """
        The value of the first critic, with no gradient to the features extractor (as SB3's).
        """
        with th.no_grad():
            features = self.extract_features(obs, self.features_extractor)
        first = th.zeros(1, dtype=th.long, device=actions.device)
        return self.ensemble(th.cat([features, actions], dim=1), members=first).T


class REDQSACPolicy(SACPolicy):
    """
    SAC's policy with a stacked ensemble of critics.

    :param n_critics: number of critics, 10 as in the REDQ paper
    :param layer_norm: layer normalisation in the critics; with ``dropout`` and ``n_critics=2`` this is DroQ
    :param dropout: dropout probability in the critics, in [0, 1); active in the target critics, too
    :param optimizer_kwargs: as in SB3; Adam and AdamW run fused unless it says otherwise, which is faster

    The other parameters are those of ``stable_baselines3.sac.policies.SACPolicy``.

    :raises ValueError: if one of these is outside its range
    """

    critic: EnsembleCritic
    critic_target: EnsembleCritic

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        *,
        n_critics: int = 10,
        layer_norm: bool = False,
        dropout: float = 0.0,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        check_integer("n_critics", n_critics, minimum=1)
        check_interval("dropout", dropout, 0.0, math.nextafter(1.0, 0.0), "a probability in [0, 1)")
        self.regularisation: dict[str, Any] = {"layer_norm": layer_norm, "dropout": dropout}
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            n_critics=n_critics,
            optimizer_class=optimizer_class,
            optimizer_kwargs=with_fused_adam(optimizer_class, optimizer_kwargs),
            **kwargs,
        )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        # SB3 leaves out the last one
        return {
            **super()._get_constructor_parameters(),
            **self.regularisation,
            "share_features_extractor": self.share_features_extractor,
        }

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Actor:
        actor = super().make_actor(features_extractor)
        for name in ("mu", "log_std"):  # with gSDE other modules, which always run in float32
            layer = getattr(actor, name)
            if isinstance(layer, nn.Linear):
                setattr(actor, name, OutputLinear.of(layer))
        return actor

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> EnsembleCritic:
        critic_kwargs = self._update_features_extractor(self.critic_kwargs, features_extractor)
        return EnsembleCritic(**critic_kwargs, **self.regularisation).to(self.device)


MlpPolicy = REDQSACPolicy


class CnnPolicy(REDQSACPolicy):
    """
    ``REDQSACPolicy`` for images.

    :param features_extractor_class: ``NatureCNN`` by default
    """

    def __init__(
        self, *args: Any, features_extractor_class: type[BaseFeaturesExtractor] = NatureCNN, **kwargs: Any
    ) -> None:
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


class MultiInputPolicy(REDQSACPolicy):
    """
    ``REDQSACPolicy`` for dictionary observations.

    :param features_extractor_class: ``CombinedExtractor`` by default
    """

    def __init__(
        self, *args: Any, features_extractor_class: type[BaseFeaturesExtractor] = CombinedExtractor, **kwargs: Any
    ) -> None:
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)
