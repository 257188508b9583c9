"""SAC's policies with a stacked ensemble of critics."""

import copy
import math
from typing import Any, ClassVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.sac.policies import Actor, SACPolicy
from torch import nn

from sb3_ext.checks import check_integer, check_interval
from sb3_ext.common.arguments.compatibility import check_policy_fits
from sb3_ext.common.arguments.keywords import check_policy_kwargs, explain_policy_keywords
from sb3_ext.common.arguments.policies import check_policy_arguments
from sb3_ext.common.arguments.positional import positional_as_in
from sb3_ext.common.saved.complete import CompletelySaved
from sb3_ext.keywords import checks_keywords, known_base
from sb3_ext.nets import CriticHead, EnsembleCritic, OutputLinear, ScalarHead
from sb3_ext.speed.optimizers import with_fused_adam


class REDQSACActor(Actor):
    """
    SB3's ``Actor``, whose last layers keep their precision under ``th.autocast``, and which ``torch.export`` accepts.

    The parameters are those of ``stable_baselines3.sac.policies.Actor``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in ("mu", "log_std"):  # gSDE has other modules here, which always run in float32
            layer = getattr(self, name)
            if isinstance(layer, nn.Linear):
                setattr(self, name, OutputLinear.from_linear(layer))

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        if th.compiler.is_exporting() and (deterministic or not self.use_sde):
            # The same actions without torch's distributions: the check of their parameters depends on the data, which
            # an exported graph cannot
            mean, log_std, _ = self.get_action_dist_params(obs)
            return th.tanh(mean if deterministic else mean + log_std.exp() * th.randn_like(mean))
        return super().forward(obs, deterministic)


class REDQSACPolicy(CompletelySaved, SACPolicy):
    """
    SAC's policy with a stacked ensemble of critics.

    A subclass sets ``critic_class`` for other critics, or ``head_class`` for another loss.

    :param n_critics: number of critics, 10 as in the REDQ paper
    :param layer_norm: layer normalization in the critics; with ``dropout`` and ``n_critics=2`` this is DroQ
    :param dropout: dropout probability in the critics, in [0, 1); also active in the target critics
    :param head_kwargs: arguments of ``head_class``
    :param optimizer_kwargs: as in SB3, but Adam and AdamW run fused by default, which is faster

    The other parameters are those of ``stable_baselines3.sac.policies.SACPolicy``.

    :raises ValueError: if one of these is outside its range
    """

    critic_class: ClassVar[type[EnsembleCritic]] = EnsembleCritic
    head_class: ClassVar[type[CriticHead]] = ScalarHead
    critic: EnsembleCritic
    critic_target: EnsembleCritic

    @checks_keywords(explain_policy_keywords)
    @positional_as_in(SACPolicy)
    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        *,
        n_critics: int = 10,
        layer_norm: bool = False,
        dropout: float = 0.0,
        head_kwargs: dict[str, Any] | None = None,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        check_integer("n_critics", n_critics, minimum=1)
        check_interval("dropout", dropout, 0.0, math.nextafter(1.0, 0.0), "a probability in [0, 1)")
        own = {"head_kwargs": head_kwargs, "optimizer_class": optimizer_class, "optimizer_kwargs": optimizer_kwargs}
        check_policy_arguments({"layer_norm": layer_norm, **own, **kwargs}, has_actor=True)
        check_policy_kwargs(type(self), {**own, **kwargs})
        check_policy_fits(observation_space, known_base(type(self)), kwargs)
        self.regularization: dict[str, Any] = {"layer_norm": layer_norm, "dropout": dropout}
        self.head_kwargs: dict[str, Any] = dict(head_kwargs or {})
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
        # SB3 omits `share_features_extractor`
        return {
            **super()._get_constructor_parameters(),
            **self.regularization,
            "head_kwargs": self.head_kwargs,
            "share_features_extractor": self.share_features_extractor,
        }

    def __deepcopy__(self, memo: dict[int, Any]) -> "REDQSACPolicy":
        """Copy the policy, with gSDE too, whose present noise is a result of autograd and refuses to be copied."""
        values = list(vars(self.actor.action_dist).values())
        values += [value for part in values for value in getattr(part, "__dict__", {}).values()]
        for value in values:
            if isinstance(value, th.Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
        duplicate = type(self).__new__(type(self))
        memo[id(self)] = duplicate
        vars(duplicate).update(copy.deepcopy(vars(self), memo))
        return duplicate

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Actor:
        actor_kwargs = self._update_features_extractor(self.actor_kwargs, features_extractor)
        return REDQSACActor(**actor_kwargs).to(self.device)

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> EnsembleCritic:
        critic_kwargs = self._update_features_extractor(self.critic_kwargs, features_extractor)
        if not critic_kwargs["net_arch"] and any(self.regularization.values()):
            raise ValueError(
                f"{self.regularization} have no effect on critics without hidden layers: net_arch is empty"
            )
        head = self.head_class(**self.head_kwargs)
        return self.critic_class(**critic_kwargs, **self.regularization, head=head).to(self.device)


def gaussian_parameters(actor: Actor, obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor]:
    """Return mean and log standard deviation before the tanh, shape (B, A) each, from an actor without gSDE."""
    mean, log_std, _ = actor.get_action_dist_params(obs)
    return mean, log_std


MlpPolicy = REDQSACPolicy


class CnnPolicy(REDQSACPolicy):
    """``REDQSACPolicy`` for images, with the features extractor ``NatureCNN`` by default."""

    @positional_as_in(SACPolicy)
    def __init__(
        self, *args: Any, features_extractor_class: type[BaseFeaturesExtractor] = NatureCNN, **kwargs: Any
    ) -> None:
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


class MultiInputPolicy(REDQSACPolicy):
    """``REDQSACPolicy`` for dictionary observations, with the features extractor ``CombinedExtractor`` by default."""

    @positional_as_in(SACPolicy)
    def __init__(
        self, *args: Any, features_extractor_class: type[BaseFeaturesExtractor] = CombinedExtractor, **kwargs: Any
    ) -> None:
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)
