"""
The update of REDQ-SAC, in the order of algorithm 1 of the paper (https://arxiv.org/abs/2101.05982).

:meth:`REDQUpdate.run` reads from top to bottom: next actions, targets, critics, actor, temperature, target critics.
"""

from collections import defaultdict

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_ext.buffers.samples import (
    AnySamples,
    WindowSamples,
    first_steps,
    flat_observations,
    minibatch_rows,
    split_minibatches,
    transition_rows,
)
from sb3_ext.common.divergence import DivergenceCheck
from sb3_ext.functional.ensemble import random_mixture_weights, random_subset
from sb3_ext.functional.fields import map_fields
from sb3_ext.functional.policy_gradient import sample_pre_tanh
from sb3_ext.nets.body import projected_layers
from sb3_ext.nets.normalization import copy_counts, move_running_statistics
from sb3_ext.redq_sac.losses import ActorLoss, CriticLoss, CriticLossWithTargets
from sb3_ext.redq_sac.parameters import trained_parameters
from sb3_ext.redq_sac.plan import BlockResult, Plan, Temperature, UpdateSettings
from sb3_ext.redq_sac.policies import REDQSACPolicy, gaussian_parameters, log_prob_of
from sb3_ext.redq_sac.policy_update import PolicyUpdate
from sb3_ext.redq_sac.window_targets import WindowTargets
from sb3_ext.speed.compilation import LossGradients
from sb3_ext.speed.evaluation import NetworkEvaluator


class REDQUpdate(PolicyUpdate):
    """
    The update of critics, target critics, actor and temperature.

    :param policy: holds the networks, and all optimizers except the temperature's
    :param evaluator: evaluates networks, compiled or in lower precision
    :param divergence: checks each loss before an optimizer makes its step
    """

    def __init__(
        self,
        policy: REDQSACPolicy,
        evaluator: NetworkEvaluator,
        settings: UpdateSettings,
        temperature: Temperature,
        divergence: DivergenceCheck,
    ) -> None:
        self.evaluator = evaluator
        self.divergence = divergence
        self._grad_norms: dict[str, list[th.Tensor]] = defaultdict(list)
        self.configure(settings, temperature, policy)

    def configure(self, settings: UpdateSettings, temperature: Temperature, policy: REDQSACPolicy) -> None:
        """
        Change the settings and look up networks and parameters anew, since a user may change them at any time.

        :raises ValueError: if the target critics have other shapes than the critics
        """
        self.settings = settings
        self.temperature = temperature
        self.evaluator.configure(settings.compile, settings.autocast_dtype)
        self.policy, self.actor = policy, policy.actor
        networks = policy.actor, policy.critic, policy.critic_target
        if networks != getattr(self, "_networks", None):
            self._networks = networks
            _, self.critic, self.critic_target = networks
            self._loss_gradients = LossGradients(CriticLoss(self.critic))
            self._loss_gradients_with_targets = LossGradients(CriticLossWithTargets(self.critic, self.critic_target))
            self._actor_gradients = LossGradients(ActorLoss(self.actor, self.critic))
        for network in networks:
            find_layers = getattr(network, "find_batch_norm_layers", None)
            if find_layers is not None:
                find_layers()
        self._projected = {
            network: projected_layers(network)
            for network in (self.actor, self.critic)
            if getattr(network, "weight_projection", False)
        }
        self.parameters = trained_parameters(self.actor, self.critic, self.critic_target)
        self._window_targets = WindowTargets(self.evaluator, self.actor, self.critic_target, settings)

    def optimizers(self) -> list[th.optim.Optimizer]:
        """Return the optimizers of actor, critics and, if it is learned, the temperature."""
        optimizers = [self.actor.optimizer, self.critic.optimizer]
        return optimizers if self.temperature.optimizer is None else [*optimizers, self.temperature.optimizer]

    def run(self, plan: Plan, replay_data: AnySamples) -> BlockResult:
        """
        Do several critic updates with one policy, and the update of the policy that is due after them.

        One pass of the actor serves all critic updates, and no value leaves the device.

        :param replay_data: one minibatch for each critic update, see :func:`~sb3_ext.buffers.samples.split_minibatches`
        """
        settings, head = self.settings, self.critic_target.head
        self._grad_norms.clear()
        minibatches = split_minibatches(replay_data, plan.n_updates)
        if settings.compile:
            # Views of a block have other strides with each size of the block, and each would be compiled
            minibatches = [map_fields(th.Tensor.contiguous, minibatch) for minibatch in minibatches]
        # What is learned from, where minibatches are windows of several steps
        firsts = [first_steps(minibatch) for minibatch in minibatches]
        if settings.use_sde:
            self.actor.reset_noise()
        ent_coef = self.temperature.ent_coef()
        self.divergence.before_step("ent_coef", ent_coef)
        metrics: dict[str, list[th.Tensor]] = defaultdict(list)
        metrics["ent_coef"].append(ent_coef.reshape(()))
        errors: list[th.Tensor] = []

        # SB3's SAC also draws these random numbers before those of the next actions
        policy_sample = self.draw_policy(firsts[-1]) if plan.updates_actor else None
        next_actions, next_log_prob = self.actions_after(replay_data)
        entropy_bonus = -ent_coef * next_log_prob if settings.backup_entropy else th.zeros_like(next_log_prob)

        for index, (minibatch, moves_targets) in enumerate(zip(minibatches, plan.moves_targets, strict=True)):
            rows = minibatch_rows(index, plan.n_updates)
            members, mixture = self.draw_critics(len(minibatch.rewards))
            if self._joins_targets:
                critic_loss, q_value, target_value, *others = self.step_critics_with_targets(
                    minibatch, next_actions[rows], entropy_bonus[rows], members, mixture
                )
            else:
                with th.no_grad():
                    if isinstance(minibatch, WindowSamples):
                        after = next_actions[rows], entropy_bonus[rows]
                        targets = self._window_targets.compute(minibatch, *after, members, mixture)
                    else:
                        next_outputs = self.next_outputs(minibatch.next_observations, next_actions[rows], members)
                        next_returns = head.backup(next_outputs, settings.target_backup, self.critic.n_critics, mixture)
                        rewards, dones, discounts = transition_rows(minibatch, settings.gamma)
                        targets = head.td_targets(rewards, dones, discounts, next_returns, entropy_bonus[rows])
                critic_loss, q_value, target_value, *others = self.step_critics(firsts[index], targets)
            metrics["critic_loss"].append(critic_loss)
            metrics["q_value"].append(q_value)
            metrics["target_value"].append(target_value)
            if head.bound is not None:
                metrics["target_mass_at_bound"].append(others.pop(0))
            errors += others
            if policy_sample is not None and index == plan.n_updates - 1:
                actor_loss, log_prob = self.step_actor(firsts[index].observations, policy_sample, ent_coef)
                metrics["actor_loss"].append(actor_loss)
                metrics["entropy"].append(-log_prob.mean())
                if self.temperature.optimizer is not None:
                    metrics["ent_coef_loss"].append(self.step_temperature(log_prob))
            # As in SB3, the targets move after the actor, so a shared features extractor has learned from this
            # minibatch
            if moves_targets:
                self.step_target_critics()
        stacked = {name: th.stack(values) for name, values in (*metrics.items(), *self._grad_norms.items())}
        return BlockResult(stacked, th.stack(errors) if errors else None)

    @property
    def _joins_targets(self) -> bool:
        """Whether one function computes targets and loss."""
        joins = self.settings.compile or self.critic.uses_batch_statistics
        return joins and self.settings.n_step_correction == "none"

    def actions_after(self, samples: AnySamples) -> tuple[th.Tensor, th.Tensor]:
        """Do :meth:`next_actions` for all next states, those of windows included: shapes (B, A) or (B, L, A)."""
        if not isinstance(samples, WindowSamples):
            return self.next_actions(samples.next_observations)
        actions, log_prob = self.next_actions(flat_observations(samples.next_observations))
        shape = samples.rewards.shape
        return actions.unflatten(0, shape), log_prob.unflatten(0, shape)

    def next_actions(self, next_obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor]:
        """Sample an action in each of B states, shape (B, A), and return it with its log-probability, shape (B,)."""
        with th.no_grad():
            if self.settings.use_sde:
                return self.actor.action_log_prob(next_obs)
            mean, log_std = self.evaluator(gaussian_parameters, self.actor, next_obs)
            pre_tanh = sample_pre_tanh(mean, log_std, n_samples=1)
            log_prob = log_prob_of(self.actor, mean, log_std, pre_tanh)
            return th.tanh(pre_tanh).squeeze(0), log_prob.squeeze(0)

    def draw_critics(self, batch_size: int) -> tuple[th.Tensor | None, th.Tensor | None]:
        """
        Draw what is random in ``target_backup``, anew for each critic update.

        :return: for ``"redq"`` the indices of M target critics (``None``: all), for ``"rem"`` weights of shape (N, B)
        """
        settings, n_critics = self.settings, self.critic.n_critics
        if settings.target_backup == "redq":
            return random_subset(n_critics, settings.subset_size, self.critic.device), None
        if settings.target_backup == "rem":
            dtype = self.parameters.online[0].dtype
            return None, random_mixture_weights(n_critics, batch_size, dtype, self.critic.device)
        return None, None

    def next_outputs(self, next_obs: PyTorchObs, next_actions: th.Tensor, members: th.Tensor | None) -> th.Tensor:
        """
        Evaluate target critics in B next states.

        :param next_actions: one action in each, shape (B, A)
        :param members: indices of M target critics, all if ``None``
        :return: shape (M, B, n_outputs)
        """
        return self.evaluator(self.critic_target.outputs, next_obs, next_actions, members)

    def step_critics(self, minibatch: AnySamples, targets: th.Tensor) -> tuple[th.Tensor, ...]:
        """
        Move all critics one step towards their targets.

        :return: what :class:`~sb3_ext.redq_sac.losses.CriticLoss` returns, detached
        """
        trained, gradients = self._begin_critic_step(), self._loss_gradients
        with th.no_grad():  # gradients are returned as results
            results = self.evaluator(gradients.functional, trained, minibatch, targets, plain=gradients.autograd)
        return self._end_critic_step(results)

    def step_critics_with_targets(
        self,
        minibatch: AnySamples,
        next_actions: th.Tensor,
        entropy_bonus: th.Tensor,
        members: th.Tensor | None,
        mixture: th.Tensor | None,
    ) -> tuple[th.Tensor, ...]:
        """
        Compute the targets and do :meth:`step_critics`, in one function.

        :param next_actions: an action in each next state, shape (B, A)
        :param entropy_bonus: what the next value is raised by, shape (B,)
        :param members: see :meth:`draw_critics`, as ``mixture``
        """
        trained, gradients = self._begin_critic_step(), self._loss_gradients_with_targets
        # Views of a block have other strides with each size of the block, and each would be compiled
        next_actions, entropy_bonus = next_actions.contiguous(), entropy_bonus.contiguous()
        with th.no_grad():
            results = self.evaluator(
                gradients.functional,
                trained,
                minibatch,
                next_actions,
                entropy_bonus,
                self.settings.gamma,
                self.settings.target_backup,
                members,
                mixture,
                self.settings.target_network,
                self.settings.joint_gradient,
                plain=gradients.autograd,
            )
        return self._end_critic_step(results)

    def _begin_critic_step(self) -> dict[str, nn.Parameter]:
        """Forget old gradients, and return the parameters that get new ones."""
        for parameter in self.parameters.online:
            parameter.grad = None  # `zero_grad()` does the same, more slowly
        return self.parameters.trained

    def _end_critic_step(self, results: tuple[th.Tensor, ...]) -> tuple[th.Tensor, ...]:
        """Let the optimizer use the gradients, which come first in the results, and return the other results."""
        gradients, others = self._take_gradients(self.parameters.trained, results)
        self._check("critic", others[0], gradients)
        self.critic.optimizer.step()
        self.divergence.n_updates += 1
        layers = self.critic.batch_norm_layers
        n_losses = len(others) - 2 * len(layers)
        if gradients:  # else all critics are frozen
            self._project_weights(self.critic)
            move_running_statistics(layers, others[n_losses:])
        return others[:n_losses]

    def step_target_critics(self) -> None:
        """Move the target critics by ``tau`` towards the critics. Without targets from them, they become the same."""
        parameters = self.parameters
        with th.no_grad():
            if self.settings.target_network == "ema":
                th._foreach_lerp_(parameters.targets, parameters.online, self.settings.tau)
            else:
                th._foreach_copy_(parameters.targets, parameters.online)
            # Running statistics of batch normalization are copied, see SB3's GH issue #996
            if parameters.online_statistics:
                th._foreach_copy_(parameters.target_statistics, parameters.online_statistics)
        copy_counts(self.critic.batch_norm_layers, self.critic_target.batch_norm_layers)
