"""Common code of Q-learning with continuous actions and no actor."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, PyTorchObs, Schedule
from stable_baselines3.common.utils import get_parameters_by_name, polyak_update
from torch import nn

from sb3_ext.checks import check_integer, check_interval
from sb3_ext.common.arguments.keywords import explain_model_keywords
from sb3_ext.common.continuous_q_probe import ContinuousQProbe
from sb3_ext.common.critic_policies import CriticPolicy
from sb3_ext.common.networks import check_networks
from sb3_ext.common.probe import Probe
from sb3_ext.common.update_loop import TransitionLosses, UpdateLoop
from sb3_ext.keywords import checks_keywords


class ContinuousQLearning(UpdateLoop, OffPolicyAlgorithm):
    """
    The base class of algorithms whose policy is the maximum of a critic over continuous actions.

    The policy has a ``critic``, a ``critic_target`` and an ``optimizer``. After every ``target_update_interval``
    updates the target critic moves by ``tau``. A subclass supplies ``compute_loss``, ``critic_values`` and
    ``output_layers``.

    :raises ValueError: naming the argument, its value and what is allowed
    """

    action_space_type = spaces.Box
    #: The required base class of policies
    policy_base: ClassVar[type[CriticPolicy]] = CriticPolicy  # type: ignore[type-abstract] # every subclass has its own
    critic: nn.Module
    critic_target: nn.Module

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
    ) -> None:
        super().__init__(
            policy,
            env,
            learning_rate,
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
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            support_multi_env=True,
            sde_support=False,
            supported_action_spaces=(spaces.Box,),
        )
        self.target_update_interval = target_update_interval
        self.max_grad_norm = max_grad_norm
        if _init_setup_model:
            self._setup_model()

    def _check_arguments(self) -> None:
        super()._check_arguments()
        if not issubclass(self.policy_class, self.policy_base):
            raise ValueError(
                f"policy={self.policy_class.__name__} must be a subclass of {self.policy_base.__name__}: give "
                f"{', '.join(map(repr, self.policy_aliases))}"
            )
        check_interval("tau", self.tau, 0.0, 1.0, "in [0, 1]")
        check_integer("target_update_interval", self.target_update_interval, minimum=1)
        check_interval("max_grad_norm", self.max_grad_norm, np.finfo(np.float64).tiny, np.inf, "a number > 0")

    def _setup_model(self) -> None:
        super()._setup_model()
        self._create_aliases()
        self._tell_policy()

    def _tell_policy(self) -> None:
        """Hook: pass arguments on to the policy that only it uses. They may have changed since."""

    @abstractmethod
    def critic_values(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        """Hook: return the values of B states and actions in [-1, 1] from N critics, shape (N, B)."""

    @abstractmethod
    def output_layers(self) -> Sequence[Sequence[nn.Module]]:
        """Hook: return the last layers of each critic, or one list for all critics that are stacked."""

    def make_probe(self) -> Probe:
        self._tell_policy()
        return ContinuousQProbe(self)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        self._tell_policy()
        return super().predict(observation, state, episode_start, deterministic)

    def _create_aliases(self) -> None:
        networks: Any = self.policy
        self.critic, self.critic_target = networks.critic, networks.critic_target

    def _trained_parameters(self) -> dict[str, nn.Parameter]:
        return check_networks(self, [self.policy.optimizer], ["critic"], ["critic_target"])[0]

    def _after_update(self, result: TransitionLosses) -> None:
        super()._after_update(result)
        if (self._n_updates + 1) % self.target_update_interval == 0:
            polyak_update(self.critic.parameters(), self.critic_target.parameters(), self.tau)
            # Running statistics are copied, see SB3's GH issue #996
            networks = self.critic, self.critic_target
            online, target = (get_parameters_by_name(network, ["running_"]) for network in networks)
            polyak_update(online, target, 1.0)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "critic", "critic_target"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []
