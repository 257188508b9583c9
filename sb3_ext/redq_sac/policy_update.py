"""The part of REDQ-SAC's update that improves the policy: actor and temperature."""

from collections.abc import Sequence

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.sac.policies import Actor
from torch import nn

from sb3_ext.buffers.samples import AnySamples
from sb3_ext.common.divergence import DivergenceCheck, total_norm
from sb3_ext.functional.ensemble import aggregate_q
from sb3_ext.functional.policy_gradient import (
    leave_one_out_baseline,
    reinforce_actor_loss,
    reparam_actor_loss,
    sample_pre_tanh,
    temperature_loss,
)
from sb3_ext.nets import EnsembleCritic
from sb3_ext.nets.body import project_weights
from sb3_ext.nets.layers import OutputLinear, StackedLayer
from sb3_ext.nets.normalization import move_running_statistics
from sb3_ext.redq_sac.parameters import TrainedParameters
from sb3_ext.redq_sac.plan import PolicySample, Temperature, UpdateSettings
from sb3_ext.redq_sac.policies import REDQSACPolicy, gaussian_parameters_by_batch, log_prob_of
from sb3_ext.speed.compilation import LossGradients
from sb3_ext.speed.evaluation import NetworkEvaluator


class PolicyUpdate:
    """
    The update of actor and temperature.

    :class:`~sb3_ext.redq_sac.update.REDQUpdate` adds that of the critics, and looks up what is declared here.
    """

    evaluator: NetworkEvaluator
    divergence: DivergenceCheck
    settings: UpdateSettings
    temperature: Temperature
    policy: REDQSACPolicy
    actor: Actor
    critic: EnsembleCritic
    parameters: TrainedParameters
    _actor_gradients: LossGradients
    # Norms since the last log, by name
    _grad_norms: dict[str, list[th.Tensor]]
    # Layers whose weights return to their norms, of the networks that are made that way
    _projected: dict[nn.Module, list[OutputLinear | StackedLayer]]

    def draw_policy(self, minibatch: AnySamples) -> PolicySample | th.Tensor:
        """
        Draw what the update of the actor needs, before the critics' update as in SB3's SAC.

        :return: actions; or, for a compiled loss that computes them, noise of shape (K, B, A)
        """
        settings = self.settings
        if settings.compile and settings.actor_gradient == "reparam" and not settings.use_sde:
            shape = settings.n_actor_samples, *minibatch.actions.shape
            return th.randn(shape, dtype=self.parameters.online[0].dtype, device=self.actor.device)
        return self.sample_policy(minibatch.observations)

    def sample_policy(self, obs: PyTorchObs) -> PolicySample:
        """Sample the current policy's actions in B states for the gradient that ``actor_gradient`` names."""
        settings = self.settings
        if settings.use_sde:
            actions, log_prob = self.actor.action_log_prob(obs)
            return PolicySample(actions.unsqueeze(0), log_prob.unsqueeze(0))
        results = self.evaluator(gaussian_parameters_by_batch, self.actor, obs, differentiable=True)
        mean, log_std, *statistics = results
        pre_tanh = sample_pre_tanh(mean, log_std, settings.n_actor_samples)
        if settings.actor_gradient == "reparam":
            log_prob = log_prob_of(self.actor, mean, log_std, pre_tanh)
            return PolicySample(th.tanh(pre_tanh), log_prob, statistics=tuple(statistics))
        pre_tanh = pre_tanh.detach()
        log_prob = log_prob_of(self.actor, mean, log_std, pre_tanh)
        mode = th.tanh(mean.detach()).unsqueeze(0)
        return PolicySample(th.tanh(pre_tanh), log_prob, mode, tuple(statistics))

    def step_actor(
        self, obs: PyTorchObs, sample: PolicySample | th.Tensor, ent_coef: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor]:
        """
        Do one step of the actor.

        :param obs: observations of B states
        :param sample: what :meth:`draw_policy` returned
        :return: the loss, and log-probabilities of the sampled actions, shape (K, B); detached
        """
        if isinstance(sample, th.Tensor):
            return self._step_actor_compiled(obs, sample, ent_coef)
        if self.settings.actor_gradient == "reparam":
            q_values = self._actor_value(obs, sample.actions, differentiable=True)
            loss = reparam_actor_loss(sample.log_prob, q_values, ent_coef)
        else:
            loss = self._reinforce_loss(obs, sample, ent_coef)
        if loss.requires_grad:  # else the whole actor is frozen
            optimizer = self.actor.optimizer
            optimizer.zero_grad()
            loss.backward()
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            self._end_actor_step(loss, gradients, sample.statistics)
        return loss.detach(), sample.log_prob.detach()

    def _step_actor_compiled(
        self, obs: PyTorchObs, noise: th.Tensor, ent_coef: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor]:
        trained, gradients = self.parameters.trained_actor, self._actor_gradients
        for parameter in self.actor.parameters():
            parameter.grad = None
        with th.no_grad():  # gradients are returned as results
            function, plain = gradients.functional, gradients.autograd
            results = self.evaluator(function, trained, obs, noise, ent_coef, self.settings.actor_q, plain=plain)
        parts, (loss, log_prob, *statistics) = self._take_gradients(trained, results)
        if trained:
            self._end_actor_step(loss, parts, statistics)
        return loss, log_prob

    @staticmethod
    def _take_gradients(
        trained: dict[str, nn.Parameter], results: tuple[th.Tensor, ...]
    ) -> tuple[tuple[th.Tensor, ...], tuple[th.Tensor, ...]]:
        """Give parameters their gradients, which come first in the results. Return these and the other results."""
        gradients, others = results[: len(trained)], results[len(trained) :]
        for parameter, gradient in zip(trained.values(), gradients, strict=True):
            parameter.grad = gradient
        return gradients, others

    def _end_actor_step(
        self,
        loss: th.Tensor,
        gradients: Sequence[th.Tensor],
        statistics: Sequence[th.Tensor],
    ) -> None:
        """Let the optimizer use the gradients."""
        self._check("actor", loss, gradients)
        self.actor.optimizer.step()
        self._project_weights(self.actor)
        move_running_statistics(getattr(self.actor, "batch_norm_layers", []), statistics)
        self.policy.move_averaged_actor()

    def _actor_value(self, obs: PyTorchObs, actions: th.Tensor, differentiable: bool) -> th.Tensor:
        """Value actions of shape (K, B, A) without a gradient to the critics."""
        q_values = self.evaluator(self.critic.stacked, obs, actions, frozen=True, differentiable=differentiable)
        return aggregate_q(q_values, self.settings.actor_q)

    def _reinforce_loss(self, obs: PyTorchObs, sample: PolicySample, ent_coef: th.Tensor) -> th.Tensor:
        baseline: th.Tensor | float = 0.0
        with th.no_grad():
            if self.settings.reinforce_baseline == "mean_action":
                assert sample.mode is not None
                # Evaluate the mean action together with the samples, so that one pass of the critics suffices
                values = self._actor_value(obs, th.cat([sample.actions, sample.mode]), differentiable=False)
                q_values, baseline = values[:-1], values[-1:]
            else:
                q_values = self._actor_value(obs, sample.actions, differentiable=False)
            weights = q_values - ent_coef * sample.log_prob
            if self.settings.reinforce_baseline == "loo":
                baseline = leave_one_out_baseline(weights)
            elif self.settings.reinforce_baseline == "batch":
                baseline = weights.mean()
        return reinforce_actor_loss(sample.log_prob, weights, baseline, self.settings.normalize_advantage)

    def step_temperature(self, log_prob: th.Tensor) -> th.Tensor:
        """Do one step of a learned temperature from log-probabilities, shape (K, B). Its loss is returned, detached."""
        log_ent_coef, optimizer = self.temperature.log_ent_coef, self.temperature.optimizer
        assert log_ent_coef is not None and optimizer is not None
        loss = temperature_loss(log_ent_coef, log_prob, self.settings.target_entropy)
        self.divergence.before_step("ent_coef_loss", loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    def _project_weights(self, network: nn.Module) -> None:
        """Bring the weights of a network back to their norms after a step of its optimizer, if it is made that way."""
        if network in self._projected:
            self.evaluator.in_place(project_weights, self._projected[network])

    def _check(self, network: str, loss: th.Tensor, gradients: Sequence[th.Tensor]) -> None:
        """Keep the norm of the gradients for the log. Raise a ValueError if it or the loss is read and not finite."""
        norm = total_norm(gradients)
        self._grad_norms[f"{network}_grad_norm"].append(norm)
        self.divergence.before_step(f"{network}_loss", loss, norm)
