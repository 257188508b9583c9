"""Implicit Quantile Networks."""

from typing import Any, ClassVar

import numpy as np
import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.dqn.policies import DQNPolicy
from typing_extensions import Unpack

from sb3_ext.buffers.samples import AnySamples
from sb3_ext.checks import check_integer, check_interval
from sb3_ext.common.probe import Probe
from sb3_ext.common.value_based import ValueBasedAlgorithm, ValueBasedKwargs, ValueLoss, actions_taken
from sb3_ext.functional.quantile import check_risk, quantile_huber_loss
from sb3_ext.iqn.policies import CnnPolicy, ImplicitQuantileNetwork, IQNPolicy, MlpPolicy, MultiInputPolicy
from sb3_ext.iqn.probe import IQNProbe


class IQN(ValueBasedAlgorithm):
    """
    Implicit Quantile Networks: the whole distribution of the return, by the quantiles at random levels.

    Paper: https://arxiv.org/abs/1806.06923. A policy may be averse to risk or fond of it: ``risk_measure`` distorts the
    quantile levels wherever an action is chosen, also in the targets; the levels of the loss stay uniform.

    The default numbers of samples are the paper's. Most of the work is proportional to them: the YAML file sets 8, 8
    and 32 for Atari.

    :param policy: the policy model to use (MlpPolicy, CnnPolicy, MultiInputPolicy, or a subclass of these)
    :param env: the environment to learn from (if registered in Gym, can be str)
    :param args: arguments of SB3's ``DQN`` after ``env``, in its order
    :param n_quantile_samples: T, levels at which the online network learns, for each transition
    :param n_target_quantile_samples: T', levels of the target distribution
    :param n_action_quantile_samples: K, levels at which actions are valued
    :param kappa: where the loss of an error becomes linear, > 0
    :param double_q: the online network chooses the next action
    :param risk_measure: ``"neutral"``, ``"cvar"``, ``"wang"``, ``"cpw"`` or ``"pow"``, see
        :func:`~sb3_ext.functional.quantile.distort_taus`
    :param risk_eta: its parameter: in (0, 1] for ``"cvar"`` and ``"cpw"``; for ``"wang"`` and ``"pow"`` averse to risk
        below 0
    :param _init_setup_model: whether or not to build the network at the creation of the instance
    :param kwargs: those of SB3's ``DQN`` with its defaults, and ``target_clip``, ``learning_rate_final``,
        ``learning_rate_fraction``, ``compile``, ``autocast_dtype``: see
        :class:`~sb3_ext.common.value_based.ValueBasedAlgorithm`
    :raises ValueError: naming the argument, its value and what is allowed
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    policy_base: ClassVar[type[DQNPolicy]] = IQNPolicy
    policy: IQNPolicy
    q_net: ImplicitQuantileNetwork
    q_net_target: ImplicitQuantileNetwork

    def __init__(
        self,
        policy: str | type[DQNPolicy],
        env: GymEnv | str,
        *args: Any,
        n_quantile_samples: int = 64,
        n_target_quantile_samples: int = 64,
        n_action_quantile_samples: int = 32,
        kappa: float = 1.0,
        double_q: bool = False,
        risk_measure: str = "neutral",
        risk_eta: float = 0.0,
        _init_setup_model: bool = True,
        **kwargs: Unpack[ValueBasedKwargs],
    ) -> None:
        super().__init__(policy, env, *args, double_q=double_q, _init_setup_model=False, **kwargs)
        self.n_quantile_samples = n_quantile_samples
        self.n_target_quantile_samples = n_target_quantile_samples
        self.n_action_quantile_samples = n_action_quantile_samples
        self.kappa = kappa
        self.risk_measure = risk_measure
        self.risk_eta = risk_eta
        if _init_setup_model:
            self._setup_model()

    def _check_arguments(self) -> None:
        super()._check_arguments()
        for name in ("n_quantile_samples", "n_target_quantile_samples", "n_action_quantile_samples"):
            check_integer(name, getattr(self, name), minimum=1)
        check_interval("kappa", self.kappa, np.finfo(np.float32).tiny, np.finfo(np.float32).max, "a number > 0")
        check_risk(self.risk_measure, self.risk_eta)
        for name in ("n_action_quantile_samples", "risk_measure", "risk_eta"):
            if name in self.policy_kwargs:
                raise ValueError(
                    f"policy_kwargs has {name}={self.policy_kwargs[name]!r}, which is not allowed: give it to IQN "
                    "itself, which sets it in the policy"
                )

    def _create_aliases(self) -> None:
        super()._create_aliases()
        for network in (self.q_net, self.q_net_target):
            network.choose_actions_by(self.n_action_quantile_samples, self.risk_measure, self.risk_eta)

    def _compute_loss(self, batch: AnySamples, discounts: th.Tensor | float) -> ValueLoss:
        actions = actions_taken(batch)
        taus = th.rand(len(actions), self.n_quantile_samples, device=self.device)
        with th.no_grad():
            # (B, T') -> (T', B) and back, for a discount of each transition
            targets = self._td_targets(batch, discounts, self._next_quantiles(batch).T).T
        all_quantiles = self._evaluate(self.q_net.quantiles, batch.observations, taus)
        quantiles = all_quantiles.gather(2, actions.unsqueeze(1).expand(-1, taus.shape[1], 1)).squeeze(2)
        losses = quantile_huber_loss(quantiles, taus, targets, self.kappa)
        metrics = {"q_value": quantiles.detach().mean()}
        return ValueLoss(losses, losses.detach().sqrt(), metrics)

    def make_probe(self) -> Probe:
        return IQNProbe(self)

    def _next_quantiles(self, batch: AnySamples) -> th.Tensor:
        """
        :param batch: B transitions
        :return: quantiles of the best next action at uniformly random levels, shape (B, T')
        """
        next_obs, n_states = batch.next_observations, len(batch.actions)
        taus = th.rand(n_states, self.n_target_quantile_samples, device=self.device)
        action_taus = self.q_net.action_taus(n_states, deterministic=False)
        if self.double_q:
            with self._choosing():
                action_quantiles = self._evaluate(self.q_net.quantiles, next_obs, action_taus)
            quantiles = self._evaluate(self.q_net_target.quantiles, next_obs, taus)
        else:
            # One pass for both
            both = self._evaluate(self.q_net_target.quantiles, next_obs, th.cat([taus, action_taus], dim=1))
            quantiles, action_quantiles = both.split([taus.shape[1], action_taus.shape[1]], dim=1)
        best = action_quantiles.mean(dim=1, keepdim=True).argmax(dim=2, keepdim=True)
        return quantiles.gather(2, best.expand(-1, taus.shape[1], 1)).squeeze(2)
