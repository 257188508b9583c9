"""The critics' loss as a module: its forward pass is the loss, its parameters are those of all that it evaluates."""

import torch as th
from torch import nn

from sb3_ext.buffers.samples import AnySamples, minibatch_weights
from sb3_ext.functional.bellman import ensemble_critic_loss, ensemble_td_errors, soft_td_target
from sb3_ext.functional.ensemble import ensemble_backup
from sb3_ext.redq_sac.policies import EnsembleCritic


class CriticLoss(nn.Module):
    """
    How far N critics are from their targets. It draws no random number but for dropout.

    :param critic: learns
    :param critic_target: values the next states
    """

    def __init__(self, critic: EnsembleCritic, critic_target: EnsembleCritic) -> None:
        super().__init__()
        self.critic = critic
        self.critic_target = critic_target

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """
        :return: by their names in this module, those that the critics' optimiser moves (not those of a features
            extractor that the actor shares)
        """
        in_optimizer = {id(parameter) for group in self.critic.optimizer.param_groups for parameter in group["params"]}
        named = self.critic.named_parameters(prefix="critic")
        return {name: parameter for name, parameter in named if id(parameter) in in_optimizer}

    def forward(
        self,
        minibatch: AnySamples,
        next_actions: th.Tensor,
        entropy_bonus: th.Tensor,
        discounts: th.Tensor | float,
        target_backup: str,
        members: th.Tensor | None = None,
        mixture: th.Tensor | None = None,
    ) -> tuple[th.Tensor, ...]:
        """
        :param minibatch: B transitions
        :param next_actions: one action of the current policy in each next state, shape (B, A)
        :param entropy_bonus: what the targets add to the next value, shape (B,)
        :param discounts: of each transition, shape (B,), or of all
        :param target_backup: what the target critics' values become in the targets, see :func:`ensemble_backup`
        :param members: indices of the target critics that are asked, all if ``None``
        :param mixture: for ``"rem"``, see :func:`ensemble_backup`
        :return: the loss, and for transitions that were drawn by priority the error of each, shape (B,), detached
        """
        with th.no_grad():
            next_q = self.critic_target.stacked(minibatch.next_observations, next_actions, members)
            next_values = ensemble_backup(target_backup, next_q, self.critic.n_critics, mixture)
            targets = soft_td_target(
                minibatch.rewards.flatten(), minibatch.dones.flatten(), discounts, next_values, entropy_bonus
            )
        q_values = self.critic.stacked(minibatch.observations, minibatch.actions)
        weights = minibatch_weights(minibatch)
        loss = ensemble_critic_loss(q_values, targets, weights)
        return (loss,) if weights is None else (loss, ensemble_td_errors(q_values, targets))
