"""A callback that measures why an off-policy algorithm works or fails, while it trains."""

import csv
import math
import warnings
import weakref
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.her import HerReplayBuffer

from sb3_ext.buffers.samples import sample_replay
from sb3_ext.checks import check_integer, check_interval, check_mapping, check_path
from sb3_ext.common.probe import PolicyStep, Probe
from sb3_ext.diagnosis.environments import (
    check_is_another,
    freeze_normalization,
    make_rollout_env,
    prepare_env,
    training_time_limit,
)
from sb3_ext.diagnosis.networks import GradientNorms, NetworkObserver, finite_or_none
from sb3_ext.diagnosis.probes import probe_for
from sb3_ext.diagnosis.rollouts import Discounting, Horizon, monte_carlo_pairs, undisturbed
from sb3_ext.functional.diagnosis import dormant_fraction, ensemble_disagreement, normalized_bias, tail_length
from sb3_ext.keywords import among, checks_keywords

#: Columns of the CSV file
COLUMNS = (
    "timesteps",
    "normalized_bias_mean",
    "normalized_bias_std",
    "q_mean",
    "mc_return_mean",
    "n_state_actions",
    "disagreement",
    "policy_entropy",
    "critic_grad_norm",
    "actor_grad_norm",
    "dead_units",
    "dormant_units",
    "feature_rank",
)

# How many rollout environments play at once. Their states are one batch for the networks.
_MAX_ENVS = 8

Measurements = dict[str, float | None]


class DiagnosisCallback(BaseCallback):
    """
    Measures the critics and the policy of an off-policy algorithm. The results go to TensorBoard (``diagnosis/...``)
    and to a CSV file:

    - the bias of the critics against Monte-Carlo returns of the policy whose value they estimate. It is normalised as
      in REDQ (https://arxiv.org/abs/2101.05982), and the returns hold the entropy that the critics count;
    - the disagreement of several critics and the entropy of the policy, on a minibatch of the replay buffer;
    - the norms of the gradients that critics and actor were updated with;
    - dead and dormant units (https://arxiv.org/abs/2302.12902) and the effective rank of the critics' features
      (https://arxiv.org/abs/2010.14498), on the same minibatch.

    It works with SAC, TD3, DDPG, DQN, TQC, CrossQ, QRDQN and the algorithms of this package. Any other algorithm may
    supply a :class:`~sb3_ext.common.probe.Probe` through a method ``make_probe()``. The training is not disturbed: the
    parameters are the same with and without the callback, to the bit.

    The returns need an environment of their own. If none is given, it is made from the spec of the training's, WITHOUT
    its time limit. Critics bootstrap at a time limit, and so estimate what an endless episode would bring. If an
    episode is cut off nevertheless, the states near its end are left out (``tail_tolerance``).

    Nothing is measured before ``learning_starts`` has passed.

    :param eval_freq: time steps of the training, of all environments together, between two measurements
    :param n_episodes: episodes of each measurement; 0: no Monte-Carlo returns, and no environment
    :param max_steps: how many states of an episode are measured at most, and never more than the time limit of the
        training's environment; rewards are followed further, until the discount makes them negligible
    :param tail_tolerance: in (0, 1). If an episode was cut off k steps after a state, this state is measured only if
        ``gamma ** k`` is at most the tolerance. Roughly, a return is too small by at most this fraction
    :param batch_size: states of the minibatch. No rank of features can be larger
    :param dormant_threshold: tau >= 0: a unit is dormant if its activity is at most tau times the average of its layer
    :param rank_delta: delta in (0, 1): the effective rank is the number of singular values that make up 1 - delta of
        their sum
    :param csv_path: of the CSV file; ``None``: ``diagnosis.csv`` in the folder of the logger. An existing file with the
        same columns is continued
    :param env: an environment for the Monte-Carlo returns, vectorised or not, but never the training's. Its
        VecNormalize, if it has one, gets the statistics and settings of the training's. If it has a time limit,
        episodes end there
    :param env_wrapper: wrappers of the environment that is made here, in the syntax of an rl_zoo3 YAML file. They
        replace the wrappers of the training's environment, and are allowed with ``env=None`` only
    :param seed: of rollouts and minibatches; ``None``: another one each time
    :param verbose: 1: say where the CSV file is
    :raises ValueError: naming the argument, its value and what is allowed. Also when the training begins, if the
        critics of the algorithm are unknown or no environment can be made for the returns
    """

    @checks_keywords(among(BaseCallback))
    def __init__(
        self,
        eval_freq: int = 10_000,
        n_episodes: int = 5,
        max_steps: int = 1000,
        tail_tolerance: float = 0.01,
        batch_size: int = 256,
        dormant_threshold: float = 0.1,
        rank_delta: float = 0.01,
        csv_path: str | Path | None = None,
        env: gym.Env | VecEnv | None = None,
        env_wrapper: Any = None,
        seed: int | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        check_integer("eval_freq", eval_freq, minimum=1)
        check_integer("n_episodes", n_episodes, minimum=0)
        check_integer("max_steps", max_steps, minimum=1)
        check_integer("batch_size", batch_size, minimum=1)
        tiny, below_one = np.finfo(np.float64).tiny, math.nextafter(1.0, 0.0)
        check_interval("tail_tolerance", tail_tolerance, tiny, below_one, "in (0, 1)")
        check_interval("dormant_threshold", dormant_threshold, 0.0, np.finfo(np.float64).max, "a number >= 0")
        check_interval("rank_delta", rank_delta, tiny, below_one, "in (0, 1)")
        if env is not None and not isinstance(env, (gym.Env, VecEnv)):
            raise ValueError(f"env={env!r} must be None, a gymnasium.Env or a VecEnv")
        if csv_path is not None:
            check_path("csv_path", csv_path)
        if env_wrapper is not None:
            _check_env_wrapper(env_wrapper)
        if not isinstance(verbose, bool):
            check_integer("verbose", verbose, minimum=0)
        if env is not None and env_wrapper is not None:
            raise ValueError(f"env_wrapper={env_wrapper!r} is allowed with env=None only: wrap env yourself")
        if seed is not None:
            check_integer("seed", seed, minimum=0)
        self.eval_freq = eval_freq
        self.n_episodes = n_episodes
        self.max_steps = max_steps
        self.tail_tolerance = tail_tolerance
        self.batch_size = batch_size
        self.dormant_threshold = dormant_threshold
        self.rank_delta = rank_delta
        self.csv_path = None if csv_path is None else Path(csv_path)
        self.env = env
        self.env_wrapper = env_wrapper
        self.seed = seed
        self._n_measurements = 0
        self._last_due = 0
        self._rollout_env: VecEnv | None = None
        self._gradient_norms: GradientNorms | None = None
        self._clean_up: weakref.finalize | None = None

    def _on_training_start(self) -> None:
        self._release()  # an exception may have ended an earlier training
        self._probe = probe_for(self.model)
        self._file = self._open_file()
        self._last_due = self.num_timesteps
        if self.n_episodes > 0:
            self._set_up_rollouts()
        self._gradient_norms = GradientNorms(self._probe.optimizers)
        self._gradient_norms.attach()
        # After Ctrl-C SB3 calls nothing, so hooks and environment go with the callback
        own_env = None if self.env is not None else self._rollout_env
        self._clean_up = weakref.finalize(self, _clean_up, self._gradient_norms, own_env)

    def _on_training_end(self) -> None:
        self._release()

    def _release(self) -> None:
        if self._clean_up is not None:
            self._clean_up()
        self._clean_up = self._gradient_norms = self._rollout_env = None

    @property
    def _replay_buffer(self) -> ReplayBuffer:
        buffer = getattr(self.model, "replay_buffer", None)
        assert isinstance(buffer, ReplayBuffer)
        return buffer

    def _set_up_rollouts(self) -> None:
        time_limit_is_terminal = not getattr(self._replay_buffer, "handle_timeout_termination", True)
        # The training never sees later states.
        n_states = min(self.max_steps, training_time_limit(self.model) or self.max_steps)
        if self.env is not None:
            check_is_another(self.model, self.env)
            self._rollout_env = prepare_env(self.model, self.env)
        else:
            n_envs = min(self.n_episodes, _MAX_ENVS)
            with undisturbed(self.model, seed=0):
                env = make_rollout_env(self.model, n_envs, self.env_wrapper, time_limit_is_terminal)
            self._rollout_env = prepare_env(self.model, env)
        tail = tail_length(self._probe.discount, self.tail_tolerance)
        self._horizon = Horizon(n_states, tail, time_limit_is_terminal)

    def _open_file(self) -> Path:
        """Return the CSV file, with a header. A file of this name with another header raises a ValueError."""
        path = self.csv_path
        if path is None:
            path = Path(self.logger.get_dir() or ".") / "diagnosis.csv"
        header = ",".join(COLUMNS)
        if path.exists() and path.stat().st_size > 0:
            with path.open() as file:
                found = file.readline().rstrip("\r\n")
            if found != header:
                raise ValueError(
                    f"csv_path={str(path)!r} is a file with the header {found!r}; only {header!r} is allowed"
                )
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(header + "\n")
        if self.verbose >= 1:
            print(f"Diagnosis goes to {path}")
        return path

    def _on_step(self) -> bool:
        late = self.num_timesteps - self._last_due - self.eval_freq
        if late >= 0:
            # Measurements stay at the multiples of `eval_freq`, even if a step is several time steps.
            self._last_due = self.num_timesteps - late % self.eval_freq
            learning_starts: int = self.model.learning_starts  # type: ignore[attr-defined]
            if self.num_timesteps > learning_starts and self._can_sample():
                self._log(self.measure())
        return True

    def _can_sample(self) -> bool:
        buffer = self._replay_buffer
        # Hindsight needs an episode that has ended
        return bool((buffer.ep_length > 0).any()) if isinstance(buffer, HerReplayBuffer) else buffer.size() > 0

    def measure(self) -> Measurements:
        """
        Measure now. This is possible only while the model trains.

        :return: a value for each of :data:`COLUMNS`; ``None`` if there is no value, or it is not finite
        """
        measurements: Measurements = dict.fromkeys(COLUMNS)
        # Without a seed the system supplies one, because the global generators belong to the training.
        sequence = np.random.SeedSequence(None if self.seed is None else [self.seed, self._n_measurements])
        seed = int(sequence.generate_state(1)[0]) % 2**31
        self._n_measurements += 1
        self._probe = probe_for(self.model)  # a user may have replaced networks or optimizers
        with undisturbed(self.model, seed):
            measurements.update(self._measure_minibatch())
            if self._rollout_env is not None:
                measurements.update(self._measure_bias(self._rollout_env, seed))
        assert self._gradient_norms is not None
        for name in ("critic", "actor"):
            measurements[f"{name}_grad_norm"] = self._gradient_norms.pop(name)
        self._gradient_norms.follow(self._probe.optimizers)
        measurements["timesteps"] = self.num_timesteps
        return {name: finite_or_none(value) for name, value in measurements.items()}

    def _measure_minibatch(self) -> Measurements:
        """Measure what needs no rollouts, on states that the critics learn from."""
        progress: float = self.model._current_progress_remaining
        batch = sample_replay(self._replay_buffer, self.batch_size, self.model.get_vec_normalize_env(), progress)
        probe: Probe = self._probe
        with NetworkObserver(probe.network, probe.heads) as observer:
            q_values = probe.q_values(batch.observations, batch.actions)
        entropy = probe.entropy(batch.observations)
        return {
            "disagreement": float(ensemble_disagreement(q_values)) if len(q_values) > 1 else None,
            "policy_entropy": None if entropy is None else float(entropy.mean()),
            "dead_units": dormant_fraction(observer.scores, 0.0) if observer.scores else None,
            "dormant_units": dormant_fraction(observer.scores, self.dormant_threshold) if observer.scores else None,
            "feature_rank": observer.feature_rank(self.rank_delta),
        }

    def _measure_bias(self, env: VecEnv, seed: int) -> Measurements:
        freeze_normalization(self.model, env)
        env.seed(seed)
        pairs = monte_carlo_pairs(
            env, self._act, self.n_episodes, self._horizon, Discounting(self._probe.discount, self._probe.n_steps)
        )
        if len(pairs.returns) == 0:
            warnings.warn(
                f"no Monte-Carlo return is known: all episodes were cut off before their discount fell to "
                f"tail_tolerance={self.tail_tolerance} (which takes {self._horizon.tail} steps). Give an environment "
                "without a time limit, or a larger tail_tolerance",
                stacklevel=2,
            )
            return {"n_state_actions": 0}
        bias = normalized_bias(*pairs)
        return {
            "normalized_bias_mean": float(bias.mean()),
            "normalized_bias_std": float(bias.std(correction=0)),
            "q_mean": float(pairs.q_values.mean()),
            "mc_return_mean": float(pairs.returns.mean()),
            "n_state_actions": len(bias),
        }

    def _act(self, obs: Any) -> PolicyStep:
        tensors: PyTorchObs
        tensors, _ = self.model.policy.obs_to_tensor(obs)
        return self._probe.step(tensors)

    def _log(self, measurements: Measurements) -> None:
        row = ["" if measurements[name] is None else measurements[name] for name in COLUMNS]
        with self._file.open("a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(row)
        for name, value in measurements.items():
            if value is not None and name != "timesteps":
                self.logger.record(f"diagnosis/{name}", value)
        # SB3's EvalCallback does the same, so that values get the step at which they were measured.
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(self.num_timesteps)


def _check_env_wrapper(env_wrapper: Any) -> None:
    """Check the outer form only, because rl_zoo3 imports the wrappers when the training begins."""
    for wrapper in env_wrapper if isinstance(env_wrapper, list) else [env_wrapper]:
        if not isinstance(wrapper, str) and not callable(wrapper):
            check_mapping("env_wrapper", wrapper)


def _clean_up(gradient_norms: GradientNorms, env: VecEnv | None) -> None:
    gradient_norms.detach()
    if env is not None:
        env.close()
