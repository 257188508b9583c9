"""
Heads of critics, which give the outputs of the last layer their meaning.

A critic consists of layers and a head. The head turns outputs into values, next outputs into targets, and both into a
loss. A distributional critic is another head on the same layers.
"""

from abc import abstractmethod

import torch as th
from torch import nn

from sb3_ext.checks import check_integer, check_interval
from sb3_ext.functional.bellman import ensemble_critic_loss, ensemble_td_errors, soft_td_target
from sb3_ext.functional.categorical import (
    categorical_backup,
    categorical_critic_loss,
    categorical_support,
    categorical_td_target,
    expected_value,
)
from sb3_ext.functional.ensemble import TargetBackup, ensemble_backup


class CriticHead(nn.Module):
    """
    The interface of heads.

    A head with scalar targets implements ``n_outputs``, :meth:`values` and :meth:`loss`. A head whose targets are
    distributions also overrides :meth:`backup`, :meth:`td_targets` and :meth:`target_values`.

    Notation: N critics, M of them evaluated, B transitions.
    """

    #: Width of the output layer of each critic
    n_outputs: int
    #: Largest absolute value that the outputs can express; ``None``: any
    bound: float | None = None

    @abstractmethod
    def values(self, outputs: th.Tensor) -> th.Tensor:
        """Hook: return expected returns, shape (...), from outputs of shape (..., n_outputs)."""

    @abstractmethod
    def loss(self, outputs: th.Tensor, targets: th.Tensor, weights: th.Tensor | None) -> th.Tensor:
        """
        Hook: return the loss, a scalar.

        The loss is the mean over the transitions, summed over the critics. So the gradient of one critic does not
        depend on N.

        :param outputs: shape (N, B, n_outputs), differentiable
        :param targets: what :meth:`td_targets` returned
        :param weights: importance weights of the transitions, shape (B,); ``None`` means 1
        """

    def backup(
        self, next_outputs: th.Tensor, target_backup: TargetBackup, n_critics: int, mixture: th.Tensor | None
    ) -> th.Tensor:
        """
        Hook: return the return from the next state for each critic, in a form that :meth:`td_targets` understands.

        By default these are values of shape (N, B).

        :param next_outputs: outputs of the target critics in the next states, shape (M, B, n_outputs)
        :param target_backup: how to combine the target critics, see
            :func:`~sb3_ext.functional.ensemble.ensemble_backup`
        :param n_critics: N
        :param mixture: weights of the critics for ``"rem"``, shape (N, B)
        """
        return ensemble_backup(target_backup, self.values(next_outputs), n_critics, mixture)

    def td_targets(
        self,
        rewards: th.Tensor,
        dones: th.Tensor,
        discounts: th.Tensor | float,
        next_returns: th.Tensor,
        entropy_bonus: th.Tensor,
    ) -> th.Tensor:
        """
        Hook: return the target of each critic, by default values of shape (N, B).

        :param rewards: shape (B,)
        :param dones: 1 where the next state is terminal, shape (B,)
        :param discounts: one number, or one for each transition, shape (B,)
        :param next_returns: what :meth:`backup` returned
        :param entropy_bonus: what the entropy adds to the next value, shape (B,)
        """
        return soft_td_target(rewards, dones, discounts, next_returns, entropy_bonus)

    def target_values(self, targets: th.Tensor) -> th.Tensor:
        """Hook: return the values, shape (N, B), of what :meth:`td_targets` returned."""
        return targets

    def mass_at_bound(self, targets: th.Tensor) -> th.Tensor:
        """
        Hook: return the share, a scalar, of what :meth:`td_targets` returned that lies at the bound. Only where
        ``bound`` is given.
        """
        return targets.new_zeros(())

    def td_errors(self, outputs: th.Tensor, targets: th.Tensor) -> th.Tensor:
        """
        Hook: return the prediction error of each transition, shape (B,), detached.

        A prioritized replay buffer takes its priorities from these errors.
        """
        return ensemble_td_errors(self.values(outputs), self.target_values(targets))


class ScalarHead(CriticHead):
    """One output, which is the value. The loss is the mean squared error, as in SB3's SAC."""

    n_outputs = 1

    def values(self, outputs: th.Tensor) -> th.Tensor:
        return outputs.squeeze(-1)

    def loss(self, outputs: th.Tensor, targets: th.Tensor, weights: th.Tensor | None) -> th.Tensor:
        return ensemble_critic_loss(self.values(outputs), targets, weights)


class CategoricalHead(CriticHead):
    """
    A distribution of the return over fixed atoms, learned by cross-entropy (C51, https://arxiv.org/abs/1707.06887).

    Returns beyond the bound cannot be expressed, so rewards need a scale: ``REDQSAC(normalize_returns=True)`` finds it.

    :param n_bins: number of atoms, at least 2
    :param bound: the atoms go from ``-bound`` to ``bound``; from 1e-15 to 1e15
    :raises ValueError: naming the argument, its value and what is allowed
    """

    def __init__(self, n_bins: int = 101, bound: float = 5.0) -> None:
        super().__init__()
        check_integer("n_bins", n_bins, minimum=2)
        # Beyond these, squares of values, or the reciprocals of the atoms' distances, leave the range of float32
        check_interval("bound", bound, 1e-15, 1e15, "a number from 1e-15 to 1e15: the atoms go from -bound to bound")
        self.n_outputs, self.bound = n_bins, float(bound)
        self.support: th.Tensor
        # Not saved, since the arguments determine it
        self.register_buffer("support", categorical_support(n_bins, self.bound), persistent=False)

    def extra_repr(self) -> str:
        return f"n_bins={self.n_outputs}, bound={self.bound}"

    def values(self, outputs: th.Tensor) -> th.Tensor:
        return expected_value(outputs.softmax(dim=-1), self.support)

    def loss(self, outputs: th.Tensor, targets: th.Tensor, weights: th.Tensor | None) -> th.Tensor:
        return categorical_critic_loss(outputs, targets, weights)

    def backup(
        self, next_outputs: th.Tensor, target_backup: TargetBackup, n_critics: int, mixture: th.Tensor | None
    ) -> th.Tensor:
        """Return probabilities, shape (N, B, n_bins)."""
        return categorical_backup(target_backup, next_outputs.softmax(dim=-1), self.support, n_critics, mixture)

    def td_targets(
        self,
        rewards: th.Tensor,
        dones: th.Tensor,
        discounts: th.Tensor | float,
        next_returns: th.Tensor,
        entropy_bonus: th.Tensor,
    ) -> th.Tensor:
        """Return probabilities, shape (N, B, n_bins)."""
        return categorical_td_target(rewards, dones, discounts, next_returns, entropy_bonus, self.support)

    def target_values(self, targets: th.Tensor) -> th.Tensor:
        return expected_value(targets, self.support)

    def mass_at_bound(self, targets: th.Tensor) -> th.Tensor:
        """Return the mass in the first and the last bin, where the projection puts what lies beyond them."""
        return (targets[..., 0] + targets[..., -1]).mean()


#: Heads by the names in ``policy_kwargs``
HEADS: dict[str, type[CriticHead]] = {"scalar": ScalarHead, "categorical": CategoricalHead}
