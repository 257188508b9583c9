"""The losses of critics and actor as modules, which ``LossGradients`` differentiates."""

from typing import Any

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_ext.buffers.samples import AnySamples, minibatch_weights, transition_rows
from sb3_ext.functional.ensemble import ActorQ, TargetBackup, aggregate_q
from sb3_ext.functional.policy_gradient import reparam_actor_loss
from sb3_ext.nets import EnsembleCritic
from sb3_ext.redq_sac.plan import JointGradient, TargetNetwork
from sb3_ext.redq_sac.policies import gaussian_parameters_by_batch, log_prob_of


class CriticLoss(nn.Module):
    """
    Targets and loss of the critics in one pass. ``torch.compile`` makes one function of both and the gradient, and
    batch normalization gets the rows of both.

    With Hopper's sizes two functions made 7 % fewer updates (``benchmarks/results/before_after_two_functions.csv``).
    """

    def __init__(self, critic: EnsembleCritic, critic_target: EnsembleCritic) -> None:
        super().__init__()
        self.critic, self.critic_target = critic, critic_target

    def forward(
        self,
        replay_data: AnySamples,
        next_actions: th.Tensor,
        entropy_bonus: th.Tensor,
        gamma: float,
        target_backup: TargetBackup,
        members: th.Tensor | None,
        mixture: th.Tensor | None,
        target_network: TargetNetwork,
        joint_gradient: JointGradient,
    ) -> tuple[th.Tensor, ...]:
        """
        Return the loss; for transitions drawn by priority the error of each, shape (B,); then the statistics of batch
        normalization. All but the loss are detached.

        :param next_actions: an action in each next state, shape (B, A)
        :param entropy_bonus: what the next value is raised by, shape (B,)
        :param members: indices of M target critics, all if ``None``
        :param mixture: weights of the critics for ``"rem"``, shape (N, B)
        """
        statistics: list[th.Tensor] = []
        if self.critic.uses_batch_statistics:
            rows = (replay_data.observations, replay_data.actions, replay_data.next_observations, next_actions)
            is_full = joint_gradient == "full"
            outputs, next_outputs = self.critic.joint_outputs(*rows, statistics, full_gradient=is_full)
            if target_network == "ema":
                with th.no_grad():
                    next_outputs = self.critic_target.joint_outputs(*rows, [], members)[1]
            elif members is not None:
                next_outputs = next_outputs.index_select(0, members)
        else:
            with th.no_grad():
                next_outputs = self.critic_target.outputs(replay_data.next_observations, next_actions, members)
            outputs = self.critic.outputs(replay_data.observations, replay_data.actions)
        with th.no_grad():
            next_returns = self.critic_target.head.backup(next_outputs, target_backup, self.critic.n_critics, mixture)
            rewards, dones, discounts = transition_rows(replay_data, gamma)
            targets = self.critic_target.head.td_targets(rewards, dones, discounts, next_returns, entropy_bonus)
        head, weights = self.critic.head, minibatch_weights(replay_data)
        errors = () if weights is None else (head.td_errors(outputs, targets),)
        return head.loss(outputs, targets, weights), *errors, *statistics


class ActorLoss(nn.Module):
    """The loss of an actor without gSDE, by the gradient through the sampled action."""

    def __init__(self, actor: Any, critic: EnsembleCritic) -> None:
        super().__init__()
        self.actor = actor
        # Not as a submodule: only the actor is differentiated, and a shared features extractor would be in both
        self._critic = (critic,)

    def forward(self, obs: PyTorchObs, noise: th.Tensor, ent_coef: th.Tensor, actor_q: ActorQ) -> tuple[th.Tensor, ...]:
        """
        Return the loss, the log-probabilities, shape (K, B), and the statistics of the actor's batch normalization.

        :param noise: standard normal, shape (K, B, A)
        """
        mean, log_std, *statistics = gaussian_parameters_by_batch(self.actor, obs)
        pre_tanh = mean + log_std.exp() * noise
        log_prob = log_prob_of(self.actor, mean, log_std, pre_tanh)
        q_values = aggregate_q(self._critic[0].stacked(obs, th.tanh(pre_tanh), frozen=True), actor_q)
        return reparam_actor_loss(log_prob, q_values, ent_coef), log_prob, *statistics
