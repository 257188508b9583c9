"""The probe of ``IQN``."""

from typing import TYPE_CHECKING

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_ext.common.value_probe import ValueProbe
from sb3_ext.functional.quantile import quantile_midpoints
from sb3_ext.iqn.policies import number_of_states

if TYPE_CHECKING:
    from sb3_ext.iqn.iqn import IQN


class IQNProbe(ValueProbe):
    """The probe of IQN: the policy is greedy by the risk measure, but an action's value is its mean return."""

    def __init__(self, model: "IQN") -> None:
        super().__init__(model, model.q_net)
        self.q_net = model.q_net

    def action_values(self, obs: PyTorchObs) -> th.Tensor:
        taus = quantile_midpoints(self.q_net.n_action_quantile_samples, self.q_net.device)
        return self.q_net.quantiles(obs, taus.expand(number_of_states(obs), -1)).mean(dim=1)

    def best_actions(self, obs: PyTorchObs, values: th.Tensor) -> th.Tensor:
        if self.q_net.risk_measure == "neutral":
            return super().best_actions(obs, values)
        return self.q_net.action_values(obs, deterministic=True).argmax(dim=1)
