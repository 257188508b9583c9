"""
The two gradients of the maximum-entropy policy objective, and the temperature's.

Both estimate the gradient of ``E_s E_{a ~ pi} [Q(s, a) - alpha log pi(a|s)]``: through the sampled action
(reparametrised; SAC, https://arxiv.org/abs/1801.01290, equation 13) or through its log-probability (REINFORCE;
Williams 1992, with the leave-one-out baseline of Kool et al. 2019, https://openreview.net/forum?id=r1lgTGL5DE).

Notation: K actions sampled in each of the B states, A action dimensions.
"""

import math
from typing import Literal, get_args

import torch as th

ActorGradient = Literal["reparam", "reinforce"]
ACTOR_GRADIENTS: tuple[ActorGradient, ...] = get_args(ActorGradient)
Baseline = Literal["loo", "mean_action", "none"]
BASELINES: tuple[Baseline, ...] = get_args(Baseline)

# SB3's ``SquashedDiagGaussianDistribution`` adds it inside the logarithm; the same here, so that the densities agree.
_SQUASH_EPSILON = 1e-6


def sample_pre_tanh(mean: th.Tensor, log_std: th.Tensor, n_samples: int) -> th.Tensor:
    """
    Reparametrised samples of the Gaussian under the tanh.

    :param mean: shape (B, A)
    :param log_std: shape (B, A)
    :return: shape (K, B, A), differentiable with respect to ``mean`` and ``log_std``
    """
    noise = th.randn(n_samples, *mean.shape, dtype=mean.dtype, device=mean.device)
    return mean + log_std.exp() * noise


def squashed_gaussian_log_prob(mean: th.Tensor, log_std: th.Tensor, pre_tanh: th.Tensor) -> th.Tensor:
    """
    Log-density of ``tanh(u)``, ``u ~ N(mean, exp(log_std)^2)``, evaluated from u itself: ``atanh`` of an action that
    rounding has put at 1 would lose it.

    :param mean: shape (B, A)
    :param log_std: shape (B, A)
    :param pre_tanh: u, shape (K, B, A)
    :return: shape (K, B)
    """
    gaussian = -0.5 * ((pre_tanh - mean) / log_std.exp()).square() - log_std - 0.5 * math.log(2 * math.pi)
    return (gaussian - th.log(1 - th.tanh(pre_tanh).square() + _SQUASH_EPSILON)).sum(dim=-1)


def reparam_actor_loss(log_prob: th.Tensor, q_values: th.Tensor, ent_coef: th.Tensor | float) -> th.Tensor:
    """
    ``mean [alpha log pi(a|s) - Q(s, a)]`` with the gradient through a.

    :param log_prob: shape (K, B)
    :param q_values: shape (K, B)
    :param ent_coef: the temperature alpha, detached
    :return: a scalar
    """
    return (ent_coef * log_prob - q_values).mean()


def leave_one_out_baseline(weights: th.Tensor) -> th.Tensor:
    """
    For each sample the mean of the OTHER samples of the same state, hence independent of the sample itself.

    :param weights: shape (K, B), K >= 2
    :return: shape (K, B)
    :raises ValueError: for one sample, which leaves none out
    """
    n_samples = weights.shape[0]
    if n_samples < 2:
        raise ValueError(f"the leave-one-out baseline needs n_actor_samples >= 2, not {n_samples}")
    return (weights.sum(dim=0, keepdim=True) - weights) / (n_samples - 1)


def reinforce_actor_loss(log_prob: th.Tensor, weights: th.Tensor, baseline: th.Tensor | float) -> th.Tensor:
    """
    ``-mean log pi(a|s) (w - b)``: a surrogate whose gradient, not its value, is meaningful.

    :param log_prob: shape (K, B), of samples through which no gradient flows
    :param weights: ``w = Q(s, a) - alpha log pi(a|s)``, shape (K, B)
    :param baseline: shape (K, B) or (1, B), a function of the state (and of the other samples) alone, or 0
    :return: a scalar
    """
    advantages = (weights - baseline).detach()
    return -(log_prob * advantages).mean()


def temperature_loss(log_ent_coef: th.Tensor, log_prob: th.Tensor, target_entropy: float) -> th.Tensor:
    """
    ``-mean log_alpha (log pi + target entropy)``: alpha grows while the policy's entropy is below its target.

    :param log_ent_coef: shape (1,)
    :param log_prob: shape (K, B)
    :return: a scalar
    """
    return -(log_ent_coef * (log_prob.detach() + target_entropy)).mean()
