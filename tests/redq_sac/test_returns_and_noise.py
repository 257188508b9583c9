"""Rewards scaled when they are sampled, held exploration noise, and the critics' own learning rate in REDQSAC."""

import copy
import math
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_ext import REDQSAC
from sb3_ext.redq_sac.policies import gaussian_parameters
from tests.support.environments import Blank
from tests.support.models import make, make_normalized
from tests.support.states import assert_equal, state

GAMMA = 0.99


class Rewards(gym.Env):
    """
    Random observations and rewards from 0 to ``factor``, in episodes of seven steps. Every second one is truncated.
    """

    observation_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
    action_space = spaces.Box(-2.0, 2.0, (2,), np.float32)

    def __init__(self, factor: float = 1.0, seed: int = 0) -> None:
        self.factor, self.random = factor, np.random.default_rng(seed)
        self.rewards: list[float] = []
        self.ends: list[bool] = []
        self.n_episodes = 0

    def observation(self) -> np.ndarray:
        return self.random.uniform(-1, 1, 3).astype(np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.n_steps = 0
        return self.observation(), {}

    def step(self, action: Any) -> Any:
        reward = float(np.float32(self.random.uniform(0, 1))) * self.factor
        self.n_steps += 1
        ends = self.n_steps == 7
        self.n_episodes += ends
        self.rewards.append(reward)
        self.ends.append(ends)
        is_terminal = ends and self.n_episodes % 2 == 0
        return self.observation(), reward, is_terminal, ends and not is_terminal, {}


def make_env(n_envs: int = 1, factor: float = 1.0) -> DummyVecEnv:
    return DummyVecEnv([lambda seed=seed: Rewards(factor, seed) for seed in range(n_envs)])


def discounted(env: DummyVecEnv) -> np.ndarray:
    """The discounted returns of all steps of all environments, by a loop."""
    found = []
    for inner in env.envs:
        total = 0.0
        for reward, ends in zip(inner.unwrapped.rewards, inner.unwrapped.ends, strict=True):
            total = GAMMA * total + reward
            found.append(total)
            if ends:
                total = 0.0
    return np.array(found)


@pytest.mark.parametrize("policy_kwargs", [{}, dict(head="scalar"), dict(head_kwargs=dict(bound=0.5))], ids=str)
@pytest.mark.parametrize("n_envs", [1, 3])
def test_the_unit_of_rewards_does_not_matter(n_envs: int, policy_kwargs: dict[str, Any]) -> None:
    """Powers of two scale exactly, as long as the variance is large beside 1e-8."""
    models = []
    for factor in (64.0, 65536.0):
        env = make_env(n_envs, factor)
        models.append(make_normalized(env=env, policy_kwargs=policy_kwargs).learn(45))
        returns = discounted(env)
        expected = math.sqrt(returns.var() + 1e-8)
        if policy_kwargs.get("head") != "scalar":
            bound = policy_kwargs.get("head_kwargs", {}).get("bound", 5.0)
            expected = max(expected, np.abs(returns).max() / bound)
        assert models[-1].return_scale == pytest.approx(expected, rel=1e-9)
        assert models[-1].logger.name_to_value["train/return_scale"] == models[-1].return_scale
        stored = models[-1].replay_buffer.rewards[: models[-1].replay_buffer.pos]
        raw = np.stack([inner.unwrapped.rewards for inner in env.envs], axis=1)
        np.testing.assert_array_equal(stored, raw.astype(np.float32))
    assert models[0].replay_buffer.rewards.max() > 50
    assert_equal(state(models[1]), state(models[0]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of returns beyond the bins
        without = make_normalized(env=make_env(n_envs), normalize_returns=False, policy_kwargs=policy_kwargs).learn(45)
    assert without.return_scale == 1.0 and "train/return_scale" not in without.logger.name_to_value
    assert not th.equal(without.actor.mu.weight, models[0].actor.mu.weight)


def test_the_plain_policy_scales_too() -> None:
    settings = dict(normalize_returns=True, gradient_steps=2)
    first, second = (make(env=make_env(1, factor), **settings).learn(40) for factor in (64.0, 65536.0))
    assert_equal(state(second), state(first))


def test_sampled_rewards_are_divided_by_the_present_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_normalized(env=make_env()).learn(30)
    given: list[th.Tensor] = []
    run = model.updater.run
    monkeypatch.setattr(model.updater, "run", lambda plan, data: (given.append(data.rewards), run(plan, data))[1])
    np.random.seed(3)
    model.train(1, 8)
    np.random.seed(3)
    stored = model.replay_buffer.sample(8).rewards
    assert model.return_scale != 1.0 and stored.std() > 0.1
    assert th.equal(given[0], stored / model.return_scale)


def test_a_new_scale_begins_at_one() -> None:
    model = make_normalized(env=make_env())
    assert model.return_scale == 1.0
    model.learning_starts = 100
    model.learn(1)
    assert model.return_scale == pytest.approx(max(1e-4, model.env.envs[0].unwrapped.rewards[0] / 5))


@pytest.mark.parametrize("buffer_size", [1000, 60])
@pytest.mark.parametrize("n_envs", [1, 2])
def test_a_new_model_counts_the_rewards_of_a_loaded_buffer(n_envs: int, buffer_size: int, tmp_path: Path) -> None:
    env = make_env(n_envs, factor=300.0)
    old = make_normalized(env=env, buffer_size=buffer_size, learning_starts=190).learn(200)
    old.save_replay_buffer(tmp_path / "buffer")
    new = make_normalized(env=env, buffer_size=buffer_size)
    new.load_replay_buffer(tmp_path / "buffer")
    assert new.replay_buffer is not None
    steps = [(worker.rewards, worker.ends) for worker in (each.unwrapped for each in env.envs)]
    kept = new.replay_buffer.size()
    returns = []
    for rewards, ends in steps:
        running = 0.0
        for reward, end in list(zip(rewards, ends, strict=True))[-kept:]:
            running = GAMMA * running + reward
            returns.append(running)
            running = 0.0 if end else running
    expected = max(np.std(returns), np.max(returns) / 5)
    assert new.return_scale == pytest.approx(expected, rel=1e-5)

    before = old.return_scale
    old.load_replay_buffer(tmp_path / "buffer")
    assert old.return_scale == before


def test_returns_restart_where_the_environments_do() -> None:
    """SB3 resets them in a new `learn()`, and for a new environment."""
    model = make_normalized(env=make_env(), learning_starts=100)
    for reset in (True, False):
        rewards = model.env.envs[0].unwrapped.rewards
        model.learn(3)
        n_before = len(rewards)
        if not reset:
            model.set_env(model.env)
        model.learn(1, reset_num_timesteps=reset)
        assert len(rewards) == n_before + 1
        assert model._return_scale.returns.tolist() == pytest.approx([rewards[-1]])
    model.learn(1, reset_num_timesteps=False)  # goes on in the same episode
    assert model._return_scale.returns.tolist() == pytest.approx([GAMMA * rewards[-2] + rewards[-1]])


@pytest.mark.parametrize("bound", [2.0, 0.5])
def test_returns_beyond_the_bins_are_said_once(bound: float, tmp_path: Path) -> None:
    env = make_env()
    kwargs: dict[str, Any] = dict(env=env, normalize_returns=False, policy_kwargs=dict(head_kwargs=dict(bound=bound)))
    message = rf"a discounted return of \d\.\d+ after \d+ steps is beyond bound={bound:g}, .*normalize_returns=True"
    with pytest.warns(UserWarning, match=message) as caught:
        model = make_normalized(**kwargs).learn(40)
        model.learn(10)
    (warning,) = [str(each.message) for each in caught if "beyond bound" in str(each.message)]
    returns = discounted(env)
    first = int(np.flatnonzero(returns > bound)[0])
    assert f"of {returns[first]:.3g} after {first + 1} steps" in warning
    model.save(tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        REDQSAC.load(tmp_path / "model", env=env).learn(10, reset_num_timesteps=False)


@pytest.mark.parametrize(
    "kwargs", [{}, dict(normalize_returns=False, policy_kwargs=dict(head_kwargs=dict(bound=100.0)))], ids=str
)
def test_returns_within_the_bins_are_silent(kwargs: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_normalized(env=make_env(), **kwargs).learn(40)
        make(env=make_env()).learn(22)


def test_observations_may_be_normalized_but_not_rewards_twice() -> None:
    learned = make_normalized(env=VecNormalize(make_env(2), norm_reward=False)).learn(40)
    assert learned.return_scale != 1.0
    with pytest.raises(ValueError, match=r"normalize_returns=True with VecNormalize\(norm_reward=True\): both would"):
        make_normalized(env=VecNormalize(make_env(2)))
    assert make_normalized(env=VecNormalize(make_env(2)), normalize_returns=False).return_scale == 1.0


class Noise(BaseCallback):
    """Compares each action with what the policy makes of the held noise, and collects the noise."""

    def __init__(self, n_random: int) -> None:
        super().__init__()
        self.n_random = n_random
        self.noise: list[list[list[float]]] = []

    def _on_step(self) -> bool:
        if self.num_timesteps > self.n_random:
            self.noise.append(self.model._held_noise.state()["noise"])
            obs, _ = self.model.policy.obs_to_tensor(self.model._last_obs)
            with th.no_grad():
                mean, log_std = gaussian_parameters(self.model.actor, obs)
            expected = th.tanh(mean + log_std.exp() * th.tensor(self.noise[-1]))
            np.testing.assert_allclose(self.locals["buffer_actions"], expected.numpy(), rtol=0, atol=1e-6)
            np.testing.assert_allclose(self.locals["actions"], 2 * expected.numpy(), rtol=0, atol=1e-6)
        return True


@pytest.mark.parametrize("make_model", [make, make_normalized])
@pytest.mark.parametrize("n_envs", [1, 2])
def test_actions_come_from_held_noise(make_model: Any, n_envs: int) -> None:
    model = make_model(env=make_env(n_envs), noise_repeat=8, learning_starts=10, gradient_steps=1)
    callback = Noise(n_random=10)
    model.learn(10 + 60 * n_envs, callback=callback)
    noise = np.array(callback.noise)
    assert noise.shape == (60, n_envs, 2)
    is_held = (np.diff(noise, axis=0) == 0).all(axis=2)
    assert 0.2 < is_held.mean() < 0.7
    assert is_held.any(axis=0).all() and not is_held.all(axis=0).any()
    assert n_envs == 1 or (is_held[:, 0] != is_held[:, 1]).any()


def test_noise_that_is_not_held_is_the_stream_of_sb3() -> None:
    """What `predict` would draw."""
    model = make_normalized(env=make_env()).learn(30)
    assert model._held_noise is None
    th.manual_seed(3)
    _, scaled = model._sample_action(0)
    th.manual_seed(3)
    unscaled, _ = model.predict(model._last_obs, deterministic=False)
    np.testing.assert_array_equal(scaled, model.policy.scale_action(unscaled))


def test_held_noise_may_begin_and_end_at_any_time() -> None:
    model = make_normalized(env=make_env()).learn(25)
    for noise_repeat, expected in ((4, 4), (9, 9), (1, 9)):
        model.noise_repeat = noise_repeat
        model.learn(4, reset_num_timesteps=False)
        assert model._held_noise.max_repeat == expected


def test_action_noise_is_added_to_held_noise() -> None:
    model = make_normalized(env=make_env(), noise_repeat=4).learn(24)
    other = copy.deepcopy(model)
    noise = NormalActionNoise(np.array([0.5, -0.5]), np.zeros(2))
    for seed in range(10):
        actions = []
        for each, added in ((model, None), (other, noise)):
            th.manual_seed(seed)
            actions.append(each._sample_action(0, added)[1])
        np.testing.assert_allclose(actions[1], np.clip(actions[0] + [[0.5, -0.5]], -1, 1), rtol=1e-6)


@pytest.mark.parametrize(("text", "std"), [("std_0.15", 0.15), ("std_1", 1.0), ("std_1e-200", 1e-200)])
def test_target_entropy_of_a_standard_deviation(text: str, std: float) -> None:
    """That of Humanoid's 17 independent Gaussians."""
    env = Blank(spaces.Box(-1.0, 1.0, (3,)), spaces.Box(-0.4, 0.4, (17,)))
    model = make_normalized(env=env, target_entropy=text)
    assert model.target_entropy == pytest.approx(17 * (0.5 * math.log(2 * math.pi * math.e) + math.log(std)))
    assert model.target_entropy == model.updater.settings.target_entropy
    if std > 1e-9:
        entropy = th.distributions.Normal(th.zeros(17), th.full((17,), std)).entropy().sum().item()
        assert model.target_entropy == pytest.approx(entropy, rel=1e-5)
    model.target_entropy = "std_0.5"
    assert model.target_entropy == pytest.approx(17 * (0.5 * math.log(2 * math.pi * math.e) + math.log(0.5)))


def rates(model: REDQSAC) -> list[float]:
    """Of actor, critics and temperature, after an update."""
    model.train(1, 8)
    return [float(optimizer.param_groups[0]["lr"]) for optimizer in model.updater.optimizers()]


def test_the_critics_own_learning_rate(tmp_path: Path) -> None:
    model = make_normalized(env=make_env(), learning_rate=1e-4, qf_learning_rate=1e-3).learn(24)
    assert rates(model) == pytest.approx([1e-4, 1e-3, 1e-4])
    assert model.logger.name_to_value["train/learning_rate"] == 1e-4
    assert model.logger.name_to_value["train/qf_learning_rate"] == 1e-3
    model.qf_learning_rate = 2e-3
    assert rates(model) == pytest.approx([1e-4, 2e-3, 1e-4])
    model.learning_rate = 3e-4
    assert rates(model) == pytest.approx([3e-4, 2e-3, 3e-4])
    model.save(tmp_path / "model")
    for given, expected in (({}, 2e-3), (dict(qf_learning_rate=5e-4), 5e-4), (dict(qf_learning_rate=None), 3e-4)):
        loaded = REDQSAC.load(tmp_path / "model", **given)
        loaded.replay_buffer = model.replay_buffer
        loaded.set_logger(model.logger)
        assert rates(loaded) == pytest.approx([3e-4, expected, 3e-4])
    model.qf_learning_rate = None
    assert rates(model) == pytest.approx([3e-4] * 3)
    with pytest.raises(ValueError, match=r"qf_learning_rate=-1 must be a number >= 0"):
        model.qf_learning_rate = -1
    assert rates(model) == pytest.approx([3e-4] * 3)


def test_schedules_of_both_learning_rates() -> None:
    seen: list[list[float]] = []

    def record(local: dict[str, Any], _: Any) -> bool:
        seen.append([o.param_groups[0]["lr"] for o in local["self"].updater.optimizers()])
        return True

    settings = dict(learning_rate=1e-3, learning_rate_final=1e-4, qf_learning_rate=LinearSchedule(2e-3, 0.0, 0.5))
    make_normalized(env=make_env(), **settings).learn(40, callback=record)
    done = np.arange(21, 40) / 40  # as of the update after each step
    np.testing.assert_allclose([row[0] for row in seen[21:]], 1e-3 - 9e-4 * done)
    np.testing.assert_allclose([row[2] for row in seen[21:]], 1e-3 - 9e-4 * done)
    np.testing.assert_allclose([row[1] for row in seen[21:]], np.maximum(2e-3 * (1 - 2 * done), 0), atol=1e-12)


def test_only_the_critics_follow_their_learning_rate() -> None:
    model = make_normalized(env=make_env(), learning_rate=0.0, qf_learning_rate=1e-3)
    before = state(model)
    model.learn(30)
    after = state(model)
    for name, value in before.items():
        is_weight = "running" not in name and "n_batches" not in name
        if is_weight and name.startswith(("actor.latent", "actor.mu", "actor.log_std", "log_ent_coef")):
            th.testing.assert_close(after[name], value)  # apart from the projection
        elif is_weight and name.startswith("critic."):
            assert not th.allclose(after[name], value), name
