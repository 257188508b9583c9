"""Q-learning whose maxima over continuous actions are sought."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, TypeVar, get_args

import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, PyTorchObs, Schedule
from torch import nn

from sb3_ext.buffers.samples import AnySamples, transition_rows
from sb3_ext.cem_q.policies import POLICY_ALIASES, CEMQPolicy
from sb3_ext.checks import check_choice, check_integer, check_interval
from sb3_ext.common.arguments.keywords import explain_model_keywords
from sb3_ext.common.continuous_q import ContinuousQLearning
from sb3_ext.common.critic_policies import CriticPolicy
from sb3_ext.common.update_loop import TransitionLosses
from sb3_ext.functional.bellman import ensemble_td_errors, soft_td_target
from sb3_ext.functional.ensemble import ACTOR_QS, ActorQ, random_subset
from sb3_ext.functional.maximizers import FEWEST_SAMPLES_OF_CMA, MAXIMIZERS, Maximizer, maximize
from sb3_ext.keywords import checks_keywords
from sb3_ext.nets.output_layers import output_layers

SelfCEMQ = TypeVar("SelfCEMQ", bound="CEMQ")

#: Backups with one value for all critics, which a search can maximize
SearchedBackup = Literal["redq", "min", "mean"]
SEARCHED_BACKUPS: tuple[SearchedBackup, ...] = get_args(SearchedBackup)


class CEMQ(ContinuousQLearning):
    """
    Q-learning with continuous actions and no actor: QT-Opt (https://arxiv.org/abs/1806.10293) on one machine.

    Wherever a maximum over actions is needed, candidates are drawn and valued. The defaults to act are QT-Opt's: the
    cross-entropy method with 64 samples, 6 elites and 2 iterations. Targets use the same search with fewer samples.
    With two critics and ``target_backup="min"`` they are clipped double-Q's, with more critics and ``"redq"`` REDQ's.

    It explores by ``action_noise``, and a little since candidates are random.

    ``train/q_value`` and ``train/target_value`` are logged.

    :param policy: the policy model to use (MlpPolicy, CnnPolicy, MultiInputPolicy, or a subclass of these)
    :param env: the environment to learn from (if registered in Gym, can be str). Its action space needs bounds
    :param learning_rate: a number, or a function of the remaining progress (from 1 to 0)
    :param buffer_size: size of the replay buffer, in transitions of all environments together
    :param learning_starts: steps with uniform actions before learning starts
    :param batch_size: minibatch size of each update
    :param tau: how far the target critics move towards the critics, in [0, 1]
    :param gamma: the discount factor
    :param train_freq: update every ``train_freq`` steps of the vectorized environment, or a tuple of frequency and unit
    :param gradient_steps: updates after each rollout; -1: as many as the rollout has environment steps
    :param action_noise: added to the actions of rollouts
    :param replay_buffer_class: replay buffer to use, or its name; ``None`` chooses it automatically
    :param replay_buffer_kwargs: keyword arguments of the replay buffer, without ``gamma`` and ``n_steps``
    :param optimize_memory_usage: SB3's memory-efficient variant of its replay buffer
    :param n_steps: steps of the returns
    :param target_update_interval: updates between two moves of the target critics
    :param max_grad_norm: gradients are clipped to this norm
    :param stats_window_size: number of episodes over which the rollout logging averages
    :param tensorboard_log: the log location for tensorboard (if None, no logging)
    :param policy_kwargs: additional arguments of the policy; ``n_critics`` (2)
    :param verbose: verbosity level: 0 for no output, 1 for info messages, 2 for debug messages
    :param seed: seed for the pseudo random generators
    :param device: device (cpu, cuda, ...) on which the code should be run
    :param _init_setup_model: whether or not to build the network at the creation of the instance
    :param maximizer: ``"random"``, ``"cem"`` or ``"cma"``, see :mod:`sb3_ext.functional.maximizers`
    :param n_samples: candidates in each iteration, to act
    :param n_elites: candidates that ``"cem"`` goes on from, to act and in targets; ``None``: 6
    :param n_iterations: iterations to act
    :param n_target_samples: candidates in each iteration, in targets
    :param n_target_iterations: iterations in targets
    :param target_backup: the value of the next state is the maximum over actions of ``"min"`` over the target critics,
        of ``"redq"``, the minimum over a random subset for each update, or of their ``"mean"``
    :param subset_size: only for ``"redq"``: critics in the subset, in [1, N]; ``None``: min(2, N)
    :param actor_q: ``"mean"`` or ``"min"`` over the critics, to act
    :raises ValueError: naming the argument, its value and what is allowed
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = POLICY_ALIASES
    policy_base: ClassVar[type[CriticPolicy]] = CEMQPolicy
    policy: CEMQPolicy
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
        maximizer: Maximizer = "cem",
        n_samples: int = 64,
        n_elites: int | None = None,
        n_iterations: int = 2,
        n_target_samples: int = 16,
        n_target_iterations: int = 2,
        target_backup: SearchedBackup = "min",
        subset_size: float | None = None,
        actor_q: ActorQ = "mean",
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
        self.maximizer = maximizer
        self.n_samples = n_samples
        self.n_elites = n_elites
        self.n_iterations = n_iterations
        self.n_target_samples = n_target_samples
        self.n_target_iterations = n_target_iterations
        self.target_backup = target_backup
        self.subset_size = subset_size
        self.actor_q = actor_q
        if _init_setup_model:
            self._setup_model()

    @property
    def effective_n_elites(self) -> int:
        """``n_elites``, or its default: 6, or fewer if there are fewer candidates."""
        return min(6, self.n_samples, self.n_target_samples) if self.n_elites is None else self.n_elites

    def _check_arguments(self) -> None:
        super()._check_arguments()
        check_choice("maximizer", self.maximizer, MAXIMIZERS)
        check_choice("target_backup", self.target_backup, SEARCHED_BACKUPS)
        check_choice("actor_q", self.actor_q, ACTOR_QS)
        for name in ("n_iterations", "n_target_iterations"):
            check_integer(name, getattr(self, name), minimum=1)
        fewest = FEWEST_SAMPLES_OF_CMA if self.maximizer == "cma" else 1
        for name in ("n_samples", "n_target_samples"):
            check_integer(name, getattr(self, name), minimum=fewest)
        if self.n_elites is not None:
            check_integer("n_elites", self.n_elites, minimum=1)
            is_used = self.maximizer == "cem" and max(self.n_iterations, self.n_target_iterations) > 1
            self._require_effect("n_elites", is_used, needs="maximizer='cem' and n_iterations above 1")
        for name, iterations in (("n_samples", "n_iterations"), ("n_target_samples", "n_target_iterations")):
            is_used = self.maximizer == "cem" and getattr(self, iterations) > 1
            if is_used and self.effective_n_elites > getattr(self, name):
                raise ValueError(
                    f"n_elites={self.effective_n_elites} exceeds {name}={getattr(self, name)}: at most as many "
                    "candidates can be chosen as there are"
                )
        if self.subset_size is not None:
            self._require_effect("subset_size", self.target_backup == "redq", needs="target_backup='redq'")
            if "critic" in vars(self):  # which tells how many critics there are
                self._check_subset_size()

    def _setup_model(self) -> None:
        super()._setup_model()
        if self.subset_size is not None:
            self._check_subset_size()

    def _check_subset_size(self) -> None:
        n_critics = self.critic.n_critics
        check_interval("subset_size", self.subset_size, 1, n_critics, f"in [1, n_critics={n_critics}]")

    def _tell_policy(self) -> None:
        policy = self.policy
        policy.maximizer, policy.actor_q = self.maximizer, self.actor_q
        policy.n_samples, policy.n_elites = self.n_samples, self.effective_n_elites
        policy.n_iterations = self.n_iterations

    def critic_values(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        return self.critic.stacked(obs, actions)

    def output_layers(self) -> Sequence[Sequence[nn.Module]]:
        return [output_layers(self.critic.ensemble)]

    def compute_loss(self, replay_data: AnySamples, discounts: th.Tensor | float) -> TransitionLosses:
        with th.no_grad():
            rewards, dones, _ = transition_rows(replay_data, self.gamma)
            targets = soft_td_target(rewards, dones, discounts, self.next_values(replay_data))
        q_values = self.critic_values(replay_data.observations, replay_data.actions)
        expanded = targets.expand_as(q_values)
        losses = 0.5 * (q_values - expanded).square().sum(dim=0)
        metrics = {"q_value": q_values.detach().mean(), "target_value": targets.mean()}
        return TransitionLosses(losses, ensemble_td_errors(q_values, expanded), metrics)

    def next_values(self, replay_data: AnySamples) -> th.Tensor:
        """Return the largest value found in each next state, shape (B,)."""
        critic, members = self.critic_target, None
        if self.target_backup == "redq":
            size = min(2, critic.n_critics) if self.subset_size is None else self.subset_size
            members = random_subset(critic.n_critics, size, self.device)

        def values(candidates: th.Tensor) -> th.Tensor:
            all_values = critic.stacked(replay_data.next_observations, candidates, members)
            return all_values.mean(dim=0) if self.target_backup == "mean" else all_values.amin(dim=0)

        sizes = self.n_target_samples, self.effective_n_elites, self.n_target_iterations
        return maximize(self.maximizer, values, *sizes, replay_data.actions.float()).values

    @checks_keywords(explain_model_keywords)
    def learn(
        self: SelfCEMQ,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "CEMQ",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfCEMQ:
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
