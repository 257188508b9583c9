"""A training that diverges is stopped before its networks are lost, by every algorithm with the same error."""

import copy
import math
import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import CheckpointCallback

from sb3_ext import REDQSAC, PrioritizedReplayBuffer, SoftDQN
from sb3_ext.common.divergence import DivergenceCheck, total_norm
from tests.support.models import CLASSES, make
from tests.support.recording import Recorded
from tests.support.states import assert_equal, state

PER: dict[str, Any] = dict(replay_buffer_class=PrioritizedReplayBuffer)
each = pytest.mark.parametrize("cls", CLASSES)
NUMBER = r"\d[\d.]*(e[+-]\d+)?"


class Exploding(gym.Env):
    """Rewards that grow fourfold with each step."""

    observation_space = spaces.Box(-1.0, 1.0, (3,), np.float32)

    def __init__(self, cls: Any) -> None:
        is_continuous = issubclass(cls, REDQSAC)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32) if is_continuous else spaces.Discrete(2)
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return np.zeros(3, np.float32), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        return np.zeros(3, np.float32), min(4.0**self.steps, 3e38), False, False, {}


def assert_whole(model: Any) -> None:
    for name, value in state(model).items():
        assert th.isfinite(value).all(), name


@pytest.mark.parametrize("buffer", [{}, PER | dict(replay_buffer_kwargs=dict(alpha=0.1))], ids=["uniform", "PER"])
@pytest.mark.parametrize("settings", [dict(gradient_steps=3), dict(learning_rate=1e30)], ids=str)
@each
def test_divergence_stops_the_training(
    cls: Any, settings: dict[str, Any], buffer: dict[str, Any], tmp_path: Path
) -> None:
    model = make(cls, Exploding(cls) if "gradient_steps" in settings else None, **settings, **buffer)
    # Before the first update at the least
    checkpoints = CheckpointCallback(10, str(tmp_path))
    with pytest.raises(ValueError, match="the training has diverged") as caught:
        model.learn(400, callback=checkpoints)
    message = str(caught.value)
    value, name = rf"(inf|nan|{NUMBER})", "critic_loss" if cls is REDQSAC else "loss"
    pattern = (
        rf"{name}={value}, gradient norm={value} at time step {model.num_timesteps}, about update \d+; the last finite "
        rf"{name} was {NUMBER}, with a gradient norm of {NUMBER}. Checkpoints and networks are intact"
    )
    assert caught.match(pattern), message
    assert any(word in message.partition(" at ")[0] for word in ("inf", "nan"))
    assert_whole(model)
    loaded = cls.load(tmp_path / "rl_model_20_steps")
    assert loaded.num_timesteps == 20
    assert_whole(loaded)
    model.save(tmp_path / "afterwards")
    assert_equal(state(cls.load(tmp_path / "afterwards")), state(model))


VARIANTS: list[dict[str, Any]] = [
    dict(use_sde=True),
    dict(actor_gradient="reinforce", n_actor_samples=2),
    dict(ent_coef=0.1, policy_delay=1),
    pytest.param(dict(compile=True), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.usefixtures("traced_only", "no_excuses")
def test_redq_in_all_its_forms(variant: dict[str, Any]) -> None:
    model = make(env=Exploding(REDQSAC), gradient_steps=3, **variant)
    with pytest.raises(ValueError, match="the training has diverged: critic_loss"):
        model.learn(60)
    assert_whole(model)


@each
def test_a_norm_that_overflows_is_divergence(cls: Any) -> None:
    """Adam would store an infinite square, and that parameter would never move again."""
    gradient = th.full((3,), 1e22)
    parameter = th.zeros(3, requires_grad=True)
    parameter.grad = gradient
    optimizer = th.optim.Adam([parameter])
    optimizer.step()
    assert th.isinf(optimizer.state[parameter]["exp_avg_sq"]).all()
    assert th.isinf(total_norm([gradient]))

    model = make(cls, learning_starts=10**6).learn(40)
    network = model.critic if cls is REDQSAC else model.q_net
    parameter = next(network.parameters())
    before = state(model)
    # `backward()` calls the hook. The loss itself is finite
    parameter.register_hook(lambda grad: th.full_like(grad, 1e22))
    with pytest.raises(ValueError, match=rf"loss={NUMBER}, gradient norm=inf at time step 40, about update 0; none "):
        model.train(3, batch_size=8)
    assert_equal(state(model), before)


def test_an_actor_that_diverges() -> None:
    model = make(learning_starts=10**6, policy_delay=2).learn(40)
    before = copy.deepcopy(model.actor.state_dict())
    next(model.actor.parameters()).register_hook(lambda grad: grad * math.nan)
    with pytest.raises(ValueError, match=rf"actor_loss=-?{NUMBER}, gradient norm=nan at time step 40, about update 2;"):
        model.train(4, batch_size=8)
    assert_equal(dict(model.actor.state_dict()), before)


def test_a_temperature_that_diverges() -> None:
    model = make(ent_coef=1e39, learning_starts=10**6).learn(40)
    with pytest.raises(ValueError, match="the training has diverged: ent_coef=inf at time step 40, about update 0"):
        model.train(1, batch_size=8)
    model = make(learning_starts=10**6).learn(40)
    with th.no_grad():
        model.log_ent_coef.fill_(100.0)
    with pytest.raises(ValueError, match="the training has diverged: ent_coef=inf"):
        model.train(1, batch_size=8)
    assert_whole(model)
    model = make(SoftDQN, auto_temperature=True, learning_starts=10**6, learning_rate=1e-9).learn(40)
    with th.no_grad():
        model.log_temperature.fill_(100.0)
    with pytest.raises(ValueError, match="the training has diverged: temperature=inf"):
        model.train(1, batch_size=8)
    assert_whole(model)


def test_where_values_stay_on_the_device_the_log_is_checked() -> None:
    model = make(Recorded, Exploding(REDQSAC), cuda_graphs=True, gradient_steps=3)
    with pytest.raises(ValueError, match=r"critic_loss=\S+, gradient norm=\S+ at time step"):
        model.learn(60)
    assert all(math.isfinite(value) for name, value in model.logger.name_to_value.items() if "train/" in name)


@each
def test_a_step_that_spoils_a_parameter_ends_the_training(cls: Any) -> None:
    """Without epsilon, Adam divides a gradient of zero by zero."""
    model = make(cls, learning_starts=10**6).learn(40)
    network = model.critic if cls is REDQSAC else model.q_net
    next(network.parameters()).register_hook(th.zeros_like)
    for optimizer in [model.critic.optimizer] if cls is REDQSAC else [model.policy.optimizer]:
        optimizer.param_groups[0]["eps"] = 0.0
    with pytest.raises(ValueError, match=r"a parameter is not finite at time step 40.*intact, but \S+ has become nan"):
        model.train(1, batch_size=8)


@each
@pytest.mark.parametrize("rate", [math.nan, 1e39])
def test_a_learning_rate_that_is_no_number(cls: Any, rate: float) -> None:
    # The numbers at which a schedule is tried when a model is made are allowed
    model = make(cls, learning_rate=lambda progress: 1e-3 if progress > 0.7 or progress in (0.0, 0.5) else rate)
    with pytest.raises(ValueError, match=rf"learning_rate={re.escape(str(rate))} is not allowed"):
        model.learn(100)
    assert_whole(model)
    assert model.num_timesteps < 40


@each
def test_divergence_at_the_first_update_names_what_was_drawn(cls: Any) -> None:
    model = make(cls, learning_starts=10**6).learn(40)
    model.replay_buffer.rewards[:] = np.inf
    model.policy.register_buffer("mask", th.tensor([0.0, -math.inf]))  # which did not become -inf
    before = state(model)
    expected = (
        "at time step 40, about update 0; none before it was finite. The minibatch's rewards contain inf, as the "
        "replay buffer gave them. Checkpoints and networks are intact"
    )
    with pytest.raises(ValueError, match=f"loss=inf, .* {expected}"):
        model.train(1, batch_size=8)
    assert model._n_updates == 0
    assert_equal(state(model), before)


def test_the_check_keeps_the_last_finite_values_of_each_loss() -> None:
    check = DivergenceCheck("Rest")
    check.check_metrics({"a_loss": [1.0, 2.0], "a_grad_norm": [3.0, 4.0], "b": [5.0]}, ["a_loss", "b", "absent"])
    with pytest.raises(ValueError, match=r"b=nan at time step 0, about update 0; the last finite b was 5\."):
        check.check("b", math.nan)
    metrics = {"a_loss": [6.0, math.inf, 7.0], "a_grad_norm": [8.0, 9.0, 9.0]}
    expected = r"a_loss=inf, gradient norm=9.0 .* was 6, with a gradient norm of 8\..* Rest may"
    with pytest.raises(ValueError, match=expected):
        check.check_metrics(metrics, ["a_loss"])
