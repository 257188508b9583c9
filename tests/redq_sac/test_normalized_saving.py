"""Normalized networks, the scale of returns and held noise: saved, loaded, copied, and continued exactly."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.save_util import load_from_zip_file

from sb3_ext import REDQSAC
from sb3_ext.redq_sac.policies import NormalizedMlpPolicy
from tests.support.models import make_normalized
from tests.support.states import assert_equal, state

VARIANTS: list[dict[str, Any]] = [
    dict(noise_repeat=4, qf_learning_rate=1e-3),
    dict(noise_repeat=16, n_envs=2, target_network="none", joint_gradient="full", gradient_steps=4),
    dict(policy_kwargs=dict(normalization="batch_renorm", head="scalar", n_blocks=0), learning_rate_final=1e-5),
    dict(policy_kwargs=dict(normalization="rms", weight_projection=False), target_backup="rem", n_steps=3),
    dict(policy_kwargs=dict(normalization="layer", head="scalar"), normalize_returns=False, policy_delay=3),
    dict(actor_gradient="reinforce", n_actor_samples=2, target_entropy="std_0.15", target_update_interval=5),
]
each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=str)


def make(variant: dict[str, Any], **kwargs: Any) -> REDQSAC:
    settings = {**variant, **kwargs}
    return make_normalized(env=make_vec_env("Pendulum-v1", settings.pop("n_envs", 1)), **settings)


def everything(model: REDQSAC) -> dict[str, Any]:
    """All numbers on which the next step and the next update depend, besides data and random states."""
    scale, noise = model._return_scale, model._held_noise
    return {
        "scale": None if scale is None else scale.state(),
        "noise": None if noise is None else noise.state(),
        "updates": model._n_updates,
    }


def go_on(model: REDQSAC, seed: int = 7) -> None:
    """Collect and learn from new episodes, with the same random numbers each time."""
    env = make_vec_env("Pendulum-v1", model.n_envs, seed=seed)
    model.set_env(env)
    np.random.seed(seed)
    th.manual_seed(seed)
    model.learn(12 * model.n_envs, reset_num_timesteps=False)


@each_variant
def test_a_loaded_model_goes_on_as_the_saved_one(variant: dict[str, Any], tmp_path: Path) -> None:
    model = make(variant).learn(40)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = REDQSAC.load(tmp_path / "model", env=model.get_env())
    loaded.load_replay_buffer(tmp_path / "buffer")
    assert_equal(state(loaded), state(model))
    assert everything(loaded) == everything(model)
    if variant.get("noise_repeat") == 16:
        assert max(everything(model)["noise"]["remaining"]) > 0  # within a hold
    before = state(model)
    for each in (model, loaded):
        go_on(each)
    expected = state(model)
    assert_equal(state(loaded), expected)
    assert everything(loaded) == everything(model)
    still = {name for name, value in before.items() if th.equal(value, expected[name])}
    assert all(name.endswith("n_batches") for name in still)


@each_variant
def test_updates_after_loading_need_no_environment(variant: dict[str, Any], tmp_path: Path) -> None:
    model = make(variant).learn(40)
    model.save(tmp_path / "model")
    loaded = REDQSAC.load(tmp_path / "model")
    loaded.replay_buffer = copy.deepcopy(model.replay_buffer)
    loaded.set_logger(model.logger)
    for each in (model, loaded):
        np.random.seed(7)
        th.manual_seed(7)
        each.train(5, batch_size=16)
    assert_equal(state(loaded), state(model))
    assert loaded.return_scale == model.return_scale


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize("variant", VARIANTS[:3], ids=str)
def test_copies_go_on_by_themselves(variant: dict[str, Any], copied: Callable[[REDQSAC], REDQSAC]) -> None:
    model = make(variant).learn(30)
    duplicate = copied(model)
    before, numbers = state(model), copy.deepcopy(everything(model))
    go_on(duplicate)
    assert_equal(state(model), before)
    assert everything(model) == numbers
    go_on(model)
    assert_equal(state(duplicate), state(model))
    assert everything(duplicate) == everything(model)


@pytest.mark.parametrize("variant", VARIANTS[:3], ids=str)
def test_same_seed_same_parameters(variant: dict[str, Any]) -> None:
    first, second, other = (make(variant, seed=seed).learn(40) for seed in (1, 1, 2))
    assert_equal(state(second), state(first))
    assert everything(second) == everything(first)
    assert not th.equal(other.actor.mu.weight, first.actor.mu.weight)


def test_parameters_of_another_model() -> None:
    """Statistics, the scale of returns and the noise are among them."""
    model, other = make(VARIANTS[0]).learn(30), make(VARIANTS[0], seed=3)
    other.set_parameters(model.get_parameters())
    assert_equal(dict(other.policy.state_dict()), dict(model.policy.state_dict()))
    assert other.return_scale == model.return_scale != 1.0
    assert everything(other) == everything(model)
    obs = model.observation_space.sample()
    assert (other.predict(obs, deterministic=True)[0] == model.predict(obs, deterministic=True)[0]).all()


POLICIES: list[dict[str, Any]] = [
    {},
    dict(normalization="batch_renorm", n_blocks=0, net_arch=[6, 5], head="scalar", weight_projection=False),
    dict(normalization=None, n_critics=3, expansion=3, actor_width=5, actor_expansion=4, n_blocks=2),
    dict(normalization="layer", head_kwargs=dict(n_bins=11, bound=3.0), share_features_extractor=True),
]


@pytest.mark.parametrize("policy_kwargs", POLICIES, ids=str)
def test_a_policy_alone(policy_kwargs: dict[str, Any], tmp_path: Path) -> None:
    policy = make_normalized(policy_kwargs=policy_kwargs).learn(24).policy
    policy.save(tmp_path / "policy.pth")
    loaded = NormalizedMlpPolicy.load(tmp_path / "policy.pth", device="cpu")
    assert_equal(dict(loaded.state_dict()), dict(policy.state_dict()))
    assert loaded.critic_body == policy.critic_body and loaded.actor_body == policy.actor_body
    assert loaded.share_features_extractor == policy.share_features_extractor
    obs = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    np.testing.assert_array_equal(
        loaded.predict(obs, deterministic=True)[0], policy.predict(obs, deterministic=True)[0]
    )
    with th.no_grad():
        values = [each.critic_target.stacked(th.as_tensor(obs), th.zeros(5, 1)) for each in (loaded, policy)]
    assert th.equal(*values)


@pytest.mark.parametrize("policy_kwargs", POLICIES, ids=str)
def test_constructor_parameters_round_trip(policy_kwargs: dict[str, Any]) -> None:
    parameters = make_normalized(policy_kwargs=policy_kwargs).policy._get_constructor_parameters()
    assert policy_kwargs.items() <= parameters.items()
    again = NormalizedMlpPolicy(**parameters)._get_constructor_parameters()
    assert callable(parameters.pop("lr_schedule")) and callable(again.pop("lr_schedule"))
    assert again == parameters


def test_networks_of_a_file_cannot_be_changed(tmp_path: Path) -> None:
    make_normalized().save(tmp_path / "model")
    with pytest.raises(ValueError, match="policy_kwargs"):
        REDQSAC.load(tmp_path / "model", policy_kwargs=dict(width=4))


def test_files_keep_the_switches(tmp_path: Path) -> None:
    settings: dict[str, Any] = dict(
        target_network="none", joint_gradient="full", noise_repeat=3, normalize_returns=True, qf_learning_rate=1e-3
    )
    make_normalized(**settings).save(tmp_path / "model")
    loaded = REDQSAC.load(tmp_path / "model")
    assert {name: getattr(loaded, name) for name in settings} == settings
    assert (loaded.updater.settings.target_network, loaded.updater.settings.joint_gradient) == ("none", "full")
    changed = REDQSAC.load(tmp_path / "model", target_network="ema", joint_gradient="half", normalize_returns=False)
    assert (changed.updater.settings.target_network, changed.updater.settings.joint_gradient) == ("ema", "half")
    assert changed.return_scale == 1.0


def test_a_target_network_may_be_asked_for_at_load(tmp_path: Path) -> None:
    make_normalized(target_network="none").learn(24).save(tmp_path / "model")
    loaded = REDQSAC.load(tmp_path / "model", env=make_vec_env("Pendulum-v1"), target_network="ema")
    for critic, target in zip(loaded.critic.parameters(), loaded.critic_target.parameters(), strict=True):
        assert th.equal(critic, target)  # without targets from them, they are copies
    loaded.learn(24, reset_num_timesteps=False)
    assert not th.equal(loaded.critic.ensemble.layers[1].weight, loaded.critic_target.ensemble.layers[1].weight)


def test_statistics_are_saved_once(tmp_path: Path) -> None:
    make_normalized().save(tmp_path / "model")
    data, params, _ = load_from_zip_file(tmp_path / "model.zip")
    assert data is not None and not {"batch_norm_stats", "batch_norm_stats_target"} & set(data)
    assert any("running_mean" in name for name in params["policy"])
    loaded = REDQSAC.load(tmp_path / "model")
    assert len(loaded.batch_norm_stats) == len(loaded.batch_norm_stats_target) > 0
