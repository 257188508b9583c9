"""REDQSAC learns: a statistical test against the policy it starts from."""

import numpy as np
import pytest

from sb3_ext import REDQSAC
from tests.support.significance import improvement_p_value, returns


def check_learning(model: REDQSAC, total_timesteps: int) -> None:
    """Assert that a model of Pendulum becomes significantly better."""
    before = returns(model)
    model.learn(total_timesteps)
    after = returns(model)
    assert improvement_p_value(before, after) < 0.001
    # And as much as a random policy loses (-1200) cannot be forgiven: the pendulum is held up from most starts
    assert np.median(after) > -400


@pytest.mark.parametrize(
    "actor",
    [
        pytest.param({}, id="reparam"),
        pytest.param(dict(actor_gradient="reinforce", n_actor_samples=8), id="reinforce", marks=pytest.mark.slow),
    ],
)
def test_learning_is_significant(actor: dict) -> None:
    model = REDQSAC(
        "MlpPolicy",
        "Pendulum-v1",
        seed=0,
        learning_rate=2e-3,
        learning_starts=400,
        batch_size=128,
        gradient_steps=2,
        policy_delay=2,
        policy_kwargs=dict(n_critics=3, net_arch=[64, 64]),
        device="cpu",
        **actor,
    )
    check_learning(model, 2500)


@pytest.mark.slow
def test_learning_of_normalized_networks_is_significant() -> None:
    model = REDQSAC(
        "NormalizedMlpPolicy",
        "Pendulum-v1",
        seed=0,
        learning_rate=1e-3,
        learning_starts=400,
        batch_size=128,
        gradient_steps=1,
        policy_delay=1,
        target_network="ema",  # without it the median stays below -400 for 4000 steps
        tau=0.02,
        normalize_returns=True,
        ent_coef="auto_0.01",
        policy_kwargs=dict(width=32, actor_width=32),
        device="cpu",
    )
    check_learning(model, 4000)
