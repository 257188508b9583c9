"""Q-learning with normalized advantage functions."""

from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, PyTorchObs, Schedule
from torch import nn

from sb3_ext.buffers.samples import AnySamples, transition_rows
from sb3_ext.checks import check_interval
from sb3_ext.common.arguments.keywords import explain_model_keywords
from sb3_ext.common.continuous_q import ContinuousQLearning
from sb3_ext.common.critic_policies import CriticPolicy
from sb3_ext.common.update_loop import TransitionLosses
from sb3_ext.functional.bellman import soft_td_target, value_loss
from sb3_ext.keywords import checks_keywords
from sb3_ext.naf.policies import POLICY_ALIASES, NAFPolicy

SelfNAF = TypeVar("SelfNAF", bound="NAF")


class NAF(ContinuousQLearning):
    """
    Q-learning with continuous actions, whose critic has its maximum in closed form.

    Paper: https://arxiv.org/abs/1603.00748. The value is quadratic in the action:
    ``Q(s, a) = V(s) - 1/2 (a - mu)^T L L^T (a - mu)``. So the target is ``r + gamma V'(s')``, and mu acts. Exploration
    noise has the covariance ``exploration_scale (L L^T)^-1``.

    ``train/q_value`` and ``train/target_value`` are logged.

    :param policy: the policy model to use (MlpPolicy, CnnPolicy, MultiInputPolicy, or a subclass of these)
    :param env: the environment to learn from (if registered in Gym, can be str)
    :param learning_rate: a number, or a function of the remaining progress (from 1 to 0)
    :param buffer_size: size of the replay buffer, in transitions of all environments together
    :param learning_starts: steps with uniform actions before learning starts
    :param batch_size: minibatch size of each update
    :param tau: how far the target network moves towards the network, in [0, 1]
    :param gamma: the discount factor
    :param train_freq: update every ``train_freq`` steps of the vectorized environment, or a tuple of frequency and unit
    :param gradient_steps: updates after each rollout; -1: as many as the rollout has environment steps
    :param action_noise: added to the actions of rollouts, besides NAF's own noise
    :param replay_buffer_class: replay buffer to use, or its name; ``None`` chooses it automatically
    :param replay_buffer_kwargs: keyword arguments of the replay buffer, without ``gamma`` and ``n_steps``
    :param optimize_memory_usage: SB3's memory-efficient variant of its replay buffer
    :param n_steps: steps of the returns
    :param target_update_interval: updates between two moves of the target network
    :param max_grad_norm: gradients are clipped to this norm
    :param stats_window_size: number of episodes over which the rollout logging averages
    :param tensorboard_log: the log location for tensorboard (if None, no logging)
    :param policy_kwargs: additional arguments of the policy
    :param verbose: verbosity level: 0 for no output, 1 for info messages, 2 for debug messages
    :param seed: seed for the pseudo random generators
    :param device: device (cpu, cuda, ...) on which the code should be run
    :param _init_setup_model: whether or not to build the network at the creation of the instance
    :param exploration_scale: scale of the covariance of exploration noise, >= 0
    :raises ValueError: naming the argument, its value and what is allowed
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = POLICY_ALIASES
    policy_base: ClassVar[type[CriticPolicy]] = NAFPolicy
    policy: NAFPolicy
    critic: Any
    critic_target: Any

    @checks_keywords(explain_model_keywords)
    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 1e-3,
        buffer_size: int = 1_000_000,
        learning_starts: int = 100,
        batch_size: int = 256,
        tau: float = 0.005,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 1,
        action_noise: ActionNoise | None = None,
        replay_buffer_class: type[ReplayBuffer] | str | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        target_update_interval: int = 1,
        max_grad_norm: float = float("inf"),
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        exploration_scale: float = 1.0,
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
            action_noise=action_noise,
            replay_buffer_class=replay_buffer_class,
            replay_buffer_kwargs=replay_buffer_kwargs,
            optimize_memory_usage=optimize_memory_usage,
            n_steps=n_steps,
            target_update_interval=target_update_interval,
            max_grad_norm=max_grad_norm,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
        )
        self.exploration_scale = exploration_scale
        if _init_setup_model:
            self._setup_model()

    def _check_arguments(self) -> None:
        super()._check_arguments()
        largest = float(np.finfo(np.float32).max)
        check_interval("exploration_scale", self.exploration_scale, 0.0, largest, "a number >= 0")

    def _tell_policy(self) -> None:
        self.policy.exploration_scale = self.exploration_scale

    def critic_values(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        return self.critic(obs, actions).unsqueeze(0)

    def output_layers(self) -> Sequence[Sequence[nn.Module]]:
        # All three have the same inputs
        return [[self.critic.value]]

    def compute_loss(self, replay_data: AnySamples, discounts: th.Tensor | float) -> TransitionLosses:
        with th.no_grad():
            rewards, dones, _ = transition_rows(replay_data, self.gamma)
            next_values = self.critic_target.parts(replay_data.next_observations)[0]
            targets = soft_td_target(rewards, dones, discounts, next_values)
        q_values = self.critic(replay_data.observations, replay_data.actions)
        metrics = {"q_value": q_values.detach().mean(), "target_value": targets.mean()}
        errors = (q_values.detach() - targets).abs()
        return TransitionLosses(value_loss(q_values, targets, "mse"), errors, metrics)

    @checks_keywords(explain_model_keywords)
    def learn(
        self: SelfNAF,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "NAF",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfNAF:
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
