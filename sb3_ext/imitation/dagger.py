"""DAgger: Ross et al. 2011, https://arxiv.org/abs/1011.0686."""

import os
import warnings
from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, ReplayBufferSamples, Schedule
from stable_baselines3.common.utils import FloatSchedule

from sb3_ext.checks import check_integer, check_interval
from sb3_ext.common.arguments.keywords import explain_model_keywords
from sb3_ext.common.finite import check_action
from sb3_ext.imitation.demonstrations import Pairs, as_pairs
from sb3_ext.imitation.expert import Expert
from sb3_ext.imitation.imitation import Imitation
from sb3_ext.keywords import checks_keywords
from sb3_ext.schedules import check_probabilities, is_named_schedule, named_schedule

_GRADIENT_STEPS = 1000

SelfDAgger = TypeVar("SelfDAgger", bound="DAgger")


class DAgger(Imitation):
    """
    DAgger: the policy acts, an expert says what it would have done, and the policy learns that.

    Behavioural cloning knows only the expert's states, so errors lead to states that it has never seen. Here each
    iteration adds the states of the policy itself. One iteration is ``train_freq`` steps and ``gradient_steps``
    gradient steps on all pairs so far.

    The policy is one of PPO or SAC, see :class:`~sb3_ext.imitation.bc.BC`.

    :param policy: the policy model to use
    :param env: the environment to act in
    :param expert: a policy or a model of SB3, or the file of one, see :class:`~sb3_ext.imitation.bc.BC`
    :param demonstrations: pairs to begin with: the policy learns from them before it acts; ``None``: those of the first
        iteration
    :param beta: probability that the expert acts, decided for each step: a number, a function of the remaining progress
        (from 1 to 0), or the name of a schedule (:mod:`sb3_ext.schedules`). ``None``: 1 in the first iteration if there
        are no ``demonstrations``, then 0
    :param learning_rate: a number, or a function of the remaining progress
    :param batch_size: pairs in each gradient step
    :param train_freq: steps of the vectorized environment in each iteration, or a tuple like ``(2, "episode")``
    :param gradient_steps: gradient steps in each iteration; -1: as many as it has environment steps
    :param n_epochs: in place of ``gradient_steps``: how often each iteration goes through all pairs so far, in another
        order each time
    :param ent_coef: weight of the policy's entropy, >= 0
    :param l2_coef: weight of half the squared norm of all weights, >= 0
    :param validation_fraction: share of the pairs that is held out, in [0, 0.9]
    :param max_grad_norm: gradients are clipped to this norm
    :param stats_window_size: number of episodes over which the rollout logging averages
    :param tensorboard_log: the log location for tensorboard (if None, no logging)
    :param policy_kwargs: additional arguments of the policy
    :param verbose: verbosity level: 0 for no output, 1 for info messages, 2 for debug messages
    :param seed: seed for the pseudo random generators
    :param device: device (cpu, cuda, ...) on which the code should be run
    :param _init_setup_model: whether or not to build the network at the creation of the instance
    :raises ValueError: naming the argument, its value and what is allowed
    """

    @checks_keywords(explain_model_keywords)
    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str,
        expert: Expert | BasePolicy | Any | None = None,
        demonstrations: ReplayBuffer | str | os.PathLike | None = None,
        beta: float | Schedule | str | None = None,
        learning_rate: float | Schedule = 1e-3,
        batch_size: int = 100,
        train_freq: int | tuple[int, str] = 1000,
        gradient_steps: int = _GRADIENT_STEPS,
        n_epochs: int | None = None,
        ent_coef: float = 0.0,
        l2_coef: float = 0.0,
        validation_fraction: float = 0.1,
        max_grad_norm: float = float("inf"),
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        super().__init__(
            policy,
            env,
            expert=expert,
            demonstrations=demonstrations,
            learning_rate=learning_rate,
            batch_size=batch_size,
            train_freq=train_freq,
            gradient_steps=gradient_steps,
            ent_coef=ent_coef,
            l2_coef=l2_coef,
            validation_fraction=validation_fraction,
            max_grad_norm=max_grad_norm,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
        )
        self.beta = beta
        self.n_epochs = n_epochs
        self._has_trained = False
        # The rows of the next minibatches, while `n_epochs` chooses them
        self._rows: Iterator[np.ndarray] | None = None
        if _init_setup_model:
            self._check_sources()
            self._setup_model()

    def _check_sources(self) -> None:
        if self.expert is None:
            raise ValueError(
                "expert=None: DAgger asks an expert in every state, so it needs a policy or a model of "
                "Stable-Baselines3, or the file of one; demonstrations alone are enough for BC"
            )

    def _check_arguments(self) -> None:
        super()._check_arguments()
        if isinstance(self.beta, str) and is_named_schedule(self.beta):
            check_probabilities("beta", self.beta)
        elif callable(self.beta):
            for progress in (1.0, 0.5, 0.0):
                value = self.beta(progress)
                check_interval(f"beta({progress})", value, 0.0, 1.0, "in [0, 1] for every remaining progress")
        elif self.beta is not None:
            allowed = "None, a number in [0, 1], a function, or the name of a schedule such as 'lin_1'"
            check_interval("beta", self.beta, 0.0, 1.0, allowed)
        if self.n_epochs is not None:
            check_integer("n_epochs", self.n_epochs, minimum=1)
            is_default = self.gradient_steps == _GRADIENT_STEPS
            self._require_effect("gradient_steps", is_default, needs="n_epochs=None", otherwise=_GRADIENT_STEPS)

    @property
    def current_beta(self) -> float:
        """The probability that the expert acts, as it is now."""
        if self.beta is None:
            return 0.0 if self._has_trained or self.demonstrations is not None else 1.0
        schedule = named_schedule(self.beta) if isinstance(self.beta, str) else FloatSchedule(self.beta)
        beta = float(schedule(self._current_progress_remaining))
        check_interval("beta", beta, 0.0, 1.0, "in [0, 1] for every remaining progress")
        return beta

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Let the policy or the expert act, and keep what the expert would do."""
        assert self._last_obs is not None
        original = self._last_obs
        if self._vec_normalize_env is not None:
            original = self._vec_normalize_env.get_original_obs()
        assert self.expert is not None
        labels = self.expert.actions(original)
        by_expert = np.random.rand(n_envs) < self.current_beta
        actions = labels
        if not by_expert.all():
            own, _ = self.policy.predict(self._last_obs, deterministic=False)
            actions = np.where(by_expert.reshape(-1, *[1] * (own.ndim - 1)), labels, own)
        self.data.add(as_pairs("the expert", Pairs(original, labels), self.observation_space, self.action_space))
        check_action(actions, actions, self.num_timesteps)
        return actions, actions.reshape(n_envs, -1)

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Learn from all pairs so far, see the class."""
        if self.n_epochs is not None:
            minibatches = self.data.epoch_rows(self.n_epochs, batch_size)
            self._rows, gradient_steps = iter(minibatches), len(minibatches)
        try:
            super().train(gradient_steps, batch_size)
        finally:
            self._rows = None
        self._has_trained = True
        self.log_validation()
        self.logger.record("train/n_pairs", len(self.data))

    def sample_minibatch(self, batch_size: int) -> ReplayBufferSamples:
        if self._rows is None:
            return super().sample_minibatch(batch_size)
        return self._as_samples(self.data.pairs.at(next(self._rows)))

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        result = super()._setup_learn(*args, **kwargs)
        if self._has_trained and len(self.data) == 0:
            warnings.warn(
                "This DAgger has the weights of an earlier training and none of its pairs, which the file of a model "
                "does not contain: it learns from new ones only. save_demonstrations() keeps them, and "
                "DAgger.load(path, env=env, expert=expert, demonstrations=...) takes them",
                stacklevel=4,
            )
        if not self._has_trained and len(self.data) > 0:
            # Otherwise an untrained policy would act in the first iteration
            self.train(len(self.data) if self.gradient_steps < 0 else self.gradient_steps, self.batch_size)
        return result

    @checks_keywords(explain_model_keywords)
    def learn(
        self: SelfDAgger,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "DAgger",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfDAgger:
        self._expert_or_error()
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
