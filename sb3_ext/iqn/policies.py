"""Policies of ``IQN``: networks that return quantiles of the return at any level."""

from typing import Any, ClassVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import nn

from sb3_ext.checks import check_integer
from sb3_ext.common.arguments.positional import positional_as_in
from sb3_ext.common.value_policies import Noisy, PlainNormalization, ValueNetwork, ValuePolicy
from sb3_ext.functional.quantile import RiskMeasure, check_risk, distort_taus, quantile_midpoints
from sb3_ext.nets import CosineEmbedding, NamesSubstitutes, NatureConvolutions, build_mlp
from sb3_ext.speed.optimizers import with_fused_adam


class ImplicitQuantileNetwork(NamesSubstitutes, ValueNetwork):
    """
    A network of the form ``Z_tau(s, a) = f(psi(s) * phi(tau))_a``.

    - phi is the cosine embedding
    - f is the last entry of ``net_arch`` with the output layer
    - psi is everything before; for images the convolutions alone, as in the paper

    The value of an action is the mean of its quantiles at distorted levels, see
    :func:`~sb3_ext.functional.quantile.distort_taus`. ``q_net(obs)`` and deterministic actions distort the
    ``n_action_quantile_samples`` midpoints ``(k + 1/2) / n``, so they are reproducible. Exploration and targets use
    random levels, as in the paper.

    :param n_cosines: size of the cosine embedding
    :param dueling: f in the form ``V + A - mean_a A``
    :param n_action_quantile_samples: number of levels at which actions are valued
    :param risk_measure: distortion of these levels
    :param risk_eta: parameter of the risk measure

    The other parameters are those of SB3's ``QNetwork``.

    :raises ValueError: naming the argument, its value and what is allowed
    """

    #: Distorted levels of deterministic actions, shape (n_action_quantile_samples,)
    midpoints: th.Tensor
    # The arguments that they are distorted by
    _midpoints_of: tuple[int, RiskMeasure, float] | None = None

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Discrete,
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        net_arch: list[int] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        normalize_images: bool = True,
        dueling: bool = False,
        n_cosines: int = 64,
        n_action_quantile_samples: int = 32,
        risk_measure: RiskMeasure = "neutral",
        risk_eta: float = 0.0,
        *,
        noisy: Noisy = False,
        noisy_std: float | None = None,
        normalization: PlainNormalization | None = None,
    ) -> None:
        check_integer("n_cosines", n_cosines, minimum=1)
        self.n_cosines = n_cosines
        super().__init__(
            observation_space,
            action_space,
            features_extractor,
            features_dim,
            net_arch,
            activation_fn,
            normalize_images,
            dueling,
            noisy=noisy,
            noisy_std=noisy_std,
            normalization=normalization,
        )
        self.choose_actions_by(n_action_quantile_samples, risk_measure, risk_eta)

    def build_networks(self, features_dim: int, n_actions: int) -> None:
        # Three networks replace the parent's, which has no quantile levels. See `substitute_for`
        del self.q_net
        before, after = self.net_arch[:-1], self.net_arch[-1:]
        n_features = before[-1] if before else features_dim
        kind, normalization = self.layer_kind, self.normalization
        self.psi = build_mlp(features_dim, before, None, self.activation_fn, layers=kind, normalization=normalization)
        self.phi = CosineEmbedding(self.n_cosines, n_features)
        self.f = self.build_action_values(n_features, n_actions, after)

    def substitute_for(self, name: str) -> str | None:
        if name != "q_net":
            return None
        return (
            "its layers are psi, phi and f, see the class. q_net(obs) returns the values of all actions, and "
            "q_net.quantiles(obs, taus) their quantiles"
        )

    def choose_actions_by(self, n_action_quantile_samples: int, risk_measure: RiskMeasure, risk_eta: float) -> None:
        """
        Set how actions are valued from now on.

        :param n_action_quantile_samples: number of quantile levels, >= 1
        :param risk_measure: distortion of these levels
        :param risk_eta: parameter of the risk measure
        :raises ValueError: naming the argument, its value and what is allowed
        """
        check_integer("n_action_quantile_samples", n_action_quantile_samples, minimum=1)
        check_risk(risk_measure, risk_eta)
        self.n_action_quantile_samples = n_action_quantile_samples
        self.risk_measure = risk_measure
        self.risk_eta = risk_eta
        self._update_midpoints()

    def _update_midpoints(self) -> None:
        """
        Distort the midpoints, if an argument has changed.

        Every call could do it. But then it would be part of an exported network, and ONNX has no inverse of the normal
        distribution for the risk measure ``"wang"``.
        """
        arguments = self.n_action_quantile_samples, self.risk_measure, self.risk_eta
        if arguments != self._midpoints_of:
            midpoints = distort_taus(quantile_midpoints(arguments[0], self.device), *arguments[1:])
            # Saving it is unnecessary, because it follows from the arguments
            self.register_buffer("midpoints", midpoints, persistent=False)
            self._midpoints_of = arguments

    def quantiles(self, obs: PyTorchObs, taus: th.Tensor) -> th.Tensor:
        """Return the quantiles of each action's return, shape (B, T, A), at levels in [0, 1], shape (B, T)."""
        psi = self.psi(self.extract_features(obs, self.features_extractor))
        return self.mask(self.f(psi.unsqueeze(1) * self.phi(taus)), obs)

    def action_taus(self, n_states: int, deterministic: bool) -> th.Tensor:
        """
        Return the distorted levels at which actions are valued, shape (B, K).

        :param deterministic: distort the midpoints instead of random levels
        """
        if deterministic:
            self._update_midpoints()
            return self.midpoints.expand(n_states, -1)
        taus = th.rand(n_states, self.n_action_quantile_samples, device=self.device)
        return distort_taus(taus, self.risk_measure, self.risk_eta)

    def action_values(self, obs: PyTorchObs, deterministic: bool) -> th.Tensor:
        """
        Return the value of each action, shape (B, A).

        :param deterministic: use the midpoints instead of random levels
        """
        return self.quantiles(obs, self.action_taus(number_of_states(obs), deterministic)).mean(dim=1)

    def forward(self, obs: PyTorchObs) -> th.Tensor:
        return self.action_values(obs, deterministic=True)

    def _predict(self, observation: PyTorchObs, deterministic: bool = True) -> th.Tensor:
        return self.action_values(observation, deterministic).argmax(dim=1)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        names = ("n_cosines", "n_action_quantile_samples", "risk_measure", "risk_eta")
        return {**super()._get_constructor_parameters(), **{name: getattr(self, name) for name in names}}


def number_of_states(obs: PyTorchObs) -> int:
    """Return the number B of states in a tensor or a dictionary of observations."""
    # Unlike len(), the shape is not fixed to the example's when the network is exported
    return (next(iter(obs.values())) if isinstance(obs, dict) else obs).shape[0]


class IQNPolicy(ValuePolicy):
    """
    SB3's ``DQNPolicy`` with an :class:`ImplicitQuantileNetwork`.

    :param n_cosines: size of the cosine embedding of the quantile levels
    :param n_action_quantile_samples: see :class:`ImplicitQuantileNetwork`; ``IQN`` sets this and the next two
    :param risk_measure: see :class:`ImplicitQuantileNetwork`
    :param risk_eta: see :class:`ImplicitQuantileNetwork`
    :param optimizer_class: as in SB3
    :param optimizer_kwargs: as in SB3, but Adam and AdamW run fused by default, which is faster

    The other parameters are those of ``ValuePolicy``.
    """

    network_class: ClassVar[type[QNetwork]] = ImplicitQuantileNetwork
    only_for: ClassVar[str | None] = "IQN"
    q_net: ImplicitQuantileNetwork
    q_net_target: ImplicitQuantileNetwork

    @positional_as_in(DQNPolicy)
    def __init__(
        self,
        *args: Any,
        n_cosines: int = 64,
        n_action_quantile_samples: int = 32,
        risk_measure: RiskMeasure = "neutral",
        risk_eta: float = 0.0,
        network_kwargs: dict[str, Any] | None = None,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            *args,
            network_kwargs={
                "n_cosines": n_cosines,
                "n_action_quantile_samples": n_action_quantile_samples,
                "risk_measure": risk_measure,
                "risk_eta": risk_eta,
                **(network_kwargs or {}),
            },
            optimizer_class=optimizer_class,
            optimizer_kwargs=with_fused_adam(optimizer_class, optimizer_kwargs),
            **kwargs,
        )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        # The algorithm may have changed them since
        names = ("n_action_quantile_samples", "risk_measure", "risk_eta")
        return {**super()._get_constructor_parameters(), **{name: getattr(self.q_net, name) for name in names}}


MlpPolicy = IQNPolicy


class CnnPolicy(IQNPolicy):
    """
    ``IQNPolicy`` for images: psi is the convolutions of ``NatureCNN``, f its layer of 512 units and the output.

    :param features_extractor_class: ``NatureConvolutions`` by default
    :param net_arch: ``[512]`` by default
    """

    @positional_as_in(DQNPolicy)
    def __init__(
        self,
        *args: Any,
        features_extractor_class: type[BaseFeaturesExtractor] = NatureConvolutions,
        net_arch: list[int] | None = None,
        **kwargs: Any,
    ) -> None:
        net_arch = [512] if net_arch is None else net_arch
        super().__init__(*args, features_extractor_class=features_extractor_class, net_arch=net_arch, **kwargs)


class MultiInputPolicy(IQNPolicy):
    """``IQNPolicy`` for dictionary observations, with the features extractor ``CombinedExtractor`` by default."""

    @positional_as_in(DQNPolicy)
    def __init__(
        self, *args: Any, features_extractor_class: type[BaseFeaturesExtractor] = CombinedExtractor, **kwargs: Any
    ) -> None:
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)
