"""
Munchausen-IQN against plain loops over what its networks return.

B transitions, A actions, T and T' quantile samples of the two networks: all different.
"""

import math
from typing import Any

import pytest
import torch as th
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from sb3_ext import IQN
from sb3_ext.functional.soft_value import soft_quantiles, soft_state_value
from tests.iqn.test_losses import quantiles_of
from tests.support.models import make
from tests.support.value_losses import (
    GAMMA,
    IQN_SIZES,
    T_TARGET,
    A,
    B,
    T,
    assert_gradient_is_that_of,
    discount_of,
    discounts_given,
    huber,
    loss_of,
    make_batch,
    unlike_networks,
)


def log_softmax(values: list[float], alpha: float) -> list[float]:
    best = max(values)
    total = sum(math.exp((value - best) / alpha) for value in values)
    return [(value - best) / alpha - math.log(total) for value in values]


def means(rows: list[list[float]]) -> list[float]:
    return [sum(row[a] for row in rows) / len(rows) for a in range(A)]


def losses_by_loops(
    model: IQN, batch: ReplayBufferSamples, discounts: Any, alpha: float, m: float, clip: float
) -> tuple[th.Tensor, list[float]]:
    th.manual_seed(5)
    taus, target_taus = (th.rand(B, n).tolist() for n in (T, T_TARGET))
    losses, bonuses = [], []
    for b in range(B):
        rows = quantiles_of(model.q_net_target, batch.next_observations[b], target_taus[b])
        log_policy = log_softmax(means(rows), alpha)
        # The samples of the online network's own pass give the bonus
        now = means(quantiles_of(model.q_net, batch.observations[b], taus[b]))
        scaled = alpha * log_softmax(now, alpha)[int(batch.actions[b])]
        bonuses.append(m * min(max(scaled, clip), 0.0))
        targets = []
        for row in rows:
            value = sum(math.exp(log_p) * (z - alpha * log_p) for z, log_p in zip(row, log_policy, strict=True))
            discounted = discount_of(discounts, b) * (1 - batch.dones[b].item()) * value
            targets.append(batch.rewards[b].item() + bonuses[b] + discounted)
        loss = th.zeros(())
        for tau in taus[b]:
            quantile = model.q_net.quantiles(batch.observations[b : b + 1], th.tensor([[tau]]))
            for target in targets:
                delta = target - quantile[0, 0, int(batch.actions[b])]
                loss = loss + abs(tau - (1.0 if delta.item() < 0 else 0.0)) * huber(delta) / T_TARGET
        losses.append(loss)
    return th.stack(losses), bonuses


@discounts_given
@pytest.mark.parametrize(
    ("settings", "alpha", "clip"),
    [
        (dict(munchausen_coef=0.9), 0.03, -1.0),
        (dict(munchausen_coef=0.5, munchausen_temperature=2.0, munchausen_clip=-3.0), 2.0, -3.0),
    ],
)
def test_losses_and_gradients(settings: dict[str, Any], alpha: float, clip: float, discounts: Any) -> None:
    model, batch = unlike_networks(IQN, seed=44, **IQN_SIZES, **settings), make_batch()
    expected, bonuses = losses_by_loops(model, batch, discounts, alpha, settings["munchausen_coef"], clip)
    lowest = settings["munchausen_coef"] * clip
    assert any(bonus == lowest for bonus in bonuses) and any(lowest < bonus < 0 for bonus in bonuses)
    th.manual_seed(5)
    assert_gradient_is_that_of(model, loss_of(model, batch, discounts).losses, expected)


def test_next_quantiles_by_hand() -> None:
    # alpha = 2, means (0, 2 ln 3), so pi = (1/4, 3/4): sum_a pi (z - 2 log pi)
    ln3 = math.log(3)
    quantiles = th.tensor([[[-1.0, 2 * ln3 + 5.0], [1.0, 2 * ln3 - 5.0]]])
    entropy = 0.25 * math.log(4) + 0.75 * math.log(4 / 3)
    expected = [0.25 * z0 + 0.75 * z1 + 2 * entropy for z0, z1 in ((-1.0, 2 * ln3 + 5), (1.0, 2 * ln3 - 5))]
    assert soft_quantiles(quantiles, 2.0).tolist()[0] == pytest.approx(expected)


@pytest.mark.parametrize("alpha", [1e-4, 0.03, 1.0, 1e3])
def test_their_mean_is_the_soft_value_of_the_means(alpha: float) -> None:
    quantiles = 10 * th.randn(B, T, A, dtype=th.float64, generator=th.Generator().manual_seed(0))
    expected = soft_state_value("soft", quantiles.mean(dim=1), alpha)
    th.testing.assert_close(soft_quantiles(quantiles, alpha).mean(dim=1), expected)


@pytest.mark.parametrize("mask", [-math.inf, -1e8])
def test_masked_actions_add_nothing(mask: float) -> None:
    quantiles = th.randn(B, T, A, generator=th.Generator().manual_seed(0))
    masked = th.cat([quantiles[..., :1], th.full((B, T, 1), mask), quantiles[..., 1:]], dim=2)
    th.testing.assert_close(soft_quantiles(masked, 0.3), soft_quantiles(quantiles, 0.3))


def test_a_small_temperature_and_coefficient_are_the_greedy_target() -> None:
    """Up to the levels: Munchausen's policy comes from the target's own samples, so both must have the same mean."""
    quantiles = th.randn(B, T, A, generator=th.Generator().manual_seed(0))
    best = quantiles.mean(dim=1).argmax(dim=1)
    expected = quantiles[th.arange(B), :, best]
    th.testing.assert_close(soft_quantiles(quantiles, 1e-6), expected, atol=1e-5, rtol=0)


BAD: list[tuple[dict[str, Any], str]] = [
    (dict(munchausen_coef=1.5), r"munchausen_coef=1.5 must be in \[0, 1\]"),
    (dict(munchausen_coef=0.9, double_q=True), r"munchausen_coef=0.9 with double_q=True: only double_q=False"),
    (
        dict(munchausen_coef=0.9, risk_measure="cvar", risk_eta=0.5),
        r"munchausen_coef=0.9 with risk_measure='cvar': only risk_measure='neutral' is allowed",
    ),
    (dict(munchausen_coef=0.9, munchausen_temperature=0.0), r"munchausen_temperature=0.0 must be a number >= 1e-08"),
    (dict(munchausen_coef=0.9, munchausen_clip=0.5), r"munchausen_clip=0.5 must be a number <= 0"),
    (
        dict(munchausen_temperature=0.1),
        r"munchausen_temperature=0.1 has no effect here: it needs munchausen_coef above",
    ),
    (dict(priority_error="relative"), r"priority_error='relative' is not one of 'loss', 'absolute'"),
    (dict(priority_error="absolute"), r"priority_error='absolute' has no effect here: it needs a prioritized replay_b"),
    (dict(munchausen_clip=-1.0), r"munchausen_clip=-1.0 has no effect here: it needs munchausen_coef above 0"),
]


@pytest.mark.parametrize(("wrong", "message"), BAD)
def test_wrong_arguments(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(IQN, **wrong)


def test_settings_can_be_changed_between_updates() -> None:
    model, batch = unlike_networks(IQN, seed=44, **IQN_SIZES, munchausen_coef=0.9), make_batch()
    model.munchausen_coef, model.munchausen_temperature = 0.5, 2.0
    expected, _ = losses_by_loops(model, batch, GAMMA, 2.0, 0.5, -1.0)
    th.manual_seed(5)
    th.testing.assert_close(loss_of(model, batch, GAMMA).losses, expected, rtol=1e-5, atol=1e-6)
