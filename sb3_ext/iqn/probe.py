"""The probe of ``IQN``."""

from typing import TYPE_CHECKING

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_ext.common.probe import PolicyStep
from sb3_ext.common.value_probe import ValueProbe, sampled_step
from sb3_ext.functional.quantile import quantile_midpoints
from sb3_ext.functional.soft_value import boltzmann_log_policy, policy_entropy
from sb3_ext.iqn.policies import number_of_states

if TYPE_CHECKING:
    from sb3_ext.iqn.iqn import IQN


class IQNProbe(ValueProbe):
    """
    The probe of IQN: the policy is greedy by the risk measure, but an action's value is its mean return.

    Munchausen-IQN learns the values of a Boltzmann policy, with its entropy and a bonus on the rewards.
    """

    def __init__(self, model: "IQN") -> None:
        super().__init__(model, model.q_net)
        self.q_net = model.q_net
        self.munchausen = model.munchausen

    def step(self, obs: PyTorchObs) -> PolicyStep:
        if self.munchausen is None:
            return super().step(obs)
        values, temperature = self.action_values(obs), self.munchausen.temperature
        log_policy = boltzmann_log_policy(values, temperature)
        return sampled_step(values, log_policy, temperature * policy_entropy(log_policy), self.munchausen)

    def entropy(self, obs: PyTorchObs) -> th.Tensor | None:
        if self.munchausen is None:
            return super().entropy(obs)
        return policy_entropy(boltzmann_log_policy(self.action_values(obs), self.munchausen.temperature))

    def action_values(self, obs: PyTorchObs) -> th.Tensor:
        taus = quantile_midpoints(self.q_net.n_action_quantile_samples, self.q_net.device)
        return self.q_net.quantiles(obs, taus.expand(number_of_states(obs), -1)).mean(dim=1)

    def best_actions(self, obs: PyTorchObs, values: th.Tensor) -> th.Tensor:
        if self.q_net.risk_measure == "neutral":
            return super().best_actions(obs, values)
        return self.q_net.action_values(obs, deterministic=True).argmax(dim=1)
