"""
The update of REDQ-SAC, as the algorithm box of the paper has it (https://arxiv.org/abs/2101.05982, algorithm 1).

:meth:`REDQUpdate.run` reads from top to bottom: next actions, targets, critics, actor, temperature, target critics.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.common.utils import get_parameters_by_name, polyak_update
from torch import nn

from sb3_ext.buffers.samples import AnySamples, minibatch_rows, minibatch_weights, split_minibatches
from sb3_ext.functional.ensemble import ActorQ, TargetBackup, aggregate_q, random_mixture_weights, random_subset
from sb3_ext.functional.fields import map_fields
from sb3_ext.functional.policy_gradient import (
    ActorGradient,
    Baseline,
    leave_one_out_baseline,
    reinforce_actor_loss,
    reparam_actor_loss,
    sample_pre_tanh,
    squashed_gaussian_log_prob,
    temperature_loss,
)
from sb3_ext.nets import EnsembleCritic
from sb3_ext.redq_sac.policies import REDQSACPolicy, gaussian_parameters
from sb3_ext.speed.compilation import LossGradients
from sb3_ext.speed.evaluation import NetworkEvaluator


@dataclass(frozen=True)
class UpdateSettings:
    """
    What decides how an update computes, besides networks, optimizers and data.

    The names are those of ``REDQSAC``'s arguments. ``subset_size`` and ``reinforce_baseline`` are what their defaults
    come to, and ``target_entropy`` is a number. A recording is made for one value of this object.
    """

    gamma: float
    tau: float
    target_backup: TargetBackup
    subset_size: float
    backup_entropy: bool
    actor_gradient: ActorGradient
    n_actor_samples: int
    reinforce_baseline: Baseline
    actor_q: ActorQ
    target_entropy: float
    use_sde: bool
    compile: bool
    autocast_dtype: str | None


class Plan(NamedTuple):
    """
    What happens in a block of critic updates besides them.

    :param moves_targets: after which of the critic updates the target critics move
    :param updates_actor: whether actor and temperature are updated with the last minibatch
    """

    moves_targets: tuple[bool, ...]
    updates_actor: bool

    @property
    def n_updates(self) -> int:
        """
        :return: number of critic updates
        """
        return len(self.moves_targets)


class BlockResult(NamedTuple):
    """
    :param metrics: values of each update, shape (k,), to be logged as ``train/<name>``
    :param errors: of the transitions of each of n minibatches, shape (n, B); ``None`` if not drawn by priority
    """

    metrics: dict[str, th.Tensor]
    errors: th.Tensor | None


class PolicySample(NamedTuple):
    """
    Actions of the current policy in B states, K in each.

    :param actions: shape (K, B, A)
    :param log_prob: shape (K, B), differentiable with respect to the policy
    :param mode: the action at the policy's mean, shape (1, B, A), detached; only for REINFORCE, as a baseline
    """

    actions: th.Tensor
    log_prob: th.Tensor
    mode: th.Tensor | None = None


class Temperature(NamedTuple):
    """
    The weight alpha of the entropy, in SB3's form.

    :param log_ent_coef: log alpha, shape (1,), if it is learned
    :param optimizer: of ``log_ent_coef``
    :param fixed: alpha, if it is not learned
    """

    log_ent_coef: th.Tensor | None
    optimizer: th.optim.Optimizer | None
    fixed: th.Tensor | None

    def ent_coef(self) -> th.Tensor:
        """
        :return: alpha, detached, shape () or (1,)
        """
        if self.log_ent_coef is not None:
            return self.log_ent_coef.detach().exp()
        assert self.fixed is not None
        return self.fixed


class CriticLoss(nn.Module):
    """
    How far the critics are from their targets, as a module: its forward pass is the loss, differentiated by
    :class:`~sb3_ext.speed.compilation.LossGradients`.
    """

    def __init__(self, critic: EnsembleCritic) -> None:
        super().__init__()
        self.critic = critic

    def forward(self, replay_data: AnySamples, targets: th.Tensor) -> tuple[th.Tensor, ...]:
        """
        :param replay_data: B transitions
        :param targets: for each critic, see :meth:`~sb3_ext.nets.heads.CriticHead.td_targets`
        :return: the loss, and for transitions that were drawn by priority the error of each, shape (B,), detached
        """
        head = self.critic.head
        outputs = self.critic.outputs(replay_data.observations, replay_data.actions)
        weights = minibatch_weights(replay_data)
        loss = head.loss(outputs, targets, weights)
        return (loss,) if weights is None else (loss, head.td_errors(outputs, targets))


class REDQUpdate:
    """
    Critics, target critics, actor and temperature, and how they learn.

    :param policy: has the networks and, but for the temperature's, the optimizers
    :param evaluator: evaluates networks, compiled or in lower precision
    :param settings: of the updates
    :param temperature: weight of the entropy
    """

    def __init__(
        self,
        policy: REDQSACPolicy,
        evaluator: NetworkEvaluator,
        settings: UpdateSettings,
        temperature: Temperature,
    ) -> None:
        self.policy = policy
        self.actor, self.critic, self.critic_target = policy.actor, policy.critic, policy.critic_target
        self.evaluate = evaluator
        self.configure(settings, temperature)
        # Collected once: walking through the modules takes longer than moving the target critics
        self._online_parameters: list[th.Tensor] = list(self.critic.parameters())
        self._target_parameters: list[th.Tensor] = list(self.critic_target.parameters())
        self._online_statistics = get_parameters_by_name(self.critic, ["running_"])
        self._target_statistics = get_parameters_by_name(self.critic_target, ["running_"])
        self._critic_gradients = LossGradients(CriticLoss(self.critic))

    def configure(self, settings: UpdateSettings, temperature: Temperature) -> None:
        """
        Go on with other settings. A user may change those of the algorithm at any time.
        """
        self.settings = settings
        self.temperature = temperature
        self.evaluate.configure(settings.compile, settings.autocast_dtype)
        # Collected here and not at each update, for the sake of time: layers may be frozen between two calls only
        self._trained_parameters = self.trained_critic_parameters()

    def optimizers(self) -> list[th.optim.Optimizer]:
        """
        :return: those of actor, critics and, if it is learned, the temperature
        """
        optimizers = [self.actor.optimizer, self.critic.optimizer]
        return optimizers if self.temperature.optimizer is None else [*optimizers, self.temperature.optimizer]

    def trained_critic_parameters(self) -> dict[str, nn.Parameter]:
        """
        :return: those that the critics' optimizer moves, by their names in :class:`CriticLoss`. The features extractor
            is not among them where the actor shares it, nor are frozen layers
        """
        in_optimizer = {id(p) for group in self.critic.optimizer.param_groups for p in group["params"]}
        named = self.critic.named_parameters(prefix="critic")
        return {name: p for name, p in named if id(p) in in_optimizer and p.requires_grad}

    def run(self, plan: Plan, replay_data: AnySamples) -> BlockResult:
        """
        Several critic updates between two changes of the policy, and the change that is due after them.

        One pass of the actor serves all of them, and no value leaves the device.

        :param replay_data: one minibatch for each critic update, see
            :func:`~sb3_ext.buffers.samples.split_minibatches`
        """
        settings, head = self.settings, self.critic.head
        minibatches = split_minibatches(replay_data, plan.n_updates)
        if settings.compile:
            # Once for all sizes of blocks: their minibatches have different strides, which would be compiled in
            minibatches = [map_fields(th.Tensor.contiguous, minibatch) for minibatch in minibatches]
        if settings.use_sde:
            self.actor.reset_noise()
        ent_coef = self.temperature.ent_coef()
        metrics: dict[str, list[th.Tensor]] = defaultdict(list)
        metrics["ent_coef"].append(ent_coef.reshape(()))
        errors: list[th.Tensor] = []

        # Sampled before the next actions: the order in which SB3's SAC uses its random numbers
        policy_sample = self.sample_policy(minibatches[-1].observations) if plan.updates_actor else None
        next_actions, next_log_prob = self.next_actions(replay_data.next_observations)
        entropy_bonus = -ent_coef * next_log_prob if settings.backup_entropy else th.zeros_like(next_log_prob)

        for index, (minibatch, moves_targets) in enumerate(zip(minibatches, plan.moves_targets, strict=True)):
            rows = minibatch_rows(index, plan.n_updates)
            next_returns = self.next_returns(minibatch.next_observations, next_actions[rows])
            discounts = minibatch.discounts.flatten() if minibatch.discounts is not None else settings.gamma
            rewards, dones = minibatch.rewards.flatten(), minibatch.dones.flatten()
            targets = head.td_targets(rewards, dones, discounts, next_returns, entropy_bonus[rows])
            critic_loss, *td_errors = self.step_critics(minibatch, targets)
            metrics["critic_loss"].append(critic_loss)
            errors += td_errors
            if policy_sample is not None and index == plan.n_updates - 1:
                metrics["actor_loss"].append(self.step_actor(minibatch.observations, policy_sample, ent_coef))
                if self.temperature.optimizer is not None:
                    metrics["ent_coef_loss"].append(self.step_temperature(policy_sample.log_prob))
            # After the actor, as in SB3: a features extractor that both share has then learned from this minibatch
            if moves_targets:
                self.step_target_critics()
        stacked = {name: th.stack(values) for name, values in metrics.items()}
        return BlockResult(stacked, th.stack(errors) if errors else None)

    @th.no_grad()
    def next_actions(self, next_obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor]:
        """
        :param next_obs: observations of B states
        :return: an action of the policy in each, shape (B, A), and its log-probability, shape (B,)
        """
        if self.settings.use_sde:
            return self.actor.action_log_prob(next_obs)
        mean, log_std = self.evaluate(gaussian_parameters, self.actor, next_obs)
        pre_tanh = sample_pre_tanh(mean, log_std, n_samples=1)
        log_prob = squashed_gaussian_log_prob(mean, log_std, pre_tanh)
        return th.tanh(pre_tanh).squeeze(0), log_prob.squeeze(0)

    @th.no_grad()
    def next_returns(self, next_obs: PyTorchObs, next_actions: th.Tensor) -> th.Tensor:
        """
        What the target critics say of the next states, combined as ``target_backup`` says.

        :param next_obs: observations of B states
        :param next_actions: one action in each, shape (B, A)
        :return: for each critic, see :meth:`~sb3_ext.nets.heads.CriticHead.backup`
        """
        settings, n_critics, device = self.settings, self.critic.n_critics, next_actions.device
        members, mixture = None, None
        if settings.target_backup == "redq":
            members = random_subset(n_critics, settings.subset_size, device)
        elif settings.target_backup == "rem":
            mixture = random_mixture_weights(n_critics, len(next_actions), next_actions.dtype, device)
        next_actions = next_actions.contiguous() if settings.compile else next_actions
        backup = self.critic_target.backup
        return self.evaluate(backup, next_obs, next_actions, settings.target_backup, members, mixture)

    def step_critics(self, minibatch: AnySamples, targets: th.Tensor) -> tuple[th.Tensor, ...]:
        """
        One step of all critics towards their targets.

        :return: the loss, and for transitions drawn by priority the error of each, shape (B,); detached
        """
        for parameter in self._online_parameters:
            parameter.grad = None  # as `zero_grad()` does, which takes longer to find them
        trained, gradients = self._trained_parameters, self._critic_gradients
        with th.no_grad():  # the gradients are results like others
            results = self.evaluate(gradients.functional, trained, minibatch, targets, plain=gradients.autograd)
        for parameter, gradient in zip(trained.values(), results[: len(trained)], strict=True):
            parameter.grad = gradient
        self.critic.optimizer.step()
        return results[len(trained) :]

    def step_target_critics(self) -> None:
        """
        Move the target critics by ``tau`` towards the critics.
        """
        with th.no_grad():
            th._foreach_lerp_(self._target_parameters, self._online_parameters, self.settings.tau)
        # Running statistics of batch normalization are copied, see SB3's GH issue #996
        polyak_update(self._online_statistics, self._target_statistics, 1.0)

    def sample_policy(self, obs: PyTorchObs) -> PolicySample:
        """
        Sample actions of the current policy, for the gradient of the actor that ``actor_gradient`` names.

        :param obs: observations of B states
        """
        settings = self.settings
        if settings.use_sde:
            actions, log_prob = self.actor.action_log_prob(obs)
            return PolicySample(actions.unsqueeze(0), log_prob.unsqueeze(0))
        mean, log_std = self.evaluate(gaussian_parameters, self.actor, obs, differentiable=True)
        pre_tanh = sample_pre_tanh(mean, log_std, settings.n_actor_samples)
        if settings.actor_gradient == "reparam":
            return PolicySample(th.tanh(pre_tanh), squashed_gaussian_log_prob(mean, log_std, pre_tanh))
        pre_tanh = pre_tanh.detach()
        log_prob = squashed_gaussian_log_prob(mean, log_std, pre_tanh)
        return PolicySample(th.tanh(pre_tanh), log_prob, mode=th.tanh(mean.detach()).unsqueeze(0))

    def step_actor(self, obs: PyTorchObs, sample: PolicySample, ent_coef: th.Tensor) -> th.Tensor:
        """
        :param obs: observations of the B states in which the actions were sampled
        :return: the loss, detached
        """
        if self.settings.actor_gradient == "reparam":
            q_values = self._actor_value(obs, sample.actions, differentiable=True)
            loss = reparam_actor_loss(sample.log_prob, q_values, ent_coef)
        else:
            loss = self._reinforce_loss(obs, sample, ent_coef)
        self.actor.optimizer.zero_grad()
        loss.backward()
        self.actor.optimizer.step()
        return loss.detach()

    def _actor_value(self, obs: PyTorchObs, actions: th.Tensor, differentiable: bool) -> th.Tensor:
        """
        :param actions: shape (K, B, A)
        :param differentiable: whether a gradient flows to the actions
        :return: shape (K, B); no gradient reaches the critics
        """
        q_values = self.evaluate(self.critic.stacked, obs, actions, frozen=True, differentiable=differentiable)
        return aggregate_q(q_values, self.settings.actor_q)

    def _reinforce_loss(self, obs: PyTorchObs, sample: PolicySample, ent_coef: th.Tensor) -> th.Tensor:
        baseline: th.Tensor | float = 0.0
        with th.no_grad():
            if self.settings.reinforce_baseline == "mean_action":
                assert sample.mode is not None
                # The mean action is one more sample to the critics, so that they are evaluated once
                values = self._actor_value(obs, th.cat([sample.actions, sample.mode]), differentiable=False)
                q_values, baseline = values[:-1], values[-1:]
            else:
                q_values = self._actor_value(obs, sample.actions, differentiable=False)
            weights = q_values - ent_coef * sample.log_prob
            if self.settings.reinforce_baseline == "loo":
                baseline = leave_one_out_baseline(weights)
        return reinforce_actor_loss(sample.log_prob, weights, baseline)

    def step_temperature(self, log_prob: th.Tensor) -> th.Tensor:
        """
        One step of a temperature that is learned.

        :param log_prob: of the policy's samples, shape (K, B)
        :return: the loss, detached
        """
        log_ent_coef, optimizer = self.temperature.log_ent_coef, self.temperature.optimizer
        assert log_ent_coef is not None and optimizer is not None
        loss = temperature_loss(log_ent_coef, log_prob, self.settings.target_entropy)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()
