"""REDQ-SAC learns: a statistical test against the policy it starts from."""

import numpy as np
import pytest
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_ext import REDQSAC

N_EPISODES = 20


def returns(model: REDQSAC) -> np.ndarray:
    """Undiscounted returns from the same start states for every policy."""
    env = make_vec_env("Pendulum-v1", seed=1234)
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
    "actor", [{}, dict(actor_gradient="reinforce", n_actor_samples=8)], ids=["reparam", "reinforce"]
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


def test_the_test_has_no_power_without_learning() -> None:
    """The p-value of no change at all is not small."""
    rng = np.random.default_rng(1)
    before = rng.normal(-1200, 200, N_EPISODES)
    after = rng.normal(-1200, 200, N_EPISODES)
    assert improvement_p_value(before, after) > 0.01
