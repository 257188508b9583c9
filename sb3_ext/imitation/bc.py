"""Behavioural cloning."""

import math
import os
from typing import Any, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule

from sb3_ext.checks import check_integer
from sb3_ext.common.arguments.keywords import explain_model_keywords
from sb3_ext.common.arguments.types import check_learn
from sb3_ext.imitation.demonstrations import Pairs, as_pairs, joined
from sb3_ext.imitation.expert import Expert
from sb3_ext.imitation.imitation import Imitation
from sb3_ext.keywords import checks_keywords

# Default of `n_demonstrations`
_N_DEMONSTRATIONS = 2000

SelfBC = TypeVar("SelfBC", bound="BC")


class BC(Imitation):
    """
    Behavioural cloning: make an expert's actions likely in the states that the expert saw.

    It acts in no environment, so each time step is one gradient step: ``learn(2000)`` makes 2000 of them, and callbacks
    such as ``EvalCallback`` count them. Without ``demonstrations`` the expert first plays ``n_demonstrations`` steps.

    The policy is one of PPO (``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"``), or any subclass of
    ``ActorCriticPolicy`` or ``SACPolicy``. Its weights start such a model:
    ``ppo.policy.load_state_dict(bc.policy.state_dict())``.

    ``train/log_likelihood``, ``train/entropy`` and ``train/validation_loss`` are logged.

    :param policy: the policy model to use
    :param env: the environment, for its spaces, for the expert and for evaluations
    :param expert: a policy or a model of SB3, or the file of one: ``"logs/sac/Hopper-v4_1/best_model.zip"`` as rl_zoo3
        saves it, or ``"sac:expert.zip"``. It acts without noise
    :param demonstrations: a replay buffer or the ``.pkl`` file of one, an ``.npz`` file with the arrays
        ``observations`` and ``actions``, or ``"minari:<name>"``. Either these or an expert
    :param n_demonstrations: steps that the expert plays, over all environments; ``None``: 2000
    :param learning_rate: a number, or a function of the remaining progress (from 1 to 0)
    :param batch_size: pairs in each gradient step
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
        n_demonstrations: int | None = None,
        learning_rate: float | Schedule = 1e-3,
        batch_size: int = 100,
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
            train_freq=1,
            gradient_steps=1,
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
        self.n_demonstrations = n_demonstrations
        if _init_setup_model:
            self._check_sources()
            self._setup_model()

    def _check_arguments(self) -> None:
        super()._check_arguments()
        if self.n_demonstrations is not None:
            check_integer("n_demonstrations", self.n_demonstrations, minimum=2)

    def _check_sources(self) -> None:
        super()._check_sources()
        if self.demonstrations is None:
            return
        for name in ("expert", "n_demonstrations"):
            self._require_effect(name, getattr(self, name) is None, needs="demonstrations=None")

    @checks_keywords(explain_model_keywords)
    def learn(
        self: SelfBC,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 100,
        tb_log_name: str = "BC",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfBC:
        """
        Make gradient steps.

        :param total_timesteps: number of gradient steps
        :param log_interval: gradient steps between two logs
        """
        check_learn(total_timesteps, callback, log_interval)
        self._check_arguments()
        if len(self.data) == 0:
            self.data.add(self._play(self._expert_or_error()))
        with self._progress_bars_closed():
            # Callbacks look for others in the local variable `callback`, as SB3 has it
            total_timesteps, callback = self._setup_learn(
                total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
            )
            callback.on_training_start(locals(), globals())
            while self.num_timesteps < total_timesteps:
                # Callbacks count `n_envs` steps for each of their calls
                self.num_timesteps += self.n_envs
                self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
                self.train(self.n_envs, self.batch_size)
                callback.update_locals(locals())
                if not callback.on_step():
                    break
                if log_interval is not None and self.num_timesteps % log_interval < self.n_envs:
                    self.log_validation()
                    self.dump_logs()
            callback.on_training_end()
        return self

    def _play(self, expert: Expert) -> Pairs:
        """Let the expert play in the environments."""
        assert self.env is not None
        n_pairs = _N_DEMONSTRATIONS if self.n_demonstrations is None else self.n_demonstrations
        normalization = self._vec_normalize_env
        lots: list[Pairs] = []
        observations = self.env.reset()
        for _ in range(math.ceil(n_pairs / self.n_envs)):
            original = observations if normalization is None else normalization.get_original_obs()
            actions = expert.actions(original)
            lots.append(Pairs(original, actions))
            observations, _, _, _ = self.env.step(actions)
        played = joined(lots).at(np.arange(n_pairs))
        return as_pairs("the expert", played, self.observation_space, self.action_space)
