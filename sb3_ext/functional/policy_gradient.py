"""
The two gradients of the maximum-entropy policy objective, and the loss of the temperature.

Both estimate the gradient of ``E_s E_{a ~ pi} [Q(s, a) - alpha log pi(a|s)]``:

- ``reparam`` through the sampled action (SAC, https://arxiv.org/abs/1801.01290, equation 13)
- ``reinforce`` through its log-probability (REINFORCE, Williams 1992), with the leave-one-out baseline of Kool et al.
  2019, https://openreview.net/forum?id=r1lgTGL5DE

Notation: K actions sampled in each of the B states, A action dimensions.
"""

import math
from typing import Literal, get_args

import torch as th
from torch.nn import functional as F

ActorGradient = Literal["reparam", "reinforce"]
ACTOR_GRADIENTS: tuple[ActorGradient, ...] = get_args(ActorGradient)
Baseline = Literal["loo", "mean_action", "batch", "none"]
BASELINES: tuple[Baseline, ...] = get_args(Baseline)

# SB3's ``SquashedDiagGaussianDistribution`` adds it inside the logarithm. The same value makes the densities agree.
_SQUASH_EPSILON = 1e-6


def sample_pre_tanh(mean: th.Tensor, log_std: th.Tensor, n_samples: int) -> th.Tensor:
    """
    Draw K reparameterized samples of the Gaussian before the tanh.

    :param mean: shape (B, A)
    :param log_std: shape (B, A)
    :return: shape (K, B, A), differentiable with respect to ``mean`` and ``log_std``
    """
    noise = th.randn(n_samples, *mean.shape, dtype=mean.dtype, device=mean.device)
    return mean + log_std.exp() * noise


def squashed_gaussian_log_prob(
    mean: th.Tensor, log_std: th.Tensor, pre_tanh: th.Tensor, exact: bool = False
) -> th.Tensor:
    """
    Compute the log-density of ``tanh(u)`` for ``u ~ N(mean, exp(log_std)^2)``.

    The input is u itself, because ``atanh`` cannot recover it from an action rounded to 1.

    :param mean: shape (B, A)
    :param log_std: shape (B, A)
    :param pre_tanh: u, shape (K, B, A)
    :param exact: without SB3's 1e-6 in the logarithm. With it the density is too small where |u| > 7, and has no
        gradient there: nothing draws a saturated action back
    :return: shape (K, B)
    """
    gaussian = -0.5 * ((pre_tanh - mean) / log_std.exp()).square() - log_std - 0.5 * math.log(2 * math.pi)
    if exact:  # log(1 - tanh(u)^2), written so that nothing rounds to 0
        log_slope = 2 * (math.log(2) - pre_tanh - F.softplus(-2 * pre_tanh))
    else:
        log_slope = th.log(1 - th.tanh(pre_tanh).square() + _SQUASH_EPSILON)
    return (gaussian - log_slope).sum(dim=-1)


def pre_tanh_of(actions: th.Tensor) -> th.Tensor:
    """
    Return u with ``tanh(u) = a`` for stored actions, for ratios of densities alone.

    An action rounded to 1 has no finite u, so |a| counts as ``1 - 1e-6`` at most, which is |u| <= 7.25.

    :param actions: in [-1, 1], any shape
    :return: the same shape
    """
    largest = 1 - _SQUASH_EPSILON
    return th.atanh(actions.clamp(-largest, largest))


def reparam_actor_loss(log_prob: th.Tensor, q_values: th.Tensor, ent_coef: th.Tensor | float) -> th.Tensor:
    """
    Compute ``mean [alpha log pi(a|s) - Q(s, a)]``, with the gradient through a.

    :param log_prob: shape (K, B)
    :param q_values: shape (K, B)
    :param ent_coef: the temperature alpha, detached
    :return: a scalar
    """
    return (ent_coef * log_prob - q_values).mean()


def leave_one_out_baseline(weights: th.Tensor) -> th.Tensor:
    """
    Average the OTHER samples of the same state, so that the baseline of a sample does not depend on that sample.

    :param weights: shape (K, B), K >= 2
    :return: shape (K, B)
    :raises ValueError: for K = 1
    """
    n_samples = weights.shape[0]
    if n_samples < 2:
        raise ValueError(f"the leave-one-out baseline needs n_actor_samples >= 2, not {n_samples}")
    return (weights.sum(dim=0, keepdim=True) - weights) / (n_samples - 1)


def normalized_advantages(advantages: th.Tensor) -> th.Tensor:
    """
    Compute ``(x - mean) / (standard deviation + 1e-8)`` over all numbers, as SB3's PPO does.

    The gradient's length no longer depends on the scale of the rewards, nor on how much is still to gain.

    :param advantages: any shape, two numbers or more
    """
    return (advantages - advantages.mean()) / (advantages.std() + 1e-8)


def reinforce_actor_loss(
    log_prob: th.Tensor, weights: th.Tensor, baseline: th.Tensor | float, normalize_advantage: bool = False
) -> th.Tensor:
    """
    Compute ``-mean log pi(a|s) (w - b)``, whose gradient is meaningful and whose value is not.

    :param log_prob: log-probabilities of samples through which no gradient flows, shape (K, B)
    :param weights: ``w = Q(s, a) - alpha log pi(a|s)``, shape (K, B)
    :param baseline: b, shape (K, B), (1, B) or (), or 0; without bias if it does not depend on the sample itself
    :param normalize_advantage: replace w - b by :func:`normalized_advantages` of it
    :return: a scalar
    """
    advantages = (weights - baseline).detach()
    if normalize_advantage:
        advantages = normalized_advantages(advantages)
    return -(log_prob * advantages).mean()


def temperature_loss(log_ent_coef: th.Tensor, log_prob: th.Tensor, target_entropy: th.Tensor | float) -> th.Tensor:
    """
    Compute ``-mean log_alpha (log pi + target entropy)``: alpha grows while the policy's entropy is below its target.

    :param log_ent_coef: shape (1,)
    :param log_prob: shape (K, B)
    :return: a scalar
    """
    return -(log_ent_coef * (log_prob.detach() + target_entropy)).mean()
