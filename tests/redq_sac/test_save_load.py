"""Saving loses nothing, and nothing restarts after loading."""

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback

from sb3_ext import REDQSAC
from tests.support import models
from tests.support.states import assert_equal, state

make = partial(models.make, seed=1, batch_size=16, gradient_steps=3, policy_delay=4)


def reseed() -> None:
    np.random.seed(7)
    th.manual_seed(7)


@pytest.mark.parametrize(
    "variant",
    [
        {},
        {"ent_coef": 0.1, "actor_gradient": "reinforce", "n_actor_samples": 3},
        {"target_update_interval": 5, "tau": 1.0, "target_backup": "rem"},
        {"subset_size": 1.5, "n_steps": 3, "learning_rate_final": 1e-5},
        {"policy_kwargs": dict(layer_norm=True, dropout=0.1)},
        {"use_sde": True},
    ],
    ids=str,
)
def test_train_after_load_is_train_without_saving(variant: dict[str, Any], tmp_path: Path) -> None:
    model = make(**variant)
    model.learn(49)  # 29 * 3 = 87 updates: 3 of 4 towards the next actor update, 2 of 5 towards the next target update
    assert model._n_updates == 87
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = REDQSAC.load(tmp_path / "model")
    loaded.load_replay_buffer(tmp_path / "buffer")
    loaded.set_logger(model.logger)
    before = state(model)

    for agent in (model, loaded):
        reseed()
        agent.train(6, batch_size=16)
    assert loaded._n_updates == model._n_updates == 93
    expected = state(model)
    assert_equal(state(loaded), expected)
    assert any(not th.equal(expected[name], value) for name, value in before.items())


def test_state_dicts_have_plain_names(tmp_path: Path) -> None:
    model = make()
    model.learn(30)
    names = list(model.policy.state_dict())
    assert "critic.ensemble.layers.0.weight" in names
    assert not any("_orig_mod" in name for name in names)


def test_nothing_restarts_with_reset_num_timesteps_false(tmp_path: Path) -> None:
    model = make(learning_rate=1e-3, learning_rate_final=1e-4, learning_starts=40)
    model.learn(60)
    assert model.actor.optimizer.param_groups[0]["lr"] == pytest.approx(1e-4)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")

    loaded = REDQSAC.load(tmp_path / "model", env=model.env)
    loaded.load_replay_buffer(tmp_path / "buffer")
    random_actions = count_random_actions(loaded)
    rates: list[float] = []
    step = loaded.updater.step_critics

    def recording(*args: Any) -> Any:
        rates.append(loaded.critic.optimizer.param_groups[0]["lr"])
        return step(*args)

    loaded.updater.step_critics = recording
    loaded.learn(60, reset_num_timesteps=False)
    assert loaded.num_timesteps == 120
    assert random_actions == []
    assert loaded._n_updates == 3 * (20 + 60)
    assert loaded.replay_buffer.pos == 120
    # The line goes on where it is after 61 of now 120 steps, it does not start again at 1e-3
    assert rates[0] == pytest.approx(1e-3 - 9e-4 * 61 / 120)
    assert rates[-1] == pytest.approx(1e-4)


def test_an_interruption_keeps_what_was_saved(tmp_path: Path) -> None:
    class Interrupt(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == 55:
                raise KeyboardInterrupt
            return True

    model = make()
    checkpoints = CheckpointCallback(25, str(tmp_path), save_replay_buffer=True)
    evaluations = EvalCallback(
        model.env, eval_freq=30, n_eval_episodes=1, best_model_save_path=str(tmp_path), verbose=0
    )
    with pytest.raises(KeyboardInterrupt):
        model.learn(100, callback=[checkpoints, evaluations, Interrupt()])
    loaded = REDQSAC.load(tmp_path / "rl_model_50_steps", env=model.env)
    loaded.load_replay_buffer(tmp_path / "rl_model_replay_buffer_50_steps")
    # Callbacks run within a step, before it is stored and learnt from
    assert (loaded.num_timesteps, loaded._n_updates, loaded.replay_buffer.pos) == (50, 3 * 29, 49)
    loaded.learn(10, reset_num_timesteps=False)
    assert loaded._n_updates == 3 * (29 + 10)
    assert REDQSAC.load(tmp_path / "best_model").num_timesteps == 30
    # And the interrupted model itself is whole
    model.learn(10, reset_num_timesteps=False)
    assert model.num_timesteps == 65


def count_random_actions(model: REDQSAC) -> list[np.ndarray]:
    sampled: list[np.ndarray] = []
    original = model.action_space.sample

    def sample(*args: Any, **kwargs: Any) -> np.ndarray:
        sampled.append(original(*args, **kwargs))
        return sampled[-1]

    model.action_space.sample = sample  # type: ignore[method-assign]
    return sampled


@pytest.mark.parametrize(("random_steps", "expected"), [(None, 30), (0, 0), (10, 10), (35, 35)])
def test_random_steps(random_steps: int | None, expected: int) -> None:
    model = make(learning_starts=30, random_steps=random_steps)
    random_actions = count_random_actions(model)
    model.learn(40)
    assert len(random_actions) == expected
    assert model._n_updates == 3 * 10


@pytest.mark.parametrize(
    "kwargs",
    [
        dict(n_steps=3, gamma=0.9),
        dict(n_steps=3, gamma=0.9, replay_buffer_class=NStepReplayBuffer),
        # What the algorithm has may be repeated there
        dict(n_steps=3, gamma=0.9, replay_buffer_class=NStepReplayBuffer, replay_buffer_kwargs=dict(n_steps=3)),
        dict(
            n_steps=3,
            gamma=0.9,
            replay_buffer_class=NStepReplayBuffer,
            replay_buffer_kwargs=dict(n_steps=3, gamma=0.9),
        ),
    ],
    ids=["argument", "with class", "in buffer's arguments", "all in buffer's arguments"],
)
def test_n_steps_reach_the_buffer(kwargs: dict[str, Any], tmp_path: Path) -> None:
    # Not even SB3's warning that n_steps is ignored, which would not be true
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = make(**kwargs)
    model.learn(30)
    # The last stored step has fewer than three steps behind it
    discounts = set(np.round(model.replay_buffer.sample(500).discounts.flatten().tolist(), 5))
    assert discounts == {0.9, 0.81, 0.729}
    model.save(tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = REDQSAC.load(tmp_path / "model")
    assert (loaded.replay_buffer.n_steps, loaded.replay_buffer.gamma) == (3, 0.9)


def test_n_steps_and_gamma_can_be_changed_at_load(tmp_path: Path) -> None:
    make(n_steps=3).save(tmp_path / "three")
    make().save(tmp_path / "one")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        changed = REDQSAC.load(tmp_path / "three", gamma=0.9, n_steps=5)
        assert (changed.replay_buffer.n_steps, changed.replay_buffer.gamma) == (5, 0.9)
        assert REDQSAC.load(tmp_path / "one", n_steps=2).replay_buffer.n_steps == 2
        assert type(REDQSAC.load(tmp_path / "three", n_steps=1).replay_buffer) is ReplayBuffer


@pytest.mark.parametrize(
    "variant", [{}, {"actor_gradient": "reinforce"}, {"policy_kwargs": dict(dropout=0.2, layer_norm=True)}]
)
def test_same_seed_same_parameters(variant: dict[str, Any]) -> None:
    first, second, other = (make(**variant, seed=seed).learn(60) for seed in (1, 1, 2))
    assert_equal(state(second), state(first))
    assert not th.equal(state(other)["actor.mu.weight"], state(first)["actor.mu.weight"])
