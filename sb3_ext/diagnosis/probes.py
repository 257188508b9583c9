"""Probes of stock algorithms. Other algorithms supply theirs, see :mod:`sb3_ext.common.probe`."""

from typing import Protocol, runtime_checkable

import torch as th
from sb3_contrib import QRDQN, TQC, CrossQ
from stable_baselines3 import DQN, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_ext.common.actor_critic_probe import ActorCriticProbe, SACProbe
from sb3_ext.common.probe import Probe
from sb3_ext.common.value_probe import ValueProbe


@runtime_checkable
class SuppliesProbe(Protocol):
    """An algorithm that supplies its own probe."""

    def make_probe(self) -> Probe:
        """Hook: make the probe of the algorithm as it is now."""


class TD3Probe(ActorCriticProbe):
    """The probe of TD3 and DDPG, whose policy is the actor without noise."""

    def _act(self, obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor | None]:
        return self.model.actor(obs), None

    def _temperature(self) -> float:
        return 0.0


class TQCProbe(SACProbe):
    """The probe of TQC, where the value from one critic is the mean of its quantiles."""

    def q_values(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        quantiles = self.model.critic(obs, actions)  # shape (B, N, number of quantiles)
        return quantiles.mean(dim=-1).T


class QRDQNProbe(ValueProbe):
    """The probe of QRDQN, where the value of an action is the mean of its quantiles."""

    def action_values(self, obs: PyTorchObs) -> th.Tensor:
        quantiles = self.network(obs)  # shape (B, number of quantiles, A)
        return quantiles.mean(dim=1)


def probe_for(model: BaseAlgorithm) -> Probe:
    """
    Ask an algorithm for its probe, or make that of a stock algorithm.

    :raises ValueError: naming the algorithm, if it neither has a method ``make_probe()`` nor is a stock algorithm with
        critics
    """
    if isinstance(model, SuppliesProbe):
        return model.make_probe()
    if isinstance(model, TQC):
        return TQCProbe(model, model.critic.q_networks)
    if isinstance(model, (SAC, CrossQ)):
        return SACProbe(model, model.critic.q_networks)
    if isinstance(model, TD3):  # DDPG is a subclass of it
        return TD3Probe(model, model.critic.q_networks)
    if isinstance(model, QRDQN):
        return QRDQNProbe(model, model.quantile_net)
    if isinstance(model, DQN):
        return ValueProbe(model, model.q_net)
    raise ValueError(
        f"DiagnosisCallback does not know the critics of {type(model).__name__}: it needs SAC, TD3, DDPG, DQN, TQC, "
        "CrossQ, QRDQN, an algorithm of sb3_ext (REDQSAC, DoubleDQN, SoftDQN, IQN, CEMQ, NAF), or one with a method "
        "make_probe() that returns a sb3_ext.common.probe.Probe"
    )
