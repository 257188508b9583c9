"""Implicit Quantile Networks."""

from collections.abc import Mapping
from typing import Any, ClassVar, get_args

import numpy as np
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, PyTorchObs, Schedule
from stable_baselines3.dqn.policies import DQNPolicy

from sb3_ext.buffers.samples import AnySamples
from sb3_ext.checks import check_choice, check_integer, check_interval
from sb3_ext.common.arguments.derived import Derivation, change_arguments
from sb3_ext.common.arguments.keywords import explain_model_keywords
from sb3_ext.common.arguments.munchausen import check_munchausen
from sb3_ext.common.probe import Probe
from sb3_ext.common.update_loop import TransitionLosses
from sb3_ext.common.value_based import ExplorationDecay, ValueBasedAlgorithm, actions_taken
from sb3_ext.functional.action_masks import is_masked, may_be_masked
from sb3_ext.functional.augmentation import Augmentation
from sb3_ext.functional.quantile import (
    PriorityError,
    RiskMeasure,
    absolute_quantile_errors,
    check_risk,
    quantile_huber_loss,
)
from sb3_ext.functional.soft_value import SMALLEST_TEMPERATURE, Munchausen, munchausen_bonus, soft_quantiles
from sb3_ext.functional.traces import NStepCorrection
from sb3_ext.iqn.policies import CnnPolicy, ImplicitQuantileNetwork, IQNPolicy, MlpPolicy, MultiInputPolicy
from sb3_ext.iqn.probe import IQNProbe
from sb3_ext.keywords import checks_keywords
from sb3_ext.nets.modes import evaluation_mode
from sb3_ext.speed.float32 import Float32MatmulPrecision
from sb3_ext.speed.precision import AutocastDtype

# Munchausen-IQN's, in the place of None
_TEMPERATURE, _CLIP = 0.03, -1.0


def derive_choice_of_actions(model: "IQN") -> None:
    for network in (model.q_net, model.q_net_target):
        network.choose_actions_by(model.n_action_quantile_samples, model.risk_measure, model.risk_eta)


class IQN(ValueBasedAlgorithm):
    """
    Implicit Quantile Networks learn the whole distribution of the return, from quantiles at random levels.

    Paper: https://arxiv.org/abs/1806.06923. With ``risk_measure`` a policy is risk-averse or risk-seeking. It distorts
    the quantile levels wherever an action is chosen, including in the targets. The levels of the loss stay uniform.

    The default numbers of samples are the paper's. Most of the work is proportional to them, so the YAML file sets 8, 8
    and 32 for Atari.

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
    :param exploration_initial_eps: probability of a random action at the beginning
    :param exploration_final_eps: probability of a random action after that fraction
    :param max_grad_norm: gradients are clipped to this norm
    :param stats_window_size: number of episodes over which the rollout logging averages
    :param tensorboard_log: the log location for tensorboard (if None, no logging)
    :param policy_kwargs: additional arguments of the policy; ``dueling=True`` for a dueling network, ``n_cosines`` (64)
        for the size of the embedding of the quantile levels
    :param verbose: verbosity level: 0 for no output, 1 for info messages, 2 for debug messages
    :param seed: seed for the pseudo random generators
    :param device: device (cpu, cuda, ...) on which the code should be run
    :param _init_setup_model: whether or not to build the network at the creation of the instance
    :param n_quantile_samples: T, the number of levels at which the online network learns, for each transition
    :param n_target_quantile_samples: T', the number of levels of the target distribution
    :param n_action_quantile_samples: K, the number of levels at which actions are valued
    :param kappa: error from which the loss is linear, > 0
    :param double_q: the online network selects the next action
    :param risk_measure: ``"neutral"``, ``"cvar"``, ``"wang"``, ``"cpw"`` or ``"pow"``, see
        :func:`~sb3_ext.functional.quantile.distort_taus`
    :param risk_eta: parameter of the risk measure: in (0, 1] for ``"cvar"`` and ``"cpw"``, risk-averse below 0 for
        ``"wang"`` and ``"pow"``, unused for ``"neutral"``
    :param munchausen_coef: m; above 0 it is Munchausen-IQN (https://arxiv.org/abs/2007.14430), 0.9 in the paper.
        ``m clip(alpha log pi(a|s), l0, 0)`` is added to the reward, or once to the n-step return. The next return is
        that of the policy pi, the softmax of the values by alpha, with its entropy. Actions are still the best ones.
        pi(a|s) is the online network's, as in BTR (https://arxiv.org/abs/2411.03820), which costs no further pass
    :param munchausen_temperature: alpha, > 0, for rewards of about 1; ``None``: 0.03
    :param munchausen_clip: l0, at most 0; ``None``: -1
    :param priority_error: the error of a transition for prioritized replay. ``"loss"``: the square root of its loss;
        ``"absolute"``: the absolute errors of all pairs of quantiles, as in BTR
    :param target_clip: if given, targets are clipped to ``[-target_clip, target_clip]``
    :param exploration_decay: how epsilon falls: ``"linear"`` as in SB3, ``"cosine"`` or ``"exponential"``; or the name
        of a schedule of :mod:`sb3_ext.schedules`, such as ``"piecewise_1_0.1_0.05"``: epsilon itself over the whole
        training, in place of the three arguments above
    :param learning_rate_final: if given, the learning rate goes linearly from ``learning_rate`` to this value
    :param learning_rate_fraction: fraction of the training, in (0, 1], after which ``learning_rate_final`` is reached;
        ``None``: 1
    :param n_steps_final: if given, ``n_steps`` falls exponentially to this value, see
        :func:`~sb3_ext.functional.schedules.falling_n_steps`
    :param n_steps_fraction: fraction of the training, in (0, 1], after which ``n_steps_final`` is reached; ``None``: 1
    :param n_step_correction: ``"cut"`` ends returns over ``n_steps`` before the first action that is not the best;
        ``"none"``: they have ``n_steps`` steps, as in SB3. Other corrections are not defined for quantiles
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
        **dict.fromkeys(("n_action_quantile_samples", "risk_measure", "risk_eta"), derive_choice_of_actions),
    }
    allowed_corrections: ClassVar[tuple[NStepCorrection, ...]] = ("none", "cut")
    policy_base: ClassVar[type[DQNPolicy]] = IQNPolicy
    policy: IQNPolicy
    q_net: ImplicitQuantileNetwork
    q_net_target: ImplicitQuantileNetwork

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
        exploration_initial_eps: float = 1.0,
        exploration_final_eps: float = 0.05,
        max_grad_norm: float = 10,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        n_quantile_samples: int = 64,
        n_target_quantile_samples: int = 64,
        n_action_quantile_samples: int = 32,
        kappa: float = 1.0,
        double_q: bool = False,
        risk_measure: RiskMeasure = "neutral",
        risk_eta: float = 0.0,
        munchausen_coef: float = 0.0,
        munchausen_temperature: float | None = None,
        munchausen_clip: float | None = None,
        priority_error: PriorityError = "loss",
        target_clip: float | None = None,
        exploration_decay: ExplorationDecay | str = "linear",
        learning_rate_final: float | None = None,
        learning_rate_fraction: float | None = None,
        n_steps_final: int | None = None,
        n_steps_fraction: float | None = None,
        n_step_correction: NStepCorrection = "none",
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
            exploration_initial_eps=exploration_initial_eps,
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
            learning_rate_final=learning_rate_final,
            learning_rate_fraction=learning_rate_fraction,
            n_steps_final=n_steps_final,
            n_steps_fraction=n_steps_fraction,
            n_step_correction=n_step_correction,
            augmentation=augmentation,
            reset_interval=reset_interval,
            reset_shrink=reset_shrink,
            reset_fraction=reset_fraction,
            compile=compile,
            autocast_dtype=autocast_dtype,
            float32_matmul_precision=float32_matmul_precision,
        )
        self.n_quantile_samples = n_quantile_samples
        self.n_target_quantile_samples = n_target_quantile_samples
        self.n_action_quantile_samples = n_action_quantile_samples
        self.kappa = kappa
        self.risk_measure = risk_measure
        self.risk_eta = risk_eta
        self.munchausen_coef = munchausen_coef
        self.munchausen_temperature = munchausen_temperature
        self.munchausen_clip = munchausen_clip
        self.priority_error = priority_error
        if _init_setup_model:
            self._setup_model()

    def _check_arguments(self) -> None:
        super()._check_arguments()
        for name in ("n_quantile_samples", "n_target_quantile_samples", "n_action_quantile_samples"):
            check_integer(name, getattr(self, name), minimum=1)
        check_interval("kappa", self.kappa, np.finfo(np.float32).tiny, np.finfo(np.float32).max, "a number > 0")
        check_risk(self.risk_measure, self.risk_eta)
        if self.risk_eta != 0:
            has_effect, needs = self.risk_measure != "neutral", "another risk_measure than 'neutral'"
            self._require_effect("risk_eta", has_effect, needs, otherwise=0.0)
        check_munchausen(self, {"double_q": False, "risk_measure": "neutral", "n_step_correction": "none"})
        if self.munchausen_temperature is not None:
            low, high = SMALLEST_TEMPERATURE, float(np.finfo(np.float32).max)
            check_interval("munchausen_temperature", self.munchausen_temperature, low, high, f"a number >= {low:g}")
            self._require_effect("munchausen_temperature", self.munchausen_coef > 0, "munchausen_coef above 0")
        check_choice("priority_error", self.priority_error, get_args(PriorityError))
        if self.priority_error != "loss":
            has_effect = hasattr(self.replay_buffer_class, "update_priorities")
            self._require_effect("priority_error", has_effect, "a prioritized replay_buffer_class", otherwise="loss")
        for name in ("n_action_quantile_samples", "risk_measure", "risk_eta"):
            if name in self.policy_kwargs:
                raise ValueError(
                    f"policy_kwargs has {name}={self.policy_kwargs[name]!r}, which is not allowed: give it to IQN "
                    "itself, which sets it in the policy"
                )

    @property
    def munchausen(self) -> Munchausen | None:
        """The settings of Munchausen-IQN, with their defaults; ``None`` without it."""
        if self.munchausen_coef == 0:
            return None
        temperature = _TEMPERATURE if self.munchausen_temperature is None else self.munchausen_temperature
        clip = _CLIP if self.munchausen_clip is None else self.munchausen_clip
        return Munchausen(temperature, self.munchausen_coef, clip)

    def _create_aliases(self) -> None:
        super()._create_aliases()
        derive_choice_of_actions(self)

    def _trained_parameters(self) -> dict[str, th.nn.Parameter]:
        trained = super()._trained_parameters()
        derive_choice_of_actions(self)  # for a network that is new
        return trained

    def set_risk(self, risk_measure: RiskMeasure, risk_eta: float) -> None:
        """
        Change both arguments of the constructor at once. Often one of them does not fit the other's old value.

        :raises ValueError: naming the argument, its value and what is allowed; nothing is changed
        """
        change_arguments(self, {"risk_measure": risk_measure, "risk_eta": risk_eta}, derive_choice_of_actions)

    def compute_loss(self, replay_data: AnySamples, discounts: th.Tensor | float) -> TransitionLosses:
        actions = actions_taken(replay_data)
        taus = th.rand(len(actions), self.n_quantile_samples, device=self.device)
        all_quantiles = self.evaluator(self.q_net.quantiles, replay_data.observations, taus, differentiable=True)
        with th.no_grad():
            bonus: th.Tensor | float = 0.0
            if self.munchausen is not None:
                bonus = munchausen_bonus(all_quantiles.detach().mean(dim=1), actions, *self.munchausen)
            # Transposed to (T', B) and back, so that discounts of shape (B,) broadcast
            targets = self.td_targets(replay_data, discounts, self.next_quantiles(replay_data).T, bonus).T
        quantiles = all_quantiles.gather(2, actions.unsqueeze(1).expand(-1, taus.shape[1], 1)).squeeze(2)
        masked = None
        if may_be_masked(quantiles[:, 0]):
            # A network may mask an action that was taken nevertheless, at random. It masks all quantiles alike
            masked = is_masked(quantiles[:, 0], all_quantiles[:, 0])
            quantiles = th.where(masked.unsqueeze(1), targets.mean(dim=1, keepdim=True), quantiles)
        losses = quantile_huber_loss(quantiles, taus, targets, self.kappa)
        errors = self._errors(losses.detach(), quantiles.detach(), targets)
        if masked is not None:
            losses, errors = (values.masked_fill(masked, 0.0) for values in (losses, errors))
        metrics = {"q_value": quantiles.detach().mean(), "target_value": targets.mean()}
        return TransitionLosses(losses, errors, metrics)

    def _errors(self, losses: th.Tensor, quantiles: th.Tensor, targets: th.Tensor) -> th.Tensor:
        """Return what priorities are made of, shape (B,)."""
        if self.priority_error == "absolute":
            return absolute_quantile_errors(quantiles, targets)
        # A priority should be proportional to the error, so that alpha has the same effect as in the other algorithms.
        # Up to kappa the loss is quadratic in the error, so its square root restores that proportion
        return losses.sqrt()

    def learns_distributions(self) -> bool:
        return True

    def best_actions(self, obs: PyTorchObs) -> th.Tensor:
        n_states = len(next(iter(obs.values())) if isinstance(obs, dict) else obs)
        network = self.q_net if self.double_q else self.q_net_target
        with evaluation_mode(self.q_net):
            taus = self.q_net.action_taus(n_states, deterministic=False)
            quantiles = self.evaluator(network.quantiles, obs, taus)
        return quantiles.mean(dim=1).argmax(dim=1)

    def make_probe(self) -> Probe:
        return IQNProbe(self)

    def next_quantiles(self, replay_data: AnySamples) -> th.Tensor:
        """
        Return quantiles of the next return at uniformly random levels, shape (B, T').

        They are those of the best action, or of Munchausen-IQN's policy.
        """
        next_obs, n_states = replay_data.next_observations, len(replay_data.actions)
        taus = th.rand(n_states, self.n_target_quantile_samples, device=self.device)
        if self.munchausen is not None:
            all_quantiles = self.evaluator(self.q_net_target.quantiles, next_obs, taus)
            return soft_quantiles(all_quantiles, self.munchausen.temperature)
        action_taus = self.q_net.action_taus(n_states, deterministic=False)
        if self.double_q:
            with evaluation_mode(self.q_net):
                action_quantiles = self.evaluator(self.q_net.quantiles, next_obs, action_taus)
            quantiles = self.evaluator(self.q_net_target.quantiles, next_obs, taus)
        else:
            # One pass of the target network serves both
            both = self.evaluator(self.q_net_target.quantiles, next_obs, th.cat([taus, action_taus], dim=1))
            quantiles, action_quantiles = both.split([taus.shape[1], action_taus.shape[1]], dim=1)
        best = action_quantiles.mean(dim=1, keepdim=True).argmax(dim=2, keepdim=True)
        return quantiles.gather(2, best.expand(-1, taus.shape[1], 1)).squeeze(2)
