"""The algorithms learn: a statistical test against the policy they start from."""

from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_ext import IQN, REDQSAC, DoubleDQN, SoftDQN

N_EPISODES = 20


def returns(model: BaseAlgorithm, env_id: str = "Pendulum-v1") -> np.ndarray:
    """Undiscounted returns from the same start states for every policy."""
    env = make_vec_env(env_id, seed=1234)
    episode_returns, _ = evaluate_policy(model, env, n_eval_episodes=N_EPISODES, return_episode_rewards=True)
    return np.array(episode_returns)


def improvement_p_value(before: np.ndarray, after: np.ndarray, n_permutations: int = 20_000) -> float:
    """
    One-sided paired permutation test: how often would random signs of the differences give as large a mean?
    """
    differences = after - before
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(n_permutations, len(differences)))
    as_large = (signs * differences).mean(axis=1) >= differences.mean()
    return float((as_large.sum() + 1) / (n_permutations + 1))


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
    before = returns(model)
    model.learn(2500)
    after = returns(model)
    assert improvement_p_value(before, after) < 0.001
    # And as much as a random policy loses (-1200) cannot be forgiven: the pendulum is held up from most starts
    assert np.median(after) > -400


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        (DoubleDQN, {}),
        (DoubleDQN, dict(n_steps=3, policy_kwargs=dict(dueling=True))),
        (SoftDQN, dict(temperature_initial=0.5, temperature_final=0.1)),
        (SoftDQN, dict(temperature_initial=0.03, temperature_final=0.03, double_q=False, munchausen_coef=0.9)),
        (IQN, dict(n_quantile_samples=8, n_target_quantile_samples=8, n_action_quantile_samples=8)),
    ],
    ids=["double", "dueling, 3-step", "soft", "munchausen", "iqn"],
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


def test_the_p_value_is_small_only_as_often_as_it_says() -> None:
    """Without learning, p < 0.05 in about 5 % of the draws."""
    rng = np.random.default_rng(1)
    p_values = [improvement_p_value(*rng.normal(-1200, 200, (2, N_EPISODES)), n_permutations=500) for _ in range(400)]
    assert 0.02 < np.mean(np.array(p_values) < 0.05) < 0.09
