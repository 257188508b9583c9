"""The interface through which an algorithm supplies what a diagnosis has to know of it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn


class PolicyStep(NamedTuple):
    """
    One action in each of B states, and what the critics count for it.

    :param actions: as the environment takes them, B rows
    :param q_values: of these state-action pairs, from N critics, shape (N, B)
    :param entropy_bonuses: what the critics count for the uncertainty of the policy in these states, shape (B,)
    :param reward_bonuses: what the critics add to the rewards for these actions, shape (B,)
    """

    actions: np.ndarray
    q_values: th.Tensor
    entropy_bonuses: th.Tensor
    reward_bonuses: th.Tensor


class Probe(ABC):
    """
    What a diagnosis has to know of an algorithm.

    An algorithm supplies its probe through a method ``make_probe()``, which is called when the training begins. The
    methods of a probe are called without gradients, with the networks in evaluation mode.

    :param network: the critics, features extractor included: their active units are counted
    :param heads: the output layers of each critic, see :func:`~sb3_ext.nets.output_layers.output_layers`
    :param optimizers: ``"critic"`` and, if there is one, ``"actor"``
    :param discount: gamma, in [0, 1], as in the targets of the critics
    :param n_steps: n >= 1: the critics learn from n-step returns
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        heads: Sequence[Sequence[nn.Module]],
        optimizers: Mapping[str, th.optim.Optimizer],
        discount: float,
        n_steps: int,
    ) -> None:
        self.network = network
        self.heads = heads
        self.optimizers = optimizers
        self.discount = discount
        self.n_steps = n_steps

    @abstractmethod
    def step(self, obs: PyTorchObs) -> PolicyStep:
        """
        Act by the policy whose value the critics estimate.

        :param obs: observations of B states
        """

    @abstractmethod
    def q_values(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        """
        Value state-action pairs.

        :param obs: observations of B states
        :param actions: one for each state, as in the replay buffer
        :return: the values from N critics, shape (N, B)
        """

    @abstractmethod
    def entropy(self, obs: PyTorchObs) -> th.Tensor | None:
        """
        Measure how uncertain the policy is.

        :param obs: observations of B states
        :return: in nats, shape (B,); for a continuous policy an unbiased estimate; ``None`` for a deterministic policy
        """


def learned_discount(model: OffPolicyAlgorithm) -> tuple[float, int]:
    """
    Find out which returns the critics learn from.

    A replay buffer that makes n-step returns discounts them itself. Its gamma then counts, and not the algorithm's.

    :param model: an algorithm with a replay buffer
    :return: gamma and n
    """
    buffer = model.replay_buffer
    # SB3's buffers and those of this package have no class in common that knows the two
    n_steps = int(getattr(buffer, "n_steps", 1))
    discount = getattr(buffer, "gamma", model.gamma) if n_steps > 1 else model.gamma
    return float(discount), n_steps
