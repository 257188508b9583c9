"""
The code of REDQ's authors (github.com/watchernyu/REDQ), with ``learn`` and ``train`` of SB3 as far as a benchmark
calls them. It comes from a checkout. Its agent needs PyTorch and NumPy alone.
"""

import importlib
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from random_env import UTD

HOW_TO_GET_IT = "git clone https://github.com/watchernyu/REDQ, then --authors-code REDQ"


def has_agent(folder: Path) -> bool:
    """
    :param folder: of a checkout
    :return: whether the agent is there
    """
    return (folder / "redq" / "algos" / "redq_sac.py").is_file()


class _NoLogger:
    """Stands in for their logger, which the agent hands its losses to."""

    def store(self, **figures: Any) -> None:
        pass


class AuthorsREDQ:
    """
    Their agent with their replay buffer: 20 updates a step, the last of them with one of the policy.

    :param folder: of the checkout
    :param env: continuous actions in [-1, 1]
    :param n_critics: N
    :param batch_size: B
    :param buffer_size: transitions
    :param learning_starts: random steps without updates
    :param device: of networks and samples
    """

    def __init__(
        self,
        folder: Path,
        env: gym.Env,
        n_critics: int,
        batch_size: int,
        buffer_size: int,
        learning_starts: int,
        device: str,
    ) -> None:
        assert isinstance(env.observation_space, gym.spaces.Box) and isinstance(env.action_space, gym.spaces.Box)
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
        self.env = env
        self.agent = importlib.import_module("redq.algos.redq_sac").REDQSACAgent(
            env_name="",  # only their table of target entropies asks for it
            obs_dim=env.observation_space.shape[0],
            act_dim=env.action_space.shape[0],
            act_limit=1.0,
            device=device,
            replay_size=buffer_size,
            batch_size=batch_size,
            target_entropy="auto",
            start_steps=learning_starts - 1,  # they learn once there are more than this
            utd_ratio=UTD,
            num_Q=n_critics,
            policy_update_delay=UTD,
        )
        self.obs: np.ndarray | None = None

    def train(self, gradient_steps: int, batch_size: int) -> None:
        """
        :param gradient_steps: critic updates, a multiple of 20
        :param batch_size: has to be that of the agent
        """
        assert gradient_steps % UTD == 0 and batch_size == self.agent.batch_size
        for _ in range(gradient_steps // UTD):
            self.agent.train(_NoLogger())

    def learn(self, total_timesteps: int, reset_num_timesteps: bool = True) -> "AuthorsREDQ":
        """
        :param total_timesteps: environment steps from now on
        :param reset_num_timesteps: not used, everything goes on
        :return: itself
        """
        if self.obs is None:
            self.obs, _ = self.env.reset(seed=0)
        for _ in range(total_timesteps):
            action = self.agent.get_exploration_action(self.obs, self.env)
            next_obs, reward, terminated, truncated, _ = self.env.step(action)
            self.agent.store_data(self.obs, action, reward, next_obs, terminated)
            self.obs = self.env.reset()[0] if terminated or truncated else next_obs
            self.agent.train(_NoLogger())
        return self
