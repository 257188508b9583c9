"""Monte-Carlo returns by hand, and what rollouts leave behind: nothing."""

import random
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_ext.common.probe import PolicyStep
from sb3_ext.diagnosis.rollouts import Discounting, Horizon, monte_carlo_pairs, undisturbed

from .helpers import EndlessReward, make_model

# (SB3 asks every environment for frames, if there is no other way)
pytestmark = pytest.mark.filterwarnings("ignore:.*render_mode")


class Countdown(gym.Env):
    """Ends after 2, 3, 4, ... steps, one more each time; the reward is the number of the step, from 1 on."""

    observation_space = spaces.Box(-1.0, 1.0, (1,))
    action_space = spaces.Discrete(2)

    def __init__(self, is_limit: bool) -> None:
        self.length, self.is_limit = 1, is_limit

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.length, self.now = self.length + 1, 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.now += 1
        is_end = self.now == self.length
        return np.zeros(1, np.float32), self.now, is_end and not self.is_limit, is_end and self.is_limit, {}


def act(obs: np.ndarray) -> PolicyStep:
    n = len(obs)
    q_values = th.tensor([[1.0], [3.0], [8.0]]).expand(3, n)
    return PolicyStep(np.zeros(n, dtype=int), q_values, th.full((n,), 4.0), th.full((n,), 0.5))


def test_rollouts_by_hand() -> None:
    env = DummyVecEnv([lambda: Countdown(False)])
    # gamma 1/2, rewards 1.5, 2.5, 3.5, ... with the bonus, entropy 4.
    # Two steps: 1.5 + (2.5 + 4) / 2 = 4.75; 2.5
    # Three steps: 1.5 + (2.5 + 4) / 2 + (3.5 + 4) / 4 = 6.625; 2.5 + (3.5 + 4) / 2 = 6.25; 3.5
    pairs = monte_carlo_pairs(env, act, 2, Horizon(9, 3, False), Discounting(0.5, 1))
    # (An environment is reset when its episode ends and at the beginning of a round: the lengths are 2 and 4)
    four = [1.5 + 6.5 / 2 + 7.5 / 4 + 8.5 / 8, 2.5 + 7.5 / 2 + 8.5 / 4, 3.5 + 8.5 / 2, 4.5]
    assert pairs.returns.tolist() == pytest.approx([4.75, 2.5, *four])
    assert pairs.q_values.tolist() == [4.0] * 6


def test_rollouts_that_are_cut_off() -> None:
    env = DummyVecEnv([lambda: Countdown(True)] * 2)
    horizon = Horizon(9, 2, False)
    # Length 2 with at least 2 rewards: the first state
    assert monte_carlo_pairs(env, act, 2, horizon, Discounting(0.5, 1)).returns.tolist() == [4.75, 4.75]
    # No discount, nothing known
    assert len(monte_carlo_pairs(env, act, 2, Horizon(9, None, False), Discounting(1.0, 1)).returns) == 0
    # At most so many states, followed for as long as their returns need
    env = DummyVecEnv([lambda: EndlessReward("discrete")])
    for tail in (1, 2, 4):
        pairs = monte_carlo_pairs(env, act, 3, Horizon(5, tail, False), Discounting(0.0, 1))
        assert pairs.returns.tolist() == [1.5] * 15


def test_what_happens_inside_leaves_no_trace() -> None:
    model = make_model(SAC, use_sde=True)
    model.policy.set_training_mode(True)
    model.critic.qf1.training = False
    modes = [module.training for module in model.policy.modules()]
    assert len(set(modes)) == 2
    noise = model.actor.action_dist.exploration_mat.clone()

    def draw() -> list[float]:
        return [random.random(), np.random.rand(), th.rand(()).item()]

    set_random_seed(1)
    expected = draw()
    set_random_seed(1)
    # Also where an exception ends it
    with pytest.raises(KeyError), undisturbed(model, seed=5):
        assert draw() != expected
        model.actor.reset_noise()
        assert not any(module.training for module in model.policy.modules())
        assert not th.is_grad_enabled()
        raise KeyError
    assert draw() == expected
    assert [module.training for module in model.policy.modules()] == modes
    assert th.equal(model.actor.action_dist.exploration_mat, noise)
    assert th.is_grad_enabled()
