"""Corrections of n-step returns: against loops, by hand, and on a Markov decision process that is solved exactly."""

import itertools
import math

import numpy as np
import pytest
import torch as th

from sb3_ext.functional.bellman import soft_td_target
from sb3_ext.functional.traces import (
    N_STEP_CORRECTIONS,
    NStepCorrection,
    return_before_cut,
    return_correction,
    trace_coefficients,
)

CORRECTED = N_STEP_CORRECTIONS[1:]


def corrected_return(
    rewards: th.Tensor,
    dones: th.Tensor,
    valid: th.Tensor,
    next_values: th.Tensor,
    values_of_actions: th.Tensor,
    coefficients: th.Tensor,
    gamma: float,
) -> th.Tensor:
    """The whole target, from L steps of which the first needs no value of its action."""
    target = soft_td_target(rewards[:, 0], dones[:, 0], gamma, next_values[..., 0])
    steps = rewards[:, 1:], dones[:, 1:], valid[:, 1:], next_values[..., 1:]
    return target + return_correction(*steps, values_of_actions, coefficients, gamma)


def numbers(*shape: int, seed: int) -> th.Tensor:
    return th.randn(*shape, dtype=th.float64, generator=th.Generator().manual_seed(seed))


def test_coefficients_by_hand() -> None:
    log_policy = th.tensor([0.5, 0.1, 0.0, 0.8], dtype=th.float64).log()
    log_behaviour = th.tensor([0.25, 0.4, 0.5, 1.0], dtype=th.float64).log()
    greedy = th.tensor([True, False, False, True])
    by_hand = {
        "cut": [1.0, 0.0, 0.0, 1.0],
        "tree_backup": [0.45, 0.09, 0.0, 0.72],
        "retrace": [0.9, 0.225, 0.0, 0.72],
        "importance": [2.0, 0.25, 0.0, 0.8],
    }
    for correction in CORRECTED:
        found = trace_coefficients(correction, log_policy, log_behaviour, greedy, trace_lambda=0.9)
        np.testing.assert_allclose(found, by_hand[correction], atol=1e-12)
    with pytest.raises(ValueError, match="correction='none' has no coefficients: one of cut, tree_backup, retrace"):
        trace_coefficients("none", log_policy)


def test_nothing_becomes_nan() -> None:
    log_policy, log_behaviour = th.tensor([[-math.inf, 0.0, 0.0]]), th.tensor([[-math.inf, -100.0, 0.0]])
    for correction in CORRECTED:
        factors = trace_coefficients(correction, log_policy, log_behaviour, log_policy == 0.0)
        assert th.isfinite(factors).all() and factors[0, 0] == 0.0
    # Behind the end of a window there may be anything
    valid, factors = th.tensor([[True, False, False]]), th.tensor([[1.0, math.inf, math.nan]])
    found = return_correction(th.ones(1, 3), th.zeros(1, 3), valid, th.ones(1, 3), th.zeros(1, 3), factors, 0.5)
    assert found.tolist() == [0.75]


def test_five_steps_by_hand() -> None:
    # delta_0 needs no Q(s_0, a_0). gamma = 0.5, c = (1, 0.5, 0, 1):
    #   first step 1 + 0.5 * 4 = 3
    #   delta_1 = 2 + 0.5 * 2 - 1 = 2        weight 0.5 * 1
    #   delta_2 = 0 + 0.5 * 6 - 5 = -2       weight 0.25 * 1 * 0.5
    #   delta_3, delta_4                     weight 0, since c_3 = 0
    # y = 3 + 1 - 0.25 = 3.75
    y = corrected_return(
        rewards=th.tensor([[1.0, 2.0, 0.0, 9.0, 9.0]]),
        dones=th.zeros(1, 5),
        valid=th.ones(1, 5, dtype=th.bool),
        next_values=th.tensor([[4.0, 2.0, 6.0, 7.0, 8.0]]),
        values_of_actions=th.tensor([[1.0, 5.0, -math.inf, 3.0]]),
        coefficients=th.tensor([[1.0, 0.5, 0.0, 1.0]]),
        gamma=0.5,
    )
    assert y.tolist() == [3.75]


def test_the_end_of_an_episode_by_hand() -> None:
    # The second step terminates: 1 + 0.5 * 4 + 0.5 * (2 - 1) = 3.5. Steps behind the window repeat the last one
    y = corrected_return(
        rewards=th.tensor([[1.0, 2.0, 2.0]]),
        dones=th.tensor([[0.0, 1.0, 1.0]]),
        valid=th.tensor([[True, True, False]]),
        next_values=th.tensor([[4.0, -math.inf, -math.inf]]),
        values_of_actions=th.tensor([[1.0, 1.0]]),
        coefficients=th.ones(1, 2),
        gamma=0.5,
    )
    assert y.tolist() == [3.5]


@pytest.mark.parametrize("n_critics", [None, 3])
@pytest.mark.parametrize("length", [1, 2, 5])
def test_returns_against_loops(length: int, n_critics: int | None) -> None:
    n_windows, gamma = 6, 0.9
    leading = () if n_critics is None else (n_critics,)
    rewards, next_values = numbers(n_windows, length, seed=0), numbers(*leading, n_windows, length, seed=1)
    values = numbers(*leading, n_windows, length - 1, seed=2)
    coefficients = numbers(n_windows, length - 1, seed=3).abs()
    lengths = [1 + index % length for index in range(n_windows)]
    valid = th.tensor([[step < lengths[row] for step in range(length)] for row in range(n_windows)])
    dones = th.zeros(n_windows, length, dtype=th.float64)
    dones[0, lengths[0] - 1] = dones[1, lengths[1] - 1] = 1.0

    found = corrected_return(rewards, dones, valid, next_values, values, coefficients, gamma)

    assert found.shape == (*leading, n_windows)
    for critic in itertools.product(*map(range, leading)):
        for row in range(n_windows):
            expected, trace = 0.0, 1.0
            for step in range(lengths[row]):
                delta = rewards[row, step] + gamma * (1 - dones[row, step]) * next_values[(*critic, row, step)]
                if step > 0:
                    delta -= values[(*critic, row, step - 1)]
                    trace *= gamma * coefficients[row, step - 1].item()
                expected += trace * delta.item()
            assert found[(*critic, row)].item() == pytest.approx(expected, rel=1e-12)


def test_greedy_actions_make_plain_returns() -> None:
    # If all actions are the best, Q'(s_k, a_k) = V'(s_k), and the sum telescopes
    rewards, next_values = numbers(4, 5, seed=0), numbers(4, 5, seed=1)
    valid, gamma = th.ones(4, 5, dtype=th.bool), 0.8
    y = corrected_return(
        rewards, th.zeros_like(rewards), valid, next_values, next_values[:, :-1], th.ones(4, 4, dtype=th.float64), gamma
    )
    plain, discounts, last = return_before_cut(rewards, valid[:, 1:], valid, gamma)
    np.testing.assert_allclose(y, plain + discounts * next_values[:, -1])
    assert last.tolist() == [4] * 4


def test_returns_before_a_cut_by_hand() -> None:
    rewards = th.tensor([[1.0, 2.0, 4.0, 8.0]]).expand(4, 4)
    valid = th.tensor([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]], dtype=th.bool)
    is_best = th.tensor([[1, 0, 1], [0, 1, 1], [1, 1, 1], [1, 1, 1]], dtype=th.bool)
    returns, discounts, last = return_before_cut(rewards, is_best, valid, 0.5)
    assert returns.tolist() == [2.0, 1.0, 2.0, 1.0]
    assert discounts.tolist() == [0.25, 0.5, 0.25, 0.5]
    assert last.tolist() == [1, 0, 1, 0]


class Chain:
    """Three states, two actions, random transitions and rewards; policy pi is evaluated, mu acts."""

    def __init__(self, deterministic: bool) -> None:
        rng = np.random.default_rng(3)
        self.n_states, self.n_actions, self.gamma = 3, 2, 0.9
        self.transitions = rng.dirichlet(np.ones(3), size=(3, 2))
        self.rewards = rng.normal(size=(3, 2))
        self.policy = np.eye(2)[[0, 1, 0]] if deterministic else rng.dirichlet(np.ones(2), size=3)
        self.behaviour = rng.dirichlet(np.ones(2), size=3)

    def values(self) -> np.ndarray:
        """Q of pi, by linear algebra, shape (S, A)."""
        flow = np.einsum("sat,tb->satb", self.transitions, self.policy).reshape(6, 6)
        return np.linalg.solve(np.eye(6) - self.gamma * flow, self.rewards.ravel()).reshape(3, 2)

    def fixed_point(self, correction: NStepCorrection, n_steps: int, behaviour: np.ndarray) -> np.ndarray:
        """Where repeated exact updates with windows of n steps lead, shape (S, A)."""
        states, actions, probabilities = self._windows(n_steps, behaviour)
        policy = th.from_numpy(self.policy).log()
        taken, acting = (table[states[:, 1:-1], actions[:, 1:]] for table in (policy, th.from_numpy(behaviour).log()))
        greedy = th.from_numpy(self.policy.argmax(axis=1))[states[:, 1:-1]] == th.from_numpy(actions[:, 1:])
        rewards = th.from_numpy(self.rewards[states[:, :-1], actions])
        no_end, valid = th.zeros_like(rewards), th.ones_like(rewards, dtype=th.bool)
        q_values = np.zeros((3, 2))
        for _ in range(400):
            state_values = (self.policy * q_values).sum(axis=1)
            next_values = th.from_numpy(state_values[states[:, 1:]])
            if correction == "none":
                discounts = self.gamma ** th.arange(n_steps, dtype=th.float64)
                y = (rewards * discounts).sum(dim=1) + self.gamma**n_steps * next_values[:, -1]
            else:
                of_actions = th.from_numpy(q_values[states[:, 1:-1], actions[:, 1:]])
                factors = trace_coefficients(correction, taken, acting, greedy)
                y = corrected_return(rewards, no_end, valid, next_values, of_actions, factors, self.gamma)
            q_values = np.zeros((3, 2))
            np.add.at(q_values, (states[:, 0], actions[:, 0]), probabilities * y.numpy())
        return q_values

    def _windows(self, n_steps: int, behaviour: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All windows: states (W, n + 1), actions (W, n), and their probabilities given the first pair."""
        states, actions, probabilities = [], [], []
        for path in itertools.product(range(3), repeat=n_steps + 1):
            for choice in itertools.product(range(2), repeat=n_steps):
                p = math.prod(self.transitions[path[k], choice[k], path[k + 1]] for k in range(n_steps))
                p *= math.prod(behaviour[path[k], choice[k]] for k in range(1, n_steps))
                states.append(path), actions.append(choice), probabilities.append(p)
        return np.array(states), np.array(actions), np.array(probabilities)


@pytest.mark.parametrize("correction", CORRECTED)
@pytest.mark.parametrize("deterministic", [False, True])
def test_corrected_returns_have_no_bias(correction: NStepCorrection, deterministic: bool) -> None:
    chain = Chain(deterministic)
    found = chain.fixed_point(correction, 3, chain.behaviour)
    np.testing.assert_allclose(found, chain.values(), atol=1e-8)


@pytest.mark.parametrize("deterministic", [False, True])
def test_plain_returns_over_several_steps_have_one(deterministic: bool) -> None:
    chain = Chain(deterministic)
    np.testing.assert_allclose(chain.fixed_point("none", 1, chain.behaviour), chain.values(), atol=1e-8)
    assert np.abs(chain.fixed_point("none", 3, chain.behaviour) - chain.values()).max() > 0.1
    # None if the policy itself acts
    np.testing.assert_allclose(chain.fixed_point("none", 3, chain.policy), chain.values(), atol=1e-8)


@pytest.mark.parametrize("correction", ["retrace", "importance"])
def test_the_policy_itself_needs_no_correction(correction: NStepCorrection) -> None:
    # With pi = mu all coefficients are 1. With the values of all policies in between, the mean is that of plain returns
    log_policy = numbers(4, 5, seed=0)
    assert trace_coefficients(correction, log_policy, log_policy).tolist() == [[1.0] * 5] * 4
    chain = Chain(deterministic=False)
    states, actions, probabilities = chain._windows(3, chain.policy)
    rng = np.random.default_rng(0)
    q_values = rng.normal(size=(3, 2))
    state_values = (chain.policy * q_values).sum(axis=1)
    rewards = th.from_numpy(chain.rewards[states[:, :-1], actions])
    corrected = corrected_return(
        rewards,
        th.zeros_like(rewards),
        th.ones_like(rewards, dtype=th.bool),
        th.from_numpy(state_values[states[:, 1:]]),
        th.from_numpy(q_values[states[:, 1:-1], actions[:, 1:]]),
        th.ones(len(states), 2, dtype=th.float64),
        chain.gamma,
    ).numpy()
    plain = (rewards.numpy() * chain.gamma ** np.arange(3)).sum(axis=1) + chain.gamma**3 * state_values[states[:, -1]]
    for first in itertools.product(range(3), range(2)):
        rows = (states[:, 0] == first[0]) & (actions[:, 0] == first[1])
        means = [(probabilities[rows] * values[rows]).sum() for values in (corrected, plain)]
        assert means[0] == pytest.approx(means[1], rel=1e-9)
