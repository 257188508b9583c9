"""How likely a policy is to take given actions."""

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.sac.policies import SACPolicy

from sb3_ext.functional.policy_gradient import pre_tanh_of, sample_pre_tanh, squashed_gaussian_log_prob


def log_likelihood(
    policy: ActorCriticPolicy | SACPolicy, obs: PyTorchObs, actions: th.Tensor
) -> tuple[th.Tensor, th.Tensor]:
    """
    Return log pi(a|s) and the entropy of pi, each of shape (B,), differentiable.

    SAC's policy is a squashed Gaussian, whose entropy has no formula. There it is -log pi of one sample.

    :param actions: as the environment takes them, shape (B, ...)
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
        mean, log_std, _ = policy.actor.get_action_dist_params(obs)
        sample = sample_pre_tanh(mean, log_std, n_samples=1)
        entropy = -squashed_gaussian_log_prob(mean, log_std, sample).squeeze(0)
        return squashed_gaussian_log_prob(mean, log_std, pre_tanh_of(scaled).unsqueeze(0)).squeeze(0), entropy
    distribution = policy.get_distribution(obs)
    known = distribution.entropy()
    entropy = -distribution.log_prob(distribution.sample()) if known is None else known
    return distribution.log_prob(actions), entropy
