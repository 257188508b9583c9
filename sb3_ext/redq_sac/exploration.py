"""Exploration with noise that is held for several steps."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.sac.policies import Actor

from sb3_ext.common.finite import check_action
from sb3_ext.common.off_policy import OffPolicyExtension
from sb3_ext.redq_sac.held_noise import HeldNoise
from sb3_ext.redq_sac.policies import REDQSACPolicy, gaussian_parameters


class HeldExploration(OffPolicyExtension):
    """Mix-in that samples the actions of a rollout with :class:`~sb3_ext.redq_sac.held_noise.HeldNoise`."""

    policy: REDQSACPolicy
    noise_repeat: int = 1
    random_steps: int | None = None
    # Saved with the model
    _held_noise: HeldNoise | None = None

    def _fitting_noise(self) -> HeldNoise:
        """Return the noise, made anew if there is none for ``noise_repeat`` and the present environments."""
        assert self.action_space.shape is not None
        shape = self.n_envs, math.prod(self.action_space.shape)
        noise = self._held_noise
        if noise is None or noise.max_repeat != self.noise_repeat or noise.shape != shape:
            noise = self._held_noise = HeldNoise(self.noise_repeat, *shape)
        return noise

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        random_steps = learning_starts if self.random_steps is None else self.random_steps
        if self.noise_repeat == 1 or self.num_timesteps < random_steps:
            return super()._sample_action(random_steps, action_noise, n_envs)
        assert self._last_obs is not None
        scaled = self._held_actions(self._last_obs)
        if action_noise is not None:
            scaled = np.clip(scaled + action_noise(), -1, 1)
        action = self.policy.unscale_action(scaled)
        check_action(action, scaled, self.num_timesteps)
        return action, scaled

    def _exploring_actor(self) -> Actor:
        """Hook: return the actor to whose mean the held noise is added."""
        return self.policy.actor

    def _held_actions(self, observation: np.ndarray | dict[str, np.ndarray]) -> np.ndarray:
        """
        Sample actions as ``predict`` does, but with held noise, and compiled and in lower precision as training is.

        :param observation: of E environments
        :return: actions in [-1, 1], of the shape (E, ...) of a batch of actions
        """
        policy = self.policy
        policy.set_training_mode(False)
        obs, _ = policy.obs_to_tensor(observation)
        with th.no_grad():
            mean, log_std = self.evaluator(gaussian_parameters, self._exploring_actor(), obs)
            actions = th.tanh(mean + log_std.exp() * self._fitting_noise().sample().to(mean.device))
        assert policy.action_space.shape is not None
        return actions.cpu().numpy().reshape(-1, *policy.action_space.shape)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_held_noise"]  # which is among the parameters

    def _plain_state(self) -> dict[str, Any]:
        own = {} if self._held_noise is None else {"held_noise": self._held_noise.state()}
        return {**super()._plain_state(), **own}

    def _set_plain_state(self, state: Mapping[str, Any]) -> None:
        super()._set_plain_state(state)
        if "held_noise" in state and self.noise_repeat > 1:
            self._fitting_noise().set_state(state["held_noise"])
