"""A training whose warm-up takes most of its steps."""

import math
import warnings

import pytest

from sb3_ext import REDQSAC, DoubleDQN


def make_dqn(learning_starts: float) -> DoubleDQN:
    return DoubleDQN("MlpPolicy", "CartPole-v1", learning_starts=learning_starts, buffer_size=500)


@pytest.mark.parametrize(
    ("learning_starts", "n_steps", "learned"),
    [(60, 100, "of 100 time steps only the last 40"), (100, 100, "none"), (1000, 100, "none")],
)
def test_it_is_a_warning(learning_starts, n_steps, learned):
    with pytest.warns(UserWarning, match=f"learning_starts={learning_starts}: .*{learned}.* will be learned from"):
        make_dqn(learning_starts).learn(n_steps)


def test_continuous_actions_too():
    model = REDQSAC("MlpPolicy", "Pendulum-v1", learning_starts=50, buffer_size=500, gradient_steps=1)
    with pytest.warns(UserWarning, match="learning_starts=50: of 60 time steps only the last 10"):
        model.learn(60)


@pytest.mark.parametrize("learning_starts", [-1, 0, 50, math.inf])
def test_half_of_the_steps_or_only_collecting_is_none(learning_starts):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_dqn(learning_starts).learn(100)


def test_a_continued_training_is_past_its_warm_up():
    model = make_dqn(50).learn(100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(10, reset_num_timesteps=False)
    with pytest.warns(UserWarning, match="of 10 time steps none"):  # SB3 counts from 0 again, and so collects again
        model.learn(10)
