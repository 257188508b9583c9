"""
Heads of critics: what the outputs of the last layer mean.

A critic is a stack of layers and a head. The head turns outputs into values, next outputs into targets, and both into
a loss. A distributional critic is another head on the same layers.
"""

from abc import abstractmethod

import torch as th
from torch import nn

from sb3_ext.functional.bellman import ensemble_critic_loss, ensemble_td_errors, soft_td_target
from sb3_ext.functional.ensemble import TargetBackup, ensemble_backup


class CriticHead(nn.Module):
    """
    The interface. A head that learns towards scalar targets supplies ``n_outputs``, :meth:`values` and :meth:`loss`.
    One whose targets are distributions replaces :meth:`backup`, :meth:`td_targets` and :meth:`td_errors` as well.

    N critics, M of them evaluated, B transitions.
    """

    #: Width of the output layer of each critic
    n_outputs: int

    @abstractmethod
    def values(self, outputs: th.Tensor) -> th.Tensor:
        """
        :param outputs: shape (..., n_outputs)
        :return: expected returns, shape (...)
        """

    @abstractmethod
    def loss(self, outputs: th.Tensor, targets: th.Tensor, weights: th.Tensor | None) -> th.Tensor:
        """
        :param outputs: shape (N, B, n_outputs), differentiable
        :param targets: what :meth:`td_targets` returned
        :param weights: importance weights of the transitions, shape (B,); ``None``: 1
        :return: a scalar: the mean over the transitions, summed over the critics, so that the gradient of one critic
            does not depend on N
        """

    def backup(
        self, next_outputs: th.Tensor, target_backup: TargetBackup, n_critics: int, mixture: th.Tensor | None
    ) -> th.Tensor:
        """
        :param next_outputs: of the target critics in the next states, shape (M, B, n_outputs)
        :param target_backup: how the target critics are combined, see :func:`~sb3_ext.functional.ensemble_backup`
        :param n_critics: N
        :param mixture: weights of the critics for ``"rem"``, shape (N, B)
        :return: the return from the next state for each critic, in a form that :meth:`td_targets` understands; here
            values of shape (N, B)
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
        :param rewards: shape (B,)
        :param dones: 1 where the next state is terminal, shape (B,)
        :param discounts: of each transition, shape (B,), or of all
        :param next_returns: what :meth:`backup` returned
        :param entropy_bonus: what the next value is raised by, shape (B,)
        :return: the target of each critic; here values of shape (N, B)
        """
        return soft_td_target(rewards, dones, discounts, next_returns, entropy_bonus)

    def td_errors(self, outputs: th.Tensor, targets: th.Tensor) -> th.Tensor:
        """
        :return: how wrong the prediction was for each transition, shape (B,), detached: the priorities of a prioritized
            replay buffer
        """
        return ensemble_td_errors(self.values(outputs), targets)


class ScalarHead(CriticHead):
    """One output, which is the value; the mean squared error is the loss, as in SB3's SAC."""

    n_outputs = 1

    def values(self, outputs: th.Tensor) -> th.Tensor:
        return outputs.squeeze(-1)

    def loss(self, outputs: th.Tensor, targets: th.Tensor, weights: th.Tensor | None) -> th.Tensor:
        return ensemble_critic_loss(self.values(outputs), targets, weights)
