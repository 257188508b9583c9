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
    What algorithms with ``actor`` and ``critic`` have in common, whether or not their actors draw actions at random.

    :param model: the algorithm
    :param critics: its critics, each of which ends in output layers of its own
    """

    def __init__(self, model: OffPolicyAlgorithm, critics: Sequence[nn.Module]) -> None:
        # SB3 declares actor, critic and temperature in each algorithm, not in a class that they share
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
        :return: actions between -1 and 1, shape (B, A), and their log-probabilities, shape (B,), if they are random
        """

    @abstractmethod
    def _temperature(self) -> float:
        """
        :return: alpha, by which the critics count the entropy
        """

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
    """
    SAC and its relatives: the actor draws actions at random, and the critics count its entropy.

    :param model: an algorithm with the temperature, the actor and the critics of SB3's ``SAC``
    :param critics: its critics, each of which ends in output layers of its own
    """

    def _act(self, obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor | None]:
        if self.model.use_sde:
            # Otherwise the noise would belong to an old state of the policy
            self.model.actor.reset_noise()
        actions, log_prob = self.model.actor.action_log_prob(obs)
        return actions, log_prob.reshape(-1)

    def _temperature(self) -> float:
        if self.model.log_ent_coef is None:
            return float(self.model.ent_coef_tensor)
        return float(self.model.log_ent_coef.detach().exp())
