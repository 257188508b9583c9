"""REDQ on SAC: an ensemble of critics, many critic updates for each environment step."""

import warnings
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import (
    GymEnv,
    MaybeCallback,
    PyTorchObs,
    Schedule,
)
from stable_baselines3.common.utils import get_parameters_by_name, polyak_update
from stable_baselines3.sac.policies import Actor

from sb3_ext.buffers import DeviceReplayBuffer
from sb3_ext.buffers.samples import (
    AnySamples,
    minibatch_rows,
    sample_replay,
    single_precision,
    split_minibatches,
    update_priorities,
)
from sb3_ext.checks import check_choice, check_integer, check_interval
from sb3_ext.common.off_policy import OffPolicyExtension
from sb3_ext.common.probe import Probe
from sb3_ext.functional.ensemble import AGGREGATES, BACKUPS, aggregate_q, random_mixture_weights, random_subset
from sb3_ext.functional.fields import map_fields
from sb3_ext.functional.policy_gradient import (
    ACTOR_GRADIENTS,
    BASELINES,
    leave_one_out_baseline,
    reinforce_actor_loss,
    reparam_actor_loss,
    sample_pre_tanh,
    squashed_gaussian_log_prob,
    temperature_loss,
)
from sb3_ext.redq_sac.critic_loss import CriticLoss
from sb3_ext.redq_sac.policies import CnnPolicy, EnsembleCritic, MlpPolicy, MultiInputPolicy, REDQSACPolicy
from sb3_ext.redq_sac.probe import REDQSACProbe
from sb3_ext.speed.compilation import LossGradients
from sb3_ext.speed.recording import CudaRecorder, GraphedWork, Recorder

SelfREDQSAC = TypeVar("SelfREDQSAC", bound="REDQSAC")

# What one block of minibatches gathers at once: at most so many rows (the actor's pass holds its activations for all of
# them) and elements of the observations (5 minibatches of 256 Humanoid states: arrays that stay in the CPU's caches and
# for which the allocator need not return to the system), but always one minibatch.
_MAX_BLOCK_ROWS = 8192
_MAX_BLOCK_ELEMENTS = 2**19
# What `_update_block` reads and a user may change in the course of a training: a recording would not notice
_SETTINGS_OF_A_BLOCK = (
    "tau",
    "gamma",
    "target_entropy",
    "target_backup",
    "subset_size",
    "actor_gradient",
    "n_actor_samples",
    "reinforce_baseline",
    "actor_q",
    "backup_entropy",
    "compile",
    "autocast_dtype",
)


class PolicySample(NamedTuple):
    """
    Actions of the current policy in B states, K in each.

    :param actions: shape (K, B, A)
    :param log_prob: shape (K, B), differentiable with respect to the policy
    :param mode: the action at the policy's mean, shape (1, B, A), detached; only for REINFORCE, as a baseline
    """

    actions: th.Tensor
    log_prob: th.Tensor
    mode: th.Tensor | None = None


class BlockPlan(NamedTuple):
    """
    What happens in a block of critic updates besides them.

    :param moves_targets: after which of the critic updates the target critics move
    :param updates_actor: whether actor and temperature are updated with the last minibatch
    """

    moves_targets: tuple[bool, ...]
    updates_actor: bool


class BlockResult(NamedTuple):
    """
    :param metrics: values of each update, shape (k,), to be logged as ``train/<name>``
    :param errors: of the transitions of each of n minibatches, shape (n, B); ``None`` if not drawn by priority
    """

    metrics: dict[str, th.Tensor]
    errors: th.Tensor | None


class REDQSAC(OffPolicyExtension, SAC):
    """
    Randomized Ensembled Double Q-learning (REDQ) on Soft Actor-Critic.

    Paper: https://arxiv.org/abs/2101.05982. N critics learn from targets that are the minimum over a random subset of
    the target critics; every environment step is followed by many critic updates (``gradient_steps``, the UTD ratio
    with one environment), each on a fresh minibatch and each followed by a step of the target critics. Other backups,
    a REINFORCE gradient for the actor, and DroQ through ``policy_kwargs`` make it a workbench for ensembles of critics.

    ``policy_delay`` and ``target_update_interval`` count critic updates over the whole run. (SB3's SAC counts
    ``target_update_interval`` within one call of ``train()``, so that with ``gradient_steps=1`` it does nothing there.)

    :param policy: the policy model to use (MlpPolicy, CnnPolicy, MultiInputPolicy, or a subclass of these)
    :param env: the environment to learn from (if registered in Gym, can be str)
    :param learning_rate: learning rate of the Adam optimizers of critics, actor and temperature; a function of the
        remaining progress (from 1 to 0) or a number
    :param buffer_size: size of the replay buffer
    :param learning_starts: how many steps to collect transitions for before learning starts
    :param batch_size: minibatch size of each critic update
    :param tau: the soft update coefficient of the target critics, in [0, 1] (1: a hard update)
    :param gamma: the discount factor
    :param train_freq: update the model every ``train_freq`` steps of the vectorised environment, or a tuple of
        frequency and unit like ``(5, "step")`` or ``(2, "episode")``
    :param gradient_steps: number of critic updates after each rollout (see ``train_freq``). The UTD ratio is
        ``gradient_steps / (train_freq * n_envs)``. -1: as many as environment steps in the rollout
    :param action_noise: the action noise type (None by default)
    :param replay_buffer_class: replay buffer class to use (for instance ``HerReplayBuffer``), chosen automatically
        if ``None``
    :param replay_buffer_kwargs: keyword arguments to pass to the replay buffer
    :param optimize_memory_usage: SB3's memory-efficient variant of its replay buffer
    :param n_steps: number of steps of the returns. Also passed on to a ``replay_buffer_class`` that knows ``n_steps``
    :param ent_coef: the temperature alpha: a number >= 0, or ``"auto"`` to learn it (``"auto_0.1"``: starting from 0.1)
    :param target_update_interval: number of critic updates between updates of the target critics
    :param target_entropy: target entropy when learning the temperature; ``"auto"``: minus the number of action
        dimensions
    :param use_sde: whether to use generalized State Dependent Exploration (only with ``actor_gradient="reparam"``)
    :param sde_sample_freq: sample a new noise matrix every n steps when using gSDE, -1: only at the beginning
        of the rollout
    :param use_sde_at_warmup: whether to use gSDE instead of uniform sampling during the warm-up phase
    :param stats_window_size: number of episodes over which the rollout logging averages
    :param tensorboard_log: the log location for tensorboard (if None, no logging)
    :param policy_kwargs: additional arguments of the policy. ``n_critics`` (10) is the size of the ensemble;
        ``layer_norm`` and ``dropout`` give DroQ with ``n_critics=2``
    :param verbose: verbosity level: 0 for no output, 1 for info messages, 2 for debug messages
    :param seed: seed for the pseudo random generators
    :param device: device (cpu, cuda, ...) on which the code should be run
    :param target_backup: what the target critics' values Q'_1, ..., Q'_N become in critic i's target:
        ``"redq"`` the minimum over a random subset drawn anew for each update, ``"min"`` over all (clipped double-Q
        with two critics), ``"mean"`` over all, ``"vanilla"`` Q'_i, ``"doubleq"`` Q'_(i+1 mod N), ``"rem"`` one random
        convex combination per sample
    :param subset_size: only for ``"redq"``: critics in the random subset, in [1, N]; a fractional size is rounded up
        with the probability of its fraction. ``None``: min(2, N)
    :param policy_delay: critic updates for each update of actor and temperature
    :param actor_gradient: ``"reparam"`` through the sampled action, or ``"reinforce"`` through its log-probability
    :param n_actor_samples: actions sampled in each state for the actor's gradient
    :param reinforce_baseline: only for ``"reinforce"``: ``"loo"`` the mean weight of the other samples of the state
        (needs two samples), ``"mean_action"`` the value of the policy's mean action, or ``"none"``. ``None``: ``"loo"``
        for two samples or more, else ``"mean_action"``
    :param actor_q: ``"mean"`` (REDQ) or ``"min"`` (SAC) over the critics in the actor's objective
    :param backup_entropy: whether the targets contain the entropy of the next action
    :param random_steps: number of first steps with uniformly random actions. ``None``: until ``learning_starts``
    :param learning_rate_final: if given, the learning rate goes linearly from ``learning_rate`` to this value
    :param learning_rate_fraction: with it, the fraction of the training after which it has arrived there, in (0, 1]
    :param compile: compile the critics' loss and its gradient as one function (``torch.compile``), and what else needs
        no gradient. Mostly 5 to 25 % more updates a second on a CPU with AVX512-BF16 (``docs/benchmarks.md``). Costs
        about 20 seconds at the first update, and needs a C++ compiler; without one there is a warning, and no
        compilation. No effect on networks with batch normalisation
    :param autocast_dtype: ``"bfloat16"`` evaluates the networks in that precision while training, their last layers
        excepted; it pays on CPUs with AVX512-BF16 or AMX, which ``"auto"`` looks for. ``None``: float32
    :param cuda_graphs: on a GPU, record the updates between two rollouts once and repeat the recording, which launches
        them at once; where that is not possible there is a warning. No effect on a CPU. Not yet tried on a GPU
    :param buffer_device: where minibatches are gathered. ``"auto"``: on a GPU as SB3's buffer with a copy there
        (:class:`~sb3_ext.buffers.DeviceReplayBuffer`), unless observations are dictionaries, ``n_steps`` exceeds 1, or
        a ``replay_buffer_class`` is given; ``"cpu"``: on the host
    :param _init_setup_model: whether or not to build the network at the creation of the instance
    :raises ValueError: naming the argument, its value and what is allowed
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    policy: REDQSACPolicy
    critic: EnsembleCritic
    critic_target: EnsembleCritic

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
        replay_buffer_class: type[ReplayBuffer] | None = None,
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
        target_backup: str = "redq",
        subset_size: float | None = None,
        policy_delay: int = 20,
        actor_gradient: str = "reparam",
        n_actor_samples: int = 1,
        reinforce_baseline: str | None = None,
        actor_q: str = "mean",
        backup_entropy: bool = True,
        random_steps: int | None = None,
        learning_rate_final: float | None = None,
        learning_rate_fraction: float = 1.0,
        compile: bool = False,
        autocast_dtype: str | None = None,
        cuda_graphs: bool = False,
        buffer_device: str = "cpu",
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
            # A copy: SB3 adds entries to it, and it is the caller's
            policy_kwargs=dict(policy_kwargs or {}),
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
        self.actor_q = actor_q
        self.backup_entropy = backup_entropy
        self.random_steps = random_steps
        self.learning_rate_final = learning_rate_final
        self.learning_rate_fraction = learning_rate_fraction
        self.compile = compile
        self.autocast_dtype = autocast_dtype
        self.cuda_graphs = cuda_graphs
        self.buffer_device = buffer_device
        if _init_setup_model:
            self._setup_model()

    def _create_aliases(self) -> None:
        super()._create_aliases()
        # Walking through the modules for them takes longer than the update of the target critics itself
        self._online_parameters: list[th.Tensor] = list(self.critic.parameters())
        self._target_parameters: list[th.Tensor] = list(self.critic_target.parameters())
        critic_loss = CriticLoss(self.critic, self.critic_target)
        self._critic_gradients = LossGradients(critic_loss)
        self._trained_parameters = critic_loss.trained_parameters()
        self._has_statistics = bool(get_parameters_by_name(self.policy, ["running_"]))

    def _excluded_save_params(self) -> list[str]:
        aliases = [
            "_online_parameters",
            "_target_parameters",
            "_trained_parameters",
            "_critic_gradients",
            "_has_statistics",
        ]
        return [*super()._excluded_save_params(), *aliases, "_graphs"]

    @property
    def _compiles(self) -> bool:
        # A compiled actor moves the statistics of batch normalisation by an assignment, after which autograd refuses to
        # differentiate what the plain one has evaluated before ("modified by an inplace operation")
        return super()._compiles and not self._has_statistics

    @property
    def _effective_baseline(self) -> str:
        if self.reinforce_baseline is not None:
            return self.reinforce_baseline
        return "loo" if self.n_actor_samples >= 2 else "mean_action"

    @property
    def _effective_subset_size(self) -> float:
        return self.subset_size if self.subset_size is not None else min(2, self.critic.n_critics)

    def _check_arguments(self) -> None:
        super()._check_arguments()
        if not issubclass(self.policy_class, REDQSACPolicy):
            raise ValueError(f"policy={self.policy_class.__name__} must be a subclass of {REDQSACPolicy.__name__}")
        check_choice("target_backup", self.target_backup, BACKUPS)
        check_choice("actor_gradient", self.actor_gradient, ACTOR_GRADIENTS)
        check_choice("actor_q", self.actor_q, AGGREGATES)
        check_choice("reinforce_baseline", self.reinforce_baseline, (None, *BASELINES))
        check_choice("cuda_graphs", self.cuda_graphs, (True, False))
        check_choice("buffer_device", self.buffer_device, ("auto", "cpu"))
        for name in ("policy_delay", "n_actor_samples", "target_update_interval"):
            check_integer(name, getattr(self, name), minimum=1)
        check_interval("tau", self.tau, 0.0, 1.0, "in [0, 1]")
        if self.random_steps is not None:
            check_integer("random_steps", self.random_steps, minimum=0)
        self._check_temperature()
        self._check_actor_gradient()

    def _default_buffer_class(self) -> type[ReplayBuffer] | None:
        is_plain = self.n_steps == 1 and not self.optimize_memory_usage and not self.replay_buffer_kwargs
        if self.device.type == "cpu" or self.buffer_device == "cpu" or not is_plain:
            return None
        return None if isinstance(self.observation_space, spaces.Dict) else DeviceReplayBuffer

    def _setup_model(self) -> None:
        super()._setup_model()
        # Only now: how many critics there are by default is the policy's to say
        self._check_ensemble(self.critic.n_critics)
        if self.compile and not self._compiles:
            warnings.warn("compile=True has no effect on networks with batch normalisation", stacklevel=2)
        self._setup_graphs()

    def _check_temperature(self) -> None:
        text = str(self.ent_coef)
        head, _, tail = text.partition("_")
        is_auto = head == "auto"
        value = 1.0 if text == "auto" else _finite_number(tail if is_auto else text)
        if value is None or value < 0 or (is_auto and value == 0):
            raise ValueError(f"ent_coef={self.ent_coef!r} must be a number >= 0, 'auto', or 'auto_' and a number > 0")
        if self.target_entropy != "auto" and _finite_number(self.target_entropy) is None:
            raise ValueError(f"target_entropy={self.target_entropy!r} must be a number or 'auto'")

    def _check_ensemble(self, n_critics: int) -> None:
        if self.subset_size is not None:
            check_interval("subset_size", self.subset_size, 1, n_critics, f"in [1, n_critics={n_critics}]")
        if self.target_backup == "doubleq" and n_critics < 2:
            raise ValueError(f"target_backup='doubleq' with n_critics={n_critics}: it needs n_critics >= 2")

    def _check_actor_gradient(self) -> None:
        if self._effective_baseline == "loo" and self.n_actor_samples < 2:
            raise ValueError(
                f"reinforce_baseline='loo' with n_actor_samples={self.n_actor_samples}: it needs n_actor_samples >= 2"
            )
        if self.use_sde and self.actor_gradient == "reinforce":
            raise ValueError("use_sde=True with actor_gradient='reinforce': gSDE is allowed with 'reparam' only")
        if self.use_sde and self.n_actor_samples > 1:
            raise ValueError(
                f"use_sde=True with n_actor_samples={self.n_actor_samples}: gSDE has one noise matrix for all samples "
                "of a state, so only n_actor_samples=1 is allowed"
            )

    def _recorder_maker(self) -> Callable[[], Recorder] | None:
        """
        :return: makes what records blocks of updates on this device; ``None`` where nothing can, or is not asked for
        """
        return partial(CudaRecorder, self.device) if self.cuda_graphs and self.device.type == "cuda" else None

    def _setup_graphs(self) -> None:
        make_recorder = self._recorder_maker()
        obstacle = self._obstacle_to_graphs() if make_recorder is not None else None
        if obstacle is not None:
            warnings.warn(f"training goes on without CUDA graphs, because of {obstacle}", stacklevel=2)
        self._graphs = None if make_recorder is None or obstacle is not None else GraphedWork(make_recorder)

    def _obstacle_to_graphs(self) -> str | None:
        """
        :return: what in the settings depends on values that a recording cannot look at
        """
        if self.use_sde:
            return "use_sde=True"
        if self.target_backup == "redq" and self._effective_subset_size % 1:
            return f"subset_size={self.subset_size}: the number of critics varies"
        for optimizer in self._optimizers():
            if "capturable" not in optimizer.param_groups[0]:
                return f"optimizer_class={type(optimizer).__name__}"
        return None

    def _optimizers(self) -> list[th.optim.Optimizer]:
        optimizers = [self.actor.optimizer, self.critic.optimizer]
        return optimizers if self.ent_coef_optimizer is None else [*optimizers, self.ent_coef_optimizer]

    def _update_learning_rate(self, optimizers: list[th.optim.Optimizer] | th.optim.Optimizer) -> None:
        """
        As in SB3; a recording reads the rate from a tensor.
        """
        groups = [group for optimizer in self._optimizers() for group in optimizer.param_groups]
        rates = [group["lr"] for group in groups]
        super()._update_learning_rate(optimizers)
        for group, before in zip(groups, rates, strict=True):
            if "capturable" in group:
                group["capturable"] = self._graphs is not None and self.device.type == "cuda"
            if self._graphs is not None:
                # The same tensor as before, if there is one already
                is_ours = isinstance(before, th.Tensor) and before.device == self.device
                rate = before if is_ours else th.empty((), device=self.device)
                group["lr"] = rate.fill_(group["lr"])

    def _other_settings(self) -> tuple[Any, ...]:
        """
        :return: those of the optimisers, and which parameters are frozen (attributes of modules, such as the rate of a
            dropout layer, are not noticed)
        """
        groups = [group for optimizer in self._optimizers() for group in optimizer.param_groups]
        frozen = tuple(not parameter.requires_grad for parameter in self.policy.parameters())
        of_groups = ((name, value) for group in groups for name, value in group.items() if name not in ("params", "lr"))
        return (*of_groups, frozen)

    def _addresses(self) -> tuple[int, ...]:
        """
        :return: of all tensors that :meth:`_update_block` changes, and of those it reads beside its samples
        """
        tensors = [*self.policy.parameters(), *self.policy.buffers(), getattr(self, "ent_coef_tensor", None)]
        tensors.append(self.log_ent_coef)
        for optimizer in self._optimizers():
            tensors += [group["lr"] for group in optimizer.param_groups]
            tensors += [value for state in optimizer.state.values() for value in state.values()]
        return tuple(tensor.data_ptr() for tensor in tensors if isinstance(tensor, th.Tensor))

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        random_steps = learning_starts if self.random_steps is None else self.random_steps
        return super()._sample_action(random_steps, action_noise, n_envs)

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """
        Update the critics ``gradient_steps`` times, each time on a fresh minibatch; actor, temperature and target
        critics whenever the number of critic updates so far says so.

        :param gradient_steps: number of critic updates
        :param batch_size: rows of one minibatch
        """
        self.policy.set_training_mode(True)
        # Dropout is part of DroQ's targets; SB3 keeps the rest of the target network in evaluation mode
        self.critic_target.ensemble.train()
        self._update_learning_rate(self._optimizers())

        metrics: dict[str, list[th.Tensor]] = defaultdict(list)
        remaining = gradient_steps
        while remaining > 0:
            n_updates = self._block_size(remaining, batch_size)
            for name, values in self._train_block(n_updates, batch_size).items():
                metrics[name].append(values)
            remaining -= n_updates
        self.critic_target.set_training_mode(False)

        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for name, parts in metrics.items():
            # The only place where the host waits for the device, but for priorities that are written back
            self.logger.record(f"train/{name}", th.cat(parts).mean().item())

    def _block_size(self, remaining: int, batch_size: int) -> int:
        """
        Number of critic updates whose data can be prepared together: the policy must not change in between.
        """
        if self.use_sde:
            return 1  # a new noise matrix for every update, as in SB3's SAC
        until_actor_update = self.policy_delay - self._n_updates % self.policy_delay
        max_rows = _MAX_BLOCK_ROWS
        if self._graphs is None:  # a CPU's cache is what limits the elements
            max_rows = min(max_rows, _MAX_BLOCK_ELEMENTS // spaces.utils.flatdim(self.observation_space))
        return min(remaining, until_actor_update, max(max_rows // batch_size, 1))

    def _train_block(self, n_updates: int, batch_size: int) -> dict[str, th.Tensor]:
        """
        ``n_updates`` critic updates between two changes of the policy, and the change that is due after them.

        :param n_updates: number of critic updates
        :param batch_size: rows of one minibatch
        :return: metrics, see :class:`BlockResult`
        """
        assert self.replay_buffer is not None
        samples = single_precision(
            sample_replay(
                self.replay_buffer, n_updates * batch_size, self._vec_normalize_env, self._current_progress_remaining
            )
        )
        counts = range(self._n_updates + 1, self._n_updates + n_updates + 1)
        plan = BlockPlan(
            moves_targets=tuple(count % self.target_update_interval == 0 for count in counts),
            updates_actor=counts[-1] % self.policy_delay == 0,
        )
        if self._graphs is None:
            result = self._update_block(plan, samples)
        else:
            key = (plan, *(getattr(self, name) for name in _SETTINGS_OF_A_BLOCK), self._other_settings())
            result = self._graphs.run(key, self._addresses(), partial(self._update_block, plan), samples)
        self._n_updates += n_updates
        if result.errors is not None:
            # Minibatch after minibatch: of a transition that was drawn twice, the later error counts
            update_priorities(self.replay_buffer, split_minibatches(samples, n_updates), list(result.errors))
        return result.metrics

    def _update_block(self, plan: BlockPlan, samples: AnySamples) -> BlockResult:
        """
        The updates of a block. One pass of the actor serves all of them, and no value leaves the device.

        :param plan: what they are
        :param samples: the minibatches, see :func:`~sb3_ext.buffers.samples.split_minibatches`
        :return: what came of them
        """
        n_updates = len(plan.moves_targets)
        minibatches = split_minibatches(samples, n_updates)
        if self.use_sde:
            self.actor.reset_noise()
        ent_coef = self.log_ent_coef.detach().exp() if self.log_ent_coef is not None else self.ent_coef_tensor

        # Sampled before the next actions: the order in which SB3's SAC uses its random numbers
        policy_sample = self._sample_policy(minibatches[-1].observations) if plan.updates_actor else None
        with th.no_grad():
            next_actions, next_log_prob = self._next_actions(samples.next_observations)
            entropy_bonus = -ent_coef * next_log_prob if self.backup_entropy else th.zeros_like(next_log_prob)

        metrics: dict[str, list[th.Tensor]] = defaultdict(list)
        metrics["ent_coef"].append(ent_coef.reshape(()))
        errors: list[th.Tensor] = []
        for index, (minibatch, moves_targets) in enumerate(zip(minibatches, plan.moves_targets, strict=True)):
            rows = minibatch_rows(index, n_updates)
            loss = self._update_critics(minibatch, next_actions[rows], entropy_bonus[rows], errors)
            metrics["critic_loss"].append(loss)
            if policy_sample is not None and index == n_updates - 1:
                metrics["actor_loss"].append(self._update_actor(minibatch.observations, policy_sample, ent_coef))
                if self.log_ent_coef is not None:
                    metrics["ent_coef_loss"].append(self._update_temperature(policy_sample.log_prob))
            # After the actor, as in SB3: a features extractor that both share has then learned from this minibatch
            if moves_targets:
                self._update_target_critics()
        return BlockResult(
            {name: th.stack(values) for name, values in metrics.items()}, th.stack(errors) if errors else None
        )

    def _next_actions(self, next_obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor]:
        """
        :param next_obs: observations of B states
        :return: an action of the policy in each, shape (B, A), and its log-probability, shape (B,)
        """
        if self.use_sde:
            return self.actor.action_log_prob(next_obs)
        mean, log_std = self._evaluate(gaussian_parameters, self.actor, next_obs)
        pre_tanh = sample_pre_tanh(mean, log_std, n_samples=1)
        log_prob = squashed_gaussian_log_prob(mean, log_std, pre_tanh)
        return th.tanh(pre_tanh).squeeze(0), log_prob.squeeze(0)

    def _update_critics(
        self, minibatch: AnySamples, next_actions: th.Tensor, entropy_bonus: th.Tensor, errors: list[th.Tensor]
    ) -> th.Tensor:
        """
        One step of all critics towards their targets.

        :param next_actions: one action of the current policy in each next state, shape (B, A)
        :param entropy_bonus: what the targets add to the next value, shape (B,)
        :param errors: gets the error of each transition, shape (B,), if they were drawn by priority
        :return: the loss, detached
        """
        n_critics, members, mixture = self.critic.n_critics, None, None
        if self.target_backup == "redq":
            members = random_subset(n_critics, self._effective_subset_size, self.device)
        elif self.target_backup == "rem":
            mixture = random_mixture_weights(n_critics, len(entropy_bonus), entropy_bonus.dtype, self.device)
        if self._compiles:
            # Once for all sizes of blocks: their minibatches have different strides, which are compiled in
            minibatch = map_fields(th.Tensor.contiguous, minibatch)
            next_actions, entropy_bonus = next_actions.contiguous(), entropy_bonus.contiguous()
        discounts = minibatch.discounts.flatten() if minibatch.discounts is not None else self.gamma
        arguments = minibatch, next_actions, entropy_bonus, discounts, self.target_backup, members, mixture
        loss, *of_transitions = self._differentiate_critic_loss(*arguments)
        self.critic.optimizer.step()
        errors += of_transitions
        return loss

    def _differentiate_critic_loss(self, *arguments: Any) -> tuple[th.Tensor, ...]:
        """
        Set the critics' gradients.

        :param arguments: of :class:`CriticLoss`
        :return: what it returns, detached
        """
        for parameter in self._online_parameters:
            parameter.grad = None  # as `zero_grad()` does, which takes longer to find them
        trained = {name: p for name, p in self._trained_parameters.items() if p.requires_grad}
        gradients_of = self._critic_gradients
        with th.no_grad():  # the gradients are results like others
            results = self._evaluate(gradients_of.in_one, trained, *arguments, plain=gradients_of.by_autograd)
        for trained_parameter, gradient in zip(trained.values(), results[: len(trained)], strict=True):
            trained_parameter.grad = gradient
        return results[len(trained) :]

    def _update_target_critics(self) -> None:
        """
        Move the target critics by ``tau`` towards the critics.
        """
        with th.no_grad():
            th._foreach_lerp_(self._target_parameters, self._online_parameters, self.tau)
        # Running statistics of batch normalisation are copied, see SB3's GH issue #996
        polyak_update(self.batch_norm_stats, self.batch_norm_stats_target, 1.0)

    def _sample_policy(self, obs: PyTorchObs) -> PolicySample:
        """
        Sample actions of the current policy, for the gradient of the actor that ``actor_gradient`` names.

        :param obs: observations of B states
        :return: K actions in each
        """
        if self.use_sde:
            actions, log_prob = self.actor.action_log_prob(obs)
            return PolicySample(actions.unsqueeze(0), log_prob.unsqueeze(0))
        mean, log_std = self._evaluate(gaussian_parameters, self.actor, obs)
        pre_tanh = sample_pre_tanh(mean, log_std, self.n_actor_samples)
        if self.actor_gradient == "reparam":
            return PolicySample(th.tanh(pre_tanh), squashed_gaussian_log_prob(mean, log_std, pre_tanh))
        pre_tanh = pre_tanh.detach()
        log_prob = squashed_gaussian_log_prob(mean, log_std, pre_tanh)
        return PolicySample(th.tanh(pre_tanh), log_prob, mode=th.tanh(mean.detach()).unsqueeze(0))

    def _update_actor(self, obs: PyTorchObs, sample: PolicySample, ent_coef: th.Tensor) -> th.Tensor:
        """
        One step of the actor.

        :return: the loss, detached
        """
        if self.actor_gradient == "reparam":
            loss = reparam_actor_loss(sample.log_prob, self._actor_value(obs, sample.actions), ent_coef)
        else:
            loss = self._reinforce_loss(obs, sample, ent_coef)
        self.actor.optimizer.zero_grad()
        loss.backward()
        self.actor.optimizer.step()
        return loss.detach()

    def _actor_value(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        """
        :param actions: shape (K, B, A)
        :return: shape (K, B); no gradient reaches the critics
        """
        return aggregate_q(self._evaluate(self.critic.stacked, obs, actions, frozen=True), self.actor_q)

    def _reinforce_loss(self, obs: PyTorchObs, sample: PolicySample, ent_coef: th.Tensor) -> th.Tensor:
        baseline: th.Tensor | float = 0.0
        with th.no_grad():
            if self._effective_baseline == "mean_action":
                assert sample.mode is not None
                # The mean action is one more sample to the critics, so that they are evaluated once
                values = self._actor_value(obs, th.cat([sample.actions, sample.mode]))
                q_values, baseline = values[:-1], values[-1:]
            else:
                q_values = self._actor_value(obs, sample.actions)
            weights = q_values - ent_coef * sample.log_prob
            if self._effective_baseline == "loo":
                baseline = leave_one_out_baseline(weights)
        return reinforce_actor_loss(sample.log_prob, weights, baseline)

    def _update_temperature(self, log_prob: th.Tensor) -> th.Tensor:
        """
        One step of the automatic temperature.

        :param log_prob: of the policy's samples, shape (K, B)
        :return: the loss, detached
        """
        assert self.ent_coef_optimizer is not None and isinstance(self.target_entropy, float)
        loss = temperature_loss(self.log_ent_coef, log_prob, self.target_entropy)  # type: ignore[arg-type]
        self.ent_coef_optimizer.zero_grad()
        loss.backward()
        self.ent_coef_optimizer.step()
        return loss.detach()

    def make_probe(self) -> Probe:
        return REDQSACProbe(self)

    def learn(
        self: SelfREDQSAC,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "REDQSAC",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfREDQSAC:
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)


def gaussian_parameters(actor: Actor, obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor]:
    """
    :param actor: without gSDE
    :param obs: observations of B states
    :return: mean and logarithm of the standard deviation of the Gaussian under the tanh, shape (B, A) each
    """
    mean, log_std, _ = actor.get_action_dist_params(obs)
    return mean, log_std


def _finite_number(value: str | float) -> float | None:
    """
    :param value: a number, or the text of one
    :return: the number, or ``None`` if it is none, or not finite
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    # float() reads "1_2" as 12, SB3 as something else
    return number if np.isfinite(number) and "_" not in str(value) else None
