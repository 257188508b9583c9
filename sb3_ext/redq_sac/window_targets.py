"""Corrected targets of an ensemble of critics, from windows of consecutive transitions."""

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.sac.policies import Actor

from sb3_ext.buffers.samples import WindowSamples, flat_observations, map_observations
from sb3_ext.functional.bellman import soft_td_target
from sb3_ext.functional.policy_gradient import pre_tanh_of
from sb3_ext.functional.traces import return_correction, trace_coefficients
from sb3_ext.nets import EnsembleCritic
from sb3_ext.redq_sac.plan import UpdateSettings
from sb3_ext.redq_sac.policies import gaussian_parameters, log_prob_of
from sb3_ext.speed.evaluation import NetworkEvaluator


def log_prob_of_actions(evaluator: NetworkEvaluator, actor: Actor, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
    """
    Return log pi(a|s) of stored actions in [-1, 1].

    Saturated actions count as slightly less so, see :func:`~sb3_ext.functional.policy_gradient.pre_tanh_of`. Ratios of
    two policies are exact all the same for the action that counts, since both get the same one.

    :param obs: of B states
    :param actions: shape (B, A)
    :return: shape (B,)
    """
    mean, log_std = evaluator(gaussian_parameters, actor, obs)
    return log_prob_of(actor, mean, log_std, pre_tanh_of(actions).unsqueeze(0)).squeeze(0)


class WindowTargets:
    """
    Computes the targets of the first transitions of B windows of L steps.

    :param critic: the target critics
    """

    def __init__(
        self, evaluator: NetworkEvaluator, actor: Actor, critic: EnsembleCritic, settings: UpdateSettings
    ) -> None:
        self._evaluator, self._actor, self._critic, self._settings = evaluator, actor, critic, settings

    def compute(
        self,
        windows: WindowSamples,
        next_actions: th.Tensor,
        entropy_bonus: th.Tensor,
        members: th.Tensor | None,
        mixture: th.Tensor | None,
    ) -> th.Tensor:
        """
        Return the targets of each critic, shape (N, B).

        One subset of the critics, or one mixture, values next actions and stored ones, so that their errors are those
        of one function.

        :param next_actions: actions of the present policy in all next states, shape (B, L, A)
        :param entropy_bonus: what each next value is raised by, shape (B, L)
        :param members: indices of the critics to evaluate, all if ``None``
        :param mixture: weights of the critics for ``"rem"``, shape (N, B)
        """
        settings = self._settings
        rewards, dones, valid = windows.rewards, windows.dones, windows.valid
        next_values = self._values(windows.next_observations, next_actions, members, mixture) + entropy_bonus
        targets = soft_td_target(rewards[:, 0], dones[:, 0], settings.gamma, next_values[..., 0])
        if rewards.shape[1] == 1:
            return targets
        obs, actions = map_observations(_from_second, windows.observations), windows.actions[:, 1:]
        values = self._values(obs, actions, members, mixture)
        flat = flat_observations(obs), actions.flatten(0, 1)
        log_policy = log_prob_of_actions(self._evaluator, self._actor, *flat).view(valid[:, 1:].shape)
        assert windows.log_probs is not None
        factors = trace_coefficients(
            settings.n_step_correction, log_policy, windows.log_probs[:, 1:], trace_lambda=settings.trace_lambda
        )
        steps = rewards[:, 1:], dones[:, 1:], valid[:, 1:], next_values[..., 1:]
        return targets + return_correction(*steps, values, factors, settings.gamma)

    def _values(
        self, obs: PyTorchObs, actions: th.Tensor, members: th.Tensor | None, mixture: th.Tensor | None
    ) -> th.Tensor:
        """Return the values that form the target of each critic, shape (N, B, L), of B windows of L states."""
        n_steps, critic = actions.shape[1], self._critic
        flat = flat_observations(obs), actions.flatten(0, 1)
        outputs = self._evaluator(critic.outputs, *flat, members)
        weights = None if mixture is None else mixture.repeat_interleave(n_steps, dim=1)
        values = critic.head.backup(outputs, self._settings.target_backup, critic.n_critics, weights)
        return values.unflatten(1, (-1, n_steps))


def _from_second(tensor: th.Tensor) -> th.Tensor:
    return tensor[:, 1:]
