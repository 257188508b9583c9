"""Exploration noise held for several steps: its distribution in time, and that copies continue exactly."""

import copy
import io
import json
import math
import pickle
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch as th
from scipy.stats import chi2
from stable_baselines3.common.utils import set_random_seed

from sb3_ext.redq_sac.held_noise import HeldNoise, repeat_probabilities


def recorded(noise: HeldNoise, n_steps: int) -> th.Tensor:
    """
    :return: noise, shape (steps, environments, actions)
    """
    return th.stack([noise.sample() for _ in range(n_steps)])


def changes(values: th.Tensor) -> np.ndarray:
    """
    :return: where new noise was drawn, shape (steps - 1, environments)
    """
    changed = values[1:] != values[:-1]
    # A hold is bitwise equal, and new noise is new in each of the actions
    assert th.equal(changed.all(dim=2), changed.any(dim=2))
    return changed.all(dim=2).numpy()


def test_probabilities_by_hand() -> None:
    # 1, 1/4 and 1/9 have the sum 49/36
    assert repeat_probabilities(3).tolist() == pytest.approx([36 / 49, 9 / 49, 4 / 49], rel=1e-15)
    assert repeat_probabilities(1).tolist() == [1.0]


@pytest.mark.parametrize("max_repeat", [2, 16, 100])
def test_probabilities_against_fractions(max_repeat: int) -> None:
    weights = [Fraction(1, n * n) for n in range(1, max_repeat + 1)]
    probabilities = repeat_probabilities(max_repeat)
    assert probabilities.shape == (max_repeat,) and probabilities.dtype == np.float64
    assert probabilities.tolist() == pytest.approx([float(weight / sum(weights)) for weight in weights], rel=1e-14)


@pytest.mark.parametrize("max_repeat", [2, 5])
def test_holds_last_as_long_as_the_probabilities_say(max_repeat: int) -> None:
    n_envs, n_holds = 50, 200
    th.manual_seed(0)
    changed = changes(recorded(HeldNoise(max_repeat, n_envs, 2), n_holds * max_repeat + 1))
    lengths = []
    for env in range(n_envs):
        # The first holds of each: all of them end, so none is left out because it is long
        starts = np.concatenate([[0], np.flatnonzero(changed[:, env]) + 1])[: n_holds + 1]
        lengths.append(np.diff(starts))
    counts = np.bincount(np.concatenate(lengths), minlength=max_repeat + 1)
    assert counts.size == max_repeat + 1 and counts[0] == 0 and counts.sum() == n_envs * n_holds
    expected = repeat_probabilities(max_repeat) * n_envs * n_holds
    statistic = (np.square(counts[1:] - expected) / expected).sum()
    assert statistic < chi2.isf(1e-6, df=max_repeat - 1)


def test_environments_are_independent() -> None:
    n_envs, n_steps = 6, 4000
    th.manual_seed(1)
    values = recorded(HeldNoise(8, n_envs, 2), n_steps)
    changed = changes(values)
    correlations = np.corrcoef(changed.T.astype(float)) - np.eye(n_envs)
    assert np.abs(correlations).max() < 5 / math.sqrt(n_steps)
    # No hold has the numbers of another one, up to chance in float32
    numbers = th.cat([values[0].flatten(), values[1:][th.from_numpy(changed)].flatten()])
    assert numbers.unique().numel() > 0.99 * numbers.numel()
    assert np.abs(np.corrcoef(values.flatten(start_dim=1).T) - np.eye(2 * n_envs)).max() < 0.15


@pytest.mark.parametrize("step", [1, 2, 7])
def test_noise_is_standard_normal_at_each_step(step: int) -> None:
    n_envs = 20_000
    th.manual_seed(2)
    values = recorded(HeldNoise(16, n_envs, 3), step)[-1].double().numpy()
    # Five standard deviations of a mean, and of a variance
    assert np.abs(values.mean(axis=0)).max() < 5 / math.sqrt(n_envs)
    assert np.abs(values.var(axis=0) - 1).max() < 5 * math.sqrt(2 / n_envs)
    assert np.abs(np.corrcoef(values.T) - np.eye(3)).max() < 5 / math.sqrt(n_envs)


def test_noise_that_is_not_repeated_is_that_of_randn() -> None:
    n_envs, n_actions, n_steps = 3, 2, 50
    th.manual_seed(3)
    values = recorded(HeldNoise(1, n_envs, n_actions), n_steps)
    th.manual_seed(3)
    assert th.equal(values, th.stack([th.randn(n_envs, n_actions) for _ in range(n_steps)]))
    assert changes(values).all()


def test_type_and_shape() -> None:
    default = th.get_default_dtype()
    try:
        th.set_default_dtype(th.float64)
        noise = HeldNoise(4, 3, 2).sample()
    finally:
        th.set_default_dtype(default)
    assert noise.dtype == th.float32 and noise.shape == (3, 2) and noise.device.type == "cpu"


def test_sb3s_seed_governs_the_noise() -> None:
    streams = []
    for seed in (5, 5, 6):
        set_random_seed(seed)
        streams.append(recorded(HeldNoise(4, 3, 2), 20))
    assert th.equal(streams[0], streams[1]) and not th.equal(streams[0], streams[2])


def test_a_caller_may_change_what_it_gets() -> None:
    th.manual_seed(4)
    expected = recorded(HeldNoise(16, 4, 2), 30)
    th.manual_seed(4)
    noise = HeldNoise(16, 4, 2)
    for row in expected:
        sample = noise.sample()
        assert th.equal(sample, row)
        sample.zero_()


def through_torch_file(noise: HeldNoise) -> HeldNoise:
    file = io.BytesIO()
    th.save(noise.state(), file)
    file.seek(0)
    other = HeldNoise(16, 4, 2)
    other.set_state(th.load(file, weights_only=True))
    return other


def through_json(noise: HeldNoise) -> HeldNoise:
    other = HeldNoise(16, 4, 2)
    recorded(other, 3)
    other.set_state(json.loads(json.dumps(noise.state())))
    return other


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda noise: pickle.loads(pickle.dumps(noise)), through_torch_file, through_json]
)
def test_copies_continue_exactly(copied: Callable[[HeldNoise], HeldNoise]) -> None:
    th.manual_seed(5)
    noise = HeldNoise(16, 4, 2)
    last = recorded(noise, 20)[-1]
    rng_state = th.get_rng_state()
    other = copied(noise)
    th.set_rng_state(rng_state)
    expected = recorded(noise, 30)
    # In the middle of a hold for some environments, at the end of one for others
    held = (expected[0] == last).all(dim=1)
    assert held.any() and not held.all()
    th.set_rng_state(rng_state)
    assert th.equal(recorded(other, 30), expected)
    assert other.state() == noise.state()


def test_a_state_shares_nothing_with_its_owner() -> None:
    noise, other = HeldNoise(16, 4, 2), HeldNoise(16, 4, 2)
    recorded(noise, 5)
    taken = noise.state()
    kept = copy.deepcopy(taken)
    other.set_state(taken)
    recorded(other, 5)
    recorded(noise, 5)
    assert taken == kept


def test_the_state_of_another_number_of_environments_draws_new_noise() -> None:
    noise, other = HeldNoise(16, 4, 2), HeldNoise(16, 3, 2)
    recorded(noise, 5)
    other.set_state(noise.state())
    th.manual_seed(6)
    actual = recorded(other, 20)
    th.manual_seed(6)
    assert th.equal(actual, recorded(HeldNoise(16, 3, 2), 20))


def test_an_incomplete_state_changes_nothing() -> None:
    noise = HeldNoise(16, 4, 2)
    recorded(noise, 5)
    before = noise.state()
    for name in before:
        with pytest.raises(KeyError, match=name):
            noise.set_state({key: value for key, value in HeldNoise(16, 4, 2).state().items() if key != name})
        assert noise.state() == before


def test_a_smaller_max_repeat_ends_saved_holds_earlier() -> None:
    th.manual_seed(7)
    noise, never_held, briefly_held = (HeldNoise(max_repeat, 200, 2) for max_repeat in (16, 1, 2))
    last = noise.sample()
    assert max(noise.state()["remaining"]) > 2
    for other in (never_held, briefly_held):
        other.set_state(noise.state())
    assert not (never_held.sample() == last).any()
    assert (briefly_held.sample() == last).any() and not (briefly_held.sample() == last).any()
