"""The algorithm owns `gamma` and `n_steps`, and its replay buffer follows."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.envs import BitFlippingEnv

from sb3_ext import REDQSAC, DoubleDQN, FrameDedupReplayBuffer, PrioritizedReplayBuffer
from tests.support.models import CLASSES, make

each_class = pytest.mark.parametrize("cls", CLASSES)
BUFFERS: list[Any] = [NStepReplayBuffer, PrioritizedReplayBuffer, FrameDedupReplayBuffer]
each_buffer = pytest.mark.parametrize("buffer_class", BUFFERS)
pytestmark = pytest.mark.filterwarnings("ignore:Observations of shape")


def returns(buffer: Any) -> tuple[int, float]:
    return buffer.n_steps, buffer.gamma


@each_class
@pytest.mark.parametrize("buffer_class", [None, ReplayBuffer, *BUFFERS])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(gamma=0.5), r"replay_buffer_kwargs has gamma=0.5, which contradicts gamma=0.9 of the algorithm"),
        (dict(n_steps=3, gamma=0.9), r"replay_buffer_kwargs has n_steps=3, which contradicts n_steps=1 of the algo"),
    ],
)
def test_a_contradiction_is_refused(cls: Any, buffer_class: Any, given: dict[str, Any], message: str) -> None:
    """Also where nothing else would ever read it."""
    with pytest.raises(ValueError, match=message):
        make(cls, gamma=0.9, replay_buffer_class=buffer_class, replay_buffer_kwargs=given)


@each_class
@pytest.mark.parametrize("buffer_class", [None, *BUFFERS])
def test_what_is_equal_may_be_given_twice(cls: Any, buffer_class: Any) -> None:
    given = dict(gamma=0.9, n_steps=3)
    model = make(cls, gamma=0.9, n_steps=3, replay_buffer_class=buffer_class, replay_buffer_kwargs=given)
    assert returns(model.replay_buffer) == (3, 0.9) and given == dict(gamma=0.9, n_steps=3)
    assert type(make(cls, gamma=0.9, replay_buffer_kwargs=dict(gamma=0.9)).replay_buffer) is ReplayBuffer


@each_class
@each_buffer
def test_the_buffer_follows_at_once(cls: Any, buffer_class: Any) -> None:
    model = make(cls, n_steps=3, replay_buffer_class=buffer_class)
    assert returns(model.replay_buffer) == (3, 0.99)
    model.learn(30)
    model.gamma = 0.5
    model.n_steps = 2
    assert returns(model.replay_buffer) == (2, 0.5)
    sampled = getattr(model.replay_buffer, "sample_prioritized", model.replay_buffer.sample)(100)
    assert set(np.round(sampled.discounts.flatten().tolist(), 6)) <= {0.25, 0.5}
    assert model.learn(10, reset_num_timesteps=False)._n_updates > 0


@each_class
@each_buffer
def test_a_loaded_buffer_gets_the_algorithms(cls: Any, buffer_class: Any, tmp_path: Path) -> None:
    model = make(cls, n_steps=3, gamma=0.9, replay_buffer_class=buffer_class).learn(30)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    other = make(cls, n_steps=2, gamma=0.5, replay_buffer_class=buffer_class)
    other.load_replay_buffer(tmp_path / "buffer")
    assert returns(other.replay_buffer) == (2, 0.5) and other.replay_buffer.size() >= 30
    loaded = cls.load(tmp_path / "model", env=model.env, gamma=0.7)
    assert (loaded.gamma, *returns(loaded.replay_buffer)) == (0.7, 3, 0.7)
    loaded.load_replay_buffer(tmp_path / "buffer")
    assert returns(loaded.replay_buffer) == (3, 0.7)
    # A copy follows its own algorithm
    twin = copy.deepcopy(loaded)
    twin.gamma = 0.1
    assert (loaded.replay_buffer.gamma, twin.replay_buffer.gamma) == (0.7, 0.1)


def test_another_buffer_that_is_put_in_place_follows() -> None:
    model = make(DoubleDQN, n_steps=3, gamma=0.9)
    other = FrameDedupReplayBuffer(200, model.observation_space, model.action_space, "cpu", n_steps=5, gamma=0.1)
    model.replay_buffer = other
    assert returns(other) == (3, 0.9)


@pytest.mark.parametrize(("name", "value"), [("n_steps", 0), ("n_steps", 2.5), ("gamma", 1.5), ("gamma", "high")])
def test_bad_values_are_refused_and_change_nothing(name: str, value: Any) -> None:
    for buffer_class in (PrioritizedReplayBuffer, NStepReplayBuffer):
        model = make(DoubleDQN, n_steps=3, replay_buffer_class=buffer_class)
        with pytest.raises(ValueError, match=f"{name}={value!r} must be"):
            setattr(model, name, value)
        assert (model.n_steps, model.gamma) == returns(model.replay_buffer) == (3, 0.99)


def test_a_buffer_without_n_step_returns_says_so() -> None:
    model = make(DoubleDQN)
    model.n_steps = 1
    with pytest.raises(ValueError, match="n_steps=3: the replay buffer, a ReplayBuffer, has no n-step returns"):
        model.n_steps = 3
    assert model.n_steps == 1


class Counting(ReplayBuffer):
    """Counts steps under a name that means something else elsewhere."""

    n_steps = 0

    def add(self, *args: Any, **kwargs: Any) -> None:
        super().add(*args, **kwargs)
        self.n_steps += 1


def test_an_attribute_of_another_meaning_is_left_alone() -> None:
    model = make(DoubleDQN, replay_buffer_class=Counting).learn(30)
    assert model.replay_buffer.n_steps == model.replay_buffer.pos > 0 and model.effective_n_steps == 1


def test_what_n_steps_would_contradict_is_refused() -> None:
    model = make(DoubleDQN, n_steps=5, n_steps_final=3, replay_buffer_class=PrioritizedReplayBuffer)
    with pytest.raises(ValueError, match="n_steps_final=3 must be below n_steps=3"):
        model.n_steps = 3
    assert model.n_steps == model.replay_buffer.n_steps == model.effective_n_steps == 5


def test_targets_discount_as_the_algorithm_says() -> None:
    """With rewards of 1, values of 0 and no end the target is the sum of the discounts."""
    model = make(DoubleDQN, n_steps=3, gamma=0.5, replay_buffer_class=PrioritizedReplayBuffer).learn(20)
    with th.no_grad():
        for parameter in model.policy.parameters():
            parameter.zero_()
    sampled = model.replay_buffer.sample_prioritized(64)
    losses = model.compute_loss(sampled, sampled.discounts.flatten())
    assert set(np.round(losses.errors.tolist(), 6)) <= {1.0, 1.5, 1.75} and 1.75 in losses.errors.tolist()


def test_hindsight_replay_has_no_returns_of_its_own() -> None:
    env = BitFlippingEnv(n_bits=3, continuous=True, max_steps=3)
    model = REDQSAC("MultiInputPolicy", env, replay_buffer_class=HerReplayBuffer, buffer_size=100, gamma=0.9)
    model.gamma = 0.5
    assert not hasattr(model.replay_buffer, "gamma")
