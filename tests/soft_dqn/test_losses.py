"""What SoftDQN makes of a minibatch, against plain loops over what its networks return."""

import math
from typing import Any

import pytest
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from sb3_ext import SoftDQN
from tests.support.value_losses import (
    GAMMA,
    A,
    B,
    check_scalar_values,
    discount_of,
    discounts_given,
    double_q_given,
    loss_of,
    make_batch,
    rows_of,
    unlike_networks,
)


def softmax(values: list[float], temperature: float) -> list[float]:
    weights = [math.exp((value - max(values)) / temperature) for value in values]
    return [weight / sum(weights) for weight in weights]


def soft_value(backup: str, values: list[float], chooser: list[float], temperature: float) -> float:
    """Of one state: expected values under the policy of ``chooser``, plus what the backup makes of its entropy."""
    if backup == "max":
        return values[chooser.index(max(chooser))]
    policy = softmax(chooser, temperature)
    expected = sum(p * value for p, value in zip(policy, values, strict=True))
    entropy = -sum(p * math.log(p) for p in policy)
    bonus = {"boltzmann": 0.0, "soft": entropy, "mellowmax": entropy - math.log(A)}[backup]
    return expected + temperature * bonus


def soft_targets(model: Any, batch: ReplayBufferSamples, discounts: Any, temperature: float) -> list[float]:
    values = rows_of(model.q_net_target, batch.next_observations)
    choosers = rows_of(model.q_net, batch.next_observations) if model.double_q else values
    targets = []
    for b in range(B):
        value = soft_value(model.target_backup, values[b], choosers[b], temperature)
        not_done = 1 - batch.dones[b].item()
        targets.append(batch.rewards[b].item() + discount_of(discounts, b) * not_done * value)
    return targets


@discounts_given
@double_q_given
@pytest.mark.parametrize("backup", ["soft", "boltzmann", "mellowmax", "max"])
def test_soft_dqn(backup: str, double_q: bool, discounts: Any) -> None:
    temperature = 0.7
    model = unlike_networks(SoftDQN, target_backup=backup, double_q=double_q, temperature_initial=temperature)
    batch = make_batch()
    terms = loss_of(model, batch, discounts)
    policies = [softmax(row, temperature) for row in rows_of(model.q_net, batch.observations)]
    entropy = sum(-p * math.log(p) for policy in policies for p in policy) / B
    assert terms.metrics["entropy"].item() == pytest.approx(entropy, rel=1e-4)
    assert terms.metrics["temperature"].item() == pytest.approx(temperature)
    check_scalar_values(model, terms, batch, soft_targets(model, batch, discounts, temperature))


def test_target_clip_of_soft_dqn() -> None:
    temperature, clip = 0.7, 0.8
    model, batch = unlike_networks(SoftDQN, temperature_initial=temperature, target_clip=clip), make_batch()
    targets = soft_targets(model, batch, GAMMA, temperature)
    assert any(abs(target) > clip for target in targets) and any(abs(target) < clip for target in targets)
    clipped = [min(max(target, -clip), clip) for target in targets]
    check_scalar_values(model, loss_of(model, batch, GAMMA), batch, clipped)


@discounts_given  # one for each transition where returns are over several steps: the bonus is the first action's alone
@pytest.mark.parametrize("clip", [-1.0, -0.3])
def test_munchausen_adds_the_scaled_log_policy_of_the_target_network(clip: float, discounts: Any) -> None:
    temperature, coef = 0.7, 0.9
    model = unlike_networks(
        SoftDQN, double_q=False, temperature_initial=temperature, munchausen_coef=coef, munchausen_clip=clip
    )
    batch = make_batch()
    targets = soft_targets(model, batch, discounts, temperature)
    scaled = []
    for b, row in enumerate(rows_of(model.q_net_target, batch.observations)):
        # The clip is that of alpha log pi, not that of log pi
        scaled.append(temperature * math.log(softmax(row, temperature)[int(batch.actions[b])]))
        targets[b] += coef * min(max(scaled[b], clip), 0.0)
    assert any(value < clip for value in scaled) and any(value > clip for value in scaled)
    check_scalar_values(model, loss_of(model, batch, discounts), batch, targets)
