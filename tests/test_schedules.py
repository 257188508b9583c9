"""Schedules by name: values by hand, through models and their files, and in rl_zoo3."""

import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import rl_zoo3.exp_manager
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import LinearSchedule

from sb3_ext import IQN, REDQSAC, DoubleDQN, SoftDQN
from sb3_ext.schedules import Cosine, Exponential, Linear, Piecewise, Scaled, WarmUp, is_named_schedule, named_schedule
from sb3_ext.zoo import register
from tests.support.environments import StopAt
from tests.support.models import CLASSES, make

# Values after 0, a quarter, half, three quarters and the whole of the training
BY_HAND: list[tuple[str, Any, list[float]]] = [
    ("lin_8", Linear(8.0), [8, 6, 4, 2, 0]),
    ("lin_8_4", Linear(8.0, 4.0), [8, 7, 6, 5, 4]),
    ("cos_4", Cosine(4.0), [4, 2 + math.sqrt(2), 2, 2 - math.sqrt(2), 0]),
    ("cos_4_2", Cosine(4.0, 2.0), [4, 3 + math.sqrt(0.5), 3, 3 - math.sqrt(0.5), 2]),
    ("exp_16_1", Exponential(16.0, 1.0), [16, 8, 4, 2, 1]),
    ("piecewise_5_0.5_3_0.75_1", Piecewise((5.0, 3.0, 1.0), (0.5, 0.75)), [5, 5, 3, 1, 1]),
    ("warmup_0.5_lin_8", WarmUp(0.5, Linear(8.0)), [0, 4, 8, 4, 0]),
    ("warmup_0.25_exp_16_1", WarmUp(0.25, Exponential(16.0, 1.0)), [0, 16, 16 ** (2 / 3), 16 ** (1 / 3), 1]),
]


@pytest.mark.parametrize(("text", "schedule", "values"), BY_HAND)
def test_by_hand(text: str, schedule: Any, values: list[float]) -> None:
    assert is_named_schedule(text) and named_schedule(text) == schedule
    found = [schedule(1 - done / 4) for done in range(5)]
    assert found == pytest.approx(values, abs=1e-12)
    # The last rollout may go beyond the last time step
    assert schedule(-0.1) == schedule(0.0)


@given(st.floats(0, 1), st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
def test_values_stay_between_the_ends(progress: float, start: float, end: float) -> None:
    rounding = 1e-9 * max(start, end)
    low, high = min(start, end) - rounding, max(start, end) + rounding
    for schedule in (Linear(start, end), Cosine(start, end), Exponential(start, end)):
        assert low <= schedule(progress) <= high
        assert abs(schedule(1.0) - start) <= rounding and abs(schedule(0.0) - end) <= rounding


@pytest.mark.parametrize(
    "text",
    [
        *("lin", "lin_", "lin_x", "lin_1_2_3", "lin_-1", "cos_nan", "cos_inf_1", "exp_1e-3", "exp_1e-3_0"),
        *("piecewise_1_0.5", "piecewise_1_0_2", "piecewise_1_0.5_2_0.4_3", "warmup_0.1", "warmup_0_lin_1"),
        *("warmup_1.5_lin_1", "warmup_x_lin_1"),
    ],
)
def test_what_is_no_schedule(text: str) -> None:
    with pytest.raises(ValueError, match=f"{text!r}|'{text.rsplit('_', maxsplit=1)[-1]}'|''") as raised:
        named_schedule(text)
    assert "is no schedule" in str(raised.value) and "lin_1e-3" in str(raised.value)


@pytest.mark.parametrize("cls", CLASSES)
def test_a_model_takes_it_and_continues_with_it(cls: Any, tmp_path: Path) -> None:
    model = make(cls, learning_rate="warmup_0.5_cos_1e-3")
    rates = []
    for step in (30, 60):
        model.learn(80, callback=StopAt(step), reset_num_timesteps=step == 30)
        owner = model.actor if cls is REDQSAC else model.policy
        rates.append(owner.optimizer.param_groups[0]["lr"])
        model._total_timesteps = 80
    model.save(tmp_path / "model")
    loaded = cls.load(tmp_path / "model")
    assert loaded.learning_rate == WarmUp(0.5, Cosine(1e-3))
    assert all(0 < rate <= 1e-3 for rate in rates) and rates[0] != rates[1]
    assert loaded.lr_schedule(0.25) == pytest.approx(0.5e-3)


def test_the_critics_may_have_their_own() -> None:
    model = make(REDQSAC, qf_learning_rate="exp_1e-3_1e-5").learn(30)
    assert model.qf_lr_schedule(0.5) == pytest.approx(1e-4)


def test_rl_zoo3_reads_them_for_every_algorithm() -> None:
    register()
    preprocess = rl_zoo3.exp_manager.ExperimentManager._preprocess_schedules
    given = dict(learning_rate="cos_1e-3_1e-4", clip_range="lin_0.2", clip_range_vf=0.3, qf_learning_rate="lin_1e-3")
    found = preprocess(dict(given))
    assert found["learning_rate"] == Cosine(1e-3, 1e-4) and found["qf_learning_rate"] == Linear(1e-3)
    assert found["clip_range"](0.5) == pytest.approx(0.1) and found["clip_range_vf"](0.5) == 0.3
    assert list(found) == list(given)
    with pytest.raises(ValueError, match="'exp_1e-3' is no schedule"):
        preprocess(dict(learning_rate="exp_1e-3"))
    assert preprocess(dict(learning_rate="lin_1e-3"))["learning_rate"](0.5) == pytest.approx(5e-4)


def test_functions_and_names_are_the_same() -> None:
    models = [
        make(DoubleDQN, learning_rate=rate).learn(60) for rate in ("lin_1e-3_1e-4", LinearSchedule(1e-3, 1e-4, 1.0))
    ]
    first, second = (model.policy.state_dict() for model in models)
    assert all((first[name] == second[name]).all() for name in first)


@pytest.mark.parametrize(("decay", "half"), [("linear", 0.505), ("cosine", 0.505), ("exponential", 0.1)])
@pytest.mark.parametrize("cls", [DoubleDQN, SoftDQN, IQN])
def test_epsilon_falls_by_the_schedule_that_is_named(cls: Any, decay: Any, half: float, tmp_path: Path) -> None:
    epsilon = dict(exploration_initial_eps=1.0, exploration_final_eps=0.01, exploration_fraction=0.5)
    model = make(cls, exploration_decay=decay, **epsilon)
    found = [model.exploration_schedule(1 - done) for done in (0.0, 0.25, 0.5, 0.9)]
    assert found == pytest.approx([1.0, half, 0.01, 0.01])
    model.learn(40, callback=StopAt(10))
    # SB3 sets it after a step, and the last one ended before that
    assert model.exploration_rate == pytest.approx(model.exploration_schedule(1 - 9 / 40))
    model.save(tmp_path / "model")
    assert cls.load(tmp_path / "model").exploration_schedule(0.75) == pytest.approx(half)


@pytest.mark.parametrize("cls", [DoubleDQN, SoftDQN, IQN])
def test_epsilon_may_be_a_schedule_of_its_own(cls: Any, tmp_path: Path) -> None:
    model = make(cls, exploration_decay="piecewise_0.9_0.25_0.5_0.75_0.01")
    seen: dict[int, float] = {}

    class Look(BaseCallback):
        def _on_step(self) -> bool:
            seen[self.num_timesteps] = self.model.exploration_rate
            return self.num_timesteps != 30

    model.learn(80, callback=Look())
    model.save(tmp_path / "model")
    continued = cls.load(tmp_path / "model", env=model.env)
    assert continued.exploration_schedule == model.exploration_schedule
    continued.learn(50, callback=Look(), reset_num_timesteps=False)
    # SB3 sets it after a step, for the next one
    assert [seen[step] for step in (2, 20, 22, 30, 32, 60, 62, 80)] == [0.9, 0.9, 0.5, 0.5, 0.5, 0.5, 0.01, 0.01]


def test_decays_of_epsilon_that_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"exploration_decay='piecewise_1_0.501_2_0.505_0' must stay in \[0, 1\], and it has 2.0"
    ):
        make(DoubleDQN, exploration_decay="piecewise_1_0.501_2_0.505_0")
    with pytest.raises(ValueError, match="exploration_decay='exp_1' is no schedule"):
        make(DoubleDQN, exploration_decay="exp_1")
    with pytest.raises(ValueError, match=r"exploration_decay='warmup_0.1_lin_2' must stay in \[0, 1\], and it has 2"):
        make(DoubleDQN, exploration_decay="warmup_0.1_lin_2")
    noisy = dict(noisy=True)
    with pytest.raises(ValueError, match=r"exploration_decay='lin_1' with policy_kwargs=dict\(noisy=True\)"):
        make(DoubleDQN, exploration_decay="lin_1", policy_kwargs=noisy)
    with pytest.raises(ValueError, match="exploration_decay='steps' is not one of 'linear', 'cosine', 'exponential'"):
        make(DoubleDQN, exploration_decay="steps")
    with pytest.raises(ValueError, match=r"exploration_decay=.exponential. with .*exploration_final_eps=0.0: both"):
        make(DoubleDQN, exploration_decay="exponential", exploration_final_eps=0.0)


def test_factors_of_factors_are_one_factor() -> None:
    schedule: Any = Linear(1e-3)
    for _ in range(2000):
        schedule = Scaled(schedule, 0.999)
    assert schedule == Scaled(Linear(1e-3), pytest.approx(0.999**2000))
    assert schedule(0.5) == pytest.approx(0.5e-3 * 0.999**2000)
    assert pickle.loads(pickle.dumps(schedule)) == schedule
