"""What behavioural cloning and DAgger have in common: an expert's actions, and their likelihood as the loss."""

import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    BasePolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.type_aliases import GymEnv, PyTorchObs, ReplayBufferSamples, Schedule
from stable_baselines3.sac.policies import SACPolicy

from sb3_ext.buffers.samples import map_observations
from sb3_ext.checks import check_interval
from sb3_ext.common.arguments.keywords import explain_model_keywords
from sb3_ext.common.update_loop import TransitionLosses, UpdateLoop
from sb3_ext.files import beside_folders
from sb3_ext.functional.imitation import imitation_loss, squared_norm
from sb3_ext.imitation.demonstrations import Demonstrations, Pairs, load_demonstrations
from sb3_ext.imitation.expert import Expert, as_expert
from sb3_ext.imitation.likelihood import log_likelihood
from sb3_ext.keywords import checks_keywords

# Held-out pairs whose loss is logged
_MOST_VALIDATION_PAIRS = 1000


class Imitation(UpdateLoop, OffPolicyAlgorithm):
    """
    The base class of algorithms that learn from an expert's actions. See :class:`~sb3_ext.imitation.bc.BC`.

    :raises ValueError: naming the argument, its value and what is allowed
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": ActorCriticPolicy,
        "CnnPolicy": ActorCriticCnnPolicy,
        "MultiInputPolicy": MultiInputActorCriticPolicy,
    }
    policy: ActorCriticPolicy | SACPolicy
    expert: Expert | None
    #: All pairs so far
    data: Demonstrations
    _remedies_of_divergence = "A smaller learning_rate or a smaller max_grad_norm"

    @checks_keywords(explain_model_keywords)
    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str,
        expert: Expert | BasePolicy | Any | None = None,
        demonstrations: ReplayBuffer | str | os.PathLike | None = None,
        learning_rate: float | Schedule = 1e-3,
        batch_size: int = 100,
        train_freq: int | tuple[int, str] = 1000,
        gradient_steps: int = 1000,
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
            learning_rate,
            buffer_size=1,  # what is learned from is in `data`
            learning_starts=0,
            batch_size=batch_size,
            train_freq=train_freq,
            gradient_steps=gradient_steps,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            support_multi_env=True,
            sde_support=False,
            supported_action_spaces=(spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary),
        )
        self.ent_coef = ent_coef
        self.l2_coef = l2_coef
        self.validation_fraction = validation_fraction
        self.max_grad_norm = max_grad_norm
        self.expert = None if expert is None else as_expert(expert)
        self.demonstrations = demonstrations
        if _init_setup_model:
            self._check_sources()
            self._setup_model()

    def _check_arguments(self) -> None:
        super()._check_arguments()
        largest = float(np.finfo(np.float32).max)
        check_interval("ent_coef", self.ent_coef, 0.0, largest, "a number >= 0")
        check_interval("l2_coef", self.l2_coef, 0.0, largest, "a number >= 0")
        check_interval("validation_fraction", self.validation_fraction, 0.0, 0.9, "in [0, 0.9]")
        check_interval("max_grad_norm", self.max_grad_norm, np.finfo(np.float64).tiny, np.inf, "a number > 0")
        if self.policy_kwargs.get("use_sde"):
            raise ValueError("policy_kwargs has use_sde=True: gSDE is not defined here, so leave it out")
        if not issubclass(self.policy_class, (ActorCriticPolicy, SACPolicy)):
            raise ValueError(
                f"policy={self.policy_class.__name__} must be 'MlpPolicy', 'CnnPolicy' or 'MultiInputPolicy', or a "
                "subclass of ActorCriticPolicy (PPO, A2C) or SACPolicy: others give no probabilities"
            )

    def _check_sources(self) -> None:
        """Hook: check that there is something to learn from."""
        if self.expert is None and self.demonstrations is None:
            raise ValueError(
                "expert=None and demonstrations=None: one of them is needed. expert is a policy or a model of "
                "Stable-Baselines3 or the file of one; demonstrations are a replay buffer, an .npz file or a data set"
            )

    def _setup_model(self) -> None:
        super()._setup_model()
        if isinstance(self.policy, SACPolicy):
            self.policy.optimizer = self.policy.actor.optimizer
        self._resolve_expert()
        self.data = Demonstrations(self.validation_fraction, np.random.default_rng(self.seed))
        if self.demonstrations is not None:
            self.data.add(load_demonstrations(self.demonstrations, self.observation_space, self.action_space))

    def _before_learning(self, resets_envs: bool) -> None:
        super()._before_learning(resets_envs)
        if len(self.data) > 0:
            self._normalize_by(self.data.pairs.observations)

    def _normalize_by(self, observations: Any) -> None:
        """
        Give a ``VecNormalize`` that has seen nothing yet the statistics of observations.

        Else those of one reset would normalize all demonstrations.
        """
        env = self._vec_normalize_env
        if env is None or not (env.training and env.norm_obs):
            return
        statistics = env.obs_rms if isinstance(env.obs_rms, dict) else {None: env.obs_rms}
        for key, each in statistics.items():
            if each.count < 1:
                each.update(observations if key is None else observations[key])

    def save_demonstrations(self, path: str | os.PathLike) -> None:
        """
        Write all pairs so far into an .npz file, which ``demonstrations=`` reads.

        :param path: its name; ``.npz`` is added if it has no suffix, and ``_2`` to that of a folder
        :raises ValueError: if there are no pairs yet: the expert plays in ``learn()``, and files of models have none
        """
        if len(self.data) == 0:
            raise ValueError(
                f"this {type(self).__name__} has no demonstrations to save: the expert plays when learn() is called, "
                "and a saved model contains no pairs"
            )
        self.data.save(beside_folders(Path(path), ".npz", stack_level=2))

    def _excluded_save_params(self) -> list[str]:
        # The expert and its actions are given anew, as a replay buffer is
        return [*super()._excluded_save_params(), "expert", "demonstrations", "data"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        optimizer = "policy.actor.optimizer" if issubclass(self.policy_class, SACPolicy) else "policy.optimizer"
        return ["policy", optimizer], []

    def _normalized(self, observations: Any) -> PyTorchObs:
        """Return observations as the policy sees them, as tensors."""
        if self._vec_normalize_env is not None:
            observations = self._vec_normalize_env.normalize_obs(observations)
        return map_observations(lambda part: th.as_tensor(part, device=self.device), observations)

    def _as_samples(self, pairs: Pairs) -> ReplayBufferSamples:
        observations: Any = self._normalized(pairs.observations)
        nothing = th.zeros(len(pairs), 1, device=self.device)
        actions = th.as_tensor(pairs.actions, device=self.device)
        return ReplayBufferSamples(observations, actions, observations, nothing, nothing)

    def sample_minibatch(self, batch_size: int) -> ReplayBufferSamples:
        return self._as_samples(self.data.sample(batch_size))

    def compute_loss(self, replay_data: Any, discounts: th.Tensor | float) -> TransitionLosses:
        found = log_likelihood(self.policy, replay_data.observations, replay_data.actions, by_batch=True)
        log_prob, entropy, *statistics = found
        losses = imitation_loss(log_prob, entropy, self.ent_coef)
        if self.l2_coef > 0:
            losses = losses + self.l2_coef * squared_norm(self._penalized_weights())
        metrics = {"log_likelihood": log_prob.detach().mean(), "entropy": entropy.detach().mean()}
        return TransitionLosses(losses, losses.detach(), metrics, statistics)

    def _after_update(self, result: TransitionLosses) -> None:
        super()._after_update(result)
        after_step = getattr(self.policy, "after_cloning_step", None)  # of REDQSAC's policies
        if after_step is not None:
            after_step(result.statistics)

    def _penalized_weights(self) -> list[th.Tensor]:
        """Return the weights that act. A penalty alone would take those of the values to 0."""
        acting = self.policy.actor if isinstance(self.policy, SACPolicy) else self.policy
        parts = ("value_net", "mlp_extractor.value_net", "vf_features_extractor")
        return [
            parameter
            for name, parameter in acting.named_parameters()
            if parameter.ndim > 1 and parameter.requires_grad and not name.startswith(parts)
        ]

    def log_validation(self) -> None:
        """Log ``train/validation_loss``: minus the log-likelihood of pairs that are held out."""
        pairs = self.data.validation(_MOST_VALIDATION_PAIRS)
        if pairs is None:
            return
        self.policy.set_training_mode(False)
        samples = self._as_samples(pairs)
        with th.no_grad():
            log_prob, *_ = log_likelihood(self.policy, samples.observations, samples.actions)
        self.logger.record("train/validation_loss", -log_prob.mean().item())

    def _resolve_expert(self) -> None:
        if self.expert is not None:
            self.expert = as_expert(self.expert)
            self.expert.check_spaces(self.observation_space, self.action_space)

    def _expert_or_error(self) -> Expert:
        self._resolve_expert()  # which may have been set since
        if self.expert is None:
            raise ValueError(
                f"{type(self).__name__} has no expert, which a saved model does not contain: give it to "
                f"{type(self).__name__}.load(path, env=env, expert=expert)"
            )
        return self.expert
