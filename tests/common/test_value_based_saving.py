"""Saving a value-based model loses nothing, and nothing restarts after loading."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th

from sb3_ext import (
    IQN,
    DoubleDQN,
    SoftDQN,
)
from tests.support.environments import StopAt
from tests.support.models import make
from tests.support.states import assert_equal, assert_trained_alike, reloaded, state

VARIANTS = [
    (DoubleDQN, dict(learning_rate_final=1e-5, n_steps=3)),
    (DoubleDQN, dict(policy_kwargs=dict(dueling=True), tau=0.01, target_update_interval=1)),
    (SoftDQN, {}),
    (SoftDQN, dict(auto_temperature=True, target_backup="mellowmax")),
    (SoftDQN, dict(munchausen_coef=0.9, double_q=False, policy_kwargs=dict(dueling=True))),
    (IQN, dict(double_q=True, n_steps=3)),
    (IQN, dict(munchausen_coef=0.9, n_steps=4, n_steps_final=2)),
    (IQN, dict(risk_measure="cvar", risk_eta=0.5, policy_kwargs=dict(dueling=True, n_cosines=5, net_arch=[6, 7]))),
]


PRIORITIZED = dict(replay_buffer_class="PrioritizedReplayBuffer")
#: The settings of rainbow.yml and btr.yml, with all of their parts
PRESETS: list[tuple[Any, dict[str, Any]]] = [
    (
        DoubleDQN,
        PRIORITIZED
        | dict(
            n_steps=3,
            replay_buffer_kwargs=dict(alpha=0.5, beta=0.4),
            exploration_initial_eps=0.0,
            exploration_final_eps=0.0,
            policy_kwargs=dict(dueling=True, noisy=True, head="categorical", head_kwargs=dict(bound=100)),
        ),
    ),
    (
        IQN,
        PRIORITIZED
        | dict(
            n_steps=10,
            n_steps_final=3,
            n_steps_fraction=0.9,
            munchausen_coef=0.9,
            replay_buffer_kwargs=dict(alpha=0.2),
            priority_error="absolute",
            policy_kwargs=dict(normalization="layer"),
        ),
    ),
    # With what may be combined with them
    (
        IQN,
        PRIORITIZED
        | dict(
            n_steps=5,
            n_steps_final=2,
            munchausen_coef=0.9,
            priority_error="absolute",
            reset_interval=5,
            reset_fraction=0.8,
            learning_rate_final=1e-5,
            policy_kwargs=dict(normalization="layer", noisy="with_epsilon", dueling=True),
        ),
    ),
]


@pytest.mark.parametrize(("cls", "settings"), PRESETS, ids=["rainbow", "btr", "more"])
@pytest.mark.parametrize("learns", [False, True])
def test_a_preset_goes_on_with_all_its_parts(cls: Any, settings: dict[str, Any], learns: bool, tmp_path: Path) -> None:
    """Priorities, steps of the returns, noise and schedules included, in updates alone and in a training."""
    model = make(cls, **settings)
    model.learn(121, callback=StopAt(60))
    loaded = reloaded(model, tmp_path)
    before = state(model), model.replay_buffer.priorities.copy()
    assert len(set(before[1])) > 10
    if learns:
        model._last_obs = None  # as in the loaded one, whose environment begins anew
        loaded.set_env(gym.make("CartPole-v1"))
        for each in (model, loaded):
            np.random.seed(7)
            th.manual_seed(7)
            each.env.seed(7)
            each.action_space.seed(7)
            each.learn(61, reset_num_timesteps=False)
        assert loaded._n_updates == model._n_updates >= 40
        assert_equal(state(loaded), state(model))
        for name in ("observations", "actions", "rewards", "dones"):
            assert (getattr(loaded.replay_buffer, name) == getattr(model.replay_buffer, name)).all(), name
    else:
        assert_trained_alike(model, loaded, 6)
    assert any(not th.equal(value, before[0][name]) for name, value in state(model).items())
    assert not np.array_equal(model.replay_buffer.priorities, before[1])
    assert np.array_equal(loaded.replay_buffer.priorities, model.replay_buffer.priorities)
    assert loaded.replay_buffer.n_steps == model.replay_buffer.n_steps == loaded.current_n_steps
    assert loaded.exploration_rate == model.exploration_rate
    observations = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    actions = []
    for each in (model, loaded):
        th.manual_seed(2)
        actions.append(each.policy.predict(observations, deterministic=False)[0])
    assert (actions[0] == actions[1]).all()


@pytest.mark.parametrize(("cls", "settings"), VARIANTS)
def test_train_after_load_is_train_without_saving(cls: Any, settings: dict[str, Any], tmp_path: Path) -> None:
    model = make(cls, **settings)
    model.learn(71)
    loaded = reloaded(model, tmp_path)
    before = state(model)
    assert_equal(state(loaded), before)
    assert any(name.startswith("policy.") for name in before)
    for name in ("exploration_rate", "_n_updates", "_n_calls", "num_timesteps", "_current_progress_remaining"):
        assert getattr(loaded, name) == getattr(model, name), name
    assert_trained_alike(model, loaded, 4)
    assert any(not th.equal(value, before[name]) for name, value in state(model).items())


@pytest.mark.parametrize(("cls", "settings"), VARIANTS)
def test_schedules_go_on_after_loading(cls: Any, settings: dict[str, Any], tmp_path: Path) -> None:
    settings = dict(exploration_fraction=1.0, exploration_initial_eps=1.0, exploration_final_eps=0.0) | settings
    model = make(cls, **settings).learn(60)
    model.save(tmp_path / "model")
    loaded = cls.load(tmp_path / "model", env=model.env)
    loaded.learn(61, reset_num_timesteps=False, callback=StopAt(90))
    assert loaded.num_timesteps == 90
    assert loaded.exploration_rate == pytest.approx(1 - 89 / 121)
    final = settings.get("learning_rate_final", 1e-3)
    rate = loaded.policy.optimizer.param_groups[0]["lr"]
    assert rate == pytest.approx(1e-3 + (final - 1e-3) * 88 / 121, rel=1e-4)


@pytest.mark.parametrize(("cls", "settings"), VARIANTS)
def test_a_policy_saved_alone_acts_as_before(cls: Any, settings: dict[str, Any], tmp_path: Path) -> None:
    model = make(cls, **settings).learn(60)
    model.policy.save(tmp_path / "policy")
    policy = type(model.policy).load(tmp_path / "policy", device="cpu")
    assert_equal(dict(policy.state_dict()), dict(model.policy.state_dict()))
    observations = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    assert th.equal(policy.q_net(th.as_tensor(observations)), model.q_net(th.as_tensor(observations)))
    for deterministic in (True, False):
        actions = []
        for each in (model.policy, policy):
            th.manual_seed(2)
            actions.append(each.predict(observations, deterministic=deterministic)[0])
        assert (actions[0] == actions[1]).all()
    if cls is IQN:
        for network in (policy.q_net, policy.q_net_target):
            for name in ("n_action_quantile_samples", "risk_measure", "risk_eta", "n_cosines", "dueling"):
                assert getattr(network, name) == getattr(model.q_net, name), name


@pytest.mark.parametrize(("cls", "settings"), VARIANTS)
def test_same_seed_same_parameters(cls: Any, settings: dict[str, Any]) -> None:
    first, second, other = (make(cls, **settings, seed=seed).learn(60) for seed in (1, 1, 2))
    assert first._n_updates == 20
    assert_equal(state(second), state(first))
    assert any(not th.equal(value, state(other)[name]) for name, value in state(first).items())
