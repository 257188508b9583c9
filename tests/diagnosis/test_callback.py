"""
The diagnosis, in an environment whose values are known in closed form: the reward is 1 for ever, so that every policy's
Q is 1 / (1 - gamma), and with an entropy bonus b in every later state gamma b / (1 - gamma) more.
"""

import csv
import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import QRDQN, TQC, CrossQ
from stable_baselines3 import DDPG, DQN, PPO, SAC, TD3, HerReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.env_util import make_atari_env, make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize
from torch import nn

from sb3_ext import IQN, REDQSAC, AtariVecEnv, DoubleDQN, PrioritizedReplayBuffer, SoftDQN
from sb3_ext.diagnosis import DiagnosisCallback
from sb3_ext.diagnosis.callback import COLUMNS
from sb3_ext.diagnosis.networks import NetworkObserver, output_layers
from sb3_ext.diagnosis.probes import PolicyStep, probe_for
from sb3_ext.diagnosis.rollouts import Discounting, Horizon, monte_carlo_pairs, undisturbed
from sb3_ext.nets import DuelingMLP, EnsembleMLP

# (SB3 asks every environment for frames, if there is no other way)
pytestmark = pytest.mark.filterwarnings("ignore:.*render_mode")

GAMMA = 0.9
VALUE = 1 / (1 - GAMMA)
VALUE_BASED = (DQN, QRDQN, DoubleDQN, SoftDQN, IQN)
ACTOR_CRITIC = (SAC, TD3, DDPG, TQC, CrossQ, REDQSAC)


class EndlessReward(gym.Env):
    """Reward 1 at every step, random observations, no end."""

    def __init__(self, actions: str = "continuous", observations: str = "vector") -> None:
        self.action_space = spaces.Box(-2.0, 2.0, (2,)) if actions == "continuous" else spaces.Discrete(3)
        vector, image = spaces.Box(-1.0, 1.0, (5,)), spaces.Box(0, 255, (36, 36, 1), np.uint8)
        choices = {"vector": vector, "image": image, "dict": spaces.Dict({"image": image, "vector": vector})}
        self.observation_space = choices[observations]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        return self.observation_space.sample(), 1.0, False, False, {}


class TellsNoArguments(gym.RewardWrapper):
    def reward(self, reward: float) -> float:
        return 3 * reward


@pytest.fixture(autouse=True, scope="module")
def registered() -> Any:
    gym.register("EndlessReward-v0", EndlessReward, disable_env_checker=True)
    gym.register("LimitedReward-v0", EndlessReward, max_episode_steps=20, disable_env_checker=True)
    yield
    del gym.registry["EndlessReward-v0"], gym.registry["LimitedReward-v0"]


def make_model(
    cls: type[OffPolicyAlgorithm],
    env: Any = "EndlessReward-v0",
    observations: str = "vector",
    n_envs: int = 1,
    **kwargs: Any,
) -> Any:
    actions = "discrete" if cls in VALUE_BASED else "continuous"
    if isinstance(env, str):
        env = make_vec_env(env, n_envs, env_kwargs=dict(actions=actions, observations=observations))
    policy = {"vector": "MlpPolicy", "image": "CnnPolicy", "dict": "MultiInputPolicy"}[observations]
    policy_kwargs: dict[str, Any] = dict(net_arch=[16, 17])
    if observations == "image":
        policy_kwargs["features_extractor_kwargs"] = dict(features_dim=13)
    if observations == "dict":
        policy_kwargs["features_extractor_kwargs"] = dict(cnn_output_dim=13)
    settings: dict[str, Any] = dict(gamma=GAMMA, learning_starts=10, buffer_size=500, batch_size=8, seed=1)
    if cls is REDQSAC:
        settings |= dict(gradient_steps=2, policy_delay=2)
        policy_kwargs["n_critics"] = 3
    if cls is IQN:
        settings |= dict(n_quantile_samples=4, n_target_quantile_samples=5, n_action_quantile_samples=6)
    if cls is QRDQN:
        policy_kwargs["n_quantiles"] = 7
    policy_kwargs |= kwargs.pop("policy_kwargs", {})
    return cls(policy, env, policy_kwargs=policy_kwargs, device="cpu", **(settings | kwargs))


def rows_of(path: Path) -> list[dict[str, float | None]]:
    with path.open() as file:
        return [{name: float(text) if text else None for name, text in row.items()} for row in csv.DictReader(file)]


def measured(model: Any, folder: Path, total_timesteps: int = 40, **kwargs: Any) -> dict[str, float | None]:
    """The last row after so many steps, measured at the last one."""
    path = folder / "diagnosis.csv"
    settings: dict[str, Any] = dict(n_episodes=2, max_steps=30, batch_size=32, seed=3, csv_path=path)
    model.learn(total_timesteps, callback=DiagnosisCallback(total_timesteps, **(settings | kwargs)))
    return rows_of(path)[-1]


def predict_value(model: Any, value: float) -> None:
    """Make all critics say one number everywhere."""
    probe = probe_for(model)
    for layer in {id(layer): layer for layers in probe.heads for layer in layers}.values():
        nn.init.zeros_(layer.weight)
        nn.init.constant_(layer.bias, value)


@pytest.mark.parametrize(("cls", "factor"), [(DQN, 1.0), (QRDQN, 1.4), (DoubleDQN, 0.25), (IQN, 1.4), (TD3, -1.0)])
def test_bias_of_a_critic_that_says_c_times_the_value(cls: Any, factor: float, tmp_path: Path) -> None:
    model = make_model(cls, learning_rate=0.0)
    predict_value(model, factor * VALUE)
    row = measured(model, tmp_path, tail_tolerance=1e-3)
    assert row["normalised_bias_mean"] == pytest.approx(factor - 1, abs=2e-3)
    assert row["normalised_bias_std"] == pytest.approx(0, abs=1e-3)
    assert row["q_mean"] == pytest.approx(factor * VALUE, rel=1e-5)
    assert row["mc_return_mean"] == pytest.approx(VALUE, rel=1e-3)
    assert row["n_state_actions"] == 2 * 30
    assert row["timesteps"] == 40


LOG3 = math.log(3)


@pytest.mark.parametrize(
    ("settings", "reward", "bonus"),
    [
        # Equal values of three actions: the entropy is log 3
        (dict(backup="soft"), 1.0, 2 * LOG3),
        (dict(backup="boltzmann"), 1.0, 0.0),
        (dict(backup="mellowmax"), 1.0, 0.0),
        (dict(backup="max"), 1.0, 0.0),
        # clip(2 log(1/3), -1, 0) = -1, also for the first action
        (dict(backup="soft", munchausen_coef=0.75, double_q=False), 0.25, 2 * LOG3),
        # The entropy enters where the critic bootstraps, at every third step
        (dict(backup="soft", n_steps=3), 1.0, None),
    ],
    ids=str,
)
def test_entropy_of_a_boltzmann_policy(
    settings: dict[str, Any], reward: float, bonus: float | None, tmp_path: Path
) -> None:
    model = make_model(SoftDQN, learning_rate=0.0, temperature_initial=2.0, temperature_final=2.0, **settings)
    if bonus is None:
        value = VALUE + GAMMA**3 / (1 - GAMMA**3) * 2 * LOG3
    else:
        value = (reward + GAMMA * bonus) / (1 - GAMMA)
    predict_value(model, 1.5 * value)
    row = measured(model, tmp_path, tail_tolerance=1e-3)
    assert row["mc_return_mean"] == pytest.approx(value, rel=2e-3)
    assert row["normalised_bias_mean"] == pytest.approx(0.5, abs=3e-3)
    assert row["policy_entropy"] == (None if settings["backup"] == "max" else pytest.approx(LOG3, rel=1e-5))


def squashed_entropy(std: float) -> float:
    """Of tanh(u), u ~ N(0, std^2), by summing over a grid: E[-log N(u)] + E[log(1 - tanh(u)^2)]."""
    total, step = 0.5 * math.log(2 * math.pi * math.e * std**2), std / 500
    for i in range(-5000, 5001):
        u = i * step
        density = math.exp(-0.5 * (u / std) ** 2) / (std * math.sqrt(2 * math.pi))
        total += density * step * math.log(1 - math.tanh(u) ** 2 + 1e-6)
    return total


# (REDQSAC alone can leave the entropy out of its targets)
@pytest.mark.parametrize(("cls", "counts"), [(SAC, True), (TQC, True), (REDQSAC, True), (REDQSAC, False)])
def test_entropy_of_a_gaussian_policy(cls: Any, counts: bool, tmp_path: Path) -> None:
    settings = {} if counts else {"backup_entropy": False}
    model = make_model(cls, learning_rate=0.0, ent_coef=2.0, **settings)
    for layer, bias in ((model.actor.mu, 0.0), (model.actor.log_std, math.log(0.5))):
        nn.init.zeros_(layer.weight)
        nn.init.constant_(layer.bias, bias)
    entropy = 2 * squashed_entropy(0.5)  # of two independent actions
    # With the entropy of the first action it would be 2 * entropy more
    value = VALUE + (GAMMA * 2 * entropy / (1 - GAMMA) if counts else 0.0)
    predict_value(model, value)
    row = measured(model, tmp_path, n_episodes=4, max_steps=400, batch_size=2000, tail_tolerance=1e-3)
    assert 2 * entropy > 0.05 * value
    assert row["mc_return_mean"] == pytest.approx(value, rel=0.02)
    assert row["normalised_bias_mean"] == pytest.approx(0, abs=0.02)
    assert row["policy_entropy"] == pytest.approx(entropy, rel=0.1)


@pytest.mark.parametrize(
    ("cls", "settings"),
    [
        pytest.param(SAC, {}, marks=pytest.mark.slow),
        pytest.param(SAC, dict(n_steps=3), marks=pytest.mark.slow),
        pytest.param(REDQSAC, dict(backup_entropy=False, gradient_steps=1), marks=pytest.mark.slow),
        pytest.param(SoftDQN, dict(n_steps=3), marks=pytest.mark.slow),
        (SoftDQN, dict(backup="soft", munchausen_coef=0.75, double_q=False)),
        pytest.param(SoftDQN, dict(backup="mellowmax"), marks=pytest.mark.slow),
        pytest.param(QRDQN, {}, marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_critic_that_has_converged_has_no_bias(cls: Any, settings: dict[str, Any], tmp_path: Path) -> None:
    """The returns are what the algorithm's own updates lead to: a wrong convention would be a bias of 5 % and more."""
    settings = dict(learning_rate=3e-3, gamma=0.8, batch_size=32, train_freq=1) | settings
    if cls in ACTOR_CRITIC:
        settings |= dict(ent_coef=2.0, tau=0.1)
    elif cls is SoftDQN:
        settings |= dict(temperature_initial=2.0, temperature_final=2.0, target_update_interval=10)
    else:
        settings |= dict(target_update_interval=10)
    model = make_model(cls, **settings)
    row = measured(model, tmp_path, 1000, n_episodes=8, max_steps=100, tail_tolerance=1e-3)
    assert row["normalised_bias_mean"] == pytest.approx(0, abs=0.03)


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
    assert row["normalised_bias_mean"] is None
    assert row["feature_rank"] is not None


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


def parameters_of(model: Any) -> list[th.Tensor]:
    tensors = list(model.policy.state_dict().values())
    log_ent_coef = getattr(model, "log_ent_coef", None)
    return tensors if log_ent_coef is None else [*tensors, log_ent_coef]


@pytest.mark.parametrize(
    ("cls", "kwargs"),
    [
        (SAC, {}),
        (SAC, dict(use_sde=True, sde_sample_freq=7)),
        (SAC, dict(policy_kwargs=dict(share_features_extractor=True), n_envs=2)),
        pytest.param(CrossQ, {}, marks=pytest.mark.slow),
        (REDQSAC, dict(policy_kwargs=dict(n_critics=2, layer_norm=True, dropout=0.1))),
        (DQN, dict(exploration_fraction=1.0, target_update_interval=20)),
        (DoubleDQN, dict(replay_buffer_class=PrioritizedReplayBuffer, n_envs=3, train_freq=1)),
        (SoftDQN, dict(auto_temperature=True)),
        (IQN, {}),
    ],
    ids=lambda value: getattr(value, "__name__", ",".join(value) if isinstance(value, dict) else None),
)
def test_training_is_the_same_with_and_without(cls: Any, kwargs: dict[str, Any], tmp_path: Path) -> None:
    models = []
    for callback in (None, DiagnosisCallback(18, 2, max_steps=11, batch_size=16, csv_path=tmp_path / "d.csv")):
        vec_normalize = VecNormalize(
            make_vec_env(
                "LimitedReward-v0",
                kwargs.get("n_envs", 1),
                seed=4,
                env_kwargs=dict(actions="discrete" if cls in VALUE_BASED else "continuous"),
            )
        )
        model = make_model(cls, vec_normalize, **{key: value for key, value in kwargs.items() if key != "n_envs"})
        model.learn(80, callback=callback)
        models.append(model)
    reference, diagnosed = models
    assert len(rows_of(tmp_path / "d.csv")) >= 4
    assert reference._n_updates == diagnosed._n_updates > 10
    for expected, actual in zip(parameters_of(reference), parameters_of(diagnosed), strict=True):
        assert th.equal(expected, actual)
    assert np.array_equal(reference.replay_buffer.actions, diagnosed.replay_buffer.actions)
    assert reference.env.obs_rms.mean.tolist() == diagnosed.env.obs_rms.mean.tolist()
    assert reference.policy.training == diagnosed.policy.training
    # Nothing is left behind
    for module in diagnosed.policy.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
    optimizers = probe_for(diagnosed).optimizers.values()
    assert not any(optimizer._optimizer_step_pre_hooks for optimizer in optimizers)


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


@pytest.mark.parametrize(
    ("cls", "observations", "n_envs"),
    [
        *((cls, "vector", 2) for cls in (*ACTOR_CRITIC, *VALUE_BASED)),
        *((cls, "image", 1) for cls in (SAC, TQC, REDQSAC, DQN, DoubleDQN, IQN, SoftDQN)),
        *((cls, "dict", 1) for cls in (TD3, REDQSAC, QRDQN, IQN)),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_every_algorithm_has_finite_values(cls: Any, observations: str, n_envs: int, tmp_path: Path) -> None:
    model = make_model(cls, observations=observations, n_envs=n_envs, train_freq=2 if cls is not CrossQ else 1)
    row = measured(model, tmp_path, max_steps=5, tail_tolerance=0.5)
    assert tuple(row) == COLUMNS
    missing = {name for name, value in row.items() if value is None}
    expected = set()
    if cls in VALUE_BASED:
        expected |= {"actor_grad_norm", "disagreement"}
    if cls is DDPG:
        expected |= {"disagreement"}
    if cls in (*VALUE_BASED, TD3, DDPG) and cls is not SoftDQN:
        expected |= {"policy_entropy"}
    assert missing == expected
    assert all(math.isfinite(value) for value in row.values() if value is not None)
    assert 0 <= row["dead_units"] <= row["dormant_units"] < 1
    assert 1 <= row["feature_rank"] <= 17
    assert row["critic_grad_norm"] > 0


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


def test_algorithms_that_are_not_known(tmp_path: Path) -> None:
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, device="cpu")
    with pytest.raises(ValueError, match="does not know the critics of PPO"):
        model.learn(16, callback=DiagnosisCallback(csv_path=tmp_path / "d.csv"))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(eval_freq=0), "eval_freq=0"),
        (dict(n_episodes=-1), "n_episodes=-1"),
        (dict(max_steps=0), "max_steps=0"),
        (dict(batch_size=1.5), r"batch_size=1\.5"),
        (dict(tail_tolerance=0.0), r"tail_tolerance=0\.0"),
        (dict(tail_tolerance=1.0), r"tail_tolerance=1\.0"),
        (dict(dormant_threshold=-0.1), r"dormant_threshold=-0\.1"),
        (dict(rank_delta=1), "rank_delta=1"),
        (dict(env="CartPole-v1"), "env='CartPole-v1'"),
        (dict(env=EndlessReward(), env_wrapper="a.b"), r"env_wrapper='a\.b'"),
        (dict(seed=-1), "seed=-1"),
    ],
    # Not `str`: an environment's holds its address, and each process that runs tests has another
    ids=lambda value: next(reversed(value)) if isinstance(value, dict) else "",
)
def test_wrong_arguments(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiagnosisCallback(**kwargs)


class Weights(BaseCallback):
    """Remembers the parameters of critics and actor, and the gradients left behind, at every step."""

    def _on_training_start(self) -> None:
        self.weights: dict[str, list[th.Tensor]] = {"critic": [], "actor": []}
        self.left_behind: list[float] = []

    def _on_step(self) -> bool:
        for name, weights in self.weights.items():
            parameters = list(getattr(self.model, name).parameters())
            weights.append(th.cat([parameter.detach().double().flatten() for parameter in parameters]))
        gradients = [p.grad.flatten() for p in self.model.critic.parameters() if p.grad is not None]
        self.left_behind.append(float(th.cat(gradients).norm()) if gradients else math.nan)
        return True


@pytest.mark.parametrize("cls", [SAC, TD3, REDQSAC])
def test_gradient_norms_are_those_of_the_updates(cls: Any, tmp_path: Path) -> None:
    # Gradient descent moves the weights by the learning rate times the gradient
    rate = 1e-3
    kwargs: dict[str, Any] = dict(gradient_steps=1, policy_delay=1) if cls is not SAC else {}
    model = make_model(cls, learning_rate=rate, policy_kwargs=dict(optimizer_class=th.optim.SGD), **kwargs)
    seen = Weights()
    diagnosis = DiagnosisCallback(1, n_episodes=0, csv_path=tmp_path / "d.csv")
    model.learn(25, callback=CallbackList([seen, diagnosis]))
    rows = rows_of(tmp_path / "d.csv")
    assert [row["timesteps"] for row in rows] == list(range(11, 26))
    for name, weights in seen.weights.items():
        # The first row comes before the first update
        assert rows[0][f"{name}_grad_norm"] is None
        for row in rows[1:]:
            step = int(row["timesteps"]) - 1
            expected = float((weights[step] - weights[step - 1]).norm()) / rate
            assert row[f"{name}_grad_norm"] == pytest.approx(expected, rel=1e-2)
    # What SAC and TD3 leave behind is something else
    left_behind = [seen.left_behind[int(row["timesteps"]) - 1] for row in rows[1:]]
    is_same = [row["critic_grad_norm"] == pytest.approx(norm) for row, norm in zip(rows[1:], left_behind, strict=True)]
    assert all(is_same) == (cls is REDQSAC)


def test_gradient_norms_are_the_mean_since_the_last_measurement(tmp_path: Path) -> None:
    rows = []
    for eval_freq in (1, 5):
        path = tmp_path / f"{eval_freq}.csv"
        make_model(DQN, train_freq=1).learn(26, callback=DiagnosisCallback(eval_freq, n_episodes=0, csv_path=path))
        rows.append({row["timesteps"]: row["critic_grad_norm"] for row in rows_of(path)})
    every, fifth = rows
    assert sorted(fifth) == [15, 20, 25]
    assert fifth[20] == pytest.approx(sum(every[step] for step in range(16, 21)) / 5)


def observed(network: nn.Module, inputs: th.Tensor) -> NetworkObserver:
    with NetworkObserver(network, [output_layers(network)]) as observer, th.no_grad():
        network(inputs)
    return observer


def test_units_of_plain_networks() -> None:
    network = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 11), nn.ReLU(), nn.Linear(11, 3))
    with th.no_grad():
        network[0].bias[2] = network[0].bias[5] = network[2].bias[1] = -1e3
    inputs = th.randn(9, 5, generator=th.Generator().manual_seed(0))
    first = network[:2](inputs).abs()
    scores = observed(network, inputs).scores
    assert [score.shape for score in scores] == [(7,), (11,)]
    for unit in range(7):
        expected = sum(first[:, unit].tolist()) / 9 / (first.sum().item() / 63)
        assert scores[0][unit].item() == pytest.approx(expected, rel=1e-5)
    assert {2, 5} <= set((scores[0] == 0).nonzero().flatten().tolist())
    assert scores[1][1] == 0
    assert len(observed(network, inputs).scores) == 2  # hooks are removed


def test_units_of_ensembles_images_and_quantiles() -> None:
    ensemble = EnsembleMLP(3, 5, [7])
    with th.no_grad():
        ensemble.layers[0].bias[1] = -1e3
    scores = observed(ensemble, th.randn(9, 5)).scores
    # Each member has units of its own: those of the second are dead
    assert scores[0].shape == (3, 7)
    assert (scores[0] == 0).sum(dim=1)[1] == 7
    assert scores[0][[0, 2]].sum().item() == pytest.approx(14, rel=1e-5)

    images = nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 6 * 9, 4))
    with th.no_grad():
        images[0].bias[3] = -1e3
    scores = observed(images, th.randn(7, 2, 8, 11)).scores
    assert scores[0].shape == (5,)
    assert scores[0][3] == 0

    levels = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 2))
    assert observed(levels, th.randn(9, 4, 5)).scores[0].shape == (7,)


def test_rank_of_the_features() -> None:
    linear = nn.Sequential(nn.Linear(6, 8), nn.Identity(), nn.Linear(8, 2))
    with th.no_grad():
        linear[0].bias.zero_()
        linear[0].weight.copy_(th.eye(8, 6) * th.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0]))
    inputs = th.eye(6).repeat(4, 1)
    assert observed(linear, inputs).feature_rank(0.01) == 3
    # A dueling network is linear in the features of both streams together
    dueling = DuelingMLP(6, 3, [8], nn.Identity)
    with th.no_grad():
        for stream, directions in ((dueling.value, [0, 1]), (dueling.advantage, [1, 2, 3])):
            stream[0].bias.zero_()
            stream[0].weight.zero_()
            for direction in directions:
                stream[0].weight[direction, direction] = 1.0
    assert observed(dueling, inputs).feature_rank(0.01) == 4
    # Of several critics the mean
    ensemble = EnsembleMLP(2, 6, [8], nn.Identity)
    with th.no_grad():
        ensemble.layers[0].bias.zero_()
        ensemble.layers[0].weight.copy_(th.stack([th.eye(6, 8), th.eye(6, 8)]))
        ensemble.layers[0].weight[1, 1:] = 0
    assert observed(ensemble, inputs).feature_rank(0.01) == (6 + 1) / 2


def test_disagreement_of_critics(tmp_path: Path) -> None:
    model = make_model(REDQSAC, learning_rate=0.0)
    last = model.critic.ensemble.layers[-1]
    with th.no_grad():
        last.weight.zero_()
        last.bias.copy_(th.tensor([1.0, 2.0, 6.0]).reshape(3, 1, 1))
    row = measured(model, tmp_path)
    # Mean 3, squares 4, 1, 9
    assert row["disagreement"] == pytest.approx(math.sqrt(14 / 3), rel=1e-5)
    assert row["q_mean"] == pytest.approx(3)


def test_the_file_is_continued_and_never_mixed(tmp_path: Path) -> None:
    path = tmp_path / "new" / "d.csv"
    model = make_model(DQN)
    model.learn(40, callback=DiagnosisCallback(15, n_episodes=0, csv_path=path))
    assert [row["timesteps"] for row in rows_of(path)] == [15, 30]
    model.learn(40, callback=DiagnosisCallback(15, n_episodes=0, csv_path=str(path)), reset_num_timesteps=False)
    assert [row["timesteps"] for row in rows_of(path)] == [15, 30, 55, 70]
    assert path.read_text().count("timesteps") == 1
    path.write_text("something,else\n1,2\n")
    with pytest.raises(ValueError, match="is a file with the header 'something,else'"):
        model.learn(40, callback=DiagnosisCallback(15, n_episodes=0, csv_path=path))
    assert path.read_text() == "something,else\n1,2\n"


def test_measurements_are_reproducible_and_logged(tmp_path: Path) -> None:
    texts = []
    for name in ("a", "b"):
        model = make_model(SAC, tensorboard_log=str(tmp_path / name))
        model.learn(40, callback=DiagnosisCallback(20, 2, max_steps=9, seed=5))
        texts.append((tmp_path / name / "SAC_1" / "diagnosis.csv").read_text())
        assert list((tmp_path / name / "SAC_1").glob("events*"))
    assert texts[0] == texts[1]

    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = event_accumulator.EventAccumulator(str(tmp_path / "a" / "SAC_1"))
    events.Reload()
    rows = rows_of(tmp_path / "a" / "SAC_1" / "diagnosis.csv")
    for name in set(COLUMNS) - {"timesteps"}:
        logged = [(event.step, event.value) for event in events.Scalars(f"diagnosis/{name}")]
        assert logged == [(row["timesteps"], pytest.approx(row[name])) for row in rows if row[name] is not None]


def test_rl_zoo3_makes_the_callback() -> None:
    get_callback_list = pytest.importorskip("rl_zoo3.utils").get_callback_list
    (callback,) = get_callback_list({"callback": [{"sb3_ext.diagnosis.DiagnosisCallback": {"eval_freq": 5000}}]})
    assert isinstance(callback, DiagnosisCallback)
    assert callback.eval_freq == 5000


@pytest.mark.slow
def test_in_a_yaml_file_of_rl_zoo3(tmp_path: Path) -> None:
    (tmp_path / "sac.yml").write_text(
        f"""
Pendulum-v1:
  n_timesteps: 600
  policy: MlpPolicy
  normalize: true
  learning_starts: 100
  train_freq: 10
  gradient_steps: 1
  batch_size: 16
  gamma: 0.9
  policy_kwargs: dict(net_arch=[16])
  callback:
    - sb3_ext.diagnosis.DiagnosisCallback: {{eval_freq: 250, n_episodes: 1, csv_path: {tmp_path}/diagnosis.csv}}
"""
    )
    options = ("--conf-file", "sac.yml", "--eval-freq", "-1", "--seed", "1", "--device", "cpu")
    process = subprocess.run(
        [sys.executable, "-m", "rl_zoo3.train", "--algo", "sac", "--env", "Pendulum-v1", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    rows = rows_of(tmp_path / "diagnosis.csv")
    assert [row["timesteps"] for row in rows] == [250, 500]
    assert all(value is not None for row in rows for value in row.values())
    assert [row["n_state_actions"] for row in rows] == [200, 200]
