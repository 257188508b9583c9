"""The probe of Q-learning with continuous actions and no actor."""

from typing import TYPE_CHECKING, cast

import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_ext.common.probe import PolicyStep, Probe, learned_discount

if TYPE_CHECKING:
    from sb3_ext.common.continuous_q import ContinuousQLearning


class ContinuousQProbe(Probe):
    """
    The probe of an algorithm whose policy is the best action that it finds by its critics.

    :param model: the algorithm, as it is now
    """

    def __init__(self, model: "ContinuousQLearning") -> None:
        discount, n_steps = learned_discount(model)
        super().__init__(
            network=model.critic,
            heads=model.output_layers(),
            optimizers={"critic": model.policy.optimizer},
            discount=discount,
            n_steps=n_steps,
        )
        self.model = model

    def step(self, obs: PyTorchObs) -> PolicyStep:
        policy = self.model.policy
        actions = policy._predict(obs, deterministic=True)
        q_values = self.q_values(obs, actions)
        zeros = th.zeros_like(q_values[0])
        shape = cast(spaces.Box, self.model.action_space).shape
        scaled = actions.cpu().numpy().reshape(-1, *shape)
        return PolicyStep(policy.unscale_action(scaled), q_values, zeros, zeros)

    def q_values(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        return self.model.critic_values(obs, actions)

    def entropy(self, obs: PyTorchObs) -> th.Tensor | None:
        return None
