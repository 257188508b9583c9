"""A training whose warm-up takes most of its steps."""

import math
import warnings

import pytest

from sb3_ext import REDQSAC, DoubleDQN


def make_dqn(learning_starts: float) -> DoubleDQN:
    return DoubleDQN("MlpPolicy", "CartPole-v1", learning_starts=learning_starts, buffer_size=500)


@pytest.mark.parametrize(
    ("learning_starts", "n_steps", "learned"),
    [(600, 1000, "of 1000 time steps only the last 400"), (1000, 1000, "none"), (2000, 1000, "none")],
)
def test_it_is_a_warning(learning_starts, n_steps, learned):
    with pytest.warns(UserWarning, match=f"learning_starts={learning_starts}: .*{learned}.* will be learned from"):
        make_dqn(learning_starts).learn(n_steps)


def test_continuous_actions_too():
    model = REDQSAC("MlpPolicy", "Pendulum-v1", learning_starts=990, buffer_size=500, gradient_steps=1)
    with pytest.warns(UserWarning, match="learning_starts=990: of 1000 time steps only the last 10"):
        model.learn(1000)


@pytest.mark.parametrize(
    ("learning_starts", "n_steps"), [(-1, 1000), (0, 1000), (500, 1000), (math.inf, 1000), (90, 100)]
)
def test_half_of_the_steps_or_only_collecting_is_none(learning_starts, n_steps):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_dqn(learning_starts).learn(n_steps)


def test_a_continued_training_is_past_its_warm_up():
    model = make_dqn(500).learn(1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(10, reset_num_timesteps=False)
    model.learning_starts = 1000
    with pytest.warns(UserWarning, match="of 1000 time steps none"):  # SB3 counts from 0 again, and so collects again
        model.learn(1000)
