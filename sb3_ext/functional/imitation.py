"""The loss of behavioural cloning: Pomerleau 1991, https://doi.org/10.1162/neco.1991.3.1.88."""

from collections.abc import Iterable

import torch as th


def imitation_loss(log_prob: th.Tensor, entropy: th.Tensor, ent_coef: float) -> th.Tensor:
    """
    Compute ``-log pi(a*|s) - ent_coef H(pi(.|s))`` for the expert's action a*.

    :param log_prob: shape (B,)
    :param entropy: shape (B,); where it has no formula, -log pi of one sample
    :return: shape (B,)
    """
    return -log_prob if ent_coef == 0 else -log_prob - ent_coef * entropy


def squared_norm(parameters: Iterable[th.Tensor]) -> th.Tensor:
    """Compute half the sum of squares of all weights, which the L2 penalty multiplies."""
    return 0.5 * th.stack([parameter.square().sum() for parameter in parameters]).sum()
