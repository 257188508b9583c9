"""Probes of algorithms with an actor and critics of state-action pairs."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, cast

import torch as th
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_ext.common.probe import PolicyStep, Probe, learned_discount
from sb3_ext.nets.output_layers import output_layers


class ActorCriticProbe(Probe):
    """
    The common part of the probes of algorithms with ``actor`` and ``critic``, random or deterministic.

    :param critics: critics of the algorithm, each with separate output layers
    """

    def __init__(self, model: OffPolicyAlgorithm, critics: Sequence[nn.Module]) -> None:
        # Each algorithm of SB3 declares its actor, critic and temperature itself, and no common class does
        self.model = cast(Any, model)
        discount, n_steps = learned_discount(model)
        super().__init__(
            network=self.model.critic,
            heads=[output_layers(critic) for critic in critics],
            optimizers={"critic": self.model.critic.optimizer, "actor": self.model.actor.optimizer},
            discount=discount,
            n_steps=n_steps,
        )

    @abstractmethod
    def _act(self, obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor | None]:
        """
        Hook: return actions in [-1, 1], shape (B, A), and log-probabilities, shape (B,).

        A deterministic policy has ``None`` instead of log-probabilities.
        """

    @abstractmethod
    def _temperature(self) -> float:
        """Hook: return alpha, the weight of the entropy in the critics' targets."""

    def step(self, obs: PyTorchObs) -> PolicyStep:
        actions, log_prob = self._act(obs)
        q_values = self.q_values(obs, actions)
        zeros = th.zeros_like(q_values[0])
        bonuses = zeros if log_prob is None else -self._temperature() * log_prob
        scaled = actions.cpu().numpy().reshape(-1, *self.model.action_space.shape)
        return PolicyStep(self.model.policy.unscale_action(scaled), q_values, bonuses, zeros)

    def q_values(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        return th.cat(self.model.critic(obs, actions), dim=1).T

    def entropy(self, obs: PyTorchObs) -> th.Tensor | None:
        _, log_prob = self._act(obs)
        return None if log_prob is None else -log_prob


class SACProbe(ActorCriticProbe):
    """The probe of SAC and its relatives: the actor draws actions at random, and the critics count its entropy."""

    def _act(self, obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor | None]:
        if self.model.use_sde:
            # Otherwise the noise would come from an old state of the policy
            self.model.actor.reset_noise()
        actions, log_prob = self.model.actor.action_log_prob(obs)
        return actions, log_prob.reshape(-1)

    def _temperature(self) -> float:
        if self.model.log_ent_coef is None:
            return float(self.model.ent_coef_tensor)
        return float(self.model.log_ent_coef.detach().exp())
