"""Soft Q-learning for discrete actions."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.dqn.policies import DQNPolicy

from sb3_ext.buffers.samples import AnySamples
from sb3_ext.checks import check_choice, check_interval
from sb3_ext.common.arguments.derived import Derivation
from sb3_ext.common.arguments.keywords import explain_model_keywords
from sb3_ext.common.arguments.munchausen import check_munchausen
from sb3_ext.common.networks import check_temperature
from sb3_ext.common.probe import Probe
from sb3_ext.common.saved.state import Parameters
from sb3_ext.common.update_loop import TransitionLosses
from sb3_ext.common.value_based import ExplorationDecay, ValueBasedAlgorithm, actions_taken, predictions_of_actions
from sb3_ext.functional.action_masks import mean_log_share
from sb3_ext.functional.augmentation import Augmentation
from sb3_ext.functional.bellman import ValueLoss
from sb3_ext.functional.policy_gradient import temperature_loss
from sb3_ext.functional.q_learning import greedy_log_policy
from sb3_ext.functional.soft_value import (
    SMALLEST_TEMPERATURE,
    SOFT_BACKUPS,
    SoftBackup,
    boltzmann_log_policy,
    munchausen_bonus,
    policy_entropy,
    soft_state_value,
)
from sb3_ext.functional.traces import NStepCorrection
from sb3_ext.keywords import checks_keywords
from sb3_ext.soft_dqn.policies import BoltzmannNetwork, CnnPolicy, MlpPolicy, MultiInputPolicy, SoftDQNPolicy
from sb3_ext.soft_dqn.probe import SoftDQNProbe
from sb3_ext.speed.float32 import Float32MatmulPrecision
from sb3_ext.speed.precision import AutocastDtype

# Defaults of arguments that are None
_TEMPERATURE_FINAL, _TEMPERATURE_FRACTION = 0.05, 0.5
_TARGET_ENTROPY_FRACTION = 0.1
_MUNCHAUSEN_CLIP = -1.0
# What a temperature starts from; its course too, if it is scheduled
_TEMPERATURE_ARGUMENTS = ("temperature_initial", "temperature_final", "temperature_fraction", "auto_temperature")


def derive_temperature(model: "SoftDQN") -> None:
    model.setup_temperature()


class SoftDQN(ValueBasedAlgorithm):
    """
    Soft Q-learning: actions are sampled from ``softmax(Q / alpha)``, and values include the entropy of that policy.

    Papers: https://arxiv.org/abs/1702.08165 (soft values), https://arxiv.org/abs/1612.05628 (mellowmax),
    https://arxiv.org/abs/2007.14430 (Munchausen). The Boltzmann policy explores by itself, so epsilon is 0 by default.

    ``train/entropy``, ``temperature``, ``q_value``, ``target_value`` and, with ``auto_temperature``, ``target_entropy``
    are logged.

    :param policy: the policy model to use (MlpPolicy, CnnPolicy, MultiInputPolicy, or a subclass of these)
    :param env: the environment to learn from (if registered in Gym, can be str)
    :param learning_rate: a number, or a function of the remaining progress (from 1 to 0)
    :param buffer_size: size of the replay buffer, in transitions of all environments together
    :param learning_starts: steps to collect transitions for before learning starts
    :param batch_size: minibatch size of each update
    :param tau: how far the target network moves towards the online network, in [0, 1] (1: a hard update)
    :param gamma: the discount factor
    :param train_freq: update every ``train_freq`` steps of the vectorized environment, or a tuple of frequency and unit
        like ``(5, "step")`` or ``(2, "episode")``
    :param gradient_steps: updates after each rollout (see ``train_freq``); -1: as many as the rollout has environment
        steps
    :param replay_buffer_class: replay buffer to use, such as ``PrioritizedReplayBuffer``, or its name; ``None``:
        SB3's, or ``Float32ReplayBuffer`` for observations of float64
    :param replay_buffer_kwargs: keyword arguments of the replay buffer, without ``gamma`` and ``n_steps``, which it
        receives from the algorithm
    :param optimize_memory_usage: SB3's memory-efficient variant of its replay buffer
    :param n_steps: steps of the returns, with any replay buffer that accepts ``n_steps``
    :param target_update_interval: environment steps between updates of the target network
    :param exploration_fraction: fraction of the training over which epsilon falls
    :param exploration_initial_eps: probability of a random action at the beginning; ``None``: the final one
    :param exploration_final_eps: probability of a random action after that fraction, at most
        ``exploration_initial_eps``
    :param max_grad_norm: gradients are clipped to this norm
    :param stats_window_size: number of episodes over which the rollout logging averages
    :param tensorboard_log: the log location for tensorboard (if None, no logging)
    :param policy_kwargs: additional arguments of the policy; ``dueling=True`` for a dueling network
    :param verbose: verbosity level: 0 for no output, 1 for info messages, 2 for debug messages
    :param seed: seed for the pseudo random generators
    :param device: device (cpu, cuda, ...) on which the code should be run
    :param _init_setup_model: whether or not to build the network at the creation of the instance
    :param target_backup: the value of the next state: ``"soft"`` (expected Q plus alpha times the entropy),
        ``"boltzmann"`` (expected Q), ``"mellowmax"`` (``"soft"`` minus ``alpha log A``) or ``"max"`` (DQN)
    :param double_q: the online network's policy is used in the target; with ``target_backup="max"`` this is Double DQN
    :param temperature_initial: alpha at the beginning, >= 1e-8. A model saved with ``auto_temperature`` continues with
        its learned temperature
    :param temperature_final: alpha at the end, >= 1e-8; ``None``: 0.05. Not with ``auto_temperature``
    :param temperature_fraction: fraction of the training, in (0, 1], after which ``temperature_final`` is reached
        linearly; ``None``: 0.5. Not with ``auto_temperature``
    :param auto_temperature: learn alpha, starting from ``temperature_initial``, so that the entropy becomes
        ``target_entropy_fraction * log A``. In each state A counts the actions that are not masked. The optimizer is
        Adam, with the learning rate of the network
    :param target_entropy_fraction: in [0, 1); ``None``: 0.1. Only with ``auto_temperature``
    :param munchausen_coef: m, in [0, 1]: ``m * clip(alpha log pi(a|s), munchausen_clip, 0)`` is added to the rewards.
        The paper uses 0.9, with alpha 0.03. Above 0 it needs ``target_backup="soft"``, ``double_q=False`` and
        ``n_step_correction="none"``. Of a return over ``n_steps`` only the first reward has it, as in BTR
        (https://arxiv.org/abs/2411.03820)
    :param munchausen_clip: l0 <= 0; ``None``: -1. Only with ``munchausen_coef`` above 0
    :param target_clip: if given, targets are clipped to ``[-target_clip, target_clip]``
    :param exploration_decay: how epsilon falls: ``"linear"`` as in SB3, ``"cosine"`` or ``"exponential"``; or the name
        of a schedule of :mod:`sb3_ext.schedules`, such as ``"piecewise_1_0.1_0.05"``: epsilon itself over the whole
        training, in place of the three arguments above
    :param loss: ``"huber"`` as in DQN, or ``"mse"``, see :func:`~sb3_ext.functional.bellman.value_loss`
    :param huber_delta: error from which on the Huber loss is linear, > 0; ``None``: 1
    :param learning_rate_final: if given, the learning rate goes linearly from ``learning_rate`` to this value
    :param learning_rate_fraction: fraction of the training, in (0, 1], after which ``learning_rate_final`` is reached;
        ``None``: 1
    :param n_steps_final: if given, ``n_steps`` falls exponentially to this value, see
        :func:`~sb3_ext.functional.schedules.falling_n_steps`
    :param n_steps_fraction: fraction of the training, in (0, 1], after which ``n_steps_final`` is reached; ``None``: 1
    :param n_step_correction: how returns over ``n_steps`` are corrected for actions that the policy would not choose:
        ``"cut"``, ``"tree_backup"``, ``"retrace"`` or ``"importance"``, see
        :func:`~sb3_ext.functional.traces.trace_coefficients`; ``"none"``: not, as in SB3
    :param trace_lambda: lambda of ``"tree_backup"`` and ``"retrace"``, in [0, 1]; ``None``: 1
    :param augmentation: ``"shift"`` shifts each sampled image at random by up to four pixels
        (:func:`~sb3_ext.functional.augmentation.random_shift`); ``None``: images as they are
    :param reset_interval: if given, after every so many updates the last layers move towards new random weights, and
        what is before them by less (:func:`~sb3_ext.common.resets.reset_last_layers`)
    :param reset_shrink: share of the last layers' weights that stays at a reset, in [0, 1); ``None``: 0.5
    :param reset_fraction: fraction of the training, in (0, 1], after which there are no more resets, so that the
        network recovers from the last one; ``None``: 0.5, as in BBF (https://arxiv.org/abs/2305.19452)
    :param compile: run the networks through ``torch.compile`` while training. On a CPU this compiles only passes
        without a gradient, which measured no faster
    :param autocast_dtype: ``"bfloat16"`` evaluates the networks in that precision while training, except their last
        layers. It is faster on CPUs with AVX512-BF16 or AMX, where ``"auto"`` selects it. ``None``: float32
    :param float32_matmul_precision: which library computes float32 products on a CPU while training. ``"auto"``: oneDNN
        where it is as exact as torch's default. ``"medium"``: also where it rounds to bfloat16, as on CPUs with AMX.
        ``None``: as torch is set, see :func:`~sb3_ext.speed.float32.float32_matmul_precision`
    :raises ValueError: naming the argument, its value and what is allowed
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    derivations: ClassVar[Mapping[str, Derivation]] = {
        **ValueBasedAlgorithm.derivations,
        **dict.fromkeys(_TEMPERATURE_ARGUMENTS, derive_temperature),
    }
    policy_base: ClassVar[type[DQNPolicy]] = SoftDQNPolicy
    _starting_arguments: ClassVar[tuple[str, ...]] = (
        *ValueBasedAlgorithm._starting_arguments,
        *_TEMPERATURE_ARGUMENTS,
        "target_entropy_fraction",
    )
    q_net: BoltzmannNetwork
    q_net_target: BoltzmannNetwork
    temperature_schedule: Schedule

    @checks_keywords(explain_model_keywords)
    def __init__(
        self,
        policy: str | type[DQNPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 1e-4,
        buffer_size: int = 1_000_000,
        learning_starts: int = 100,
        batch_size: int = 32,
        tau: float = 1.0,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 4,
        gradient_steps: int = 1,
        replay_buffer_class: type[ReplayBuffer] | str | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        target_update_interval: int = 10_000,
        exploration_fraction: float = 0.1,
        exploration_initial_eps: float | None = None,
        exploration_final_eps: float = 0.0,
        max_grad_norm: float = 10,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        target_backup: SoftBackup = "soft",
        double_q: bool = True,
        temperature_initial: float = 1.0,
        temperature_final: float | None = None,
        temperature_fraction: float | None = None,
        auto_temperature: bool = False,
        target_entropy_fraction: float | None = None,
        munchausen_coef: float = 0.0,
        munchausen_clip: float | None = None,
        target_clip: float | None = None,
        exploration_decay: ExplorationDecay | str = "linear",
        loss: ValueLoss = "huber",
        huber_delta: float | None = None,
        learning_rate_final: float | None = None,
        learning_rate_fraction: float | None = None,
        n_steps_final: int | None = None,
        n_steps_fraction: float | None = None,
        n_step_correction: NStepCorrection = "none",
        trace_lambda: float | None = None,
        augmentation: Augmentation | None = None,
        reset_interval: int | None = None,
        reset_shrink: float | None = None,
        reset_fraction: float | None = None,
        compile: bool = False,
        autocast_dtype: AutocastDtype | None = None,
        float32_matmul_precision: Float32MatmulPrecision | None = "auto",
    ) -> None:
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            buffer_size=buffer_size,
            learning_starts=learning_starts,
            batch_size=batch_size,
            tau=tau,
            gamma=gamma,
            train_freq=train_freq,
            gradient_steps=gradient_steps,
            replay_buffer_class=replay_buffer_class,
            replay_buffer_kwargs=replay_buffer_kwargs,
            optimize_memory_usage=optimize_memory_usage,
            n_steps=n_steps,
            target_update_interval=target_update_interval,
            exploration_fraction=exploration_fraction,
            exploration_initial_eps=exploration_initial_eps,  # type: ignore[arg-type] # see `initial_epsilon`
            exploration_final_eps=exploration_final_eps,
            max_grad_norm=max_grad_norm,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
            double_q=double_q,
            target_clip=target_clip,
            exploration_decay=exploration_decay,
            loss=loss,
            huber_delta=huber_delta,
            learning_rate_final=learning_rate_final,
            learning_rate_fraction=learning_rate_fraction,
            n_steps_final=n_steps_final,
            n_steps_fraction=n_steps_fraction,
            n_step_correction=n_step_correction,
            trace_lambda=trace_lambda,
            augmentation=augmentation,
            reset_interval=reset_interval,
            reset_shrink=reset_shrink,
            reset_fraction=reset_fraction,
            compile=compile,
            autocast_dtype=autocast_dtype,
            float32_matmul_precision=float32_matmul_precision,
        )
        self.target_backup = target_backup
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
        smallest, largest = SMALLEST_TEMPERATURE, np.finfo(np.float32).max
        tiny = np.finfo(np.float64).tiny
        check_choice("target_backup", self.target_backup, SOFT_BACKUPS)
        check_choice("auto_temperature", self.auto_temperature, (True, False))
        if self.initial_epsilon < self.exploration_final_eps:
            raise ValueError(
                f"exploration_initial_eps={self.exploration_initial_eps!r} is below "
                f"exploration_final_eps={self.exploration_final_eps!r}, so epsilon would rise: give both arguments, "
                "with an exploration_initial_eps of at least exploration_final_eps"
            )
        check_interval("temperature_initial", self.temperature_initial, smallest, largest, f"a number >= {smallest:g}")
        if self.temperature_final is not None:
            check_interval("temperature_final", self.temperature_final, smallest, largest, f"a number >= {smallest:g}")
            self._require_effect("temperature_final", not self.auto_temperature, needs="auto_temperature=False")
        if self.temperature_fraction is not None:
            check_interval("temperature_fraction", self.temperature_fraction, tiny, 1.0, "in (0, 1]")
            self._require_effect("temperature_fraction", not self.auto_temperature, needs="auto_temperature=False")
        if self.target_entropy_fraction is not None:
            # The largest entropy itself takes an infinite temperature
            check_interval("target_entropy_fraction", self.target_entropy_fraction, 0.0, 1 - 1e-6, "in [0, 1)")
            self._require_effect("target_entropy_fraction", self.auto_temperature, needs="auto_temperature=True")
        allowed = {"target_backup": "soft", "double_q": False, "n_step_correction": "none"}
        check_munchausen(self, allowed)

    def _setup_model(self) -> None:
        super()._setup_model()
        self.setup_temperature()

    def setup_temperature(self) -> None:
        """Set up the schedule, and begin to learn a learned temperature anew."""
        final = _TEMPERATURE_FINAL if self.temperature_final is None else self.temperature_final
        fraction = _TEMPERATURE_FRACTION if self.temperature_fraction is None else self.temperature_fraction
        self.temperature_schedule = LinearSchedule(self.temperature_initial, final, fraction)
        # Needed even without `auto_temperature`, which may be switched on when a model is loaded
        self.log_temperature = th.full((1,), math.log(self.temperature_initial), device=self.device).requires_grad_()
        self.temperature_optimizer = th.optim.Adam([self.log_temperature], lr=self.lr_schedule(1))
        progress = 1.0 if self.auto_temperature else self._current_progress_remaining
        self._set_temperature(self.temperature_schedule(progress))

    @property
    def initial_epsilon(self) -> float:
        initial: float | None = self.exploration_initial_eps
        return self.exploration_final_eps if initial is None else initial

    @property
    def temperature(self) -> float:
        """The present value of alpha."""
        return float(self.q_net.temperature)

    @property
    def target_entropy(self) -> float:
        """The entropy in nats that an automatic temperature aims at, where no action is masked."""
        assert isinstance(self.action_space, spaces.Discrete)
        return self._target_entropy_fraction * math.log(int(self.action_space.n))

    @property
    def _target_entropy_fraction(self) -> float:
        fraction = self.target_entropy_fraction
        return _TARGET_ENTROPY_FRACTION if fraction is None else fraction

    def _set_temperature(self, temperature: th.Tensor | float) -> None:
        # Both networks are changed in place, because either may be the policy in a target
        for network in (self.q_net, self.q_net_target):
            network.temperature.copy_(th.as_tensor(temperature, device=self.device))

    def _on_step(self) -> None:
        super()._on_step()
        if not self.auto_temperature:
            self._set_temperature(self.temperature_schedule(self._current_progress_remaining))

    def state_values(self, next_q: th.Tensor, selector_q: th.Tensor | None) -> th.Tensor:
        return soft_state_value(self.target_backup, next_q, self.q_net.temperature, selector_q)

    def learned_log_policy(self, q_values: th.Tensor) -> th.Tensor:
        return greedy_log_policy(q_values) if self.target_backup == "max" else self.acting_log_policy(q_values)

    def acting_log_policy(self, q_values: th.Tensor) -> th.Tensor:
        return boltzmann_log_policy(q_values, self.q_net.temperature)

    def compute_loss(self, replay_data: AnySamples, discounts: th.Tensor | float) -> TransitionLosses:
        temperature = self.q_net.temperature
        with th.no_grad():
            next_values = self.state_values(*self.next_q_values(replay_data))
            targets = self.td_targets(replay_data, discounts, next_values, self._reward_bonus(replay_data))
        all_q_values = self.evaluator(self.q_net, replay_data.observations, differentiable=True)
        q_values = predictions_of_actions(all_q_values, replay_data, targets)
        log_policy = boltzmann_log_policy(all_q_values.detach(), temperature)
        metrics = {
            "entropy": policy_entropy(log_policy).mean(),
            "temperature": temperature.detach().clone().squeeze(0),
            "q_value": q_values.detach().mean(),
            "target_value": targets.mean(),
        }
        if self.auto_temperature:
            log_share = mean_log_share(log_policy)
            metrics["target_entropy"] = self.target_entropy + self._target_entropy_fraction * log_share
        return TransitionLosses(self.value_losses(q_values, targets), (q_values.detach() - targets).abs(), metrics)

    @property
    def effective_munchausen_clip(self) -> float:
        """l0, or its default."""
        return _MUNCHAUSEN_CLIP if self.munchausen_clip is None else self.munchausen_clip

    def _reward_bonus(self, replay_data: AnySamples) -> th.Tensor | float:
        """Return the Munchausen bonus, shape (B,), or 0."""
        if self.munchausen_coef == 0:
            return 0.0
        q_values = self.evaluator(self.q_net_target, replay_data.observations)
        return munchausen_bonus(
            q_values,
            actions_taken(replay_data),
            self.q_net.temperature,
            self.munchausen_coef,
            self.effective_munchausen_clip,
        )

    def _after_update(self, result: TransitionLosses) -> None:
        super()._after_update(result)
        if not self.auto_temperature:
            return
        self._update_learning_rate(self.temperature_optimizer)
        # The expected log-probability of an action is minus the entropy
        entropy, target_entropy = result.metrics["entropy"], result.metrics["target_entropy"]
        loss = temperature_loss(self.log_temperature, -entropy, target_entropy)
        self._divergence.before_step("temperature_loss", loss)
        self.temperature_optimizer.zero_grad()
        loss.backward()
        self.temperature_optimizer.step()
        with th.no_grad():
            self.log_temperature.clamp_(min=math.log(SMALLEST_TEMPERATURE))
        temperature = self.log_temperature.detach().exp()
        self._divergence.before_step("temperature", temperature)
        self._set_temperature(temperature)

    def _trained_parameters(self) -> dict[str, th.nn.Parameter]:
        if self.auto_temperature:
            check_temperature("log_temperature", self.log_temperature, self.temperature_optimizer)
        return super()._trained_parameters()

    def make_probe(self) -> Probe:
        return SoftDQNProbe(self)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "log_temperature", "temperature_optimizer"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, variables = super()._get_torch_save_params()
        return [*state_dicts, "temperature_optimizer"], [*variables, "log_temperature"]

    def _learned_variables(self) -> dict[str, str]:
        return {"temperature_optimizer": "log_temperature"} if self.auto_temperature else {}

    def _after_parameters(self, params: Mapping[str, Any]) -> None:
        if not self.auto_temperature:
            return
        with th.no_grad():
            if "q_net.temperature" not in params.get("policy", {}):
                self._set_temperature(self.log_temperature.exp())
            elif not th.allclose(self.log_temperature.exp(), self.q_net.temperature):
                # From a model with a schedule, or from the networks alone: learning goes on from their temperature
                self.log_temperature.copy_(self.q_net.temperature.clamp(min=SMALLEST_TEMPERATURE).log())

    def _state_for_arguments(self, state: Parameters, changed: set[str]) -> Parameters:
        state = super()._state_for_arguments(state, changed)
        if changed.isdisjoint(_TEMPERATURE_ARGUMENTS):
            return state
        del state["temperature_optimizer"]
        start = self.temperature_initial
        if not self.auto_temperature:
            start = self.temperature_schedule(self._current_progress_remaining)
        state["policy"] |= {f"{name}.temperature": th.full((1,), start) for name in ("q_net", "q_net_target")}
        return state
