"""The probe of ``SoftDQN``."""

from typing import TYPE_CHECKING

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_ext.common.probe import PolicyStep
from sb3_ext.common.value_probe import ValueProbe, sampled_step
from sb3_ext.functional.action_masks import count_allowed
from sb3_ext.functional.soft_value import Munchausen, boltzmann_log_policy, policy_entropy

if TYPE_CHECKING:
    from sb3_ext.soft_dqn.soft_dqn import SoftDQN


class SoftDQNProbe(ValueProbe):
    """
    The probe of a Boltzmann policy, with the entropy that ``target_backup`` counts and the Munchausen bonus.

    With ``target_backup="max"`` the policy is greedy.
    """

    def __init__(self, model: "SoftDQN") -> None:
        super().__init__(model, model.q_net)
        self.model = model

    def step(self, obs: PyTorchObs) -> PolicyStep:
        if self.model.target_backup == "max":
            return super().step(obs)
        values = self.action_values(obs)
        temperature = self.model.q_net.temperature
        log_policy = boltzmann_log_policy(values, temperature)
        munchausen = None
        if self.model.munchausen_coef > 0:
            coef, clip = self.model.munchausen_coef, self.model.effective_munchausen_clip
            munchausen = Munchausen(temperature.item(), coef, clip)
        return sampled_step(values, log_policy, self._entropy_bonuses(log_policy, temperature), munchausen)

    def _entropy_bonuses(self, log_policy: th.Tensor, temperature: th.Tensor) -> th.Tensor:
        """Return what the backup adds to the expected Q of the policy, shape (B,)."""
        if self.model.target_backup == "boltzmann":
            return th.zeros_like(log_policy[:, 0])
        entropy = policy_entropy(log_policy)
        if self.model.target_backup == "mellowmax":
            entropy = entropy - count_allowed(log_policy).log().squeeze(1)
        return temperature * entropy

    def entropy(self, obs: PyTorchObs) -> th.Tensor | None:
        if self.model.target_backup == "max":
            return None
        return policy_entropy(boltzmann_log_policy(self.action_values(obs), self.model.q_net.temperature))
