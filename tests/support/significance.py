"""Whether a policy is better than another one: a statistical test."""

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

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
