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
    """The loss of the critics, from targets."""

    def __init__(self, critic: EnsembleCritic) -> None:
        super().__init__()
        self.critic = critic

    def forward(self, replay_data: AnySamples, targets: th.Tensor) -> tuple[th.Tensor, ...]:
        """
        Return the loss, the means of values and target values over critics and transitions, where the head has a bound
        the share of the targets there, and, for transitions drawn by priority, the error of each, shape (B,). Only the
        loss is differentiable.

        :param targets: targets of each critic, see :meth:`~sb3_ext.nets.heads.CriticHead.td_targets`
        """
        outputs = self.critic.outputs(replay_data.observations, replay_data.actions)
        return self.losses(outputs, targets, replay_data)

    def losses(self, outputs: th.Tensor, targets: th.Tensor, replay_data: AnySamples) -> tuple[th.Tensor, ...]:
        """Return what :meth:`forward` does, from the critics' outputs."""
        head, weights = self.critic.head, minibatch_weights(replay_data)
        loss, outputs = head.loss(outputs, targets, weights), outputs.detach()
        results = [loss, head.values(outputs).mean(), head.target_values(targets).mean()]
        if head.bound is not None:
            results.append(head.mass_at_bound(targets))
        if weights is not None:
            results.append(head.td_errors(outputs, targets))
        return tuple(results)


class CriticLossWithTargets(CriticLoss):
    """
    Targets and loss in one forward pass. ``torch.compile`` makes one function of both and the gradient, and batch
    normalization gets the rows of both.

    With Hopper's sizes two functions made 7 % fewer updates (``benchmarks/results/before_after_two_functions.csv``).
    """

    def __init__(self, critic: EnsembleCritic, critic_target: EnsembleCritic) -> None:
        super().__init__(critic)
        self.critic_target = critic_target

    def forward(  # type: ignore[override]
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
        Do what :meth:`~sb3_ext.redq_sac.update.REDQUpdate.run` does from the target critics to the loss.

        :return: what :class:`CriticLoss` returns, then the statistics of batch normalization
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
            outputs = self.critic.outputs(replay_data.observations, replay_data.actions)
            with th.no_grad():
                next_outputs = self.critic_target.outputs(replay_data.next_observations, next_actions, members)
        with th.no_grad():
            head = self.critic_target.head
            next_returns = head.backup(next_outputs, target_backup, self.critic.n_critics, mixture)
            rewards, dones, discounts = transition_rows(replay_data, gamma)
            targets = head.td_targets(rewards, dones, discounts, next_returns, entropy_bonus)
        return *self.losses(outputs, targets, replay_data), *statistics


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
