"""The temperature of SoftDQN: what it does to the actions, its schedule, and how it is learned."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.logger import configure

from sb3_ext import (
    SoftDQN,
)
from tests.support.environments import StopAt, Vectors
from tests.support.models import make
from tests.support.states import assert_equal, state


@pytest.mark.parametrize("temperature", [0.3, 2.0, 1e6, 1e-6, 1e-8])
def test_actions_have_the_frequencies_of_the_boltzmann_policy(temperature: float) -> None:
    n_actions, n_samples = 4, 20_000
    model = make(SoftDQN, Vectors(n_actions), temperature_initial=temperature)
    with th.no_grad():
        model.q_net.q_net[-1].bias.copy_(th.tensor([0.0, 1.0, 0.5, -0.7]))
    observation = np.full(4, 0.1, np.float32)
    q_values = model.q_net(th.as_tensor(observation[None]))[0].tolist()
    weights = [math.exp((q - max(q_values)) / temperature) for q in q_values]
    probabilities = np.array(weights) / sum(weights)
    actions, _ = model.predict(np.tile(observation, (n_samples, 1)))
    counts, expected = np.bincount(actions, minlength=n_actions), n_samples * probabilities
    possible = expected > 5
    assert counts[~possible].sum() <= 5 * (~possible).sum()
    # Chi-square with 3 degrees of freedom: above 21.1 once in 10,000 runs
    assert ((counts - expected)[possible] ** 2 / expected[possible]).sum() < 21.1
    assert (len(np.unique(actions)) == 1) == (temperature < 1e-3)
    assert (model.predict(np.tile(observation, (9, 1)), deterministic=True)[0] == np.argmax(q_values)).all()


class RecordingSoftDQN(SoftDQN):
    """Keeps the temperature after each step, of both networks."""

    def _on_step(self) -> None:
        super()._on_step()
        self.recorded = [*getattr(self, "recorded", []), (self.num_timesteps, self.temperature)]
        assert th.equal(self.q_net.temperature, self.q_net_target.temperature)


def test_the_temperature_goes_down_linearly_and_goes_on_after_loading(tmp_path: Path) -> None:
    schedule: dict[str, Any] = dict(temperature_initial=2.0, temperature_final=0.5, temperature_fraction=0.4)
    model = make(RecordingSoftDQN, **schedule)
    assert model.temperature == 2.0
    model.learn(100)
    assert len(model.recorded) == 100
    for step, temperature in model.recorded:
        assert temperature == pytest.approx(max(2.0 - 1.5 * step / 100 / 0.4, 0.5), abs=1e-6)

    interrupted = make(RecordingSoftDQN, **schedule)
    interrupted.learn(100, callback=StopAt(20))
    before = interrupted.temperature
    assert before == pytest.approx(2.0 - 1.5 * 0.19 / 0.4)  # the step that is interrupted does not count
    interrupted.save(tmp_path / "model")
    loaded = RecordingSoftDQN.load(tmp_path / "model", env=interrupted.env)
    assert loaded.temperature == before
    loaded.recorded = []
    loaded.learn(180, reset_num_timesteps=False)
    # The line over now 200 steps, from where it is
    for step, temperature in loaded.recorded:
        assert temperature == pytest.approx(max(2.0 - 1.5 * step / 200 / 0.4, 0.5), abs=1e-6)
    assert loaded.recorded[0][0] == 21 and loaded.recorded[-1][0] == 200
    # It can be changed at loading
    changed = RecordingSoftDQN.load(tmp_path / "model", env=interrupted.env, temperature_final=1.5)
    changed.recorded = []
    changed.learn(10)
    assert changed.recorded[-1][1] == pytest.approx(1.5)


@pytest.mark.parametrize(("initial", "fraction"), [(5.0, 0.5), (0.02, 0.5), (5.0, 0.1)])
def test_auto_temperature_moves_the_entropy_to_its_target(initial: float, fraction: float) -> None:
    n_actions = 4
    model = make(
        SoftDQN,
        Vectors(n_actions),
        learning_rate=2e-2,
        temperature_initial=initial,
        auto_temperature=True,
        target_entropy_fraction=fraction,
        gamma=0.0,
        train_freq=8,
        gradient_steps=8,
    )
    model.set_logger(configure(None, []))
    model.learn(40, log_interval=10**6)
    target, first = fraction * math.log(n_actions), model.logger.name_to_value["train/entropy"]
    model.learn(560, log_interval=10**6, reset_num_timesteps=False)
    last = model.logger.name_to_value["train/entropy"]
    assert abs(first - target) > 0.3
    assert abs(last - target) < 0.1
    assert model.temperature == pytest.approx(model.log_temperature.exp().item())
    assert th.equal(model.q_net.temperature, model.q_net_target.temperature)


def test_learned_temperature_is_saved_and_loaded(tmp_path: Path) -> None:
    model = make(SoftDQN, auto_temperature=True, temperature_initial=0.5).learn(60)
    assert model.temperature != pytest.approx(0.5, abs=1e-4)
    model.save(tmp_path / "model")
    loaded = SoftDQN.load(tmp_path / "model", env=model.env)
    assert_equal(state(loaded), state(model))
    assert {"log_temperature", "temperature.0.exp_avg"} <= state(loaded).keys()
    assert loaded.temperature == model.temperature
    # And the optimiser moves the tensor that the algorithm looks at
    loaded.learn(20, reset_num_timesteps=False)
    assert loaded.temperature != model.temperature
    assert loaded.temperature_optimizer.param_groups[0]["params"][0] is loaded.log_temperature


@pytest.mark.parametrize("auto_temperature", [False, True])
def test_auto_temperature_can_be_switched_at_loading(auto_temperature: bool, tmp_path: Path) -> None:
    model = make(SoftDQN, auto_temperature=auto_temperature, temperature_initial=0.5).learn(60)
    model.save(tmp_path / "model")
    loaded = SoftDQN.load(tmp_path / "model", env=model.env, auto_temperature=not auto_temperature)
    loaded.learn(60)
    assert (loaded.temperature == pytest.approx(0.05)) == auto_temperature  # arrived at the schedule's end
    assert math.isfinite(loaded.temperature)


def test_a_temperature_that_is_learned_stays_above_zero() -> None:
    """Where the entropy cannot fall, as with equal values, log alpha goes on falling."""
    model = make(SoftDQN, auto_temperature=True).learn(30)
    with th.no_grad():
        model.log_temperature.fill_(-150.0)
    model.train(1, batch_size=16)
    model.train(1, batch_size=16)
    assert model.temperature > 0
    assert all(th.isfinite(value).all() for value in model.policy.state_dict().values())
