"""The probe of value-based algorithms with a greedy policy."""

import torch as th
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_ext.common.probe import PolicyStep, Probe, learned_discount
from sb3_ext.functional.soft_value import Munchausen, munchausen_bonus
from sb3_ext.nets.output_layers import output_layers


class ValueProbe(Probe):
    """
    The probe of DQN and its relatives: a network values all actions, and the policy takes the best one.

    :param network: a network from observations of B states to the value of each action, shape (B, A)
    """

    def __init__(self, model: OffPolicyAlgorithm, network: nn.Module) -> None:
        discount, n_steps = learned_discount(model)
        super().__init__(
            network=network,
            heads=[output_layers(network)],
            optimizers={"critic": model.policy.optimizer},
            discount=discount,
            n_steps=n_steps,
        )

    def action_values(self, obs: PyTorchObs) -> th.Tensor:
        """Hook: return the mean return of each action, shape (B, A)."""
        return self.network(obs)

    def best_actions(self, obs: PyTorchObs, values: th.Tensor) -> th.Tensor:
        """
        Hook: return the actions of the greedy policy, shape (B,).

        :param values: from :meth:`action_values`, shape (B, A)
        """
        return values.argmax(dim=1)

    def step(self, obs: PyTorchObs) -> PolicyStep:
        values = self.action_values(obs)
        actions = self.best_actions(obs, values)
        zeros = th.zeros_like(values[:, 0])
        return PolicyStep(actions.cpu().numpy(), values.gather(1, actions.unsqueeze(1)).T, zeros, zeros)

    def q_values(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        return self.action_values(obs).gather(1, actions.long().reshape(-1, 1)).T

    def entropy(self, obs: PyTorchObs) -> th.Tensor | None:
        return None


def sampled_step(
    values: th.Tensor, log_policy: th.Tensor, entropy_bonuses: th.Tensor, munchausen: Munchausen | None
) -> PolicyStep:
    """
    Sample an action of a policy in each of B states, for probes of critics that value such a policy.

    :param values: shape (B, A)
    :param log_policy: shape (B, A)
    :param entropy_bonuses: what the critic's targets add to the value of the policy, shape (B,)
    """
    actions = th.distributions.Categorical(logits=log_policy).sample().unsqueeze(1)
    reward_bonuses = th.zeros_like(entropy_bonuses)
    if munchausen is not None:
        reward_bonuses = munchausen_bonus(values, actions, *munchausen)
    return PolicyStep(actions.squeeze(1).cpu().numpy(), values.gather(1, actions).T, entropy_bonuses, reward_bonuses)
