"""What a measurement has to know of an algorithm: its Q, the policy that Q belongs to, the entropy that it counts."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_ext.diagnosis.networks import output_layers
from sb3_ext.functional.quantile import quantile_midpoints
from sb3_ext.functional.soft_value import boltzmann_log_policy, munchausen_bonus, policy_entropy


class PolicyStep(NamedTuple):
    """
    One action in each of B states.

    :param actions: as the environment takes them, B rows
    :param q_values: of these state-action pairs, shape (N, B)
    :param entropy_bonuses: what the critics count for the uncertainty of the policy in these states, shape (B,)
    :param reward_bonuses: what they count besides the rewards, for these actions, shape (B,)
    """

    actions: np.ndarray
    q_values: th.Tensor
    entropy_bonuses: th.Tensor
    reward_bonuses: th.Tensor


class Probe(ABC):
    """
    :param model: the algorithm
    """

    #: Of which the activations are looked at
    network: nn.Module
    #: Output layers of each critic
    heads: Sequence[Sequence[nn.Module]]

    def __init__(self, model: BaseAlgorithm) -> None:
        self.model: Any = model

    @abstractmethod
    def step(self, obs: PyTorchObs) -> PolicyStep:
        """
        Act by the policy whose value the critics estimate.

        :param obs: observations of B states
        """

    @abstractmethod
    def q_values(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        """
        :param obs: observations of B states
        :param actions: as in the replay buffer
        :return: shape (N, B)
        """

    @abstractmethod
    def entropy(self, obs: PyTorchObs) -> th.Tensor | None:
        """
        :param obs: observations of B states
        :return: of the policy, shape (B,), in nats (an unbiased estimate of it for a continuous policy); ``None`` for
            one without randomness
        """

    @property
    @abstractmethod
    def optimizers(self) -> dict[str, th.optim.Optimizer]:
        """
        :return: ``"critic"`` and, if there is one, ``"actor"``
        """


class ActorCriticProbe(Probe):
    """
    SAC, TQC, CrossQ and REDQSAC, whose policy is random; TD3 and DDPG, whose policy is the actor without noise.
    """

    def __init__(self, model: BaseAlgorithm) -> None:
        super().__init__(model)
        self.network = self.model.critic
        ensemble = getattr(self.model.critic, "ensemble", None)
        networks = self.model.critic.q_networks if ensemble is None else [ensemble]
        self.heads = [output_layers(network) for network in networks]

    @property
    def optimizers(self) -> dict[str, th.optim.Optimizer]:
        return {"critic": self.model.critic.optimizer, "actor": self.model.actor.optimizer}

    def _temperature(self) -> float:
        if not getattr(self.model, "backup_entropy", True):
            return 0.0
        log_ent_coef = getattr(self.model, "log_ent_coef", None)
        if log_ent_coef is not None:
            return float(log_ent_coef.detach().exp())
        return float(getattr(self.model, "ent_coef_tensor", 0.0))

    def _sample(self, obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor | None]:
        """
        :return: actions between -1 and 1, shape (B, A), and their log-probabilities, shape (B,)
        """
        actor = self.model.actor
        if not hasattr(actor, "action_log_prob"):
            return actor(obs), None
        if getattr(self.model, "use_sde", False):
            # Otherwise the noise of an old state of the policy
            actor.reset_noise()
        actions, log_prob = actor.action_log_prob(obs)
        return actions, log_prob.reshape(-1)

    def step(self, obs: PyTorchObs) -> PolicyStep:
        actions, log_prob = self._sample(obs)
        q_values = self.q_values(obs, actions)
        zeros = th.zeros_like(q_values[0])
        bonuses = zeros if log_prob is None else -self._temperature() * log_prob
        scaled = actions.cpu().numpy().reshape(-1, *self.model.action_space.shape)
        return PolicyStep(self.model.policy.unscale_action(scaled), q_values, bonuses, zeros)

    def q_values(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        values = self.model.critic(obs, actions)
        if isinstance(values, th.Tensor):  # quantiles, shape (B, N, number of them)
            return values.mean(dim=-1).T
        return th.cat(values, dim=1).T

    def entropy(self, obs: PyTorchObs) -> th.Tensor | None:
        _, log_prob = self._sample(obs)
        return None if log_prob is None else -log_prob


class ValueProbe(Probe):
    """
    DQN, QRDQN, DoubleDQN and IQN, whose policy is greedy; SoftDQN, whose policy is a Boltzmann distribution.
    """

    def __init__(self, model: BaseAlgorithm) -> None:
        super().__init__(model)
        quantile_net = getattr(self.model, "quantile_net", None)
        self.network = self.model.q_net if quantile_net is None else quantile_net
        self.heads = [output_layers(self.network)]
        self._of_quantiles = quantile_net is not None

    @property
    def optimizers(self) -> dict[str, th.optim.Optimizer]:
        return {"critic": self.model.policy.optimizer}

    @property
    def _backup(self) -> str:
        """
        What the value of a state is made of: ``"max"`` where the policy is greedy, see
        :func:`~sb3_ext.functional.soft_value.soft_state_value`.
        """
        return getattr(self.model, "backup", "max") if hasattr(self.network, "temperature") else "max"

    def _all_values(self, obs: PyTorchObs) -> th.Tensor:
        """
        :return: the mean return of each action, also where actions are chosen by another measure, shape (B, A)
        """
        quantiles_at = cast(Any, getattr(self.network, "quantiles", None))
        if quantiles_at is not None:
            n_states = len(next(iter(obs.values())) if isinstance(obs, dict) else obs)
            taus = quantile_midpoints(cast(Any, self.network).n_action_quantile_samples, self.model.device)
            return quantiles_at(obs, taus.expand(n_states, -1)).mean(dim=1)
        values = self.network(obs)
        return values.mean(dim=1) if self._of_quantiles else values

    def step(self, obs: PyTorchObs) -> PolicyStep:
        values = self._all_values(obs)
        zeros = th.zeros_like(values[:, 0])
        entropy_bonuses = reward_bonuses = zeros
        if self._backup == "max":
            is_risk_sensitive = getattr(self.network, "risk_measure", "neutral") != "neutral"
            choose = cast(Callable[..., th.Tensor], self.network._predict)
            actions = choose(obs, deterministic=True) if is_risk_sensitive else values.argmax(dim=1)
        else:
            temperature = cast(th.Tensor, self.network.temperature)
            log_policy = boltzmann_log_policy(values, temperature)
            actions = th.distributions.Categorical(logits=log_policy).sample()
            entropy_bonuses = self._entropy_bonuses(log_policy, temperature)
            coef = getattr(self.model, "munchausen_coef", 0.0)
            if coef > 0:
                clip = self.model.munchausen_clip
                reward_bonuses = munchausen_bonus(values, actions.unsqueeze(1), temperature, coef, clip)
        q_values = values.gather(1, actions.unsqueeze(1)).T
        return PolicyStep(actions.cpu().numpy(), q_values, entropy_bonuses, reward_bonuses)

    def _entropy_bonuses(self, log_policy: th.Tensor, temperature: th.Tensor) -> th.Tensor:
        """
        :param log_policy: shape (B, A)
        :param temperature: alpha
        :return: what the backup adds to the policy's expected Q, shape (B,)
        """
        if self._backup == "boltzmann":
            return th.zeros_like(log_policy[:, 0])
        entropy = policy_entropy(log_policy)
        if self._backup == "mellowmax":
            entropy = entropy - np.log(log_policy.shape[1])
        return temperature * entropy

    def q_values(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        return self._all_values(obs).gather(1, actions.long().reshape(-1, 1)).T

    def entropy(self, obs: PyTorchObs) -> th.Tensor | None:
        if self._backup == "max":
            return None
        return policy_entropy(boltzmann_log_policy(self._all_values(obs), cast(th.Tensor, self.network.temperature)))


def probe_for(model: BaseAlgorithm) -> Probe:
    """
    :param model: an off-policy algorithm
    :return: what measures it
    :raises ValueError: naming the algorithm, if it has neither an actor with critics nor a network of action values
    """
    if hasattr(model, "replay_buffer"):
        critic = getattr(model, "critic", None)
        has_networks = hasattr(critic, "q_networks") or hasattr(critic, "ensemble")
        if has_networks and hasattr(model, "actor"):
            return ActorCriticProbe(model)
        if hasattr(model, "q_net") or hasattr(model, "quantile_net"):
            return ValueProbe(model)
    raise ValueError(
        f"DiagnosisCallback does not know the critics of {type(model).__name__}: it needs an off-policy algorithm with "
        "`actor` and `critic` (SAC, TQC, CrossQ, REDQSAC, TD3, DDPG), with a `q_net` (DQN, DoubleDQN, SoftDQN, IQN) or "
        "with a `quantile_net` (QRDQN)"
    )
