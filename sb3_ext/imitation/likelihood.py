"""How likely a policy is to take given actions."""

from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.sac.policies import SACPolicy

from sb3_ext.functional.policy_gradient import pre_tanh_of, sample_pre_tanh, squashed_gaussian_log_prob


def log_likelihood(
    policy: ActorCriticPolicy | SACPolicy, obs: PyTorchObs, actions: th.Tensor, by_batch: bool = False
) -> tuple[th.Tensor, ...]:
    """
    Return log pi(a|s) and the entropy of pi, each of shape (B,), differentiable.

    After them come, for a normalized actor, the statistics of its batch normalization.

    SAC's policy is a squashed Gaussian, whose entropy has no formula. There it is -log pi of one sample.

    :param actions: as the environment takes them, shape (B, ...)
    :param by_batch: whether a normalized actor uses the statistics of the B states, as in training
    """
    if isinstance(policy.action_space, spaces.Box):
        actions = actions.flatten(1)
    elif isinstance(policy.action_space, spaces.MultiBinary):
        actions = actions.float()
    if isinstance(policy, SACPolicy):
        space = policy.action_space
        assert isinstance(space, spaces.Box)
        low, high = (th.as_tensor(bound.ravel(), device=actions.device) for bound in (space.low, space.high))
        scaled = 2.0 * (actions - low) / (high - low) - 1.0
        actor: Any = policy.actor
        exact = getattr(actor, "exact_log_prob", False)
        if by_batch and hasattr(actor, "gaussian_parameters_by_batch"):
            mean, log_std, *statistics = actor.gaussian_parameters_by_batch(obs)
        else:
            mean, log_std, _ = actor.get_action_dist_params(obs)
            statistics = []
        pre_tanh = pre_tanh_of(scaled).unsqueeze(0)
        log_prob, sampled = (
            squashed_gaussian_log_prob(mean, log_std, each, exact).squeeze(0)
            for each in (pre_tanh, sample_pre_tanh(mean, log_std, n_samples=1))
        )
        return log_prob, -sampled, *statistics
    distribution = policy.get_distribution(obs)
    known = distribution.entropy()
    entropy = -distribution.log_prob(distribution.sample()) if known is None else known
    return distribution.log_prob(actions), entropy
