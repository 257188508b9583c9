"""
What somebody can add without touching the package, each in under 40 lines: a critic with another head and loss, a
value-based algorithm with another target over windows, an algorithm with continuous actions and no actor.
"""

import inspect
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import FlattenExtractor

from sb3_ext import REDQSAC, DoubleDQN, FrameDedupReplayBuffer, PrioritizedReplayBuffer
from sb3_ext.buffers import ArrayReplayBuffer
from sb3_ext.buffers.samples import WindowSamples, sample_windows
from sb3_ext.common.update_loop import TransitionLosses, UpdateLoop
from sb3_ext.nets import CriticHead, EnsembleCritic
from sb3_ext.redq_sac.policies import MlpPolicy


class TwoHotHead(CriticHead):
    """Values as a distribution over bins, learned by cross-entropy towards the two bins around the target."""

    n_outputs = 41

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bins", th.linspace(-20.0, 20.0, self.n_outputs), persistent=False)

    def values(self, outputs: th.Tensor) -> th.Tensor:
        return outputs.softmax(dim=-1) @ self.bins

    def loss(self, outputs: th.Tensor, targets: th.Tensor, weights: th.Tensor | None) -> th.Tensor:
        position = (targets.clamp(-20.0, 19.999) + 20.0) / (self.bins[1] - self.bins[0])
        lower, share = position.long(), position.frac()
        log_p = outputs.log_softmax(dim=-1)
        near = th.stack([log_p.gather(-1, (lower + i).unsqueeze(-1)).squeeze(-1) for i in (0, 1)])
        losses = -((1 - share) * near[0] + share * near[1])
        return (losses if weights is None else weights * losses).mean(dim=1).sum()


class TwoHotPolicy(MlpPolicy):
    head_class = TwoHotHead


class LambdaDQN(DoubleDQN):
    """Q(lambda) without corrections: each step of a window mixes the value of its next state with what follows."""

    window_length, share = 4, 0.7

    def sample_minibatch(self, batch_size: int) -> WindowSamples:
        progress = self._current_progress_remaining
        return sample_windows(self.replay_buffer, self.window_length, batch_size, self._vec_normalize_env, progress)

    def compute_loss(self, replay_data: WindowSamples, discounts: float) -> TransitionLosses:
        with th.no_grad():
            shape = replay_data.rewards.shape
            next_q = self.q_net_target(replay_data.next_observations.flatten(0, 1)).unflatten(0, shape)
            values, returns = next_q.max(dim=2).values, th.zeros(shape[0])
            for k in reversed(range(shape[1])):
                is_last = k == shape[1] - 1
                follows = th.zeros(shape[0], dtype=th.bool) if is_last else replay_data.valid[:, k + 1]
                ahead = th.where(follows, th.lerp(values[:, k], returns, self.share), values[:, k])
                returns = replay_data.rewards[:, k] + discounts * (1 - replay_data.dones[:, k]) * ahead
        q_values = self.q_net(replay_data.observations[:, 0]).gather(1, replay_data.actions[:, 0].long()).squeeze(1)
        errors = (q_values - returns).square()
        return TransitionLosses(errors, errors.detach().sqrt(), {})


class BestOfSamplesPolicy(BasePolicy):
    """Acts by the best of 16 random actions, as two critics see it."""

    def __init__(self, observation_space: Any, action_space: Any, lr_schedule: Any, use_sde: bool = False) -> None:
        super().__init__(observation_space, action_space)
        features = FlattenExtractor(observation_space)
        self.critic = EnsembleCritic(
            observation_space, action_space, [32], features, features.features_dim, n_critics=2
        )
        self.optimizer = th.optim.Adam(self.critic.parameters(), lr=lr_schedule(1))

    def best(self, obs: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        candidates = 2 * th.rand(16, len(obs), *self.action_space.shape) - 1
        values, index = self.critic.stacked(obs, candidates).amin(dim=0).max(dim=0)
        return values, candidates[index, th.arange(len(obs))]

    def _predict(self, observation: th.Tensor, deterministic: bool = False) -> th.Tensor:
        return self.best(observation)[1]


class BestOfSamples(UpdateLoop, OffPolicyAlgorithm):
    policy_aliases = {"MlpPolicy": BestOfSamplesPolicy}  # noqa: RUF012

    def __init__(self, policy: Any, env: Any, learning_rate: float = 1e-3, **kwargs: Any) -> None:
        super().__init__(policy, env, learning_rate, supported_action_spaces=(spaces.Box,), sde_support=False, **kwargs)
        self._setup_model()

    def compute_loss(self, replay_data: Any, discounts: Any) -> TransitionLosses:
        with th.no_grad():
            next_values, _ = self.policy.best(replay_data.next_observations)
            targets = replay_data.rewards.flatten() + discounts * (1 - replay_data.dones.flatten()) * next_values
        errors = self.policy.critic.stacked(replay_data.observations, replay_data.actions) - targets
        return TransitionLosses(errors.square().sum(dim=0), errors.detach().abs().mean(dim=0), {})


class Bandit(gym.Env):
    """Episodes of five steps; the reward depends on the state alone, so that values can be learned fast."""

    def __init__(self, action_space: spaces.Space) -> None:
        self.observation_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
        self.action_space = action_space

    def _observe(self) -> np.ndarray:
        self.state = self.np_random.uniform(-1, 1, size=3).astype(np.float32)
        return self.state

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        reward = 3.0 + float(self.state[0])
        return self._observe(), reward, self.steps == 5, False, {}


BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)
SETTINGS: dict[str, Any] = dict(learning_starts=200, batch_size=32, buffer_size=1000, seed=0, device="cpu")
PER: dict[str, Any] = dict(replay_buffer_class=PrioritizedReplayBuffer)


def first_and_last_loss(model: Any, name: str) -> tuple[float, float]:
    """The loss of the first updates and of those after some hundred more."""
    model.learn(200, log_interval=10**6)
    losses = []
    for n_updates in (3, 400, 3):
        model.train(n_updates, 32)
        losses.append(model.logger.name_to_value[f"train/{name}"])
    assert np.isfinite(losses).all()
    return losses[0], losses[-1]


@pytest.mark.parametrize("buffer", [{}, PER], ids=["uniform", "PER"])
def test_a_critic_with_another_head_and_loss(buffer: dict[str, Any]) -> None:
    kwargs = dict(net_arch=[32], n_critics=3)
    model = REDQSAC(
        TwoHotPolicy,
        Bandit(BOX),
        policy_kwargs=kwargs,
        ent_coef=0.01,
        gradient_steps=2,
        learning_rate=3e-3,
        gamma=0.5,
        **SETTINGS,
        **buffer,
    )
    assert model.critic.ensemble.layers[-1].weight.shape == (3, 32, 41)
    first, last = first_and_last_loss(model, "critic_loss")
    assert last < 0.5 * first
    obs, actions = th.rand(7, 3), th.rand(7, 2)
    assert model.critic.stacked(obs, actions).shape == (3, 7)
    assert len(model.critic(obs, actions)) == 3 and model.critic(obs, actions)[0].shape == (7, 1)


@pytest.mark.filterwarnings("ignore:Observations of shape")
@pytest.mark.parametrize("buffer_class", [ArrayReplayBuffer, FrameDedupReplayBuffer, PrioritizedReplayBuffer])
def test_a_target_over_windows(buffer_class: Any) -> None:
    model = LambdaDQN(
        "MlpPolicy",
        Bandit(spaces.Discrete(2)),
        learning_rate=3e-3,
        gamma=0.8,
        replay_buffer_class=buffer_class,
        train_freq=1,
        target_update_interval=100,
        policy_kwargs=dict(net_arch=[32]),
        **SETTINGS,
    )
    first, last = first_and_last_loss(model, "loss")
    assert last < 0.5 * first


@pytest.mark.parametrize("buffer", [{}, PER], ids=["uniform", "PER"])
def test_continuous_actions_without_an_actor(buffer: dict[str, Any]) -> None:
    model = BestOfSamples("MlpPolicy", Bandit(BOX), learning_rate=3e-3, gamma=0.5, **SETTINGS, **buffer)
    first, last = first_and_last_loss(model, "loss")
    assert last < 0.5 * first
    action, _ = model.predict(np.zeros(3, np.float32), deterministic=True)
    assert model.action_space.contains(action)


def test_windows_need_a_buffer_that_has_them() -> None:
    model = LambdaDQN("MlpPolicy", Bandit(spaces.Discrete(2)), **SETTINGS)
    with pytest.raises(ValueError, match="ReplayBuffer, which cannot sample windows: choose"):
        model.learn(300)


@pytest.mark.parametrize(
    "parts",
    [(TwoHotHead, TwoHotPolicy), (LambdaDQN,), (BestOfSamplesPolicy, BestOfSamples)],
    ids=lambda p: p[-1].__name__,
)
def test_each_takes_less_than_40_lines(parts: tuple[type, ...]) -> None:
    assert sum(len(inspect.getsource(part).splitlines()) for part in parts) < 40
