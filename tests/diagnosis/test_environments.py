"""The environment for rollouts: made again, given, or refused."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import DQN, SAC, HerReplayBuffer
from stable_baselines3.common.env_util import make_atari_env, make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize, VecVideoRecorder

from sb3_ext import AtariVecEnv
from sb3_ext.diagnosis import DiagnosisCallback
from sb3_ext.diagnosis.environments import make_rollout_env

from .helpers import GAMMA, VALUE, EndlessReward, make_model, measured

# (SB3 asks every environment for frames, if there is no other way)
pytestmark = pytest.mark.filterwarnings("ignore:.*render_mode")


class TellsNoArguments(gym.RewardWrapper):
    def reward(self, reward: float) -> float:
        return 3 * reward


def test_the_time_limit_of_the_training_does_not_shorten_returns(tmp_path: Path) -> None:
    # A return that ended with the episode would be 10 (1 - 0.9^k), k = 20, 19, ..., 1: 5.6 on average
    row = measured(make_model(DQN, "LimitedReward-v0"), tmp_path)
    assert row["mc_return_mean"] == pytest.approx(VALUE, rel=0.01)
    # But only states within the limit are measured
    assert row["n_state_actions"] == 2 * 20


def test_a_time_limit_that_critics_take_for_the_end_ends_returns(tmp_path: Path) -> None:
    model = make_model(DQN, "LimitedReward-v0", replay_buffer_kwargs=dict(handle_timeout_termination=False))
    row = measured(model, tmp_path)
    expected = [sum(GAMMA**k for k in range(20 - t)) for t in range(20)]
    assert row["mc_return_mean"] == pytest.approx(sum(expected) / 20)


def test_an_environment_with_a_time_limit_gives_what_is_known(tmp_path: Path) -> None:
    env = gym.make("LimitedReward-v0", actions="discrete")
    # 0.9^7 < 0.5 < 0.9^6: of 20 states the last 6 are left out
    row = measured(make_model(DQN), tmp_path, env=env, tail_tolerance=0.5)
    assert row["n_state_actions"] == 2 * 14
    expected = [sum(GAMMA**k for k in range(20 - t)) for t in range(14)]
    assert row["mc_return_mean"] == pytest.approx(sum(expected) / 14)
    with pytest.warns(UserWarning, match="no Monte-Carlo return is known"):
        row = measured(make_model(DQN), tmp_path, env=env, tail_tolerance=0.01)
    assert row["n_state_actions"] == 0
    assert row["normalized_bias_mean"] is None
    assert row["feature_rank"] is not None


def test_rewards_are_in_the_units_of_the_critic(tmp_path: Path) -> None:
    env = VecNormalize(make_vec_env("LimitedReward-v0", 2), gamma=GAMMA)
    model = make_model(SAC, env, ent_coef=0.0)
    row = measured(model, tmp_path)
    reward = env.normalize_reward(np.ones(1)).item()
    assert reward != 1.0
    assert row["mc_return_mean"] == pytest.approx(reward * VALUE, rel=0.01)
    # The same with an environment that normalises otherwise, and with one that does not
    for other in (VecNormalize(make_vec_env("EndlessReward-v0"), norm_reward=False), gym.make("EndlessReward-v0")):
        row = measured(model, tmp_path, env=other)
        assert row["mc_return_mean"] == pytest.approx(env.normalize_reward(np.ones(1)).item() * VALUE, rel=0.01)


def test_hindsight_experience_replay(tmp_path: Path) -> None:
    model = DQN(
        "MultiInputPolicy",
        BitFlippingEnv(n_bits=4, max_steps=4),
        replay_buffer_class=HerReplayBuffer,
        learning_starts=20,
        gamma=GAMMA,
        policy_kwargs=dict(net_arch=[8]),
        device="cpu",
    )
    row = measured(model, tmp_path, env=BitFlippingEnv(n_bits=4, max_steps=4), tail_tolerance=0.99)
    assert row["n_state_actions"] > 0
    # The reward is -1 until the bits are as they should be
    assert -4 <= row["mc_return_mean"] <= 0
    assert row["feature_rank"] <= 8


def test_frame_stacks_are_made_again(tmp_path: Path) -> None:
    env = make_vec_env("EndlessReward-v0", env_kwargs=dict(actions="discrete", observations="image"))
    model = make_model(DQN, VecFrameStack(env, 3), "image")
    assert model.observation_space.shape == (3, 36, 36)
    assert measured(model, tmp_path)["mc_return_mean"] == pytest.approx(VALUE, rel=0.01)


def test_wrappers(tmp_path: Path) -> None:
    env = make_vec_env(
        "EndlessReward-v0",
        wrapper_class=gym.wrappers.TransformReward,
        wrapper_kwargs=dict(func=lambda reward: 2 * reward),
        env_kwargs=dict(actions="discrete"),
    )
    # A wrapper that tells its arguments is made again
    assert measured(make_model(DQN, env), tmp_path)["mc_return_mean"] == pytest.approx(2 * VALUE, rel=0.01)
    env = make_vec_env("EndlessReward-v0", wrapper_class=TellsNoArguments, env_kwargs=dict(actions="discrete"))
    model = make_model(DQN, env)
    with pytest.raises(ValueError, match="wrapped in TellsNoArguments, which does not tell"):
        measured(model, tmp_path)
    row = measured(model, tmp_path, env_wrapper=[TellsNoArguments])
    assert row["mc_return_mean"] == pytest.approx(3 * VALUE, rel=0.01)
    row = measured(model, tmp_path, env_wrapper={"gymnasium.wrappers.RescaleAction": {}}, n_episodes=0)
    assert row["mc_return_mean"] is None


@pytest.mark.parametrize("wrapper", [gym.wrappers.RecordEpisodeStatistics, None])
def test_what_only_watches_is_left_out(wrapper: Any, tmp_path: Path) -> None:
    env = make_vec_env("EndlessReward-v0", wrapper_class=wrapper, env_kwargs=dict(actions="discrete"))
    if wrapper is None:
        env.render_mode, env.metadata = "rgb_array", {"render_fps": 30}
        env = VecVideoRecorder(env, str(tmp_path / "videos"), record_video_trigger=lambda step: False)
    model = make_model(DQN, env)
    rollouts = make_rollout_env(model, 1, None, keep_time_limit=False)
    assert "Record" not in str(rollouts.envs[0])
    assert measured(model, tmp_path)["mc_return_mean"] == pytest.approx(VALUE, rel=0.01)


def test_pictures_that_are_observed_are_rendered() -> None:
    pytest.importorskip("pygame")

    def make() -> gym.Env:
        pictures = gym.wrappers.AddRenderObservation(gym.make("CartPole-v1", render_mode="rgb_array"))
        return gym.wrappers.ResizeObservation(pictures, (36, 36))

    model = DQN("CnnPolicy", make(), buffer_size=10, device="cpu")
    rollouts = make_rollout_env(model, 2, None, keep_time_limit=True)
    assert rollouts.reset().shape == (2, 3, 36, 36) and rollouts.reset().std() > 0


@pytest.mark.parametrize(
    ("wrapper", "message"),
    [
        (gym.wrappers.NormalizeObservation, "NormalizeObservation, whose running statistics.*VecNormalize"),
        (gym.wrappers.NormalizeReward, "NormalizeReward, whose running statistics.*VecNormalize"),
        (gym.wrappers.TimeAwareObservation, "cannot be made a second time.*TimeLimit.*n_episodes=0"),
    ],
)
def test_wrappers_that_cannot_be_made_again(wrapper: Any, message: str, tmp_path: Path) -> None:
    model = make_model(DQN, make_vec_env("CartPole-v1", wrapper_class=wrapper))
    with pytest.raises(ValueError, match=message):
        measured(model, tmp_path)


@pytest.mark.parametrize("by_ale", [False, True])
def test_atari_games(by_ale: bool, tmp_path: Path) -> None:
    pytest.importorskip("ale_py")
    wrapper = "stable_baselines3.common.atari_wrappers.AtariWrapper"
    env = AtariVecEnv("BreakoutNoFrameskip-v4") if by_ale else make_atari_env("BreakoutNoFrameskip-v4")
    model = make_model(DQN, VecFrameStack(env, 2), "image", train_freq=10)
    model.learn(20)
    kwargs = {} if by_ale else {"env_wrapper": wrapper}
    row = measured(model, tmp_path, max_steps=12, tail_tolerance=0.8, **kwargs)
    assert row["n_state_actions"] == 2 * 12
    with pytest.raises(ValueError, match="env_wrapper=" if by_ale else "AtariWrapper, which does not tell|Give|give"):
        measured(model, tmp_path, **({"env_wrapper": wrapper} if by_ale else {}))


def test_environments_that_do_not_do(tmp_path: Path) -> None:
    model = make_model(DQN, Monitor(EndlessReward("discrete")))
    with pytest.raises(ValueError, match=r"has no spec to make it from: give env="):
        measured(model, tmp_path)
    with pytest.raises(ValueError, match="is the training's environment"):
        measured(model, tmp_path, env=model.get_env())
    with pytest.raises(ValueError, match="is the training's environment"):
        measured(model, tmp_path, env=model.get_env().envs[0].unwrapped)
    with pytest.raises(ValueError, match="must be the training's"):
        measured(model, tmp_path, env=EndlessReward("discrete", "image"))
    row = measured(model, tmp_path, env=EndlessReward("discrete"))
    assert row["mc_return_mean"] == pytest.approx(VALUE, rel=0.01)


def test_hindsight_without_an_episode_that_has_ended_is_not_measured(tmp_path: Path) -> None:
    env = BitFlippingEnv(n_bits=6, continuous=True, max_steps=40)
    arguments: dict[str, Any] = dict(replay_buffer_class=HerReplayBuffer, train_freq=(1, "episode"), learning_starts=5)
    model = SAC("MultiInputPolicy", env, buffer_size=500, device="cpu", seed=0, **arguments)
    path = tmp_path / "diagnosis.csv"
    model.learn(120, callback=DiagnosisCallback(eval_freq=20, n_episodes=0, csv_path=path))
    steps = [int(line.split(",")[0]) for line in path.read_text().splitlines()[1:]]
    assert steps and steps[0] > 20 and steps[-1] >= 100
