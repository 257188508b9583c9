"""`n_steps_final`: returns over fewer and fewer steps."""

from pathlib import Path
from typing import Any

import pytest
import torch as th
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ext import DoubleDQN, FrameDedupReplayBuffer, PrioritizedReplayBuffer
from sb3_ext.functional.schedules import falling_n_steps
from tests.support.models import CLASSES, make

BUFFERS = [None, NStepReplayBuffer, FrameDedupReplayBuffer, PrioritizedReplayBuffer]
FALLING: dict[str, Any] = dict(n_steps=10, n_steps_final=3, n_steps_fraction=0.5)


@pytest.mark.parametrize(
    ("done", "expected"),
    # 10 * 0.3 ** (done / 0.5)
    [(0.0, 10), (0.01, 10), (0.05, 9), (0.1, 8), (0.25, 5), (0.4, 4), (0.49, 3), (0.5, 3), (0.9, 3), (1.0, 3)],
)
def test_by_hand(done: float, expected: int) -> None:
    assert falling_n_steps(10, 3, 0.5, 1.0 - done) == expected


class Sets(BaseCallback):
    """Sets `n_steps` as a user would do it, and notes what the buffer has in each update."""

    def __init__(self, sets: bool) -> None:
        super().__init__()
        self.sets, self.seen = sets, [0]

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self.seen.append(self.model.replay_buffer.n_steps)

    def _on_rollout_end(self) -> None:
        if self.sets:
            self.model.n_steps = falling_n_steps(10, 3, 0.5, 1 - self.num_timesteps / 60)


@pytest.mark.parametrize("buffer_class", BUFFERS)
@pytest.mark.parametrize("cls", CLASSES)
def test_it_is_what_a_user_would_set_step_by_step(cls: Any, buffer_class: Any) -> None:
    states, seen = [], []
    for sets in (True, False):
        arguments = dict(n_steps=10) if sets else FALLING
        model = make(cls, replay_buffer_class=buffer_class, gradient_steps=1, **arguments)
        callback = Sets(sets)
        states.append(model.learn(60, callback=callback).policy.state_dict())
        seen.append([n for n, before in zip(callback.seen[1:], callback.seen, strict=False) if n != before])
        assert model.replay_buffer.n_steps == model.effective_n_steps == 3
        assert model.n_steps == (3 if sets else 10)
    assert all(th.equal(states[0][name], states[1][name]) for name in states[0])
    assert seen[1] == [10, 4, 3]  # learning starts after a third of the training


@pytest.mark.parametrize("buffer_class", BUFFERS)
def test_it_goes_on_from_a_file(buffer_class: Any, tmp_path: Path) -> None:
    model = make(DoubleDQN, replay_buffer_class=buffer_class, **FALLING)

    class Stop(BaseCallback):
        def _on_step(self) -> bool:
            return bool(self.num_timesteps < 25)

    model.learn(96, callback=Stop())
    assert model.replay_buffer.n_steps == 5  # 10 * 0.3 ** (0.25 / 0.5), at a quarter
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = DoubleDQN.load(tmp_path / "model", env=model.env)
    assert loaded.replay_buffer.n_steps == 5
    loaded.load_replay_buffer(tmp_path / "buffer")  # without a warning of another n_steps
    assert loaded.replay_buffer.n_steps == 5
    loaded.learn(71, reset_num_timesteps=False)
    assert loaded.replay_buffer.n_steps == 3


def test_it_is_logged() -> None:
    model = make(DoubleDQN, **FALLING).learn(30, log_interval=1000)
    assert model.logger.name_to_value["train/n_steps"] == 3
    assert "train/n_steps" not in make(DoubleDQN).learn(30, log_interval=1000).logger.name_to_value


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(n_steps=3, n_steps_final=3), r"n_steps_final=3 must be below n_steps=3"),
        (dict(n_steps=3, n_steps_final=5), r"n_steps_final=5 must be below n_steps=3"),
        (dict(n_steps=3, n_steps_final=0), r"n_steps_final=0 must be an integer of at least 1"),
        (dict(n_steps=3, n_steps_final=1.5), r"n_steps_final=1.5 must be an integer of at least 1"),
        (FALLING | dict(n_steps_fraction=0.0), r"n_steps_fraction=0.0 must be in \(0, 1\]"),
        (FALLING | dict(n_steps_fraction=1.5), r"n_steps_fraction=1.5 must be in \(0, 1\]"),
        (FALLING | dict(replay_buffer_class=ReplayBuffer), r"replay_buffer_class=ReplayBuffer, which forms no n-step"),
    ],
)
def test_wrong_values_are_refused(cls: Any, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(cls, **wrong)


def test_a_wrong_change_leaves_everything_as_it_was() -> None:
    model = make(DoubleDQN, **FALLING)
    for name, value in (("n_steps", 3), ("n_steps_final", 10), ("n_steps_fraction", 2)):
        with pytest.raises(ValueError, match=name):
            setattr(model, name, value)
    assert (model.n_steps, model.n_steps_final, model.n_steps_fraction) == (10, 3, 0.5)
    model.learn(30)
    assert model.replay_buffer.n_steps == 3
