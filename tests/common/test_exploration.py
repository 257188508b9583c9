"""How the value-based algorithms explore."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import DQN

from sb3_ext import (
    IQN,
    DoubleDQN,
    SoftDQN,
)
from tests.support.environments import Vectors
from tests.support.models import assert_refused, each_value_based, make

RANDOM = -1  # no action of the space, so that a random one can be told from a greedy one


@pytest.mark.parametrize("as_dict", [False, True])
@each_value_based
def test_each_environment_tosses_its_own_coin(cls: Any, as_dict: bool) -> None:
    n_envs, n_calls, rate = 8, 400, 0.5
    settings = dict(temperature_initial=1e-6) if cls is SoftDQN else {}
    env = Vectors(as_dict=as_dict)
    model = make(cls, env, policy="MultiInputPolicy" if as_dict else "MlpPolicy", **settings)
    th.manual_seed(2)
    for parameter in model.policy.parameters():
        # Without biases, so that the action depends on the observation
        parameter.data = th.randn_like(parameter) * (parameter.ndim > 1)
    env.observation_space.seed(0)
    rows = [env.observation_space.sample() for _ in range(n_envs)]
    observations = {k: np.stack([row[k] for row in rows]) for k in rows[0]} if as_dict else np.stack(rows)
    greedy, _ = model.predict(observations, deterministic=True)
    assert len(set(greedy.tolist())) > 1
    model.action_space.sample = lambda *_, **__: RANDOM
    model.exploration_rate = rate
    actions = np.stack([model.predict(observations)[0] for _ in range(n_calls)])
    assert actions.shape == (n_calls, n_envs)
    explored = actions == RANDOM
    if cls is not IQN:  # which chooses by random quantile levels
        # Whoever does not explore gets the action for its own observation
        assert (actions == greedy)[~explored].all()
    # Four standard deviations of a fair coin, in each environment and for each pair of them
    assert np.abs(explored.mean(axis=0) - rate).max() < 4 * 0.5 / math.sqrt(n_calls)
    correlations = np.corrcoef(explored.T.astype(float)) - np.eye(n_envs)
    assert np.abs(correlations).max() < 4 / math.sqrt(n_calls)


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("vectorized", [True, False])
@each_value_based
def test_one_environment_explores_as_sb3_does(cls: Any, vectorized: bool, rate: float) -> None:
    """The same random numbers in the same order; for SoftDQN and IQN as far as the coin and the random actions go."""
    reference = DQN("MlpPolicy", "CartPole-v1", buffer_size=10, policy_kwargs=dict(net_arch=[8]), seed=1, device="cpu")
    model = make(cls, **(dict(temperature_initial=1e-6) if cls is SoftDQN else {}))
    if cls is DoubleDQN:
        model.policy.load_state_dict(reference.policy.state_dict())
    observation_space = reference.observation_space
    observation_space.seed(0)
    observations = np.stack([np.clip(observation_space.sample(), -1, 1) for _ in range(100)])
    results = []
    for agent in (reference, model):
        agent.exploration_rate = rate
        agent.action_space.seed(5)
        np.random.seed(5)
        predictions = [agent.predict(obs[None] if vectorized else obs)[0] for obs in observations]
        assert all(action.shape == ((1,) if vectorized else ()) for action in predictions)
        results.append((np.array(predictions).flatten(), np.random.get_state()[1], agent.action_space.sample()))
    (expected, numbers, next_action), (actual, our_numbers, our_next_action) = results
    assert (our_numbers == numbers).all() and our_next_action == next_action
    if cls is DoubleDQN or rate == 1.0:
        assert (actual == expected).all() and len(set(expected)) == 2


@each_value_based
def test_predict_is_reproducible_without_exploration(cls: Any) -> None:
    model = make(cls).learn(60)
    model.exploration_rate = 1.0
    observations = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    actions, _ = model.predict(observations, deterministic=True)
    assert all((model.predict(observations, deterministic=True)[0] == actions).all() for _ in range(20))
    assert (actions == model.q_net(th.as_tensor(observations)).argmax(dim=1).numpy()).all()
    for observation, action in zip(observations, actions, strict=True):
        alone, _ = model.predict(observation, deterministic=True)
        assert alone.shape == () and alone == action


def test_the_epsilon_of_soft_dqn_does_not_rise(saved: dict[Any, Path]) -> None:
    message = r"exploration_initial_eps=0.1 is below exploration_final_eps=0.2, so epsilon would rise: give both"
    assert_refused(SoftDQN, message, saved[SoftDQN], exploration_initial_eps=0.1, exploration_final_eps=0.2)


def test_the_final_epsilon_of_soft_dqn_alone_is_constant(tmp_path: Path) -> None:
    make(SoftDQN, exploration_final_eps=0.05).save(tmp_path / "model")
    made, loaded, changed = (
        make(SoftDQN, exploration_final_eps=0.05),
        SoftDQN.load(tmp_path / "model"),
        SoftDQN.load(tmp_path / "model", exploration_final_eps=0.1),
    )
    for model, epsilon in ((made, 0.05), (loaded, 0.05), (changed, 0.1)):
        assert [model.exploration_schedule(progress) for progress in (1.0, 0.95, 0.0)] == [epsilon] * 3


@pytest.mark.parametrize("cls", [DoubleDQN, IQN])
def test_epsilon_may_rise_as_in_dqn(cls: Any) -> None:
    epsilons: dict[str, Any] = dict(exploration_initial_eps=0.1, exploration_final_eps=0.2)
    reference = DQN("MlpPolicy", "CartPole-v1", buffer_size=10, device="cpu", **epsilons)
    model = make(cls, **epsilons)
    for progress in (1.0, 0.95, 0.0):
        assert model.exploration_schedule(progress) == reference.exploration_schedule(progress)


@pytest.mark.parametrize(("initial", "final"), [(0.3, 0.3), (0.3, 0.1), (0.3, 0.0), (0.0, 0.0)])
@each_value_based
def test_epsilon_goes_from_the_initial_to_the_final_one(cls: Any, initial: float, final: float) -> None:
    model = make(cls, exploration_initial_eps=initial, exploration_final_eps=final, exploration_fraction=0.5)
    assert [model.exploration_schedule(progress) for progress in (1.0, 0.5, 0.0)] == [initial, final, final]
