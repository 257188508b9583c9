"""The policies of CEMQ: critics, and a search for the actions that they value most."""

from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn

from sb3_ext.checks import check_choice, check_integer
from sb3_ext.common.arguments.keywords import explain_policy_keywords
from sb3_ext.common.critic_policies import CnnCritic, CriticPolicy, MultiInputCritic
from sb3_ext.functional.ensemble import ActorQ, aggregate_q
from sb3_ext.functional.maximizers import Maximizer, maximize
from sb3_ext.keywords import checks_keywords
from sb3_ext.nets import EnsembleCritic


class CEMQPolicy(CriticPolicy):
    """
    A stacked ensemble of critics whose best actions are sought by values alone.

    ``maximizer``, the sizes of the search and ``actor_q`` are set by :class:`~sb3_ext.cem_q.cem_q.CEMQ`.

    :param n_critics: number of critics
    :param layer_norm: layer normalization of the hidden layers

    The other parameters are those of :class:`~sb3_ext.common.critic_policies.CriticPolicy`.
    """

    critic: EnsembleCritic
    critic_target: EnsembleCritic
    maximizer: Maximizer = "cem"
    n_samples: int = 64
    n_elites: int = 6
    n_iterations: int = 2
    actor_q: ActorQ = "mean"

    @checks_keywords(explain_policy_keywords)
    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        net_arch: list[int] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        *,
        n_critics: int = 2,
        layer_norm: bool = False,
        **kwargs: Any,
    ) -> None:
        check_integer("n_critics", n_critics, minimum=1)
        check_choice("layer_norm", layer_norm, (True, False))
        self.n_critics, self.layer_norm = n_critics, layer_norm
        super().__init__(observation_space, action_space, lr_schedule, net_arch, activation_fn, **kwargs)

    def make_critic(self, arguments: dict[str, Any]) -> EnsembleCritic:
        sizes: dict[str, Any] = {"n_critics": self.n_critics, "layer_norm": self.layer_norm}
        return EnsembleCritic(**arguments, **sizes, share_features_extractor=False)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "n_critics": self.n_critics, "layer_norm": self.layer_norm}

    def _predict(self, obs: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        """Return the best actions found. With ``deterministic`` the candidates have the same random numbers always."""
        generator = th.Generator(self.device).manual_seed(0) if deterministic else None
        n_states = len(next(iter(obs.values())) if isinstance(obs, dict) else obs)
        like = th.zeros(n_states, get_action_dim(self.action_space), device=self.device)

        def values(candidates: th.Tensor) -> th.Tensor:
            return aggregate_q(self.critic.stacked(obs, candidates), self.actor_q)

        with th.no_grad():
            sizes = self.n_samples, self.n_elites, self.n_iterations
            return maximize(self.maximizer, values, *sizes, like, generator).actions


MlpPolicy = CEMQPolicy


class CnnPolicy(CnnCritic, CEMQPolicy):
    """For images, with SB3's ``NatureCNN``."""


class MultiInputPolicy(MultiInputCritic, CEMQPolicy):
    """For dictionaries of observations, with SB3's ``CombinedExtractor``."""


POLICY_ALIASES: dict[str, type[BasePolicy]] = {
    "MlpPolicy": MlpPolicy,
    "CnnPolicy": CnnPolicy,
    "MultiInputPolicy": MultiInputPolicy,
}
