"""
Common code of value-based algorithms with discrete actions: SB3's ``DQN`` on the update loop, with a hook for the loss.

With one environment, ``float32_matmul_precision=None`` and all other additions switched off, it equals SB3's ``DQN``
bit for bit.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeVar, get_args

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.dqn.policies import DQNPolicy

from sb3_ext.buffers.samples import AnySamples, WindowSamples
from sb3_ext.buffers.spaces import has_images
from sb3_ext.checks import check_choice, check_integer, check_interval
from sb3_ext.common.arguments.derived import DERIVATIONS, EXPLORATION_DERIVATIONS, Derivation, derive_exploration
from sb3_ext.common.arguments.keywords import explain_model_keywords
from sb3_ext.common.corrected_values import CorrectedValues
from sb3_ext.common.exploration import masks_actions, random_actions
from sb3_ext.common.networks import check_networks
from sb3_ext.common.probe import Probe
from sb3_ext.common.resets import RESET_FRACTION, is_reset_due, reset_last_layers
from sb3_ext.common.saved.state import Parameters
from sb3_ext.common.update_loop import TransitionLosses, UpdateLoop
from sb3_ext.common.value_probe import ValueProbe
from sb3_ext.functional.action_masks import is_masked, may_be_masked
from sb3_ext.functional.augmentation import Augmentation, shifted
from sb3_ext.functional.bellman import VALUE_LOSSES, ValueLoss, soft_td_target, value_loss
from sb3_ext.functional.traces import NStepCorrection
from sb3_ext.keywords import checks_keywords
from sb3_ext.nets.modes import evaluation_mode, select_statistics
from sb3_ext.schedules import check_probabilities, is_named_schedule

#: How epsilon goes from its first to its last value
ExplorationDecay = Literal["linear", "cosine", "exponential"]

SelfValueBased = TypeVar("SelfValueBased", bound="ValueBasedAlgorithm")


class ValueBasedAlgorithm(CorrectedValues, UpdateLoop, DQN):
    """
    The base class of value-based algorithms. A subclass supplies ``compute_loss`` and a policy whose ``q_net(obs)``
    returns (B, A).

    It adds to SB3's ``DQN`` the features of :class:`~sb3_ext.common.update_loop.UpdateLoop`, double Q-learning and
    clipped targets. Every environment explores independently, where SB3 draws one random number for all.

    As in SB3, the target network moves by ``tau`` every ``target_update_interval`` environment steps. So ``tau=1`` is a
    hard update, and a small ``tau`` with ``target_update_interval=1`` a soft one.

    The parameters are those of SB3's ``DQN``, and the keyword arguments of
    :class:`~sb3_ext.double_dqn.double_dqn.DoubleDQN`.

    :raises ValueError: naming the argument, its value and what is allowed
    """

    action_space_type = spaces.Discrete
    replay_buffer: ReplayBuffer | None
    _remedies_of_divergence = "A smaller learning_rate, a smaller max_grad_norm, target_clip or clipped rewards"
    derivations: ClassVar[Mapping[str, Derivation]] = {**DERIVATIONS, **EXPLORATION_DERIVATIONS}
    #: The required base class of policies. Policies made for another algorithm are refused
    policy_base: ClassVar[type[DQNPolicy]] = DQNPolicy
    _starting_arguments: ClassVar[tuple[str, ...]] = (
        "exploration_initial_eps",
        "exploration_final_eps",
        "exploration_fraction",
        "exploration_decay",
    )

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
        double_q: bool = False,
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
        autocast_dtype: str | None = None,
        float32_matmul_precision: str | None = "auto",
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
        )
        self.double_q = double_q
        self.target_clip = target_clip
        self.exploration_decay = exploration_decay
        self.loss = loss
        self.huber_delta = huber_delta
        self.learning_rate_final = learning_rate_final
        self.learning_rate_fraction = learning_rate_fraction
        self.n_steps_final = n_steps_final
        self.n_steps_fraction = n_steps_fraction
        self.n_step_correction = n_step_correction
        self.trace_lambda = trace_lambda
        self.augmentation = augmentation
        self.reset_interval = reset_interval
        self.reset_shrink = reset_shrink
        self.reset_fraction = reset_fraction
        self.compile = compile
        self.autocast_dtype = autocast_dtype
        self.float32_matmul_precision = float32_matmul_precision
        if _init_setup_model:
            self._setup_model()

    def _check_arguments(self) -> None:
        super()._check_arguments()
        smallest, largest = np.finfo(np.float64).tiny, np.finfo(np.float64).max
        is_for_another = getattr(self.policy_class, "only_for", None) != getattr(self.policy_base, "only_for", None)
        if not issubclass(self.policy_class, self.policy_base) or is_for_another:
            raise ValueError(
                f"policy={self.policy_class.__name__} must be a subclass of {self.policy_base.__name__}, and not one "
                f"made for another algorithm than {type(self).__name__}: it is that of {self.policy_class.__module__}. "
                "Give 'MlpPolicy', 'CnnPolicy' or 'MultiInputPolicy'. Of other algorithms' files only those of SB3's "
                "DQN can be loaded, by DoubleDQN"
            )
        check_interval("tau", self.tau, 0.0, 1.0, "in [0, 1]")
        # Not an integer: 1e3 in a YAML file is a float. SB3 treats 0 as 1
        check_interval("target_update_interval", self.target_update_interval, 0, largest, "a number >= 0")
        check_interval("exploration_final_eps", self.exploration_final_eps, 0.0, 1.0, "in [0, 1]")
        check_interval("exploration_initial_eps", self.initial_epsilon, 0.0, 1.0, "in [0, 1]")
        check_interval("exploration_fraction", self.exploration_fraction, 0.0, largest, "a number >= 0")
        check_interval("max_grad_norm", self.max_grad_norm, smallest, np.inf, "a number > 0")
        if self.target_clip is not None:
            check_interval("target_clip", self.target_clip, smallest, largest, "None or a number > 0")
        check_choice("double_q", self.double_q, (True, False))
        if is_named_schedule(self.exploration_decay):
            check_probabilities("exploration_decay", self.exploration_decay)
        else:
            check_choice("exploration_decay", self.exploration_decay, get_args(ExplorationDecay))
        if self.exploration_decay == "exponential" and min(self.initial_epsilon, self.exploration_final_eps) <= 0:
            raise ValueError(
                f"exploration_decay='exponential' with exploration_initial_eps={self.initial_epsilon} and "
                f"exploration_final_eps={self.exploration_final_eps}: both must be above 0"
            )
        check_choice("loss", self.loss, VALUE_LOSSES)
        if self.huber_delta is not None:
            check_interval("huber_delta", self.huber_delta, smallest, largest, "None or a number > 0")
            self._require_effect("huber_delta", self.loss == "huber", needs="loss='huber'")
        if "q_net" in self.__dict__:
            self._check_network()
        check_choice("augmentation", self.augmentation, (None, "shift"))
        space = getattr(self, "observation_space", None)
        if self.augmentation is not None and space is not None and not has_images(space):
            raise ValueError(
                f"augmentation={self.augmentation!r} with observation_space={space}: it needs images, which have three "
                "axes; otherwise augmentation=None"
            )
        if self.reset_interval is not None:
            check_integer("reset_interval", self.reset_interval, minimum=1)
        if self.reset_shrink is not None:
            check_interval("reset_shrink", self.reset_shrink, 0.0, math.nextafter(1.0, 0.0), "in [0, 1)")
            self._require_effect("reset_shrink", self.reset_interval is not None, needs="reset_interval")
        if self.reset_fraction is not None:
            check_interval("reset_fraction", self.reset_fraction, smallest, 1.0, "in (0, 1]")
            self._require_effect("reset_fraction", self.reset_interval is not None, needs="reset_interval")

    def _setup_model(self) -> None:
        super()._setup_model()
        derive_exploration(self)  # SB3 knows lines only, and not what None means
        self._check_network()

    def _check_network(self) -> None:
        """Hook: check the arguments that depend on what the policy has made. A wrong one raises a ValueError."""
        self._check_corrections()
        noisy = getattr(self.q_net, "noisy", False)
        if not noisy or noisy == "with_epsilon":
            return
        if is_named_schedule(self.exploration_decay):
            raise ValueError(
                f"exploration_decay={self.exploration_decay!r} with policy_kwargs=dict(noisy=True): noisy layers "
                "explore by themselves, so leave it out; for random actions as well: noisy='with_epsilon'"
            )
        for name, value in (
            ("exploration_initial_eps", self.initial_epsilon),
            ("exploration_final_eps", self.exploration_final_eps),
        ):
            if value != 0:
                raise ValueError(
                    f"{name}={value!r} with policy_kwargs=dict(noisy=True): noisy layers explore by themselves, so "
                    "only exploration_initial_eps=0 and exploration_final_eps=0 are allowed; for random actions as "
                    "well: noisy='with_epsilon'"
                )

    def _state_for_arguments(self, state: Parameters, changed: set[str]) -> Parameters:
        state = super()._state_for_arguments(state, changed)
        if self._n_calls > 0 and not changed.isdisjoint(ValueBasedAlgorithm._starting_arguments):
            # Before the first step SB3 has 0 here
            state["policy.optimizer"]["counters"]["exploration_rate"] = self.exploration_schedule(
                self._current_progress_remaining
            )
        return state

    @property
    def initial_epsilon(self) -> float:
        """Epsilon at the beginning: ``exploration_initial_eps``, or its default."""
        return self.exploration_initial_eps

    def make_probe(self) -> Probe:
        return ValueProbe(self, self.q_net)

    def _trained_parameters(self) -> dict[str, th.nn.Parameter]:
        trained, buffers = check_networks(self, [self.policy.optimizer], networks=["q_net"], targets=["q_net_target"])
        # SB3 collects these once, and copies them whenever the target network moves
        self.batch_norm_stats = select_statistics(buffers, "q_net.")
        self.batch_norm_stats_target = select_statistics(buffers, "q_net_target.")
        return trained

    def sample_minibatch(self, batch_size: int) -> AnySamples:
        samples = self.sample_transitions(batch_size)
        if self.augmentation is not None:
            samples = shifted(samples, n_axes=2 if isinstance(samples, WindowSamples) else 1)
        return self.corrected(samples) if isinstance(samples, WindowSamples) else samples

    def _after_update(self, result: TransitionLosses) -> None:
        super()._after_update(result)
        if self.reset_interval is None:
            return
        fraction = RESET_FRACTION if self.reset_fraction is None else self.reset_fraction
        if is_reset_due(self._n_updates + 1, self.reset_interval, fraction, self._current_progress_remaining):
            reset_last_layers(self.policy, 0.5 if self.reset_shrink is None else self.reset_shrink)

    def next_q_values(self, replay_data: AnySamples) -> tuple[th.Tensor, th.Tensor | None]:
        """
        Return the values of the next states from the target network and, with ``double_q``, from the online network.

        The online network selects the action. Both shapes are (B, A).
        """
        next_q = self.evaluator(self.q_net_target, replay_data.next_observations)
        if not self.double_q:
            return next_q, None
        with evaluation_mode(self.q_net):
            return next_q, self.evaluator(self.q_net, replay_data.next_observations)

    def td_targets(
        self,
        replay_data: AnySamples,
        discounts: th.Tensor | float,
        next_values: th.Tensor,
        reward_bonus: th.Tensor | float = 0.0,
    ) -> th.Tensor:
        """
        Return the targets, clipped if ``target_clip`` is set, in the shape of ``next_values``.

        :param next_values: values of the next states, shape (B,) or (T', B)
        :param reward_bonus: added to the rewards, shape (B,)
        """
        rewards = replay_data.rewards.flatten() + reward_bonus
        targets = soft_td_target(rewards, replay_data.dones.flatten(), discounts, next_values)
        return targets if self.target_clip is None else targets.clamp(-self.target_clip, self.target_clip)

    def value_losses(self, q_values: th.Tensor, targets: th.Tensor) -> th.Tensor:
        """Return the loss of each transition, shape (B,), from values and targets of this shape."""
        return value_loss(q_values, targets, self.loss, 1.0 if self.huber_delta is None else self.huber_delta)

    @checks_keywords(explain_model_keywords)
    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        Return the policy's actions, or with probability ``exploration_rate`` random ones, decided for each environment.

        :param observation: one observation, or one for each environment: an array, what numpy makes one of, or a
            dictionary of these
        :param deterministic: the greedy action, no exploration
        :return: the actions and ``state``, which is not used
        """
        observation = as_arrays(observation)
        if deterministic or isinstance(observation, tuple):
            return self.policy.predict(observation, state, episode_start, deterministic)
        if not self.policy.is_vectorized_observation(observation):
            if np.random.rand() < self.exploration_rate:
                return np.array(self._random_actions(observation, 1)[0]), state
            return self.policy.predict(observation, state, episode_start, deterministic)

        first = next(iter(observation.values())) if isinstance(observation, dict) else observation
        explores = np.random.rand(len(first)) < self.exploration_rate
        actions = np.empty(len(first), dtype=np.int64)
        if explores.any():
            actions[explores] = self._random_actions(_select(observation, explores), explores.sum())
        if not explores.all():
            # Evaluate only the environments that do not explore: early in training they are few
            greedy = ~explores
            chosen = _select(observation, greedy) if explores.any() else observation
            actions[greedy], state = self.policy.predict(chosen, state, episode_start, deterministic)
        return actions, state

    def _random_actions(self, observation: np.ndarray | dict[str, np.ndarray], n_states: int) -> list[Any]:
        return random_actions(self.policy, self.action_space, observation, n_states)

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        if self.num_timesteps < learning_starts and masks_actions(self.policy):
            assert self._last_obs is not None
            actions = np.array(self._random_actions(self._last_obs, n_envs))
            if self.keeps_log_probs:
                self._action_log_probs = self.action_log_probs(actions, is_random=True)
            return actions, actions
        return super()._sample_action(learning_starts, action_noise, n_envs)

    @checks_keywords(explain_model_keywords)
    def learn(
        self: SelfValueBased,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfValueBased:
        tb_log_name = type(self).__name__ if tb_log_name is None else tb_log_name
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)


def as_arrays(observation: Any) -> Any:
    """
    Return an observation, or a dictionary of parts, as arrays. SB3 does so only where it does not explore.

    The pair ``(observation, info)`` of Gymnasium's ``reset()`` stays as it is, for SB3's explanation of that mistake.
    """
    if isinstance(observation, dict):
        return {key: np.asarray(part) for key, part in observation.items()}
    is_pair = isinstance(observation, tuple) and len(observation) == 2 and isinstance(observation[1], dict)
    return observation if is_pair else np.asarray(observation)


def _select(observation: np.ndarray | dict[str, np.ndarray], which: np.ndarray) -> np.ndarray | dict[str, np.ndarray]:
    """Select the observations of some environments, by booleans of shape (n_envs,)."""
    if isinstance(observation, dict):
        return {key: value[which] for key, value in observation.items()}
    return observation[which]


def actions_taken(replay_data: AnySamples) -> th.Tensor:
    """Return the discrete actions of B transitions, shape (B, 1), int64."""
    return replay_data.actions.long()


def values_of_actions(q_values: th.Tensor, replay_data: AnySamples) -> th.Tensor:
    """Select the values of the actions taken, shape (B,), from those of all actions, shape (B, A)."""
    return q_values.gather(1, actions_taken(replay_data)).squeeze(1)


def predictions_of_actions(q_values: th.Tensor, replay_data: AnySamples, targets: th.Tensor) -> th.Tensor:
    """
    Return the values of the actions taken, to compare with their targets, shape (B,).

    A network may mask an action that was taken nevertheless, at random. Its value is no prediction, and the target
    replaces it. So its error and its gradient are 0.

    :param q_values: values of all actions, shape (B, A)
    :param targets: shape (B,), detached
    """
    predictions = values_of_actions(q_values, replay_data)
    if not may_be_masked(predictions):
        return predictions
    return th.where(is_masked(predictions, q_values), targets, predictions)
