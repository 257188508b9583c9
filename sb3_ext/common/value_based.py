"""
The training of every value-based algorithm of this package, once: SB3's ``DQN`` with one hook for the loss.

With nothing switched on and one environment it is SB3's ``DQN``, bit for bit.
"""

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple, TypedDict, TypeVar

import numpy as np
import torch as th
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.dqn.policies import DQNPolicy
from typing_extensions import Unpack

from sb3_ext.buffers.prioritized import PrioritizedSampling
from sb3_ext.buffers.samples import AnySamples, minibatch_weights, sample_replay, update_priorities
from sb3_ext.checks import check_choice, check_interval
from sb3_ext.common.off_policy import OffPolicyExtension
from sb3_ext.common.probe import Probe
from sb3_ext.common.value_probe import ValueProbe
from sb3_ext.functional.bellman import soft_td_target

SelfValueBased = TypeVar("SelfValueBased", bound="ValueBasedAlgorithm")


class DQNKwargs(TypedDict, total=False):
    """
    The arguments of SB3's ``DQN`` after ``policy`` and ``env``, with its meanings and, unless an algorithm says
    otherwise, its defaults.
    """

    learning_rate: float | Schedule
    buffer_size: int
    learning_starts: int
    batch_size: int
    tau: float
    gamma: float
    train_freq: int | tuple[int, str]
    gradient_steps: int
    replay_buffer_class: type[ReplayBuffer] | None
    replay_buffer_kwargs: dict[str, Any] | None
    optimize_memory_usage: bool
    n_steps: int
    target_update_interval: int
    exploration_fraction: float
    exploration_initial_eps: float
    exploration_final_eps: float
    max_grad_norm: float
    stats_window_size: int
    tensorboard_log: str | None
    policy_kwargs: dict[str, Any] | None
    verbose: int
    seed: int | None
    device: th.device | str


class ValueBasedKwargs(DQNKwargs, total=False):
    """
    What every value-based algorithm of this package has besides: see :class:`ValueBasedAlgorithm`.
    """

    target_clip: float | None
    learning_rate_final: float | None
    learning_rate_fraction: float
    compile: bool
    autocast_dtype: str | None


class ValueLoss(NamedTuple):
    """
    What an algorithm makes of one minibatch.

    :param losses: of each transition, shape (B,), differentiable
    :param errors: how wrong each prediction was, shape (B,), detached: the priorities of a prioritised buffer
    :param metrics: scalars to be logged as ``train/<name>``, detached
    """

    losses: th.Tensor
    errors: th.Tensor
    metrics: dict[str, th.Tensor]


class ValueBasedAlgorithm(OffPolicyExtension, DQN):
    """
    The template. An algorithm supplies :meth:`_compute_loss` and a policy whose ``q_net(obs)`` returns (B, A).

    Beyond SB3's ``DQN``: any replay buffer of this package, prioritised ones included; each environment tosses its own
    coin for exploration (SB3's ``DQN``: one for all); the norm of the gradient before it is clipped is logged as
    ``train/grad_norm``, the earliest sign of divergence; training stops when the loss is not finite.

    The target network moves as in SB3: every ``target_update_interval`` environment steps by ``tau``, so that ``tau=1``
    is a hard update and a small ``tau`` with ``target_update_interval=1`` a soft one.

    :param policy: the policy model to use (MlpPolicy, CnnPolicy, MultiInputPolicy, or a subclass of these)
    :param env: the environment to learn from (if registered in Gym, can be str)
    :param args: arguments of SB3's ``DQN`` after ``env``, in its order
    :param double_q: choose the next action by the online network and value it by the target network
    :param target_clip: if given, the targets are clipped to ``[-target_clip, target_clip]``
    :param learning_rate_final: if given, the learning rate goes linearly from ``learning_rate`` to this value
    :param learning_rate_fraction: with it, the fraction of the training after which it has arrived there, in (0, 1]
    :param compile: run the networks through ``torch.compile`` while training, on a CPU where no gradient is asked for
        (no gain was measured there), see :class:`~sb3_ext.common.off_policy.OffPolicyExtension`
    :param autocast_dtype: ``"bfloat16"`` evaluates the networks in that precision while training, ``"auto"`` on
        CPUs that compute in it, see there
    :param _init_setup_model: whether or not to build the network at the creation of the instance
    :param kwargs: arguments of SB3's ``DQN``, see :class:`DQNKwargs`
    :raises ValueError: naming the argument, its value and what is allowed
    """

    replay_buffer: ReplayBuffer | None
    #: What a policy must be a subclass of, and not one made for another algorithm
    policy_base: ClassVar[type[DQNPolicy]] = DQNPolicy

    def __init__(
        self,
        policy: str | type[DQNPolicy],
        env: GymEnv | str,
        *args: Any,
        double_q: bool = False,
        target_clip: float | None = None,
        learning_rate_final: float | None = None,
        learning_rate_fraction: float = 1.0,
        compile: bool = False,
        autocast_dtype: str | None = None,
        _init_setup_model: bool = True,
        **kwargs: Unpack[DQNKwargs],
    ) -> None:
        # (mypy takes `args` for as long as they could be)
        super().__init__(policy, env, *args, _init_setup_model=False, **kwargs)  # type: ignore[misc]
        self.double_q = double_q
        self.target_clip = target_clip
        self.learning_rate_final = learning_rate_final
        self.learning_rate_fraction = learning_rate_fraction
        self.compile = compile
        self.autocast_dtype = autocast_dtype
        # Of the last update whose loss was finite: the loss and the norm of its gradient
        self._last_finite: tuple[float, float] | None = None
        if _init_setup_model:
            self._setup_model()

    def _check_arguments(self) -> None:
        super()._check_arguments()
        smallest, largest = np.finfo(np.float64).tiny, np.finfo(np.float64).max
        is_for_another = getattr(self.policy_class, "only_for", None) != getattr(self.policy_base, "only_for", None)
        if not issubclass(self.policy_class, self.policy_base) or is_for_another:
            raise ValueError(
                f"policy={self.policy_class.__name__} must be a subclass of {self.policy_base.__name__}, and not one "
                f"made for another algorithm than {type(self).__name__}: it is that of {self.policy_class.__module__}"
            )
        check_interval("tau", self.tau, 0.0, 1.0, "in [0, 1]")
        # (1e3 in a YAML file is a float, and SB3 takes 0 for 1)
        check_interval("target_update_interval", self.target_update_interval, 0, largest, "a number >= 0")
        for name in ("exploration_initial_eps", "exploration_final_eps"):
            check_interval(name, getattr(self, name), 0.0, 1.0, "in [0, 1]")
        check_interval("exploration_fraction", self.exploration_fraction, 0.0, largest, "a number >= 0")
        check_interval("max_grad_norm", self.max_grad_norm, smallest, np.inf, "a number > 0")
        if self.target_clip is not None:
            check_interval("target_clip", self.target_clip, smallest, largest, "None or a number > 0")
        check_choice("double_q", self.double_q, (True, False))

    def make_probe(self) -> Probe:
        return ValueProbe(self, self.q_net)

    @contextmanager
    def _choosing(self) -> Iterator[None]:
        """
        The online network chooses next actions without dropout, and without moving the statistics of batch
        normalisation towards the next states.
        """
        self.q_net.set_training_mode(False)
        try:
            yield
        finally:
            self.q_net.set_training_mode(True)

    def _next_q_values(self, batch: AnySamples) -> tuple[th.Tensor, th.Tensor | None]:
        """
        :param batch: B transitions
        :return: the target network's values of the next states, shape (B, A), and with ``double_q`` those of the online
            network, which chooses
        """
        next_q = self._evaluate(self.q_net_target, batch.next_observations)
        if not self.double_q:
            return next_q, None
        with self._choosing():
            return next_q, self._evaluate(self.q_net, batch.next_observations)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_last_finite"]

    @abstractmethod
    def _compute_loss(self, batch: AnySamples, discounts: th.Tensor | float) -> ValueLoss:
        """
        :param batch: B transitions
        :param discounts: of each, shape (B,), or of all of them
        :return: the losses and errors
        """

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """
        Update the network ``gradient_steps`` times, each time on a fresh minibatch.

        :param gradient_steps: number of updates
        :param batch_size: rows of one minibatch
        :raises ValueError: if the loss is not finite
        """
        assert self.replay_buffer is not None
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        # Reading a value back is free on a CPU, and a prioritised buffer waits for the errors anyway: then the network
        # is still whole when the training stops. Elsewhere the host waits for the device once a call.
        reads_back = self.device.type == "cpu" or isinstance(self.replay_buffer, PrioritizedSampling)

        metrics: dict[str, list[th.Tensor]] = defaultdict(list)
        for _ in range(gradient_steps):
            batch = sample_replay(
                self.replay_buffer, batch_size, self._vec_normalize_env, self._current_progress_remaining
            )
            # n-step returns have a discount of their own for each transition
            discounts = batch.discounts.flatten() if batch.discounts is not None else self.gamma
            terms = self._compute_loss(batch, discounts)
            weights = minibatch_weights(batch)
            loss = terms.losses.mean() if weights is None else (weights * terms.losses).mean()

            self.policy.optimizer.zero_grad()
            loss.backward()
            # `clip_grad_norm_` in its two parts: the second one would multiply everything by 1 most of the time
            grad_norm = th.nn.utils.get_total_norm([p.grad for p in self.policy.parameters() if p.grad is not None])
            if reads_back:
                self._check_divergence(loss.item(), grad_norm.item())
            if not reads_back or grad_norm.item() > self.max_grad_norm * (1 - 1e-6) - 1e-6:
                th.nn.utils.clip_grads_with_norm_(self.policy.parameters(), self.max_grad_norm, grad_norm)
            self.policy.optimizer.step()
            update_priorities(self.replay_buffer, [batch], [terms.errors])
            self._after_update(terms)

            self._n_updates += 1
            for name, value in (("loss", loss.detach()), ("grad_norm", grad_norm), *terms.metrics.items()):
                metrics[name].append(value)

        self._log_metrics(metrics)

    def _after_update(self, terms: ValueLoss) -> None:
        """
        Hook: called after each update of the network.
        """

    def _log_metrics(self, metrics: dict[str, list[th.Tensor]]) -> None:
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        values = {name: th.stack(parts).cpu().numpy() for name, parts in metrics.items()}
        for loss, grad_norm in zip(values.get("loss", []), values.get("grad_norm", []), strict=True):
            self._check_divergence(float(loss), float(grad_norm))
        for name, array in values.items():
            self.logger.record(f"train/{name}", float(np.mean(array, dtype=np.float64)))

    def _check_divergence(self, loss: float, grad_norm: float) -> None:
        """
        :param loss: of an update
        :param grad_norm: the norm of its gradient
        :raises ValueError: if one of them is not finite. (Not another error: rl_zoo3 prunes the trial of a search then)
        """
        if np.isfinite(loss) and np.isfinite(grad_norm):
            self._last_finite = (loss, grad_norm)
            return
        before = "none before it was finite"
        if self._last_finite is not None:
            before = "the last finite loss was {:.6g}, with a gradient norm of {:.6g}".format(*self._last_finite)
        raise ValueError(
            f"the training has diverged: loss={loss}, gradient norm={grad_norm} at time step {self.num_timesteps}, "
            f"about update {self._n_updates}; {before}. Checkpoints are as they were (on a GPU the network "
            "itself may no longer be whole). A smaller learning_rate, a "
            "smaller max_grad_norm, target_clip or clipped rewards may help"
        )

    def _td_targets(
        self,
        batch: AnySamples,
        discounts: th.Tensor | float,
        next_values: th.Tensor,
        reward_bonus: th.Tensor | float = 0.0,
    ) -> th.Tensor:
        """
        :param batch: B transitions
        :param discounts: of each, or of all of them
        :param next_values: of the next states, shape (B,) or (T', B)
        :param reward_bonus: added to the rewards, shape (B,)
        :return: shape of ``next_values``, clipped if ``target_clip`` says so
        """
        rewards = batch.rewards.flatten() + reward_bonus
        targets = soft_td_target(rewards, batch.dones.flatten(), discounts, next_values)
        return targets if self.target_clip is None else targets.clamp(-self.target_clip, self.target_clip)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        The policy's action, or with the probability ``exploration_rate`` a random one; every environment has its own
        coin.

        :param observation: of one environment or several
        :param state: not used
        :param episode_start: not used
        :param deterministic: the greedy action, no exploration
        :return: the actions and ``state``
        """
        if deterministic:
            return self.policy.predict(observation, state, episode_start, deterministic)
        if not self.policy.is_vectorized_observation(observation):
            if np.random.rand() < self.exploration_rate:
                return np.array(self.action_space.sample()), state
            return self.policy.predict(observation, state, episode_start, deterministic)

        first = next(iter(observation.values())) if isinstance(observation, dict) else observation
        explores = np.random.rand(len(first)) < self.exploration_rate
        actions = np.empty(len(first), dtype=np.int64)
        actions[explores] = [self.action_space.sample() for _ in range(explores.sum())]
        if not explores.all():
            # Only for those that want it: early in the training that is a fraction of the work
            greedy = ~explores
            chosen: Any = observation
            if explores.any():
                chosen = (
                    {key: value[greedy] for key, value in observation.items()}
                    if isinstance(observation, dict)
                    else observation[greedy]
                )
            actions[greedy], state = self.policy.predict(chosen, state, episode_start, deterministic)
        return actions, state

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


def actions_taken(batch: AnySamples) -> th.Tensor:
    """
    :param batch: B transitions with discrete actions
    :return: shape (B, 1), int64
    """
    return batch.actions.long()


def values_of_actions(q_values: th.Tensor, batch: AnySamples) -> th.Tensor:
    """
    :param q_values: shape (B, A)
    :param batch: B transitions
    :return: the values of the actions that were taken, shape (B,)
    """
    return q_values.gather(1, actions_taken(batch)).squeeze(1)
