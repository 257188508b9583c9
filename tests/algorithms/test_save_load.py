"""Saving loses nothing, and nothing restarts after loading."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback

from sb3_ext import REDQSAC

SMALL = dict(net_arch=[8, 8], n_critics=3)


def make(**kwargs: Any) -> REDQSAC:
    settings = (
        dict(seed=1, learning_starts=20, batch_size=16, gradient_steps=3, policy_delay=4, buffer_size=1000) | kwargs
    )
    policy_kwargs = SMALL | settings.pop("policy_kwargs", {})
    return REDQSAC("MlpPolicy", "Pendulum-v1", policy_kwargs=policy_kwargs, **settings)


def state(model: REDQSAC) -> dict[str, th.Tensor]:
    """Every number that training changes."""
    tensors = dict(model.policy.state_dict())
    optimizers = {"actor": model.actor.optimizer, "critic": model.critic.optimizer}
    if model.ent_coef_optimizer is not None:
        optimizers["ent_coef"] = model.ent_coef_optimizer
        tensors["log_ent_coef"] = model.log_ent_coef.detach()
    for name, optimizer in optimizers.items():
        for index, slots in optimizer.state_dict()["state"].items():
            tensors |= {f"{name}.{index}.{slot}": th.as_tensor(value) for slot, value in slots.items()}
    return {name: tensor.clone() for name, tensor in tensors.items()}


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
    expected, actual = state(model), state(loaded)
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        assert th.equal(actual[name], value), name
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
    random_actions = _count_random_actions(loaded)
    rates: list[float] = []
    update = loaded._update_critics
    loaded._update_critics = lambda *args: (rates.append(loaded.critic.optimizer.param_groups[0]["lr"]), update(*args))[
        1
    ]  # type: ignore[method-assign]
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


def _count_random_actions(model: REDQSAC) -> list[np.ndarray]:
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
    random_actions = _count_random_actions(model)
    model.learn(40)
    assert len(random_actions) == expected
    assert model._n_updates == 3 * 10


@pytest.mark.parametrize(("delay", "interval"), [(1, 1), (4, 1), (1, 7), (6, 4)])
def test_delays_count_over_the_whole_run(delay: int, interval: int) -> None:
    """Actor and target move at the updates whose number says so, however train() was called."""
    model = make(policy_delay=delay, target_update_interval=interval, tau=1.0)
    model.learn(21)
    for calls in (1, 2, 3, 1, 5, 2, 9, 1):
        for _ in range(calls):
            actor = model.actor.mu.weight.detach().clone()
            target = model.critic_target.ensemble.layers[0].weight.detach().clone()
            model.train(1, batch_size=16)
            assert th.equal(actor, model.actor.mu.weight) == (model._n_updates % delay != 0)
            moved = not th.equal(target, model.critic_target.ensemble.layers[0].weight)
            assert moved == (model._n_updates % interval == 0)


def test_the_actor_is_updated_within_a_long_call() -> None:
    """20 updates at a delay of 8, from update 3 on: the actor moves after updates 8 and 16, the temperature with it."""
    model = make(policy_delay=8)
    model.learn(21)
    assert model._n_updates == 3
    steps_before = model.actor.optimizer.state_dict()["state"]
    assert steps_before == {}
    model.train(20, batch_size=16)
    assert {int(slots["step"]) for slots in model.actor.optimizer.state_dict()["state"].values()} == {2}
    assert {int(slots["step"]) for slots in model.ent_coef_optimizer.state_dict()["state"].values()} == {2}
    assert {int(slots["step"]) for slots in model.critic.optimizer.state_dict()["state"].values()} == {23}


@pytest.mark.parametrize(
    "kwargs",
    [
        dict(n_steps=3, gamma=0.9),
        dict(n_steps=3, gamma=0.9, replay_buffer_class=NStepReplayBuffer),
        dict(gamma=0.9, replay_buffer_class=NStepReplayBuffer, replay_buffer_kwargs=dict(n_steps=3)),
        dict(replay_buffer_class=NStepReplayBuffer, replay_buffer_kwargs=dict(n_steps=3, gamma=0.9)),
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
    first, second, other = make(**variant), None, None
    first.learn(60)
    second = make(**variant)
    second.learn(60)
    other = make(**(variant | {"seed": 2}))
    other.learn(60)
    for name, value in state(first).items():
        assert th.equal(state(second)[name], value), name
    assert not th.equal(state(other)["actor.mu.weight"], state(first)["actor.mu.weight"])
