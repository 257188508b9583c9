"""Every setting trains on real environments and does what it says."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv, FakeImageEnv, SimpleMultiObsEnv
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ext import REDQSAC
from sb3_ext.nets import EnsembleCritic
from sb3_ext.redq_sac import redq_sac as implementation
from sb3_ext.redq_sac.update import REDQUpdate

SMALL = dict(net_arch=[8, 8], n_critics=3)


def learn_and_check(policy: str, env: Any, total_timesteps: int = 60, **kwargs: Any) -> REDQSAC:
    settings = (
        dict(seed=0, learning_starts=30, batch_size=16, gradient_steps=4, policy_delay=2, buffer_size=500) | kwargs
    )
    policy_kwargs = SMALL | settings.pop("policy_kwargs", {})
    model = REDQSAC(policy, env, policy_kwargs=policy_kwargs, **settings)
    initial = {name: value.clone() for name, value in model.policy.state_dict().items()}
    model.learn(total_timesteps)
    changed = {name for name, value in model.policy.state_dict().items() if not th.equal(value, initial[name])}
    for part in ("actor.", "critic.ensemble", "critic_target.ensemble"):
        assert any(name.startswith(part) for name in changed), f"{part} did not learn"
    for name, value in model.policy.state_dict().items():
        assert th.isfinite(value).all(), name
    return model


@pytest.mark.parametrize("backup", ["vanilla", "doubleq", "min", "mean", "redq", "rem"])
@pytest.mark.parametrize("actor", [{}, dict(actor_gradient="reinforce", n_actor_samples=2)])
def test_backups(backup: str, actor: dict[str, Any]) -> None:
    learn_and_check("MlpPolicy", "Pendulum-v1", target_backup=backup, **actor)


@pytest.mark.parametrize(
    "settings",
    [
        dict(subset_size=1.5),
        dict(ent_coef=0.1, backup_entropy=False),
        dict(ent_coef=0.0),
        dict(tau=1.0, target_update_interval=3),
        dict(actor_q="min"),
        dict(n_actor_samples=3),
        dict(actor_gradient="reinforce"),
        dict(actor_gradient="reinforce", reinforce_baseline="none"),
        dict(actor_gradient="reinforce", reinforce_baseline="mean_action", n_actor_samples=4),
        dict(n_steps=3),
        dict(use_sde=True, use_sde_at_warmup=True, sde_sample_freq=2),
        dict(action_noise=NormalActionNoise(np.zeros(1), 0.1 * np.ones(1))),
        dict(train_freq=(1, "episode"), gradient_steps=-1, learning_starts=10, total_timesteps=250),
        dict(policy_kwargs=dict(layer_norm=True, dropout=0.01, n_critics=2)),
        dict(policy_kwargs=dict(net_arch=dict(pi=[8], qf=[]))),
        dict(policy_kwargs=dict(optimizer_class=th.optim.SGD)),
        dict(policy_kwargs=dict(optimizer_kwargs=dict(foreach=True))),
    ],
    ids=str,
)
def test_settings(settings: dict[str, Any]) -> None:
    learn_and_check("MlpPolicy", "Pendulum-v1", **settings)


def test_several_environments_with_normalization() -> None:
    env = VecNormalize(make_vec_env("Pendulum-v1", n_envs=3, seed=0))
    model = learn_and_check("MlpPolicy", env, total_timesteps=90)
    assert model._n_updates == 4 * 20  # after the first 30 steps, four updates for each step of the three environments


def test_images(monkeypatch: pytest.MonkeyPatch) -> None:
    env = FakeImageEnv(screen_height=40, screen_width=40, n_channels=1, discrete=False)
    blocks: list[int] = []
    run = REDQUpdate.run
    monkeypatch.setattr(
        REDQUpdate, "run", lambda self, plan, data: (blocks.append(plan.n_updates), run(self, plan, data))[1]
    )
    # Two minibatches of 16 images fill a block
    monkeypatch.setattr(implementation, "_MAX_BLOCK_ELEMENTS", 2 * 16 * 40 * 40)
    kwargs = dict(features_extractor_kwargs=dict(features_dim=16))
    model = learn_and_check(
        "CnnPolicy", env, total_timesteps=36, gradient_steps=5, policy_delay=3, policy_kwargs=kwargs
    )
    assert model._n_updates == sum(blocks) == 30
    assert blocks[:4] == [2, 1, 2, 1]  # updates 1 and 2, 3 (actor) | call ends after 5: 4 and 5, then 6 (actor)


def test_dictionary_observations() -> None:
    learn_and_check("MultiInputPolicy", SimpleMultiObsEnv(discrete_actions=False), total_timesteps=40, gradient_steps=3)


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

    learn_and_check("MultiInputPolicy", Counter())


@pytest.mark.parametrize("strategy", ["future", "final"])
def test_hindsight_experience_replay(strategy: str) -> None:
    env = BitFlippingEnv(n_bits=4, continuous=True, max_steps=4)
    model = learn_and_check(
        "MultiInputPolicy",
        env,
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
    learn_and_check(
        "MultiInputPolicy",
        env,
        total_timesteps=40,
        batch_size=50,
        gradient_steps=5,
        policy_delay=5,
        replay_buffer_class=HerReplayBuffer,
        replay_buffer_kwargs=dict(n_sampled_goal=4),
    )
    assert n_real == 50  # a fifth of 250 rows
    assert len(shares) == 50 and set(np.round(shares, 6)) == {0.2}


def test_only_the_subset_is_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated: list[int] = []
    outputs = EnsembleCritic.outputs

    def counting(self: Any, *args: Any, **kwargs: Any) -> th.Tensor:
        values = outputs(self, *args, **kwargs)
        if self is model_holder["model"].critic_target:
            evaluated.append(values.shape[0])
        return values

    model_holder: dict[str, REDQSAC] = {}
    model_holder["model"] = REDQSAC(
        "MlpPolicy", "Pendulum-v1", seed=0, learning_starts=10, policy_kwargs=dict(net_arch=[4], n_critics=5)
    )
    monkeypatch.setattr(EnsembleCritic, "outputs", counting)
    model_holder["model"].learn(12)
    assert evaluated == [2] * 40


def test_dropout_is_active_in_the_targets_and_off_in_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    differences: list[bool] = []
    update = REDQUpdate.step_critics

    def checking(self: REDQUpdate, minibatch: Any, *args: Any) -> Any:
        evaluations = [self.critic_target.stacked(minibatch.observations, minibatch.actions) for _ in range(2)]
        differences.append(not th.equal(*evaluations))
        return update(self, minibatch, *args)

    monkeypatch.setattr(REDQUpdate, "step_critics", checking)
    model = learn_and_check("MlpPolicy", "Pendulum-v1", policy_kwargs=dict(dropout=0.5))
    assert len(differences) == 120 and all(differences)
    model.policy.set_training_mode(False)
    obs, action = th.zeros(3, 3), th.zeros(3, 1)
    for critic in (model.critic, model.critic_target):
        assert th.equal(critic.stacked(obs, action), critic.stacked(obs, action))


def test_the_actor_update_leaves_no_gradient_in_the_critics() -> None:
    model = learn_and_check("MlpPolicy", "Pendulum-v1")
    model.critic.optimizer.zero_grad()
    obs = th.randn(5, 3)
    model.update.step_actor(obs, model.update.sample_policy(obs), th.tensor(0.1))
    assert all(p.grad is None for p in model.critic.parameters())


def test_backup_entropy_changes_the_targets() -> None:
    with_entropy = learn_and_check("MlpPolicy", "Pendulum-v1", ent_coef=0.5)
    without = learn_and_check("MlpPolicy", "Pendulum-v1", ent_coef=0.5, backup_entropy=False)
    assert not th.equal(with_entropy.critic.ensemble.layers[0].weight, without.critic.ensemble.layers[0].weight)


def test_device_and_defaults() -> None:
    model = REDQSAC("MlpPolicy", "Pendulum-v1", device=th.device("cpu"))
    assert model.critic.n_critics == 10 and model.gradient_steps == 20 and model.effective_policy_delay == 20
    assert model.update.settings.subset_size == 2
    assert model.critic.optimizer.defaults["fused"] is True
    single = REDQSAC("MlpPolicy", "Pendulum-v1", policy_kwargs=dict(n_critics=1))
    assert single.update.settings.subset_size == 1


def test_action_spaces_other_than_unit(tmp_path: Any) -> None:
    class Shifted(gym.Wrapper):
        def __init__(self, env: gym.Env) -> None:
            super().__init__(env)
            self.action_space = spaces.Box(np.array([[3.0, -1.0]], np.float32), np.array([[5.0, 7.0]], np.float32))

        def step(self, action: np.ndarray) -> Any:
            assert self.action_space.contains(action)
            return self.env.step(action[0, :1] - 4.0)

    learn_and_check("MlpPolicy", Shifted(gym.make("Pendulum-v1")))
