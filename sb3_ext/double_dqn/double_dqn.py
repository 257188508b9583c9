"""Double DQN."""

from typing import Any, ClassVar, cast

import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, PyTorchObs, Schedule
from stable_baselines3.dqn.policies import DQNPolicy

from sb3_ext.buffers.samples import AnySamples
from sb3_ext.common.arguments.keywords import explain_model_keywords
from sb3_ext.common.return_bound import ReturnBound
from sb3_ext.common.update_loop import TransitionLosses
from sb3_ext.common.value_based import (
    ExplorationDecay,
    ValueBasedAlgorithm,
    actions_taken,
    predictions_of_actions,
    values_of_actions,
)
from sb3_ext.double_dqn.policies import CategoricalNetwork, CnnPolicy, MlpPolicy, MultiInputPolicy
from sb3_ext.functional.action_masks import is_masked, may_be_masked
from sb3_ext.functional.augmentation import Augmentation
from sb3_ext.functional.bellman import ValueLoss
from sb3_ext.functional.categorical import categorical_cross_entropy
from sb3_ext.functional.q_learning import double_q_learning, q_learning
from sb3_ext.functional.traces import NStepCorrection
from sb3_ext.keywords import checks_keywords
from sb3_ext.nets import CategoricalHead
from sb3_ext.nets.modes import evaluation_mode
from sb3_ext.speed.float32 import Float32MatmulPrecision
from sb3_ext.speed.precision import AutocastDtype


class DoubleDQN(ReturnBound, ValueBasedAlgorithm):
    """
    Double DQN: the online network selects the next action, the target network values it.

    Paper: https://arxiv.org/abs/1509.06461. With ``policy_kwargs=dict(dueling=True)``, a prioritized replay buffer and
    ``n_steps`` it is Rainbow (https://arxiv.org/abs/1710.02298) without noisy layers and distributions. These are
    ``noisy=True`` and ``head="categorical", head_kwargs=dict(bound=...)`` in ``policy_kwargs``.

    With ``double_q=False``, ``float32_matmul_precision=None``, one environment and all other additions switched off, it
    equals SB3's ``DQN`` bit for bit.

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
    :param policy_kwargs: additional arguments of the policy; ``dueling=True`` for a dueling network, ``noisy=True`` for
        noisy layers, ``head="categorical", head_kwargs=dict(bound=...)`` for C51
    :param verbose: verbosity level: 0 for no output, 1 for info messages, 2 for debug messages
    :param seed: seed for the pseudo random generators
    :param device: device (cpu, cuda, ...) on which the code should be run
    :param _init_setup_model: whether or not to build the network at the creation of the instance
    :param double_q: whether the online network selects the next action; if not, it is DQN
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
        double_q: bool = True,
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
        if _init_setup_model:
            self._setup_model()

    def _check_network(self) -> None:
        super()._check_network()
        if not self.learns_distributions():
            return
        for name, default in (("target_clip", None), ("loss", "huber"), ("huber_delta", None)):
            if getattr(self, name) != default:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is not defined for head='categorical', which learns by "
                    "cross-entropy, with targets within head_kwargs=dict(bound=...): leave it out"
                )

    def _return_bound(self) -> float | None:
        return cast("CategoricalNetwork", self.q_net).head.bound if self.learns_distributions() else None

    def learns_distributions(self) -> bool:
        # Not by the class of the network, which `th.compile` wraps
        return isinstance(getattr(self.q_net, "head", None), CategoricalHead)

    def state_values(self, next_q: th.Tensor, selector_q: th.Tensor | None) -> th.Tensor:
        return q_learning(next_q) if selector_q is None else double_q_learning(next_q, selector_q)

    def best_actions(self, obs: PyTorchObs) -> th.Tensor:
        with evaluation_mode(self.q_net):
            return self.evaluator(self.q_net if self.double_q else self.q_net_target, obs).argmax(dim=1)

    def compute_loss(self, replay_data: AnySamples, discounts: th.Tensor | float) -> TransitionLosses:
        if self.learns_distributions():
            return self._categorical_loss(replay_data, discounts)
        with th.no_grad():
            next_values = self.state_values(*self.next_q_values(replay_data))
            targets = self.td_targets(replay_data, discounts, next_values)
        all_q_values = self.evaluator(self.q_net, replay_data.observations, differentiable=True)
        q_values = predictions_of_actions(all_q_values, replay_data, targets)
        errors = (q_values.detach() - targets).abs()
        metrics = {"q_value": q_values.detach().mean(), "target_value": targets.mean()}
        return TransitionLosses(self.value_losses(q_values, targets), errors, metrics)

    def _categorical_loss(self, replay_data: AnySamples, discounts: th.Tensor | float) -> TransitionLosses:
        """Return cross-entropies, and as errors the divergences from the targets, as in Rainbow."""
        q_net, obs = cast(CategoricalNetwork, self.q_net), replay_data.observations
        with th.no_grad():
            next_probabilities = self._next_probabilities(replay_data)
            rewards, dones = replay_data.rewards.flatten(), replay_data.dones.flatten()
            no_bonus = th.zeros_like(rewards)
            targets = q_net.head.td_targets(rewards, dones, discounts, next_probabilities.unsqueeze(0), no_bonus)[0]
        outputs = self.evaluator(q_net.outputs, obs, differentiable=True)
        losses = categorical_cross_entropy(of_actions(outputs, actions_taken(replay_data)), targets)
        errors = losses.detach() - th.special.entr(targets).sum(dim=1)
        q_values = self._values(q_net, outputs.detach(), obs)
        values, target_values = values_of_actions(q_values, replay_data), q_net.head.target_values(targets)
        if may_be_masked(values):
            # A network may mask an action that was taken nevertheless, at random
            masked = is_masked(values, q_values)
            losses, errors = (each.masked_fill(masked, 0.0) for each in (losses, errors))
            values = th.where(masked, target_values, values)
        metrics = {"q_value": values.mean(), "target_value": target_values.mean()}
        return TransitionLosses(losses, errors.clamp(min=0.0), metrics)

    def _next_probabilities(self, replay_data: AnySamples) -> th.Tensor:
        """Return the distribution of the best next action, shape (B, n_bins)."""
        next_obs, target = replay_data.next_observations, cast(CategoricalNetwork, self.q_net_target)
        outputs = self.evaluator(target.outputs, next_obs)
        if self.double_q:
            with evaluation_mode(self.q_net):
                selector_q = self.evaluator(self.q_net, next_obs)
        else:
            selector_q = self._values(target, outputs, next_obs)
        return of_actions(outputs, selector_q.argmax(dim=1, keepdim=True)).softmax(dim=-1)

    def _values(self, network: CategoricalNetwork, outputs: th.Tensor, obs: PyTorchObs) -> th.Tensor:
        """Return the values of all actions, shape (B, A), without a further pass unless a user's ``forward()`` asks."""
        if type(network).forward is CategoricalNetwork.forward:
            return network.values(outputs, obs)
        with th.no_grad():
            return self.evaluator(network, obs)


def of_actions(outputs: th.Tensor, actions: th.Tensor) -> th.Tensor:
    """Select the outputs of one action in each state, shape (B, K), from (B, A, K) and actions of shape (B, 1)."""
    return outputs.gather(1, actions.unsqueeze(2).expand(-1, 1, outputs.shape[2])).squeeze(1)
