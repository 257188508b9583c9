"""The running scale of returns, against loops over recorded rewards, numpy over all returns, and SB3's VecNormalize."""

import copy
import io
import json
import math
import pickle
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_ext.common.return_scale import ReturnScale, merge_moments, next_returns, scale_of_returns

GAMMA, BOUND, N_ENVS = 0.9, 5.0, 3


class Ending(gym.Env):
    """Random rewards, in episodes of one length, which termination and truncation end in turn."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, length: int) -> None:
        self.length, self.rng = length, np.random.default_rng(length)
        #: The rewards of each episode, and how each ended
        self.episodes: list[list[float]] = [[]]
        self.ends: list[str] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        reward = float(np.float32(self.rng.normal(1.0, 2.0)))  # DummyVecEnv passes rewards on in float32
        self.episodes[-1].append(reward)
        ended = len(self.episodes[-1]) == self.length
        terminated = ended and len(self.ends) % 2 == 0
        if ended:
            self.ends.append("terminated" if terminated else "truncated")
            self.episodes.append([])
        return np.zeros(1, np.float32), reward, terminated, ended and not terminated, {}


def stream(n_steps: int, n_envs: int = N_ENVS, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [(rng.normal(1.0, 3.0, n_envs).astype(np.float32), rng.random(n_envs) < 0.1) for _ in range(n_steps)]


def all_returns(steps: list[tuple[np.ndarray, np.ndarray]], gamma: float = GAMMA) -> list[float]:
    """The returns of all environments and steps, with Python's floats."""
    running, found = [0.0] * len(steps[0][0]), []
    for rewards, dones in steps:
        for env, (reward, done) in enumerate(zip(rewards.tolist(), dones.tolist(), strict=True)):
            value = gamma * running[env] + reward
            found.append(value)
            running[env] = 0.0 if done else value
    return found


def updated(scale: ReturnScale, steps: list[tuple[np.ndarray, np.ndarray]]) -> ReturnScale:
    for rewards, dones in steps:
        scale.update(rewards, dones)
    return scale


def test_moments_of_all_returns() -> None:
    steps = stream(200)
    scale, expected = updated(ReturnScale(N_ENVS, GAMMA, BOUND), steps), np.array(all_returns(steps))
    assert scale.count == expected.size == 600
    assert scale.mean == pytest.approx(expected.mean(), rel=1e-12)
    assert scale.m2 / scale.count == pytest.approx(expected.var(), rel=1e-12)
    assert scale.largest == np.abs(expected).max()


def test_scale_after_each_step() -> None:
    """Both terms of the maximum decide at some steps."""
    bound = 2.5
    steps, scale, deciding = stream(200), ReturnScale(N_ENVS, GAMMA, bound), set()
    for index in range(len(steps)):
        scale.update(*steps[index])
        seen = np.array(all_returns(steps[: index + 1]))
        terms = math.sqrt(seen.var() + 1e-8), np.abs(seen).max() / bound
        assert scale.scale == pytest.approx(max(terms), rel=1e-12)
        deciding.add(bool(terms[0] > terms[1]))
    assert deciding == {True, False}


def test_termination_and_truncation_in_real_environments() -> None:
    envs = [Ending(length) for length in (3, 4, 7)]
    vec_env = DummyVecEnv([lambda env=env: env for env in envs])
    scale = ReturnScale(len(envs), GAMMA, BOUND)
    vec_env.reset()
    for _ in range(60):
        _, rewards, dones, _ = vec_env.step(np.zeros((len(envs), 1), np.float32))
        scale.update(rewards, dones)
    expected = []
    for env in envs:
        assert set(env.ends) == {"terminated", "truncated"}
        for episode in env.episodes:
            # The sum over ages, not the recursion
            for last in range(len(episode)):
                expected.append(sum(GAMMA ** (last - i) * episode[i] for i in range(last + 1)))
    assert scale.count == len(expected) == 180
    assert scale.mean == pytest.approx(np.mean(expected), rel=1e-12)
    assert scale.m2 / scale.count == pytest.approx(np.var(expected), rel=1e-12)
    assert scale.largest == pytest.approx(np.abs(expected).max(), rel=1e-12)


def test_the_statistics_are_those_of_sb3s_vec_normalize() -> None:
    normalized = VecNormalize(DummyVecEnv([lambda n=n: Ending(n) for n in (3, 4, 7)]), gamma=GAMMA, norm_obs=False)
    normalized.ret_rms = RunningMeanStd(epsilon=0.0, shape=())
    scale = ReturnScale(3, GAMMA, None)
    normalized.reset()
    for _ in range(60):
        _, _, dones, _ = normalized.step(np.zeros((3, 1), np.float32))
        scale.update(normalized.get_original_reward(), dones)
        assert scale.returns == pytest.approx(normalized.returns, rel=1e-12)
    assert scale.scale == pytest.approx(math.sqrt(normalized.ret_rms.var + 1e-8), rel=1e-12)


def test_scale_by_hand() -> None:
    # gamma 1/2, two environments. The second episode of the first one begins with the last step.
    # Environment 1: 2, then 1/2 * 2 + 3 = 4 and the end, then -1.  Environment 2: 0, 4, 1/2 * 4 + 1 = 3
    # Mean 12 / 6 = 2; squares of deviations 0 + 4 + 9 + 4 + 4 + 1 = 22; largest 4
    steps = [([2, 0], [0, 0]), ([3, 4], [1, 0]), ([-1, 1], [0, 0])]
    arrays = [(np.array(rewards, np.float32), np.array(dones, bool)) for rewards, dones in steps]
    for bound, expected in ((None, math.sqrt(22 / 6 + 1e-8)), (5.0, math.sqrt(22 / 6 + 1e-8)), (2.0, 2.0), (0.5, 8.0)):
        assert updated(ReturnScale(2, 0.5, bound), arrays).scale == pytest.approx(expected, rel=1e-14)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), bound=st.floats(0.1, 100), gamma=st.floats(0, 1), n_envs=st.integers(1, 4))
def test_returns_never_exceed_the_bound(data: st.DataObject, bound: float, gamma: float, n_envs: int) -> None:
    numbers = st.floats(-1e6, 1e6, width=32)
    rows = st.tuples(
        st.lists(numbers, min_size=n_envs, max_size=n_envs), st.lists(st.booleans(), min_size=n_envs, max_size=n_envs)
    )
    drawn = data.draw(st.lists(rows, min_size=1, max_size=20))
    steps = [(np.array(rewards, np.float32), np.array(dones)) for rewards, dones in drawn]
    scale, returns = updated(ReturnScale(n_envs, gamma, bound), steps), np.abs(all_returns(steps, gamma))
    assert scale.scale >= returns.max() / bound
    assert (returns / scale.scale <= bound * (1 + 1e-15)).all()
    assert scale.scale >= 1e-4 and scale.m2 >= 0


def test_small_variations_of_large_returns_keep_their_precision() -> None:
    """A sum of squares in float64 would lose all of the variance here."""
    rng = np.random.default_rng(0)
    values = 1e9 + rng.normal(size=(500, N_ENVS))
    moments = (0, 0.0, 0.0)
    for row in values:
        moments = merge_moments(*moments, row)
    assert moments[0] == values.size and moments[2] / values.size == pytest.approx(values.var(), rel=1e-6)


@pytest.mark.parametrize("bound", [None, BOUND])
def test_scale_is_one_while_all_rewards_are_zero(bound: float | None) -> None:
    scale = ReturnScale(2, GAMMA, bound)
    assert scale.scale == 1.0
    for done in (False, True, False):
        scale.update(np.zeros(2, np.float32), np.full(2, done))
        assert scale.scale == 1.0
    scale.update(np.array([0.0, 2.0], np.float32), np.zeros(2, bool))
    # Seven zeros and one 2: variance 4/8 - 1/16
    assert scale.scale == pytest.approx(math.sqrt(7 / 16 + 1e-8), rel=1e-14)


@pytest.mark.parametrize(("bound", "expected"), [(None, 3 / 100), (BOUND, 3 / BOUND)])
def test_returns_that_never_vary(bound: float | None, expected: float) -> None:
    steps = [(np.full(2, 3.0, np.float32), np.ones(2, bool))] * 4
    assert updated(ReturnScale(2, GAMMA, bound), steps).scale == pytest.approx(expected, rel=1e-12)


def test_gamma_and_bound_may_change() -> None:
    steps, scale = stream(20), ReturnScale(N_ENVS, GAMMA, None)
    updated(scale, steps)
    running = scale.returns.copy()
    scale.gamma = 0.5
    scale.update(np.full(N_ENVS, 2.0, np.float32), np.zeros(N_ENVS, bool))
    assert scale.returns == pytest.approx(0.5 * running + 2.0)
    without = scale.scale
    # The largest return was counted without a bound too
    scale.bound = 0.1
    assert scale.scale == scale.largest / 0.1 > without


def test_restart_keeps_what_was_counted() -> None:
    steps, more = stream(30), stream(30, n_envs=5, seed=1)
    scale = updated(ReturnScale(N_ENVS, GAMMA, BOUND), steps)
    before = scale.scale, scale.count
    scale.restart(5)
    assert (scale.scale, scale.count) == before
    assert scale.returns.tolist() == [0.0] * 5
    updated(scale, more)
    expected = np.array(all_returns(steps) + all_returns(more))
    assert scale.count == expected.size
    assert scale.m2 / scale.count == pytest.approx(expected.var(), rel=1e-12)
    assert scale.largest == np.abs(expected).max()


def through_torch_file(scale: ReturnScale) -> ReturnScale:
    file = io.BytesIO()
    th.save(scale.state(), file)
    file.seek(0)
    other = ReturnScale(N_ENVS, GAMMA, BOUND)
    other.set_state(th.load(file, weights_only=True))
    return other


def through_json(scale: ReturnScale) -> ReturnScale:
    other = updated(ReturnScale(N_ENVS, GAMMA, BOUND), stream(5, seed=7))
    other.set_state(json.loads(json.dumps(scale.state())))
    return other


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda scale: pickle.loads(pickle.dumps(scale)), through_torch_file, through_json]
)
def test_copies_continue_exactly(copied: Callable[[ReturnScale], ReturnScale]) -> None:
    scale = updated(ReturnScale(N_ENVS, GAMMA, BOUND), stream(50))
    assert np.count_nonzero(scale.returns) > 0
    other, before = copied(scale), scale.state()
    scales = [[part.scale for step in stream(50, seed=1) if part.update(*step) is None] for part in (scale, other)]
    assert scales[0] == scales[1] and len(scales[0]) == 50
    assert other.state() == scale.state() != before
    assert (other.gamma, other.bound) == (GAMMA, BOUND)


def test_a_state_shares_nothing_with_its_owner() -> None:
    scale = updated(ReturnScale(N_ENVS, GAMMA, BOUND), stream(5))
    taken = scale.state()
    kept = copy.deepcopy(taken)
    other = ReturnScale(N_ENVS, GAMMA, BOUND)
    other.set_state(taken)
    updated(other, stream(5, seed=1))
    updated(scale, stream(5, seed=2))
    assert taken == kept


def test_the_state_of_another_number_of_environments_begins_new_episodes() -> None:
    scale, other = updated(ReturnScale(N_ENVS, GAMMA, BOUND), stream(20)), ReturnScale(2, GAMMA, BOUND)
    updated(other, stream(3, n_envs=2))
    other.set_state(scale.state())
    assert other.scale == scale.scale and other.returns.tolist() == [0.0, 0.0]


def test_an_incomplete_state_changes_nothing() -> None:
    scale = updated(ReturnScale(N_ENVS, GAMMA, BOUND), stream(20))
    before = scale.state()
    for name in before:
        incomplete = {key: value for key, value in ReturnScale(N_ENVS, GAMMA, BOUND).state().items() if key != name}
        with pytest.raises(KeyError, match=name):
            scale.set_state(incomplete)
        assert scale.state() == before


@pytest.mark.parametrize(("rewards", "dones"), [((N_ENVS, 1), (N_ENVS,)), ((1,), (N_ENVS,)), ((N_ENVS,), (1,))])
def test_other_shapes_do_not_broadcast(rewards: tuple[int, ...], dones: tuple[int, ...]) -> None:
    scale = updated(ReturnScale(N_ENVS, GAMMA, BOUND), stream(5))
    before = scale.state()
    with pytest.raises(ValueError, match=r"must have the shape \(3,\)"):
        scale.update(np.zeros(rewards, np.float32), np.zeros(dones, bool))
    assert scale.state() == before


def test_the_functions_by_hand() -> None:
    assert next_returns(np.array([4.0, 0.0]), np.array([1, 2], np.float32), 0.5).tolist() == [3.0, 2.0]
    # 1, 2 and then 3, 6: mean 3, squares of deviations 4 + 1 + 0 + 9
    assert merge_moments(2, 1.5, 0.5, np.array([3.0, 6.0])) == pytest.approx((4, 3.0, 14.0))
    assert scale_of_returns(4.0, 12.0, 5.0) == pytest.approx(2.4)
    assert scale_of_returns(9.0, 12.0, 5.0) == pytest.approx(3.0)
    assert scale_of_returns(9.0, 12.0, None) == pytest.approx(3.0)
