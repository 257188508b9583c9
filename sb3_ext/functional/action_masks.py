"""
Actions that a network masks, because they are impossible in a state.

A masked action has the value -inf, or one far below the best of its state, such as the lowest float32 number or -1e8.
It has probability 0, and expectations leave it out: the product of 0 and -inf would be NaN.

Far below is at least ``5e7 + 10 |max_a Q|``. So -1e8 is a mask beside values up to 4e6. Where values are large
themselves, such as 1e8 and -1e8, none of them counts as masked.

Where all actions have the same masked value, none is below the best. So none counts as masked, and the state is worth
-inf.
"""

import math

import torch as th

#: An action this far below the best one of its state counts as masked, if the best one is 0
MASK_GAP = 5e7
#: How much the gap grows with the best value, so that large values of a task are not taken for masks
_GROWTH = 10.0


def gaps_to_best(q_values: th.Tensor) -> th.Tensor:
    """
    Compute ``Q - max_a Q``.

    :param q_values: shape (B, A)
    :return: shape (B, A), at most 0; -inf for masked actions
    """
    if not may_be_masked(q_values):
        return q_values - q_values.max(dim=1, keepdim=True).values
    # -inf - (-inf) is NaN. NaN and inf themselves pass through, as signs of divergence
    finite = q_values.clamp(min=th.finfo(q_values.dtype).min)
    best = finite.max(dim=1, keepdim=True).values
    gaps = finite - best
    return gaps.masked_fill(gaps <= _largest_masked_gap(best), -math.inf)


def _largest_masked_gap(best: th.Tensor) -> th.Tensor:
    return -_GROWTH * best.detach().abs() - MASK_GAP


def may_be_masked(values: th.Tensor) -> bool:
    """
    Tell whether one of some values can be that of a masked action, which is -5e7 at most.

    To read a value is faster than what it saves only on a CPU, and a compiled or exported function cannot branch on it.
    There the answer is yes.
    """
    if values.device.type != "cpu" or th.compiler.is_compiling() or th.jit.is_tracing():  # type: ignore[attr-defined]
        return True
    if values.numel() == 0:
        return False
    return not values.detach().min().item() > -MASK_GAP  # yes for NaN


def count_allowed(logits: th.Tensor) -> th.Tensor:
    """Count the actions that are not masked, from gaps or logits of shape (B, A) to shape (B, 1)."""
    return (logits > -math.inf).sum(dim=1, keepdim=True, dtype=logits.dtype)


def mean_log_share(log_policy: th.Tensor) -> th.Tensor:
    """Return the mean of log(n / A), where n of A actions are not masked: exactly 0 without masks, shape ()."""
    return (count_allowed(log_policy) / log_policy.shape[1]).log().mean()


def is_masked(values: th.Tensor, q_values: th.Tensor) -> th.Tensor:
    """
    Tell whether an action was masked when it was taken.

    :param values: values of the actions taken, shape (B,)
    :param q_values: values of all actions, shape (B, A)
    :return: booleans, shape (B,). They are false where all actions are -inf, which is divergence: some action was
        possible
    """
    best = q_values.detach().max(dim=1).values
    return (best < math.inf) & (values.detach() - best <= _largest_masked_gap(best))
