"""
Actions that a network masks, because they are impossible in a state.

A masked action has the value -inf, or one far below the best of its state, such as the lowest float32 number or -1e8.
It has probability 0, and expectations leave it out: the product of 0 and -inf would be NaN.

Where all actions have the same masked value, none is below the best. So none counts as masked, and the state is worth
-inf.
"""

import math

import torch as th
from torch.nn import functional as F

#: An action this far below the best one of its state counts as masked. Q-values of up to 1e7 differ less
MASK_GAP = 5e7


def gaps_to_best(q_values: th.Tensor) -> th.Tensor:
    """
    Compute ``Q - max_a Q``.

    :param q_values: shape (B, A)
    :return: shape (B, A), at most 0; -inf for masked actions
    """
    # -inf - (-inf) is NaN. NaN and inf themselves pass through, as signs of divergence
    finite = q_values.clamp(min=th.finfo(q_values.dtype).min)
    return F.threshold(finite - finite.max(dim=1, keepdim=True).values, -MASK_GAP, -math.inf)


def count_allowed(logits: th.Tensor) -> th.Tensor:
    """Count the actions that are not masked, from gaps or logits of shape (B, A) to shape (B, 1)."""
    return (logits > -math.inf).sum(dim=1, keepdim=True, dtype=logits.dtype)


def is_masked(values: th.Tensor, q_values: th.Tensor) -> th.Tensor:
    """
    Tell whether an action was masked when it was taken.

    :param values: values of the actions taken, shape (B,)
    :param q_values: values of all actions, shape (B, A)
    :return: booleans, shape (B,). They are false where all actions are -inf, which is divergence: some action was
        possible
    """
    return values.detach() - q_values.detach().max(dim=1).values <= -MASK_GAP
