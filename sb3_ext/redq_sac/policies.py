"""SAC's policies with a stacked ensemble of critics."""

import copy
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, ClassVar, Literal

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.sac.policies import Actor, SACPolicy
from torch import nn

from sb3_ext.checks import check_choice, check_integer, check_interval
from sb3_ext.common.arguments.compatibility import check_policy_fits
from sb3_ext.common.arguments.keywords import check_policy_kwargs, explain_policy_keywords
from sb3_ext.common.arguments.policies import OF_SAC, check_policy_arguments
from sb3_ext.common.arguments.positional import positional_as_in
from sb3_ext.common.saved.complete import CompletelySaved
from sb3_ext.functional.policy_gradient import sample_pre_tanh, squashed_gaussian_log_prob
from sb3_ext.keywords import checks_keywords, known_base
from sb3_ext.nets import CriticHead, EnsembleCritic, OutputLinear, ScalarHead
from sb3_ext.nets.body import LatentNetwork, NormalizedBody, project_weights, projected_layers, start_orthogonal
from sb3_ext.nets.builder import Normalization
from sb3_ext.nets.heads import HEADS
from sb3_ext.nets.modes import named_tensors, select_statistics
from sb3_ext.nets.normalization import batch_norm_layers, move_running_statistics
from sb3_ext.nets.walk import set_mode
from sb3_ext.speed.optimizers import with_fused_adam

# FlashSAC's bounds of the log standard deviation of a normalized actor
_LOG_STD_MIN, _LOG_STD_MAX = -10.0, 2.0


class REDQSACActor(Actor):
    """
    SB3's ``Actor``, whose last layers keep their precision under ``th.autocast``, and which ``torch.export`` accepts.

    The parameters are those of ``stable_baselines3.sac.policies.Actor``.
    """

    #: Whether log-probabilities go without SB3's 1e-6, see :func:`squashed_gaussian_log_prob`
    exact_log_prob: ClassVar[bool] = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in ("mu", "log_std"):  # gSDE has other modules here, which always run in float32
            layer = getattr(self, name)
            if isinstance(layer, nn.Linear):
                setattr(self, name, OutputLinear.from_linear(layer))

    def set_training_mode(self, mode: bool) -> None:
        set_mode(self, mode)

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        if th.compiler.is_exporting() and (deterministic or not self.use_sde):
            # The same actions without torch's distributions: the check of their parameters depends on the data, which
            # an exported graph cannot
            mean, log_std, _ = self.get_action_dist_params(obs)
            return th.tanh(mean if deterministic else mean + log_std.exp() * th.randn_like(mean))
        return super().forward(obs, deterministic)


class NormalizedActor(REDQSACActor):
    """
    An actor with a normalized network, without gSDE.

    Its log standard deviation is ``-4 + 6 tanh(x)``, so between -10 and 2 with a gradient everywhere. Log-probabilities
    are exact, without SB3's 1e-6: unit-norm weights make means of up to sqrt(width), where the tanh is saturated.

    :param body: the shape of the network
    :raises ValueError: if ``use_sde`` is true

    The other parameters are those of ``stable_baselines3.sac.policies.Actor``.
    """

    exact_log_prob = True

    def __init__(self, *args: Any, body: NormalizedBody, use_sde: bool = False, **kwargs: Any) -> None:
        if use_sde:
            raise ValueError("use_sde=True is not defined for a normalized actor: only use_sde=False is allowed")
        super().__init__(*args, **kwargs)
        network = body.build(1, self.features_dim, self.net_arch, self.activation_fn, None)
        self.latent_pi: LatentNetwork = LatentNetwork(network)  # type: ignore[assignment]
        self.weight_projection = body.weight_projection
        self.find_batch_norm_layers()
        for name in ("mu", "log_std"):
            layer = nn.Linear(body.n_features(self.net_arch, self.features_dim), get_action_dim(self.action_space))
            output = OutputLinear.from_linear(layer)
            if self.weight_projection:
                start_orthogonal(output)
            setattr(self, name, output)

    def find_batch_norm_layers(self) -> None:
        """See :meth:`~sb3_ext.nets.critic.EnsembleCritic.find_batch_norm_layers`."""
        self.batch_norm_layers = batch_norm_layers(self.latent_pi)

    def get_action_dist_params(self, obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor, dict[str, th.Tensor]]:
        mean, log_std = self._from_latent(self.latent_pi(self.extract_features(obs, self.features_extractor)))
        return mean, log_std, {}

    def action_log_prob(self, obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor]:
        mean, log_std, _ = self.get_action_dist_params(obs)
        pre_tanh = sample_pre_tanh(mean, log_std, n_samples=1)
        return th.tanh(pre_tanh[0]), log_prob_of(self, mean, log_std, pre_tanh)[0]

    def gaussian_parameters_by_batch(self, obs: PyTorchObs) -> tuple[th.Tensor, ...]:
        """See :func:`gaussian_parameters_by_batch`."""
        statistics: list[th.Tensor] = []
        features = self.extract_features(obs, self.features_extractor)
        return *self._from_latent(self.latent_pi.by_batch(features, statistics)), *statistics

    def _from_latent(self, latent: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        middle, half = (_LOG_STD_MIN + _LOG_STD_MAX) / 2, (_LOG_STD_MAX - _LOG_STD_MIN) / 2
        return self.mu(latent), middle + half * th.tanh(self.log_std(latent))  # type: ignore[operator]


class REDQSACPolicy(CompletelySaved, SACPolicy):
    """
    SAC's policy with a stacked ensemble of critics.

    A subclass sets ``critic_class`` for other critics, or ``head_class`` for another loss.

    :param n_critics: number of critics, 10 as in the REDQ paper
    :param layer_norm: layer normalization in the critics; with ``dropout`` and ``n_critics=2`` this is DroQ
    :param dropout: dropout probability in the critics, in [0, 1); also active in the target critics
    :param head: ``"scalar"``: each critic returns a value and learns by squared errors. ``"categorical"``: it returns a
        distribution over fixed bins and learns by cross-entropy, see :class:`~sb3_ext.nets.heads.CategoricalHead`.
        ``None``: ``head_class``
    :param head_kwargs: arguments of the head
    :param actor_average: if given, ``averaged_actor`` follows the actor by this share, in (0, 1], after each of the
        actor's updates, and ``predict(deterministic=True)`` uses it. Actors that learn fast change from one evaluation
        to the next, and their average (Polyak & Juditsky 1992, https://doi.org/10.1137/0330046) less so
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
        head: Literal["scalar", "categorical"] | None = None,
        head_kwargs: dict[str, Any] | None = None,
        actor_average: float | None = None,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        check_integer("n_critics", n_critics, minimum=1)
        check_interval("dropout", dropout, 0.0, math.nextafter(1.0, 0.0), "a probability in [0, 1)")
        check_choice("head", head, (None, *HEADS))
        if actor_average is not None:
            check_interval("actor_average", actor_average, math.nextafter(0.0, 1.0), 1.0, "None or in (0, 1]")
        own = {"head_kwargs": head_kwargs, "optimizer_class": optimizer_class, "optimizer_kwargs": optimizer_kwargs}
        check_policy_arguments({"layer_norm": layer_norm, **own, **kwargs}, OF_SAC)
        check_policy_kwargs(type(self), {"head": head, **own, **kwargs})
        check_policy_fits(observation_space, known_base(type(self)), kwargs)
        self.regularization: dict[str, Any] = {"layer_norm": layer_norm, "dropout": dropout}
        self.actor_average = actor_average
        self.head = head
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
            "head": self.head,
            "head_kwargs": self.head_kwargs,
            "actor_average": self.actor_average,
            "share_features_extractor": self.share_features_extractor,
        }

    def __deepcopy__(self, memo: dict[int, Any]) -> "REDQSACPolicy":
        """Copy the policy, with gSDE too, whose present noise is a result of autograd and refuses to be copied."""
        actors = [self.actor, *([] if self.actor_average is None else [self.averaged_actor])]
        values = [value for actor in actors for value in vars(actor.action_dist).values()]
        values += [value for part in values for value in getattr(part, "__dict__", {}).values()]
        for value in values:
            if isinstance(value, th.Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
        duplicate = type(self).__new__(type(self))
        memo[id(self)] = duplicate
        vars(duplicate).update(copy.deepcopy(vars(self), memo))
        return duplicate

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        if self.actor_average is not None:
            with th.random.fork_rng(devices=[]):  # these weights are replaced, and training goes on as without them
                self.averaged_actor = self.make_actor()
            self.averaged_actor.load_state_dict(self.actor.state_dict())
            self.averaged_actor.requires_grad_(False)
            self.averaged_actor.set_training_mode(False)

    def move_averaged_actor(self, share: float | None = None) -> None:
        """
        Let ``averaged_actor``, if there is one, follow the actor after an update of it.

        :param share: how far, in (0, 1]; ``None``: by ``actor_average``
        """
        if self.actor_average is None:
            return
        share = self.actor_average if share is None else share
        averaged, present = (
            [*parameters.values(), *select_statistics(buffers)]
            for parameters, buffers in map(named_tensors, (self.averaged_actor, self.actor))
        )
        with th.no_grad():
            th._foreach_lerp_(averaged, present, share)
            if getattr(self.actor, "weight_projection", False):
                project_weights(projected_layers(self.averaged_actor, with_frozen=True))

    def after_cloning_step(self, statistics: Sequence[th.Tensor]) -> None:
        """
        Do what must follow a step of the actor's optimizer in supervised learning.

        ``averaged_actor`` becomes the actor.

        :param statistics: of the actor's batch normalization
        """
        if getattr(self.actor, "weight_projection", False):
            project_weights(projected_layers(self.actor))
        move_running_statistics(getattr(self.actor, "batch_norm_layers", []), statistics)
        self.move_averaged_actor(share=1.0)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        averages = deterministic and self.actor_average is not None
        return (self.averaged_actor if averages else self.actor)(observation, deterministic)

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Actor:
        actor_kwargs = self._update_features_extractor(self.actor_kwargs, features_extractor)
        return REDQSACActor(**actor_kwargs).to(self.device)

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> EnsembleCritic:
        critic_kwargs = self._update_features_extractor(self.critic_kwargs, features_extractor)
        if not critic_kwargs["net_arch"] and any(self.regularization.values()):
            raise ValueError(
                f"{self.regularization} have no effect on critics without hidden layers: net_arch is empty"
            )
        return self.critic_class(**critic_kwargs, **self.regularization, head=self.make_head()).to(self.device)

    def make_head(self) -> CriticHead:
        """Return a new head."""
        head_class = self.head_class if self.head is None else HEADS[self.head]
        return head_class(**self.head_kwargs)


def gaussian_parameters(actor: Actor, obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor]:
    """Return mean and log standard deviation before the tanh, shape (B, A) each, from an actor without gSDE."""
    mean, log_std, _ = actor.get_action_dist_params(obs)
    return mean, log_std


def log_prob_of(actor: Actor, mean: th.Tensor, log_std: th.Tensor, pre_tanh: th.Tensor) -> th.Tensor:
    """Return log-probabilities as the actor defines them, see :func:`squashed_gaussian_log_prob`."""
    return squashed_gaussian_log_prob(mean, log_std, pre_tanh, exact=getattr(actor, "exact_log_prob", False))


def gaussian_parameters_by_batch(actor: Actor, obs: PyTorchObs) -> tuple[th.Tensor, ...]:
    """
    Return what :func:`gaussian_parameters` does, then the statistics of the actor's batch normalization, detached.

    Batch normalization uses the statistics of the B states, and the running ones stay as they are.
    """
    if isinstance(actor, NormalizedActor):
        return actor.gaussian_parameters_by_batch(obs)
    return gaussian_parameters(actor, obs)


MlpPolicy = REDQSACPolicy


class CnnPolicy(REDQSACPolicy):
    """``REDQSACPolicy`` for images, with the features extractor ``NatureCNN`` by default."""

    @positional_as_in(SACPolicy)
    def __init__(
        self, *args: Any, features_extractor_class: type[BaseFeaturesExtractor] = NatureCNN, **kwargs: Any
    ) -> None:
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


_BLOCK_SHAPE = dict(width=128, expansion=4, actor_width=128, actor_expansion=2)


class NormalizedMlpPolicy(REDQSACPolicy):
    """
    A policy whose critics and actor are normalized networks, for few updates per environment step.

    By default they are FlashSAC's (https://arxiv.org/abs/2604.04539) at half of its width, and two critics form the
    ensemble. Each part can be changed alone. So critics close to CrossQ's are ``n_blocks=0,
    net_arch=dict(pi=[256, 256], qf=[2048, 2048]), normalization="batch_renorm", head="scalar",
    weight_projection=False``.

    :param n_critics: number of critics
    :param normalization: of the hidden layers: ``"batch"``, ``"batch_renorm"``, ``"layer"``, ``"rms"`` or ``None``
    :param weight_projection: whether weights start orthogonal with norm 1, and return to it after each update
    :param n_blocks: residual blocks of each network; 0: the hidden layers of ``net_arch`` instead
    :param width: units between the blocks of a critic
    :param expansion: units within a block of a critic, in multiples of ``width``
    :param actor_width: ``width`` of the actor
    :param actor_expansion: ``expansion`` of the actor
    :param head: see :class:`REDQSACPolicy`

    The other parameters are those of :class:`REDQSACPolicy`, without ``layer_norm``, ``dropout`` and gSDE.

    :raises ValueError: naming the argument, its value and what is allowed
    """

    @checks_keywords(explain_policy_keywords)
    @positional_as_in(SACPolicy)
    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        *,
        n_critics: int = 2,
        normalization: Normalization | None = "batch",
        weight_projection: bool = True,
        n_blocks: int = 2,
        width: int = _BLOCK_SHAPE["width"],
        expansion: int = _BLOCK_SHAPE["expansion"],
        actor_width: int = _BLOCK_SHAPE["actor_width"],
        actor_expansion: int = _BLOCK_SHAPE["actor_expansion"],
        head: Literal["scalar", "categorical"] | None = "categorical",
        **kwargs: Any,
    ) -> None:
        for name in ("layer_norm", "dropout", "use_sde"):
            if kwargs.get(name):
                raise ValueError(f"{name}={kwargs[name]!r} is not defined for {type(self).__name__}: leave it out")
        if net_arch is not None and n_blocks != 0:
            raise ValueError(f"net_arch={net_arch!r} has no effect with n_blocks={n_blocks!r}: it needs n_blocks=0")
        shape = dict(width=width, expansion=expansion, actor_width=actor_width, actor_expansion=actor_expansion)
        for name, value in shape.items() if n_blocks == 0 else ():
            if value != _BLOCK_SHAPE[name]:
                raise ValueError(f"{name}={value!r} has no effect with n_blocks=0: give net_arch instead")
        check_integer("actor_width", actor_width, minimum=1)
        check_integer("actor_expansion", actor_expansion, minimum=1)
        self.critic_body = NormalizedBody(normalization, weight_projection, n_blocks, width, expansion)
        self.actor_body = replace(self.critic_body, width=actor_width, expansion=actor_expansion)
        super().__init__(
            observation_space, action_space, lr_schedule, net_arch=net_arch, n_critics=n_critics, head=head, **kwargs
        )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        parameters = super()._get_constructor_parameters()
        for name in self.regularization:
            del parameters[name]
        own = {**asdict(self.critic_body), "actor_width": self.actor_body.width}
        own["actor_expansion"] = self.actor_body.expansion
        return {**parameters, **own, "net_arch": self.net_arch if self.critic_body.n_blocks == 0 else None}

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Actor:
        actor_kwargs = self._update_features_extractor(self.actor_kwargs, features_extractor)
        return NormalizedActor(**actor_kwargs, body=self.actor_body).to(self.device)

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> EnsembleCritic:
        critic_kwargs = self._update_features_extractor(self.critic_kwargs, features_extractor)
        return self.critic_class(**critic_kwargs, head=self.make_head(), body=self.critic_body).to(self.device)


class MultiInputPolicy(REDQSACPolicy):
    """``REDQSACPolicy`` for dictionary observations, with the features extractor ``CombinedExtractor`` by default."""

    @positional_as_in(SACPolicy)
    def __init__(
        self, *args: Any, features_extractor_class: type[BaseFeaturesExtractor] = CombinedExtractor, **kwargs: Any
    ) -> None:
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


class NormalizedMultiInputPolicy(MultiInputPolicy, NormalizedMlpPolicy):
    """``NormalizedMlpPolicy`` for dictionary observations, with the extractor ``CombinedExtractor`` by default."""


#: By the names that ``REDQSAC`` takes
POLICY_ALIASES: dict[str, type[BasePolicy]] = {
    "MlpPolicy": MlpPolicy,
    "CnnPolicy": CnnPolicy,
    "MultiInputPolicy": MultiInputPolicy,
    "NormalizedMlpPolicy": NormalizedMlpPolicy,
    "NormalizedMultiInputPolicy": NormalizedMultiInputPolicy,
}
