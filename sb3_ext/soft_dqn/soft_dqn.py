"""Soft Q-learning for discrete actions."""

import math
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.dqn.policies import DQNPolicy
from typing_extensions import Unpack

from sb3_ext.buffers.samples import AnySamples
from sb3_ext.checks import check_choice, check_interval
from sb3_ext.common.probe import Probe
from sb3_ext.common.value_based import (
    DQNKwargs,
    ValueBasedAlgorithm,
    ValueBasedKwargs,
    ValueLoss,
    actions_taken,
    values_of_actions,
)
from sb3_ext.functional.bellman import huber_value_loss
from sb3_ext.functional.policy_gradient import temperature_loss
from sb3_ext.functional.soft_value import (
    VALUE_BACKUPS,
    boltzmann_log_policy,
    munchausen_bonus,
    policy_entropy,
    soft_state_value,
)
from sb3_ext.soft_dqn.policies import BoltzmannNetwork, CnnPolicy, MlpPolicy, MultiInputPolicy, SoftDQNPolicy
from sb3_ext.soft_dqn.probe import SoftDQNProbe

# Values of 1e6 divided by it, and their exponentials, stay finite
_SMALLEST_TEMPERATURE = 1e-8


class SoftDQN(ValueBasedAlgorithm):
    """
    Soft Q-learning: actions are sampled from ``softmax(Q / alpha)``, and a state is worth what that policy earns, its
    entropy included.

    Paper: https://arxiv.org/abs/1702.08165 (soft values), https://arxiv.org/abs/1612.05628 (mellowmax),
    https://arxiv.org/abs/2007.14430 (Munchausen). The Boltzmann policy explores by itself: epsilon is 0 by default.

    The entropy of the policy, the temperature and the values are logged as ``train/entropy``, ``train/temperature`` and
    ``train/q_value``.

    :param policy: the policy model to use (MlpPolicy, CnnPolicy, MultiInputPolicy, or a subclass of these)
    :param env: the environment to learn from (if registered in Gym, can be str)
    :param args: arguments of SB3's ``DQN`` after ``env``, in its order
    :param backup: the value of the next state: ``"soft"`` (expected Q plus alpha times the entropy), ``"boltzmann"``
        (expected Q), ``"mellowmax"`` (``"soft"`` minus ``alpha log A``) or ``"max"`` (DQN)
    :param double_q: the policy in the target is that of the online network; with ``backup="max"`` Double DQN
    :param temperature_initial: alpha at the beginning, >= 1e-8. (A model that was saved with ``auto_temperature`` goes
        on with the temperature that it has learned.)
    :param temperature_final: alpha at the end, >= 1e-8
    :param temperature_fraction: the fraction of the training, in (0, 1], after which it has arrived there, linearly
    :param auto_temperature: learn alpha instead, starting from ``temperature_initial``, so that the entropy becomes
        ``target_entropy_fraction * log A``; with Adam, at the learning rate of the network
    :param target_entropy_fraction: in [0, 1)
    :param munchausen_coef: m: ``m * clip(alpha log pi(a|s), munchausen_clip, 0)`` is added to the rewards; 0.9 in the
        paper, with alpha 0.03. In [0, 1]; above 0 only with ``backup="soft"``, ``double_q=False`` and ``n_steps=1``
    :param munchausen_clip: l0 <= 0
    :param _init_setup_model: whether or not to build the network at the creation of the instance
    :param kwargs: those of SB3's ``DQN`` with its defaults, but for ``exploration_initial_eps`` and
        ``exploration_final_eps`` (0), and ``target_clip``, ``learning_rate_final``, ``learning_rate_fraction``,
        ``compile``, ``autocast_dtype``: see :class:`~sb3_ext.common.value_based.ValueBasedAlgorithm`
    :raises ValueError: naming the argument, its value and what is allowed
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    policy_base: ClassVar[type[DQNPolicy]] = SoftDQNPolicy
    q_net: BoltzmannNetwork
    q_net_target: BoltzmannNetwork
    temperature_schedule: Schedule

    def __init__(
        self,
        policy: str | type[DQNPolicy],
        env: GymEnv | str,
        *args: Any,
        backup: str = "soft",
        double_q: bool = True,
        temperature_initial: float = 1.0,
        temperature_final: float = 0.05,
        temperature_fraction: float = 0.5,
        auto_temperature: bool = False,
        target_entropy_fraction: float = 0.1,
        munchausen_coef: float = 0.0,
        munchausen_clip: float = -1.0,
        _init_setup_model: bool = True,
        **kwargs: Unpack[ValueBasedKwargs],
    ) -> None:
        # Unless it is given, by name or by position
        for position, name in enumerate(DQNKwargs.__annotations__):
            if name in ("exploration_initial_eps", "exploration_final_eps") and position >= len(args):
                kwargs.setdefault(name, 0.0)  # type: ignore[misc]
        super().__init__(policy, env, *args, double_q=double_q, _init_setup_model=False, **kwargs)
        self.backup = backup
        self.temperature_initial = temperature_initial
        self.temperature_final = temperature_final
        self.temperature_fraction = temperature_fraction
        self.auto_temperature = auto_temperature
        self.target_entropy_fraction = target_entropy_fraction
        self.munchausen_coef = munchausen_coef
        self.munchausen_clip = munchausen_clip
        if _init_setup_model:
            self._setup_model()

    def _check_arguments(self) -> None:
        super()._check_arguments()
        smallest, largest = _SMALLEST_TEMPERATURE, np.finfo(np.float32).max
        check_choice("backup", self.backup, VALUE_BACKUPS)
        check_choice("auto_temperature", self.auto_temperature, (True, False))
        for name in ("temperature_initial", "temperature_final"):
            check_interval(name, getattr(self, name), smallest, largest, f"a number >= {smallest:g}")
        tiny = np.finfo(np.float64).tiny
        check_interval("temperature_fraction", self.temperature_fraction, tiny, 1.0, "in (0, 1]")
        # The largest entropy itself takes an infinite temperature
        check_interval("target_entropy_fraction", self.target_entropy_fraction, 0.0, 1 - 1e-6, "in [0, 1)")
        check_interval("munchausen_coef", self.munchausen_coef, 0.0, 1.0, "in [0, 1]")
        check_interval("munchausen_clip", self.munchausen_clip, -largest, 0.0, "a number <= 0")
        if self.munchausen_coef > 0:
            n_steps = self.replay_buffer_kwargs.get("n_steps", self.n_steps)
            for name, value, allowed in (
                ("backup", self.backup, "soft"),
                ("double_q", self.double_q, False),
                ("n_steps", n_steps, 1),
            ):
                if value != allowed:
                    raise ValueError(
                        f"munchausen_coef={self.munchausen_coef} with {name}={value!r}: only {name}={allowed!r} is "
                        "allowed"
                    )

    def _setup_model(self) -> None:
        super()._setup_model()
        self.temperature_schedule = LinearSchedule(
            self.temperature_initial, self.temperature_final, self.temperature_fraction
        )
        # Also without `auto_temperature`, which may be switched when a model is loaded
        self.log_temperature = th.full((1,), math.log(self.temperature_initial), device=self.device).requires_grad_()
        self.temperature_optimizer = th.optim.Adam([self.log_temperature], lr=self.lr_schedule(1))
        self._set_temperature(self.temperature_initial)

    @property
    def temperature(self) -> float:
        """
        alpha, as it is now.
        """
        return float(self.q_net.temperature)

    @property
    def _n_actions(self) -> int:
        assert isinstance(self.action_space, spaces.Discrete)
        return int(self.action_space.n)

    def _set_temperature(self, temperature: th.Tensor | float) -> None:
        # In place, in both networks: either of them may be the policy in a target
        for network in (self.q_net, self.q_net_target):
            network.temperature.copy_(th.as_tensor(temperature, device=self.device))

    def _on_step(self) -> None:
        super()._on_step()
        if not self.auto_temperature:
            self._set_temperature(self.temperature_schedule(self._current_progress_remaining))

    def _compute_loss(self, batch: AnySamples, discounts: th.Tensor | float) -> ValueLoss:
        temperature = self.q_net.temperature
        with th.no_grad():
            next_q, policy_q = self._next_q_values(batch)
            bonus: th.Tensor | float = 0.0
            if self.munchausen_coef > 0:
                current_q = self._evaluate(self.q_net_target, batch.observations)
                bonus = munchausen_bonus(
                    current_q, actions_taken(batch), temperature, self.munchausen_coef, self.munchausen_clip
                )
            next_values = soft_state_value(self.backup, next_q, temperature, policy_q)
            targets = self._td_targets(batch, discounts, next_values, bonus)
        all_q_values = self._evaluate(self.q_net, batch.observations)
        q_values = values_of_actions(all_q_values, batch)
        metrics = {
            "entropy": policy_entropy(boltzmann_log_policy(all_q_values.detach(), temperature)).mean(),
            "temperature": temperature.detach().clone().squeeze(0),
            "q_value": q_values.detach().mean(),
        }
        return ValueLoss(huber_value_loss(q_values, targets), (q_values.detach() - targets).abs(), metrics)

    def _after_update(self, terms: ValueLoss) -> None:
        if not self.auto_temperature:
            return
        self._update_learning_rate(self.temperature_optimizer)
        target_entropy = self.target_entropy_fraction * math.log(self._n_actions)
        # The expected log-probability of the policy is minus its entropy
        loss = temperature_loss(self.log_temperature, -terms.metrics["entropy"], target_entropy)
        self.temperature_optimizer.zero_grad()
        loss.backward()
        self.temperature_optimizer.step()
        with th.no_grad():
            self.log_temperature.clamp_(min=math.log(_SMALLEST_TEMPERATURE))
        self._set_temperature(self.log_temperature.detach().exp())

    def make_probe(self) -> Probe:
        return SoftDQNProbe(self)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "log_temperature", "temperature_optimizer"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, variables = super()._get_torch_save_params()
        return [*state_dicts, "temperature_optimizer"], [*variables, "log_temperature"]
