"""What ``train/q_value`` and ``train/target_value`` of the value-based algorithms say."""

from typing import Any

import pytest
from gymnasium import spaces

from sb3_ext import IQN, DoubleDQN, SoftDQN
from tests.support.environments import SameStep


@pytest.mark.parametrize(
    ("cls", "arguments"),
    [
        (DoubleDQN, {}),
        (DoubleDQN, dict(policy_kwargs=dict(head="categorical", head_kwargs=dict(bound=10)))),
        (SoftDQN, {}),
        (IQN, {}),
    ],
)
def test_values_and_targets(cls: Any, arguments: dict[str, Any]) -> None:
    """With ``gamma=0`` every target is the reward, and values get there."""
    env = SameStep(spaces.Discrete(2))
    model = cls("MlpPolicy", env, gamma=0.0, learning_rate=1e-2, learning_starts=50, train_freq=1, seed=0, **arguments)
    model.learn(51)
    first = model.logger.name_to_value
    assert first["train/target_value"] == pytest.approx(2.0, rel=1e-5)
    assert abs(first["train/q_value"] - 2.0) > 0.3
    model.learn(300, reset_num_timesteps=False)
    assert model.logger.name_to_value["train/q_value"] == pytest.approx(2.0, abs=0.2)
