"""A value-based training that diverges is stopped before its networks are lost."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import CheckpointCallback

from sb3_ext import (
    DoubleDQN,
    PrioritizedReplayBuffer,
)
from tests.support.models import each_value_based, make
from tests.support.states import assert_equal, state

PER: dict[str, Any] = dict(replay_buffer_class=PrioritizedReplayBuffer)


class Exploding(gym.Env):
    """Rewards that grow tenfold with each step."""

    observation_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self) -> None:
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return np.zeros(3, np.float32), {}

    def step(self, action: int) -> Any:
        self.steps += 1
        return np.zeros(3, np.float32), min(10.0**self.steps, 3e38), False, False, {}


@pytest.mark.parametrize("buffer", [{}, PER | dict(replay_buffer_kwargs=dict(alpha=0.1))], ids=["uniform", "PER"])
@pytest.mark.parametrize(
    ("env", "settings"), [(Exploding, dict(gradient_steps=3)), ("CartPole-v1", dict(learning_rate=1e30))]
)
@each_value_based
def test_divergence_stops_the_training(
    cls: Any, env: Any, settings: dict[str, Any], buffer: dict[str, Any], tmp_path: Path
) -> None:
    model = make(cls, env() if callable(env) else env, **settings, **buffer)
    # Before the first update at the least
    checkpoints = CheckpointCallback(10, str(tmp_path))
    with pytest.raises(ValueError, match="the training has diverged") as caught:
        model.learn(400, callback=checkpoints)
    message = str(caught.value)
    number = r"\d[\d.]*(e[+-]\d+)?"
    pattern = (
        rf"loss=(inf|nan|{number}), gradient norm=(inf|nan|{number}) at time step {model.num_timesteps}, about update "
        rf"{model._n_updates}; the last finite loss was {number}, with a gradient norm of {number}"
    )
    assert caught.match(pattern), message
    assert any(word in message.partition(" at ")[0] for word in ("inf", "nan"))
    assert all(th.isfinite(value).all() for value in model.policy.state_dict().values())
    loaded = cls.load(tmp_path / "rl_model_20_steps")
    assert loaded.num_timesteps == 20
    assert all(th.isfinite(value).all() for value in loaded.policy.state_dict().values())
    model.save(tmp_path / "afterwards")
    assert_equal(state(cls.load(tmp_path / "afterwards")), state(model))


def test_divergence_at_the_first_update_has_no_last_loss() -> None:
    model = make(DoubleDQN, learning_starts=10**6).learn(40)
    model.replay_buffer.rewards[:] = np.inf
    with pytest.raises(ValueError, match=r"loss=inf, .* at time step 40, about update 0; none before it was finite"):
        model.train(1, batch_size=8)
    assert model._n_updates == 0
