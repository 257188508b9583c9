"""The interface through which a diagnosis inspects an algorithm."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_ext.common.off_policy import OffPolicyExtension


class PolicyStep(NamedTuple):
    """
    One action in each of B states, and the bonuses that the critics add for it.

    :param actions: actions in the form for the environment, B rows
    :param q_values: values of these state-action pairs from N critics, shape (N, B)
    :param entropy_bonuses: what the critics add for the entropy of the policy in these states, shape (B,)
    :param reward_bonuses: what the critics add to the rewards for these actions, shape (B,)
    """

    actions: np.ndarray
    q_values: th.Tensor
    entropy_bonuses: th.Tensor
    reward_bonuses: th.Tensor


class Probe(ABC):
    """
    What a diagnosis needs from an algorithm.

    An algorithm returns its probe from ``make_probe()``, which is called when training begins. Probe methods are called
    without gradients, with the networks in evaluation mode.

    :param network: the critics with their features extractor, whose active units are counted
    :param heads: the output layers of each critic, see :func:`~sb3_ext.nets.output_layers.output_layers`
    :param optimizers: ``"critic"`` and, if there is one, ``"actor"``
    :param discount: gamma in the critics' targets, in [0, 1]
    :param n_steps: n >= 1, the number of steps of the critics' returns
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
        """Hook: return actions in B states, from the policy whose value the critics estimate."""

    @abstractmethod
    def q_values(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        """
        Hook: return the values of B state-action pairs from N critics, shape (N, B).

        :param actions: one for each state, in the form of the replay buffer
        """

    @abstractmethod
    def entropy(self, obs: PyTorchObs) -> th.Tensor | None:
        """
        Hook: return the entropy of the policy in nats, shape (B,), or ``None`` for a deterministic policy.

        For a continuous policy it is an unbiased estimate.
        """


def learned_discount(model: OffPolicyAlgorithm) -> tuple[float, int]:
    """
    Return gamma and n of the returns that the critics learn from, where entropy counts at every n-th step.

    Corrected returns are sums of one-step differences, so it counts at each step there.

    An algorithm of this package owns both. Beside a stock one, a replay buffer of n-step returns discounts them itself,
    so its gamma replaces the algorithm's.
    """
    if isinstance(model, OffPolicyExtension):
        is_corrected = getattr(model, "n_step_correction", "none") != "none"
        return float(model.gamma), 1 if is_corrected else model.effective_n_steps
    buffer = model.replay_buffer
    # SB3's buffers and those of this package have no common class with these attributes
    n_steps = int(getattr(buffer, "n_steps", 1))
    discount = getattr(buffer, "gamma", model.gamma) if n_steps > 1 else model.gamma
    return float(discount), n_steps
