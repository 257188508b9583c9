"""Episodes that a new call of ``learn()`` leaves in their middle."""

from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.buffers import NStepReplayBuffer

from sb3_ext import REDQSAC, DoubleDQN
from sb3_ext.buffers import PrioritizedReplayBuffer
from tests.support.models import make


@pytest.mark.parametrize(
    ("cls", "kwargs"),
    [
        (DoubleDQN, dict(n_step_correction="cut")),
        (DoubleDQN, dict(replay_buffer_class=PrioritizedReplayBuffer)),
        (REDQSAC, {}),
        (REDQSAC, dict(n_step_correction="retrace")),
    ],
)
@pytest.mark.parametrize("reset", [True, False])
def test_returns_do_not_go_on_in_the_next_episode(cls: Any, kwargs: dict[str, Any], reset: bool) -> None:
    model = make(cls, n_steps=3, **kwargs).learn(5)
    buffer = model.replay_buffer
    assert kwargs or isinstance(buffer, NStepReplayBuffer)
    newest = buffer.pos - 1
    assert not buffer.dones[newest]
    model.learn(35, reset_num_timesteps=reset)
    assert (buffer.dones[newest], buffer.timeouts[newest]) == ([1.0], [1.0]) if reset else ([0.0], [0.0])
    # The two steps before it: the return of the first has both rewards
    samples = buffer._get_samples(np.array([newest - 1, newest]))
    rewards = buffer.rewards[:, 0]
    expected = [rewards[newest - 1] + 0.99 * rewards[newest], rewards[newest]]
    if not reset:
        expected[0] += 0.99**2 * rewards[newest + 1]
        expected[1] += 0.99 * rewards[newest + 1] + 0.99**2 * rewards[newest + 2]
    if "n_step_correction" in kwargs:
        lengths = buffer.window(np.array([newest - 1, newest]), np.zeros(2, dtype=int), 3).lengths
        assert lengths.tolist() == ([2, 1] if reset else [3, 3])
    else:
        assert samples.rewards.flatten().tolist() == pytest.approx(expected, rel=1e-5)
    assert samples.dones.flatten().tolist() == [0.0, 0.0]  # the values of what would have followed still count
