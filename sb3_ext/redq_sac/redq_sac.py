"""REDQ on SAC: an ensemble of critics, and many critic updates for each environment step."""

import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Literal, TypeVar

import torch as th
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule, TrainFreq, TrainFrequencyUnit

from sb3_ext.buffers import DeviceReplayBuffer
from sb3_ext.buffers.samples import single_precision, split_minibatches, update_priorities
from sb3_ext.common.arguments.derived import Derivation
from sb3_ext.common.arguments.keywords import explain_model_keywords
from sb3_ext.common.networks import check_networks, check_temperature
from sb3_ext.common.probe import Probe
from sb3_ext.functional.ensemble import ActorQ, TargetBackup
from sb3_ext.functional.policy_gradient import ActorGradient, Baseline
from sb3_ext.functional.traces import NStepCorrection
from sb3_ext.keywords import checks_keywords
from sb3_ext.nets import EnsembleCritic
from sb3_ext.nets.modes import changes_statistics_in_place, set_dropout_mode
from sb3_ext.redq_sac.arguments import check_arguments, check_ensemble, check_statistics, effective_baseline
from sb3_ext.redq_sac.corrected import CorrectedEnsemble
from sb3_ext.redq_sac.derived import REDQ_DERIVATIONS
from sb3_ext.redq_sac.exploration import HeldExploration
from sb3_ext.redq_sac.learned_temperature import LearnedTemperature
from sb3_ext.redq_sac.learning_rates import CriticLearningRate
from sb3_ext.redq_sac.plan import (
    JointGradient,
    Plan,
    TargetNetwork,
    UpdateSettings,
    largest_block,
    plan_block,
)
from sb3_ext.redq_sac.policies import POLICY_ALIASES, REDQSACPolicy
from sb3_ext.redq_sac.probe import REDQSACProbe
from sb3_ext.redq_sac.recorded import recorded_where_possible
from sb3_ext.redq_sac.returns import ScaledReturns
from sb3_ext.redq_sac.temperature import check_target_entropy, effective_target_entropy
from sb3_ext.redq_sac.update import REDQUpdate
from sb3_ext.speed.float32 import Float32MatmulPrecision, with_float32_matmul_precision
from sb3_ext.speed.precision import AutocastDtype
from sb3_ext.speed.recording import CudaRecorder, Recorder

SelfREDQSAC = TypeVar("SelfREDQSAC", bound="REDQSAC")


class REDQSAC(LearnedTemperature, CriticLearningRate, CorrectedEnsemble, HeldExploration, ScaledReturns, SAC):
    """
    Randomized Ensembled Double Q-learning (REDQ) on Soft Actor-Critic.

    Paper: https://arxiv.org/abs/2101.05982. N critics learn from the minimum over a random subset of the target
    critics. Many critic updates follow each environment step: ``gradient_steps``, or the UTD ratio with one
    environment. Each uses a fresh minibatch and moves the target critics. Other backups, a REINFORCE gradient for the
    actor, and DroQ through ``policy_kwargs`` allow comparisons of ensembles.

    ``policy_delay`` and ``target_update_interval`` count critic updates over the whole run. SB3's SAC counts
    ``target_update_interval`` within one call of ``train()``, where it has no effect with ``gradient_steps=1``.

    :param policy: the policy model to use (one of ``POLICY_ALIASES``, or a subclass of these)
    :param env: the environment to learn from (if registered in Gym, can be str)
    :param learning_rate: learning rate of the optimizers of critics, actor and temperature: a number, or a function of
        the remaining progress (from 1 to 0)
    :param buffer_size: size of the replay buffer
    :param learning_starts: how many steps to collect transitions for before learning starts
    :param batch_size: minibatch size of each critic update
    :param tau: the soft update coefficient of the target critics, in [0, 1] (1: a hard update)
    :param gamma: the discount factor
    :param train_freq: update the model every ``train_freq`` steps of the vectorized environment, or a tuple of
        frequency and unit like ``(5, "step")`` or ``(2, "episode")``
    :param gradient_steps: number of critic updates after each rollout (see ``train_freq``); -1: as many as the rollout
        has environment steps. The UTD ratio is ``gradient_steps / (train_freq * n_envs)``
    :param action_noise: the action noise type (None by default)
    :param replay_buffer_class: replay buffer class to use (for instance ``HerReplayBuffer``), or its name; ``None``
        chooses it automatically
    :param replay_buffer_kwargs: keyword arguments of the replay buffer, without ``gamma`` and ``n_steps``, which it
        receives from the algorithm
    :param optimize_memory_usage: SB3's memory-efficient variant of its replay buffer
    :param n_steps: number of steps of the returns. A ``replay_buffer_class`` that accepts ``n_steps`` receives it too
    :param ent_coef: the temperature alpha: a number >= 0, or ``"auto"`` to learn it (``"auto_0.1"``: starting from 0.1)
    :param target_update_interval: number of critic updates between updates of the target critics
    :param target_entropy: target entropy when learning the temperature; ``"auto"``: minus the number of action
        dimensions; ``"std_0.15"``: that of a Gaussian with this standard deviation in each dimension, before the tanh
    :param use_sde: whether to use generalized State Dependent Exploration (only with ``actor_gradient="reparam"``)
    :param sde_sample_freq: sample a new noise matrix every n steps when using gSDE, -1: only at the beginning of the
        rollout
    :param use_sde_at_warmup: whether to use gSDE instead of uniform sampling during the warm-up phase
    :param stats_window_size: number of episodes over which the rollout logging averages
    :param tensorboard_log: the log location for tensorboard (if None, no logging)
    :param policy_kwargs: additional arguments of the policy. ``n_critics`` (10) is the size of the ensemble;
        ``layer_norm`` and ``dropout`` give DroQ with ``n_critics=2``
    :param verbose: verbosity level: 0 for no output, 1 for info messages, 2 for debug messages
    :param seed: seed for the pseudo random generators
    :param device: device (cpu, cuda, ...) on which the code should be run
    :param target_backup: how the target critics' values Q'_1, ..., Q'_N form the target of critic i: ``"redq"`` the
        minimum over a random subset for each update, ``"min"`` over all (clipped double-Q for N = 2), ``"mean"`` over
        all, ``"vanilla"`` Q'_i, ``"doubleq"`` Q'_(i+1 mod N), ``"rem"`` one random convex combination per sample
    :param subset_size: only for ``"redq"``: critics in the random subset, in [1, N]; a fractional size is rounded up
        with the probability of its fraction. ``None``: min(2, N)
    :param policy_delay: critic updates for each update of actor and temperature. ``None``: one such update for each
        environment step, so the rounded UTD ratio, at least 1 (1 if ``train_freq`` counts episodes: nobody knows how
        long they will be)
    :param actor_gradient: ``"reparam"`` through the sampled action, or ``"reinforce"`` through its log-probability
    :param n_actor_samples: actions sampled in each state for the actor's gradient
    :param reinforce_baseline: only for ``"reinforce"``: ``"loo"`` the mean weight of the other samples of the state
        (needs two samples), ``"mean_action"`` the value of the policy's mean action, ``"batch"`` the mean over the
        minibatch, which is no baseline of the state, or ``"none"``. ``None``: ``"loo"`` for two samples or more, else
        ``"mean_action"``
    :param normalize_advantage: only for ``"reinforce"``: advantages get mean 0 and standard deviation 1 in each
        minibatch, as in SB3's PPO. That changes the gradient's scale
    :param actor_q: ``"mean"`` (REDQ) or ``"min"`` (SAC) over the critics in the actor's objective
    :param backup_entropy: whether the targets contain the entropy of the next action
    :param random_steps: number of first steps with uniformly random actions. ``None``: until ``learning_starts``
    :param learning_rate_final: if given, the learning rate goes linearly from ``learning_rate`` to this value
    :param learning_rate_fraction: fraction of the training, in (0, 1], after which ``learning_rate_final`` is reached;
        ``None``: 1
    :param n_steps_final: if given, ``n_steps`` falls exponentially to this value, see
        :func:`~sb3_ext.functional.schedules.falling_n_steps`
    :param n_steps_fraction: fraction of the training, in (0, 1], after which ``n_steps_final`` is reached; ``None``: 1
    :param n_step_correction: how returns over ``n_steps`` are corrected for actions that the policy would not choose:
        ``"retrace"`` or ``"importance"``, see :func:`~sb3_ext.functional.traces.trace_coefficients`; ``"none"``: not
    :param trace_lambda: lambda of ``"retrace"``, in [0, 1]; ``None``: 1
    :param compile: compile the losses with their gradients, and passes without a gradient (``torch.compile``): what it
        gains and costs is in ``docs/benchmarks.md``. Without a C++ compiler there is a warning, and no compilation. No
        effect on networks with torch's batch normalization; that of ``NormalizedMlpPolicy`` is compiled
    :param autocast_dtype: ``"bfloat16"`` evaluates the networks in that precision while training, except last
        layers and normalization. Faster on CPUs with AVX512-BF16 or AMX, where ``"auto"`` selects it. ``None``: float32
    :param float32_matmul_precision: which library computes float32 products on a CPU while training. ``"auto"``: oneDNN
        where it is as exact as torch's default. ``"medium"``: also where it rounds to bfloat16, as on CPUs with AMX.
        ``None``: as torch is set, see :func:`~sb3_ext.speed.float32.float32_matmul_precision`
    :param cuda_graphs: on a GPU, record the updates between two rollouts once, and then launch them all at once. Where
        that is not possible there is a warning. No effect on a CPU. Not yet tried on a GPU
    :param buffer_device: where minibatches are gathered. ``"cpu"``: on the host. ``"auto"``: on a GPU with a copy of
        SB3's buffer (:class:`~sb3_ext.buffers.DeviceReplayBuffer`), unless observations are dictionaries, ``n_steps``
        exceeds 1, or a ``replay_buffer_class`` is given
    :param target_network: ``"ema"``: target critics follow the critics by ``tau``. ``"none"``: next values come from
        the critics' own pass, as in CrossQ (https://arxiv.org/abs/1902.05605), which needs batch normalization; ``tau``
        has no effect then, and ``target_update_interval`` has to be 1
    :param joint_gradient: batch normalization sees transitions and next states together. ``"full"``: the gradient flows
        through the statistics of both, as in CrossQ. ``"half"``: through those of the transitions only, with less work
    :param noise_repeat: exploration noise is held for n steps, with probability proportional to n^-2 for n up to this
        number (FlashSAC, https://arxiv.org/abs/2604.04539). 1: new noise for each step
    :param normalize_returns: divide sampled rewards by the running standard deviation of discounted returns
        (https://arxiv.org/abs/2509.25174). With ``head="categorical"`` also so that the returns so far stay within the
        bins, without what the entropy adds. Stored rewards remain as they are
    :param qf_learning_rate: learning rate of the critics alone, a number or a schedule, to which
        ``learning_rate_final`` does not apply; ``None``: ``learning_rate``
    :param _init_setup_model: whether or not to build the network at the creation of the instance
    :raises ValueError: naming the argument, its value and what is allowed
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = POLICY_ALIASES
    derivations: ClassVar[Mapping[str, Derivation]] = REDQ_DERIVATIONS
    action_space_type = spaces.Box
    _remedies_of_divergence = "A smaller learning_rate, a smaller tau, a fixed ent_coef or clipped rewards"
    policy: REDQSACPolicy
    critic: EnsembleCritic
    critic_target: EnsembleCritic
    #: Computes the updates, from networks, optimizers and settings
    updater: REDQUpdate

    @checks_keywords(explain_model_keywords)
    def __init__(
        self,
        policy: str | type[REDQSACPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 3e-4,
        buffer_size: int = 1_000_000,
        learning_starts: int = 100,
        batch_size: int = 256,
        tau: float = 0.005,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 20,
        action_noise: ActionNoise | None = None,
        replay_buffer_class: type[ReplayBuffer] | str | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        ent_coef: str | float = "auto",
        target_update_interval: int = 1,
        target_entropy: str | float = "auto",
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        use_sde_at_warmup: bool = False,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        target_backup: TargetBackup = "redq",
        subset_size: float | None = None,
        policy_delay: int | None = None,
        actor_gradient: ActorGradient = "reparam",
        n_actor_samples: int = 1,
        reinforce_baseline: Baseline | None = None,
        normalize_advantage: bool = False,
        actor_q: ActorQ = "mean",
        backup_entropy: bool = True,
        random_steps: int | None = None,
        learning_rate_final: float | None = None,
        learning_rate_fraction: float | None = None,
        n_steps_final: int | None = None,
        n_steps_fraction: float | None = None,
        n_step_correction: NStepCorrection = "none",
        trace_lambda: float | None = None,
        compile: bool = False,
        autocast_dtype: AutocastDtype | None = None,
        float32_matmul_precision: Float32MatmulPrecision | None = "auto",
        cuda_graphs: bool = False,
        buffer_device: Literal["auto", "cpu"] = "cpu",
        target_network: TargetNetwork = "ema",
        joint_gradient: JointGradient = "half",
        noise_repeat: int = 1,
        normalize_returns: bool = False,
        qf_learning_rate: float | Schedule | None = None,
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
            ent_coef=ent_coef,
            target_update_interval=target_update_interval,
            target_entropy=target_entropy,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            use_sde_at_warmup=use_sde_at_warmup,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
        )
        self.target_backup = target_backup
        self.subset_size = subset_size
        self.policy_delay = policy_delay
        self.actor_gradient = actor_gradient
        self.n_actor_samples = n_actor_samples
        self.reinforce_baseline = reinforce_baseline
        self.normalize_advantage = normalize_advantage
        self.actor_q = actor_q
        self.backup_entropy = backup_entropy
        self.random_steps = random_steps
        self.learning_rate_final = learning_rate_final
        self.learning_rate_fraction = learning_rate_fraction
        self.n_steps_final = n_steps_final
        self.n_steps_fraction = n_steps_fraction
        self.n_step_correction = n_step_correction
        self.trace_lambda = trace_lambda
        self.compile = compile
        self.autocast_dtype = autocast_dtype
        self.float32_matmul_precision = float32_matmul_precision
        self.cuda_graphs = cuda_graphs
        self.buffer_device = buffer_device
        self.target_network = target_network
        self.joint_gradient = joint_gradient
        self.noise_repeat = noise_repeat
        self.normalize_returns = normalize_returns
        self.qf_learning_rate = qf_learning_rate
        if _init_setup_model:
            self._setup_model()

    def _check_arguments(self) -> None:
        super()._check_arguments()
        check_arguments(self)

    def _default_buffer_class(self) -> type[ReplayBuffer] | None:
        is_plain = self.n_steps == 1 and not self.optimize_memory_usage and not self.replay_buffer_kwargs
        is_plain = is_plain and self.n_step_correction == "none"
        is_copied = self.device.type != "cpu" and self.buffer_device == "auto" and is_plain
        if is_copied and not isinstance(self.observation_space, spaces.Dict):
            return DeviceReplayBuffer
        return super()._default_buffer_class()

    def _setup_model(self) -> None:
        # SAC sets either these or `ent_coef_tensor`, and removes nothing from an earlier temperature
        self.log_ent_coef = self.ent_coef_optimizer = None
        vars(self).pop("ent_coef_tensor", None)
        self.policy_kwargs.setdefault("use_sde", self.use_sde)  # which custom_objects may lack
        if isinstance(getattr(self, "action_space", None), spaces.Box):
            check_target_entropy(self.target_entropy)
            self.target_entropy = effective_target_entropy(self.target_entropy, self.action_space)
        super()._setup_model()
        # The policy decides how many critics there are by default, so this check has to wait for it
        check_ensemble(self)
        # A compiled actor assigns new statistics of torch's batch normalization. Autograd then refuses to differentiate
        # earlier results of the plain one ("modified by an inplace operation")
        if self.compile and changes_statistics_in_place(self.policy):
            warnings.warn("compile=True has no effect on networks with torch's batch normalization", stacklevel=2)
        self.updater = REDQUpdate(
            self.policy, self.evaluator, self._update_settings(), self._temperature(), self._divergence
        )
        self._recorded = recorded_where_possible(self.updater, self._recorder_maker())

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "updater", "_recorded", "qf_lr_schedule"]

    @property
    def update_to_data_ratio(self) -> float:
        """Critic updates for each environment step; 1 if it depends on the lengths of episodes."""
        assert isinstance(self.train_freq, TrainFreq)
        if self.gradient_steps < 0 or self.train_freq.unit is TrainFrequencyUnit.EPISODE:
            return 1.0
        return self.gradient_steps / (self.train_freq.frequency * self.n_envs)

    @property
    def effective_policy_delay(self) -> int:
        """Critic updates for each update of the actor: ``policy_delay``, or its default."""
        return max(round(self.update_to_data_ratio), 1) if self.policy_delay is None else self.policy_delay

    def _return_bound(self) -> float | None:
        return self.critic.head.bound

    def _update_settings(self) -> UpdateSettings:
        """Return the present arguments, because a user may change them during training."""
        assert isinstance(self.target_entropy, float)
        return UpdateSettings(
            gamma=self.gamma,
            tau=self.tau,
            target_backup=self.target_backup,
            subset_size=min(2, self.critic.n_critics) if self.subset_size is None else self.subset_size,
            backup_entropy=self.backup_entropy,
            actor_gradient=self.actor_gradient,
            n_actor_samples=self.n_actor_samples,
            reinforce_baseline=effective_baseline(self),
            normalize_advantage=self.normalize_advantage,
            actor_q=self.actor_q,
            target_entropy=self.target_entropy,
            use_sde=self.use_sde,
            target_network=self.target_network,
            joint_gradient=self.joint_gradient,
            n_step_correction=self.n_step_correction,
            trace_lambda=self.effective_trace_lambda,
            compile=self.compile and not changes_statistics_in_place(self.policy),
            autocast_dtype=self.autocast_dtype,
        )

    def _recorder_maker(self) -> Callable[[], Recorder] | None:
        """Hook: return what makes a recorder, or ``None`` where recordings are impossible or not requested."""
        return partial(CudaRecorder, self.device) if self.cuda_graphs and self.device.type == "cuda" else None

    @with_float32_matmul_precision
    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """
        Update the critics ``gradient_steps`` times, each time on a fresh minibatch.

        Actor, temperature and target critics are updated whenever the total number of critic updates requires it.

        :raises ValueError: if a loss, the norm of its gradient, the temperature or a parameter is not finite
        """
        assert self.replay_buffer is not None
        optimizers = [getattr(network, "optimizer", None) for network in (self.actor, self.critic)]
        trained, _ = check_networks(self, optimizers, ["actor", "critic"], ["critic_target"])
        check_temperature("log_ent_coef", self.log_ent_coef, self.ent_coef_optimizer)
        self.updater.configure(self._update_settings(), self._temperature(), self.policy)
        # SB3 collects these once. A layer may have been replaced since
        self.batch_norm_stats = self.updater.parameters.online_statistics
        self.batch_norm_stats_target = self.updater.parameters.target_statistics
        self._begin_updates(self.updater.optimizers())
        # DroQ's targets include dropout, but SB3 keeps the target network in evaluation mode
        set_dropout_mode(self.critic_target.ensemble, True)
        run = self.updater.run if self._recorded is None else self._recorded.run
        # On a GPU the host would wait for the device, and a recording cannot read values at all
        reads_back = self.device.type == "cpu" and self._recorded is None
        self._divergence.start(self.policy, self.num_timesteps, reads_back, self._learned_tensors())
        metrics: dict[str, list[th.Tensor]] = defaultdict(list)
        remaining = gradient_steps
        while remaining > 0:
            # Each block lies between two changes of the policy
            plan = self._plan_block(remaining, batch_size)
            replay_data = single_precision(self.sample_transitions(plan.n_updates * batch_size))
            replay_data = self._with_scaled_rewards(replay_data)
            self._divergence.next_updates(self._n_updates, replay_data)
            result = run(plan, replay_data)
            if result.errors is not None:
                self._check_divergence(result.metrics)
                # Minibatches are processed in order. If a transition was drawn twice, the later error counts
                minibatches = split_minibatches(replay_data, plan.n_updates)
                update_priorities(self.replay_buffer, minibatches, list(result.errors))
            for name, values in result.metrics.items():
                metrics[name].append(values)
            self._n_updates += plan.n_updates
            remaining -= plan.n_updates
        self.critic_target.set_training_mode(False)

        # Only here, and for priorities, the host waits for the device
        joined = {name: th.cat(parts) for name, parts in metrics.items()}
        self._check_divergence(joined)
        for name in {"q_value", "target_value"} & set(joined):  # in the units of returns
            joined[name] = joined[name] * self.return_scale
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for name, values in joined.items():
            self.logger.record(f"train/{name}", values.mean().item())
        self._divergence.finish(trained)

    def _check_divergence(self, metrics: dict[str, th.Tensor]) -> None:
        values = {name: parts.cpu().numpy() for name, parts in metrics.items()}
        self._divergence.check_metrics(values, ["critic_loss", "actor_loss", "ent_coef_loss", "ent_coef"])

    def _plan_block(self, remaining: int, batch_size: int) -> Plan:
        """Plan critic updates whose data can be prepared together, because the policy does not change in between."""
        largest = largest_block(batch_size, self.observation_space, fits_caches=self._recorded is None)
        n_at_most = 1 if self.use_sde else min(remaining, largest)  # with gSDE new noise for every update, as in SB3
        return plan_block(self._n_updates, n_at_most, self.effective_policy_delay, self.target_update_interval)

    def make_probe(self) -> Probe:
        return REDQSACProbe(self)

    @checks_keywords(explain_model_keywords)
    def learn(
        self: SelfREDQSAC,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "REDQSAC",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfREDQSAC:
        check_statistics(self)
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
