"""Episodes that a new call of ``learn()`` leaves in their middle."""

from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.buffers import NStepReplayBuffer

from sb3_ext import REDQSAC, DoubleDQN
from sb3_ext.buffers import DeviceReplayBuffer, PrioritizedReplayBuffer
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
    mark = [1.0 if reset else 0.0]
    assert buffer.dones[newest].tolist() == buffer.timeouts[newest].tolist() == mark
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


@pytest.mark.parametrize("cls", [REDQSAC, DoubleDQN])
def test_with_arrays_that_are_protected(cls: Any) -> None:
    model = make(cls, replay_buffer_class=DeviceReplayBuffer).learn(45)
    buffer = model.replay_buffer
    assert not buffer.dones.flags.writeable
    newest = buffer.pos - 1
    assert not buffer.dones[newest]
    model.learn(30)
    assert buffer.dones[newest] == buffer.timeouts[newest] == 1
    samples = buffer._get_samples(np.arange(buffer.size()))
    expected = buffer.dones * (1 - buffer.timeouts)
    assert samples.dones.flatten().tolist() == expected[: buffer.size()].flatten().tolist()


def test_a_shared_buffer_forms_the_returns_of_whoever_trains() -> None:
    models = [
        make(DoubleDQN, n_steps=n_steps, gamma=gamma, replay_buffer_class=PrioritizedReplayBuffer)
        for n_steps, gamma in ((5, 0.99), (1, 0.5))
    ]
    models[1].replay_buffer = buffer = models[0].replay_buffer
    assert (buffer.n_steps, buffer.gamma) == (1, 0.5)
    models[0].learn(40)
    assert (buffer.n_steps, buffer.gamma) == (5, 0.99)
    models[1].learn(25)
    assert (buffer.n_steps, buffer.gamma) == (1, 0.5)
