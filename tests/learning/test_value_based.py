"""The value-based algorithms learn: a statistical test against the policy they start from."""

from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_ext import IQN, DoubleDQN, SoftDQN
from tests.support.significance import improvement_p_value, returns

SAMPLES: dict[str, Any] = dict(n_quantile_samples=8, n_target_quantile_samples=8, n_action_quantile_samples=8)
#: All parts at once
RAINBOW: dict[str, Any] = dict(
    n_steps=3,
    replay_buffer_class="PrioritizedReplayBuffer",
    exploration_initial_eps=0.0,
    exploration_final_eps=0.0,
    policy_kwargs=dict(dueling=True, noisy=True, head="categorical", head_kwargs=dict(bound=100)),
)
BTR: dict[str, Any] = SAMPLES | dict(
    munchausen_coef=0.9,
    n_steps=10,
    n_steps_final=3,
    replay_buffer_class="PrioritizedReplayBuffer",
    priority_error="absolute",
    policy_kwargs=dict(normalization="layer"),
)


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        (DoubleDQN, {}),
        pytest.param(DoubleDQN, dict(n_steps=3, policy_kwargs=dict(dueling=True)), marks=pytest.mark.slow),
        pytest.param(SoftDQN, dict(temperature_initial=0.5, temperature_final=0.1), marks=pytest.mark.slow),
        (SoftDQN, dict(temperature_initial=0.03, temperature_final=0.03, double_q=False, munchausen_coef=0.9)),
        (IQN, SAMPLES),
        pytest.param(DoubleDQN, RAINBOW, marks=pytest.mark.slow),
        pytest.param(IQN, BTR, marks=pytest.mark.slow),
    ],
    ids=["double", "dueling, 3-step", "soft", "munchausen", "iqn", "rainbow", "btr"],
)
def test_value_based_learning_is_significant(algorithm: type[BaseAlgorithm], options: dict[str, Any]) -> None:
    model = algorithm(
        "MlpPolicy",
        "CartPole-v1",
        seed=0,
        learning_rate=1e-3,
        learning_starts=500,
        batch_size=64,
        train_freq=2,
        gradient_steps=1,
        target_update_interval=100,
        device="cpu",
        **options,
    )
    before = returns(model, "CartPole-v1")
    model.learn(6000)
    after = returns(model, "CartPole-v1")
    assert improvement_p_value(before, after) < 0.001
    # A pole that is pushed at random falls after some 20 steps
    assert np.median(after) > 100
