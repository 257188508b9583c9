"""REDQSAC learns in every kind of environment."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv, SimpleMultiObsEnv
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ext.redq_sac import plan as implementation
from sb3_ext.redq_sac.update import REDQUpdate
from tests.support.environments import images
from tests.support.models import check_redq


def test_several_environments_with_normalization() -> None:
    env = VecNormalize(make_vec_env("Pendulum-v1", n_envs=3, seed=0))
    model = check_redq(env=env, total_timesteps=90)
    assert model._n_updates == 4 * 20  # after the first 30 steps, four updates for each step of the three environments


def test_images(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks: list[int] = []
    run = REDQUpdate.run
    monkeypatch.setattr(
        REDQUpdate, "run", lambda self, plan, data: (blocks.append(plan.n_updates), run(self, plan, data))[1]
    )
    # Two minibatches of 16 images fill a block
    monkeypatch.setattr(implementation, "_MAX_BLOCK_ELEMENTS", 2 * 16 * 40 * 40)
    kwargs = dict(features_extractor_kwargs=dict(features_dim=16))
    model = check_redq(
        policy="CnnPolicy", env=images(), total_timesteps=36, gradient_steps=5, policy_delay=3, policy_kwargs=kwargs
    )
    assert model._n_updates == sum(blocks) == 30
    assert blocks[:4] == [2, 1, 2, 1]  # updates 1 and 2, 3 (actor) | call ends after 5: 4 and 5, then 6 (actor)


def test_dictionary_observations() -> None:
    check_redq(
        policy="MultiInputPolicy", env=SimpleMultiObsEnv(discrete_actions=False), total_timesteps=40, gradient_steps=3
    )


def test_dictionaries_with_python_scalars() -> None:
    """An environment may return an int where its space is Discrete, also in the terminal observation."""

    class Counter(gym.Env):
        observation_space = spaces.Dict({"count": spaces.Discrete(5), "noise": spaces.Box(-1.0, 1.0, (2,))})
        action_space = spaces.Box(-1.0, 1.0, (1,))

        def reset(self, **kwargs: Any) -> Any:
            self.count = 0
            return {"count": self.count, "noise": np.zeros(2, np.float32)}, {}

        def step(self, action: np.ndarray) -> Any:
            self.count += 1
            observation = {"count": self.count, "noise": np.full(2, 0.1 * self.count, np.float32)}
            return observation, 1.0, self.count == 4, False, {}

    check_redq(policy="MultiInputPolicy", env=Counter())


def test_action_spaces_other_than_unit(tmp_path: Any) -> None:
    class Shifted(gym.Wrapper):
        def __init__(self, env: gym.Env) -> None:
            super().__init__(env)
            self.action_space = spaces.Box(np.array([[3.0, -1.0]], np.float32), np.array([[5.0, 7.0]], np.float32))

        def step(self, action: np.ndarray) -> Any:
            assert self.action_space.contains(action)
            return self.env.step(action[0, :1] - 4.0)

    check_redq(env=Shifted(gym.make("Pendulum-v1")))


@pytest.mark.parametrize("strategy", ["future", "final"])
def test_hindsight_experience_replay(strategy: str) -> None:
    env = BitFlippingEnv(n_bits=4, continuous=True, max_steps=4)
    model = check_redq(
        policy="MultiInputPolicy",
        env=env,
        gradient_steps=5,
        policy_delay=5,
        replay_buffer_class=HerReplayBuffer,
        replay_buffer_kwargs=dict(n_sampled_goal=4, goal_selection_strategy=strategy),
    )
    assert isinstance(model.replay_buffer, HerReplayBuffer)


def test_minibatches_of_a_block_mix_real_and_relabelled_transitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """HerReplayBuffer returns first the real, then the relabelled rows: each minibatch must have its share of both."""
    env = BitFlippingEnv(n_bits=4, continuous=True, max_steps=4)
    n_real = 0
    shares: list[float] = []
    get_real = HerReplayBuffer._get_real_samples

    def marked_real(self: HerReplayBuffer, *args: Any, **kwargs: Any) -> Any:
        nonlocal n_real
        samples = get_real(self, *args, **kwargs)
        n_real = len(samples.rewards)
        return samples._replace(rewards=th.full_like(samples.rewards, 123.0))

    update = REDQUpdate.step_critics

    def recording(self: REDQUpdate, minibatch: Any, *args: Any) -> Any:
        shares.append((minibatch.rewards == 123.0).float().mean().item())
        return update(self, minibatch, *args)

    monkeypatch.setattr(HerReplayBuffer, "_get_real_samples", marked_real)
    monkeypatch.setattr(REDQUpdate, "step_critics", recording)
    check_redq(
        policy="MultiInputPolicy",
        env=env,
        total_timesteps=40,
        batch_size=50,
        gradient_steps=5,
        policy_delay=5,
        replay_buffer_class=HerReplayBuffer,
        replay_buffer_kwargs=dict(n_sampled_goal=4),
    )
    assert n_real == 50  # a fifth of 250 rows
    assert len(shares) == 50 and set(np.round(shares, 6)) == {0.2}
