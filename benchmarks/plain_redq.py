"""
REDQ as one would write it down in PyTorch: a list of critics, a loop over it, Adam as it comes. What the package is
measured against; SB3's replay buffer, so that sampling costs the same.
"""

from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from torch import nn
from torch.nn import functional as F


def mlp(n_inputs: int, n_outputs: int) -> nn.Sequential:
    """
    :param n_inputs: of the first layer
    :param n_outputs: of the last layer
    :return: two hidden layers of 256 units
    """
    return nn.Sequential(nn.Linear(n_inputs, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, n_outputs))


class PlainREDQ:
    """
    With SB3's ``learn`` and ``train``, as far as a benchmark calls them.

    :param env: continuous actions in [-1, 1]
    :param n_critics: N
    :param batch_size: B
    :param buffer_size: transitions
    :param learning_starts: random steps without updates
    :param device: of networks and samples
    :param gradient_steps: critic updates for each step
    """

    gamma, tau, learning_rate, subset_size = 0.99, 0.005, 3e-4, 2

    def __init__(
        self,
        env: gym.Env,
        n_critics: int,
        batch_size: int,
        buffer_size: int,
        learning_starts: int,
        device: str,
        gradient_steps: int = 20,
    ) -> None:
        assert isinstance(env.observation_space, gym.spaces.Box) and isinstance(env.action_space, gym.spaces.Box)
        n_obs, n_actions = env.observation_space.shape[0], env.action_space.shape[0]
        self.env, self.batch_size, self.learning_starts = env, batch_size, learning_starts
        self.gradient_steps, self.device = gradient_steps, device
        self.buffer = ReplayBuffer(buffer_size, env.observation_space, env.action_space, device)
        self.actor = mlp(n_obs, 2 * n_actions).to(device)
        self.critics = nn.ModuleList([mlp(n_obs + n_actions, 1) for _ in range(n_critics)]).to(device)
        self.targets = nn.ModuleList([mlp(n_obs + n_actions, 1) for _ in range(n_critics)]).to(device)
        self.targets.load_state_dict(self.critics.state_dict())
        self.log_alpha = th.zeros((), device=device, requires_grad=True)
        self.actor_optimizer = th.optim.Adam(self.actor.parameters(), lr=self.learning_rate)
        self.critic_optimizer = th.optim.Adam(self.critics.parameters(), lr=self.learning_rate)
        self.alpha_optimizer = th.optim.Adam([self.log_alpha], lr=self.learning_rate)
        self.target_entropy = -float(n_actions)
        self.obs: np.ndarray | None = None

    def act(self, obs: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        :param obs: shape (B, observation)
        :return: actions, shape (B, A), and their log-probabilities, shape (B, 1)
        """
        mean, log_std = self.actor(obs).chunk(2, dim=1)
        normal = th.distributions.Normal(mean, log_std.clamp(-20, 2).exp())
        before = normal.rsample()
        log_prob = normal.log_prob(before) - 2 * (np.log(2) - before - F.softplus(-2 * before))
        return th.tanh(before), log_prob.sum(dim=1, keepdim=True)

    def train(self, gradient_steps: int, batch_size: int) -> None:
        """
        :param gradient_steps: critic updates; each twentieth is followed by one of the actor
        :param batch_size: B
        """
        for step in range(gradient_steps):
            batch = self.buffer.sample(batch_size)
            obs, next_obs = batch.observations.float(), batch.next_observations.float()
            with th.no_grad():
                next_actions, next_log_prob = self.act(next_obs)
                next_input = th.cat([next_obs, next_actions], dim=1)
                chosen = np.random.choice(len(self.targets), self.subset_size, replace=False)
                next_q = th.cat([self.targets[index](next_input) for index in chosen], dim=1).amin(dim=1, keepdim=True)
                target = batch.rewards + (1 - batch.dones) * self.gamma * (
                    next_q - self.log_alpha.exp() * next_log_prob
                )
            inputs = th.cat([obs, batch.actions], dim=1)
            loss = sum(F.mse_loss(critic(inputs), target) for critic in self.critics)
            self.critic_optimizer.zero_grad()
            loss.backward()  # type: ignore[union-attr]
            self.critic_optimizer.step()
            if (step + 1) % 20 == 0:
                self.update_actor(obs)
            with th.no_grad():
                for parameter, slow in zip(self.critics.parameters(), self.targets.parameters(), strict=True):
                    slow.mul_(1 - self.tau).add_(parameter, alpha=self.tau)

    def update_actor(self, obs: th.Tensor) -> None:
        """
        :param obs: shape (B, observation)
        """
        actions, log_prob = self.act(obs)
        inputs = th.cat([obs, actions], dim=1)
        q_values = th.cat([critic(inputs) for critic in self.critics], dim=1).mean(dim=1, keepdim=True)
        loss = (self.log_alpha.exp().detach() * log_prob - q_values).mean()
        self.actor_optimizer.zero_grad()
        loss.backward()
        self.actor_optimizer.step()
        alpha_loss = -(self.log_alpha * (log_prob.detach() + self.target_entropy)).mean()
        self.alpha_optimizer.zero_grad()
        alpha_loss.backward()
        self.alpha_optimizer.step()

    def learn(self, total_timesteps: int, reset_num_timesteps: bool = True) -> "PlainREDQ":
        """
        :param total_timesteps: environment steps from now on
        :param reset_num_timesteps: not used, everything goes on
        :return: itself
        """
        if self.obs is None:
            self.obs, _ = self.env.reset(seed=0)
        for _ in range(total_timesteps):
            action = self._next_action()
            next_obs, reward, terminated, truncated, _ = self.env.step(action)
            row: Any = (self.obs, next_obs, action, np.array([reward]), np.array([terminated]))
            self.buffer.add(*row, [{}])
            self.obs = self.env.reset()[0] if terminated or truncated else next_obs
            if self.buffer.size() >= self.learning_starts:
                self.train(self.gradient_steps, self.batch_size)
        return self

    def _next_action(self) -> np.ndarray:
        if self.buffer.size() < self.learning_starts:
            return self.env.action_space.sample()
        with th.no_grad():
            obs = th.as_tensor(self.obs, dtype=th.float32, device=self.device).unsqueeze(0)
            return self.act(obs)[0][0].cpu().numpy()
