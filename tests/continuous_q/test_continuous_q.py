"""CEMQ and NAF: targets against loops, spaces, files, search spaces, and what they learn."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import IdentityEnvBox, SimpleMultiObsEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.noise import NormalActionNoise

from sb3_ext import CEMQ, NAF, PrioritizedReplayBuffer
from sb3_ext.functional.naf import quadratic_advantage
from sb3_ext.zoo import ZOO_ALGORITHMS
from tests.support.environments import Blank, images
from tests.support.samplers import NO_HER, DrawnTrial, sample, study_of
from tests.support.states import assert_equal, assert_trained_alike, reloaded, state

BOTH = pytest.mark.parametrize("cls", [CEMQ, NAF])
SMALL: dict[str, Any] = dict(learning_starts=20, buffer_size=500, batch_size=16, seed=0, device="cpu")


def make(cls: Any, env: Any = "Pendulum-v1", policy: str = "MlpPolicy", net_arch: Any = (8,), **kwargs: Any) -> Any:
    policy_kwargs = dict(net_arch=list(net_arch)) | kwargs.pop("policy_kwargs", {})
    return cls(policy, env, policy_kwargs=policy_kwargs, **(SMALL | kwargs))


# Targets


@pytest.mark.parametrize("backup", ["min", "mean", "redq"])
@pytest.mark.parametrize("n_steps", [1, 3])
def test_cemqs_targets_against_loops(backup: Any, n_steps: int) -> None:
    model = make(CEMQ, target_backup=backup, n_steps=n_steps, policy_kwargs=dict(n_critics=3), maximizer="random")
    model.learn(60)
    batch = model.sample_minibatch(8)
    th.manual_seed(5)
    losses = model.compute_loss(batch, 0.9 if batch.discounts is None else batch.discounts.flatten())
    th.manual_seed(5)
    members = th.rand(3).topk(2).indices.tolist() if backup == "redq" else [0, 1, 2]
    candidates = 2 * th.rand(32, 8, 1) - 1  # 16 samples in each of 2 iterations
    for row in range(8):
        values = []
        for k in range(32):
            with th.no_grad():
                q = model.critic_target.stacked(batch.next_observations[row][None], candidates[k, row][None])[:, 0]
            values.append(q.mean().item() if backup == "mean" else min(q[member].item() for member in members))
        discount = 0.9 if batch.discounts is None else batch.discounts[row].item()
        target = batch.rewards[row].item() + discount * (1 - batch.dones[row].item()) * max(values)
        with th.no_grad():
            q = model.critic.stacked(batch.observations[row][None], batch.actions[row][None])[:, 0].tolist()
        assert losses.losses[row].item() == pytest.approx(0.5 * sum((v - target) ** 2 for v in q), rel=1e-4)
        assert losses.errors[row].item() == pytest.approx(sum(abs(v - target) for v in q) / 3, rel=1e-4)


def test_nafs_targets_against_loops() -> None:
    model = make(NAF).learn(60)
    batch = model.sample_minibatch(8)
    losses = model.compute_loss(batch, 0.9)
    with th.no_grad():
        next_values = model.critic_target.parts(batch.next_observations)[0]
        value, mean, lower = model.critic.parts(batch.observations)
    for row in range(8):
        target = batch.rewards[row].item() + 0.9 * (1 - batch.dones[row].item()) * next_values[row].item()
        scale = lower[row, 0, 0].item() ** 2
        q = value[row].item() - 0.5 * scale * (batch.actions[row, 0] - mean[row, 0]).item() ** 2
        assert losses.losses[row].item() == pytest.approx((q - target) ** 2, rel=1e-4)
    # The value is largest at the mean, which acts
    others = quadratic_advantage(th.rand(8, 1), mean, lower)
    assert (others <= 0).all()
    actions = model.policy.predict(batch.observations.numpy(), deterministic=True)[0]
    np.testing.assert_allclose(actions, 2 * mean, rtol=1e-5)  # torques go from -2 to 2


@BOTH
@pytest.mark.parametrize("interval", [1, 3])
def test_target_networks_follow(cls: Any, interval: int) -> None:
    model = make(cls, tau=0.3, target_update_interval=interval, learning_rate=0.0).learn(30)
    with th.no_grad():
        for parameter in model.critic.parameters():
            parameter.add_(1.0)
    before = [value.clone() for value in model.critic_target.parameters()]
    n_updates = 6
    model.train(n_updates, 8)
    share = 1 - 0.7 ** (n_updates // interval)
    for online, old, new in zip(model.critic.parameters(), before, model.critic_target.parameters(), strict=True):
        th.testing.assert_close(new, old + share * (online - old))


# What acts


def test_a_better_search_finds_better_actions() -> None:
    env = Blank(spaces.Box(-1, 1, (3,), np.float32), spaces.Box(-2, 3, (4,), np.float32))
    model = make(CEMQ, env=env, net_arch=(32, 32))
    obs = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    found = {}
    for maximizer, n_iterations in (("random", 1), ("random", 8), ("cem", 8), ("cma", 8)):
        model.maximizer, model.n_iterations, model.n_samples = maximizer, n_iterations, 16
        actions, _ = model.predict(obs, deterministic=True)
        assert (actions >= -2).all() and (actions <= 3).all()
        with th.no_grad():
            scaled = th.as_tensor(model.policy.scale_action(actions), dtype=th.float32)
            found[maximizer, n_iterations] = model.critic.stacked(th.as_tensor(obs), scaled).mean().item()
    assert found["random", 1] < found["random", 8] < max(found["cem", 8], found["cma", 8])


@BOTH
def test_deterministic_actions_repeat_and_others_do_not(cls: Any) -> None:
    model = make(cls)
    obs = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    same, other = (
        [model.predict(obs, deterministic=deterministic)[0] for _ in range(2)] for deterministic in (True, False)
    )
    assert np.array_equal(*same) and not np.array_equal(*other)
    # Neither does a state's action depend on the others in the batch
    alone = np.concatenate([model.predict(obs[row], deterministic=True)[0][None] for row in range(6)])
    np.testing.assert_allclose(alone, same[0], atol=1e-5)
    assert (np.abs(np.concatenate(other)) <= 2).all()


def test_without_scale_naf_does_not_explore() -> None:
    model = make(NAF, exploration_scale=0.0)
    obs = np.zeros((1, 3), np.float32)
    assert np.array_equal(model.predict(obs)[0], model.predict(obs, deterministic=True)[0])
    model.exploration_scale = 4.0
    model.learn(30)
    assert not np.array_equal(model.predict(obs)[0], model.predict(obs, deterministic=True)[0])


# Spaces, buffers, files


@BOTH
def test_images_dictionaries_and_several_environments(cls: Any) -> None:
    small = dict(n_target_samples=4, n_samples=4, n_elites=2) if cls is CEMQ else {}
    picture = images()
    picture.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    for policy, env, net_arch in (
        ("CnnPolicy", picture, ()),
        ("MultiInputPolicy", SimpleMultiObsEnv(discrete_actions=False), (8,)),
        ("MlpPolicy", make_vec_env("Pendulum-v1", 3), (8,)),
        ("MlpPolicy", IdentityEnvBox(), (8,)),
    ):
        model = make(cls, env, policy, net_arch, batch_size=4, buffer_size=60, **small).learn(30)
        assert model._n_updates > 0 and np.isfinite(model.logger.name_to_value["train/loss"])


@BOTH
@pytest.mark.parametrize("buffer_class", [None, PrioritizedReplayBuffer])
def test_saved_models_continue(cls: Any, buffer_class: Any, tmp_path: Path) -> None:
    own = dict(maximizer="cma", n_samples=12) if cls is CEMQ else dict(exploration_scale=0.3)
    model = make(cls, replay_buffer_class=buffer_class, **own).learn(60)
    loaded = reloaded(model, tmp_path)
    for name, value in own.items():
        assert getattr(loaded, name) == getattr(loaded.policy, name) == value
    assert_trained_alike(model, loaded, 5)
    obs = np.zeros((2, 3), np.float32)
    assert np.array_equal(*(each.predict(obs, deterministic=True)[0] for each in (model, loaded)))


@BOTH
def test_the_same_seed_makes_the_same_model(cls: Any) -> None:
    noise = NormalActionNoise(np.zeros(1), 0.1 * np.ones(1))
    assert_equal(*(state(make(cls, action_noise=noise).learn(60)) for _ in range(2)))


@BOTH
@pytest.mark.slow
def test_pendulum(cls: Any) -> None:
    noise = dict(action_noise=NormalActionNoise(np.zeros(1), 0.1 * np.ones(1))) if cls is CEMQ else {}
    model = cls("MlpPolicy", "Pendulum-v1", learning_starts=1000, seed=0, **noise).learn(5000)
    assert evaluate_policy(model, model.get_env(), 20)[0] > -200


# What is refused


WRONG: list[tuple[Any, dict[str, Any], str]] = [
    (CEMQ, dict(maximizer="grid"), "maximizer='grid' is not one of 'random', 'cem', 'cma'"),
    (CEMQ, dict(n_samples=0), "n_samples=0 must be an integer of at least 1"),
    (CEMQ, dict(n_elites=0), "n_elites=0 must be an integer of at least 1"),
    (CEMQ, dict(n_elites=65), "n_elites=65 exceeds n_samples=64"),
    (CEMQ, dict(n_elites=17), "n_elites=17 exceeds n_target_samples=16"),
    (
        CEMQ,
        dict(n_elites=3, maximizer="random"),
        "n_elites=3 has no effect here: it needs maximizer='cem' and",
    ),
    (CEMQ, dict(n_elites=3, n_iterations=1, n_target_iterations=1), "n_elites=3 has no effect here"),
    (CEMQ, dict(maximizer="cma", n_target_samples=3), "n_target_samples=3 must be an integer of at least 4"),
    (CEMQ, dict(n_iterations=0), "n_iterations=0 must be an integer of at least 1"),
    (CEMQ, dict(n_target_iterations=0), "n_target_iterations=0 must be an integer of at least 1"),
    (CEMQ, dict(target_backup="vanilla"), "target_backup='vanilla' is not one of 'redq', 'min', 'mean'"),
    (CEMQ, dict(subset_size=2), "subset_size=2 has no effect here: it needs target_backup='redq'"),
    (CEMQ, dict(subset_size=3, target_backup="redq"), r"subset_size=3 must be in \[1, n_critics=2\]"),
    (CEMQ, dict(actor_q="max"), "actor_q='max' is not one of 'mean', 'min'"),
    (CEMQ, dict(policy_kwargs=dict(n_critics=0)), "n_critics=0 must be an integer of at least 1"),
    (NAF, dict(exploration_scale=-1.0), "exploration_scale=-1.0 must be a number >= 0"),
    (NAF, dict(tau=2.0), r"tau=2.0 must be in \[0, 1\]"),
    (NAF, dict(target_update_interval=0), "target_update_interval=0 must be an integer of at least 1"),
    (NAF, dict(max_grad_norm=0.0), "max_grad_norm=0.0 must be a number > 0"),
]


@pytest.mark.parametrize(("cls", "arguments", "message"), WRONG)
def test_what_is_refused(cls: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(cls, **arguments)


@BOTH
def test_policies_and_spaces_that_are_refused(cls: Any) -> None:
    with pytest.raises(ValueError, match=f"policy=SACPolicy must be a subclass of {cls.__name__}Policy"):
        cls(SAC.policy_aliases["MlpPolicy"], "Pendulum-v1")
    with pytest.raises((ValueError, AssertionError), match="Discrete"):
        cls("MlpPolicy", "CartPole-v1")


def test_an_action_space_without_bounds() -> None:
    env = Blank(spaces.Box(-1, 1, (3,), np.float32), spaces.Box(-np.inf, np.inf, (1,), np.float32))
    for cls in (CEMQ, NAF):
        with pytest.raises(ValueError, match=r"action_space=Box\(-inf, inf, \(1,\), float32\) must have finite bounds"):
            make(cls, env=gym.wrappers.TimeLimit(env, 5))


@pytest.mark.parametrize("subset_size", [0, 3])
def test_a_subset_that_is_set_later(subset_size: int) -> None:
    model = make(CEMQ, target_backup="redq", subset_size=2)
    with pytest.raises(ValueError, match=rf"subset_size={subset_size} must be in \[1, n_critics=2\]"):
        model.subset_size = subset_size
        model.learn(20)


def test_the_sampler_leaves_the_yaml_file_s_choices_valid() -> None:
    study = study_of(policy="CnnPolicy", n_samples=2)
    drawn = [sample("cem_q", study.ask(), NO_HER) for _ in range(12)]
    assert {arguments["maximizer"] for arguments in drawn} == {"random", "cem"}
    assert all(arguments["policy_kwargs"] == {} and arguments["batch_size"] <= 128 for arguments in drawn)
    goals = {"using_her_replay_buffer": True, "her_kwargs": {"copy_info_dict": True, "gamma": 0.9}}
    for algo in ("cem_q", "naf"):
        arguments = ZOO_ALGORITHMS[algo].sampler(study_of(policy="MultiInputPolicy").ask(), 1, 1, goals)
        assert not {"learning_starts", "gamma"} & arguments.keys()
        assert arguments["replay_buffer_kwargs"].keys() == {
            "n_sampled_goal",
            "goal_selection_strategy",
            "copy_info_dict",
            "gamma",
        }


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_every_draw_constructs(data: st.DataObject) -> None:
    env = make_vec_env("Pendulum-v1", 1)
    for algo in ("cem_q", "naf"):
        trial = DrawnTrial(data)
        arguments = sample(algo, trial, NO_HER)
        assert trial.user_attrs == {"gamma": arguments["gamma"], "batch_size": arguments["batch_size"]}
        model = ZOO_ALGORITHMS[algo].algorithm_class("MlpPolicy", env, buffer_size=10, device="cpu", **arguments)
        assert model.tau == arguments["tau"]
