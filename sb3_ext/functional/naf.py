"""Normalized advantage functions: Gu et al. 2016, https://arxiv.org/abs/1603.00748."""

import math

import torch as th

# Entries of the diagonal before the exponential lie within +-10, so that squares and inverses of L are finite
_LARGEST_LOG = 10.0


def lower_triangular(entries: th.Tensor, n_actions: int) -> th.Tensor:
    """
    Return lower triangular matrices L with a positive diagonal, ``exp(10 tanh(x / 10))`` of its entries x.

    :param entries: shape (B, A (A + 1) / 2), row by row
    :param n_actions: A
    :return: shape (B, A, A)
    """
    rows, columns = th.tril_indices(n_actions, n_actions, device=entries.device)
    matrix = entries.new_zeros(len(entries), n_actions, n_actions)
    values = th.where(rows == columns, (_LARGEST_LOG * th.tanh(entries / _LARGEST_LOG)).exp(), entries)
    return matrix.index_put((th.arange(len(entries), device=entries.device)[:, None], rows, columns), values)


def quadratic_advantage(actions: th.Tensor, mean: th.Tensor, lower: th.Tensor) -> th.Tensor:
    """
    Compute ``-1/2 (a - mu)^T L L^T (a - mu)``.

    :param actions: shape (B, A)
    :param mean: mu, shape (B, A)
    :param lower: L, shape (B, A, A)
    :return: shape (B,)
    """
    return -0.5 * th.einsum("bij,bi->bj", lower, actions - mean).square().sum(dim=1)


def precise_noise(lower: th.Tensor, noise: th.Tensor, scale: float) -> th.Tensor:
    """
    Return noise with the covariance ``scale (L L^T)^-1``: little where the value falls steeply with the action.

    :param lower: L, shape (B, A, A)
    :param noise: standard normal, shape (B, A)
    :return: shape (B, A)
    """
    # x = L^-T e has the covariance L^-T L^-1 = (L L^T)^-1
    solved = th.linalg.solve_triangular(lower.mT, noise.unsqueeze(2), upper=True)
    return math.sqrt(scale) * solved.squeeze(2)
