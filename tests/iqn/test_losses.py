"""
What IQN makes of a minibatch, against plain loops over what its networks return.

B transitions, A actions, T and T' quantile samples of the two networks, K at which actions are valued: all different.
"""

from statistics import NormalDist
from typing import Any

import pytest
import torch as th
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from sb3_ext import IQN, PrioritizedReplayBuffer
from tests.support.value_losses import (
    GAMMA,
    IQN_SIZES,
    T_TARGET,
    A,
    B,
    K,
    T,
    assert_gradient_is_that_of,
    discount_of,
    discounts_given,
    double_q_given,
    huber,
    loss_of,
    make_batch,
    unlike_networks,
)


def distorted(tau: float, measure: str, eta: float) -> float:
    if measure == "cvar":
        return eta * tau
    if measure == "wang":
        return NormalDist().cdf(NormalDist().inv_cdf(tau) + eta)
    if measure == "cpw":
        return tau**eta / (tau**eta + (1 - tau) ** eta) ** (1 / eta)
    if measure == "pow":
        return tau ** (1 / (1 + abs(eta))) if eta >= 0 else 1 - (1 - tau) ** (1 / (1 + abs(eta)))
    return tau


def quantiles_of(network: Any, observation: th.Tensor, taus: list[float]) -> list[list[float]]:
    """One state, one level at a time: T lists of A quantiles."""
    with th.no_grad():
        return [network.quantiles(observation.unsqueeze(0), th.tensor([[tau]]))[0, 0].tolist() for tau in taus]


def best_action(network: Any, observation: th.Tensor, taus: list[float]) -> int:
    quantiles = quantiles_of(network, observation, taus)
    return max(range(A), key=lambda a: sum(row[a] for row in quantiles) / K)


def iqn_losses(model: IQN, batch: ReplayBufferSamples, discounts: Any, seed: int) -> tuple[th.Tensor, list[int]]:
    """
    :return: the loss of each transition, and the actions that the targets are made of
    """
    th.manual_seed(seed)
    taus, target_taus, action_taus = (th.rand(B, n).tolist() for n in (T, T_TARGET, K))
    losses, actions = [], []
    for b in range(B):
        levels = [distorted(tau, model.risk_measure, model.risk_eta) for tau in action_taus[b]]
        chooser = model.q_net if model.double_q else model.q_net_target
        actions.append(best_action(chooser, batch.next_observations[b], levels))
        # The levels of the targets, and below those of the loss, are not distorted
        targets = [
            batch.rewards[b].item() + discount_of(discounts, b) * (1 - batch.dones[b].item()) * row[actions[b]]
            for row in quantiles_of(model.q_net_target, batch.next_observations[b], target_taus[b])
        ]
        if model.target_clip is not None:
            targets = [min(max(target, -model.target_clip), model.target_clip) for target in targets]
        loss = th.zeros(())
        for tau in taus[b]:
            quantile = model.q_net.quantiles(batch.observations[b : b + 1], th.tensor([[tau]]))
            for target in targets:
                delta = target - quantile[0, 0, int(batch.actions[b])]
                indicator = 1.0 if delta.item() < 0 else 0.0
                # A sum over the online levels, a mean over those of the target
                loss = loss + abs(tau - indicator) * huber(delta, model.kappa) / model.kappa / T_TARGET
        losses.append(loss)
    return th.stack(losses), actions


def make_iqn(**settings: Any) -> IQN:
    """With networks in which double Q-learning and each measure of risk find other actions best in ``make_batch()``."""
    model = unlike_networks(IQN, seed=44, **IQN_SIZES, **settings)
    for network in (model.q_net, model.q_net_target):
        # Without biases the quantiles depend on the levels the most
        th.nn.init.zeros_(network.phi.linear.bias)
        th.nn.init.zeros_(network.f[-1].bias)
    return model


RISKS = [
    dict(risk_measure="cvar", risk_eta=0.2),
    dict(risk_measure="wang", risk_eta=-1.5),
    dict(risk_measure="cpw", risk_eta=0.4),
    dict(risk_measure="pow", risk_eta=-3.0),
    dict(risk_measure="pow", risk_eta=4.0),
]


@discounts_given
@double_q_given
@pytest.mark.parametrize(
    "settings",
    [
        {},
        dict(kappa=0.3),
        dict(target_clip=1.5),
        *RISKS,
    ],
    ids=lambda settings: ",".join(str(value) for value in settings.values()) or "neutral",
)
def test_iqn(settings: dict[str, Any], double_q: bool, discounts: Any) -> None:
    model, batch = make_iqn(double_q=double_q, **settings), make_batch()
    expected, _ = iqn_losses(model, batch, discounts, seed=5)
    th.manual_seed(5)
    terms = loss_of(model, batch, discounts)
    assert not terms.errors.requires_grad
    th.testing.assert_close(terms.errors, expected.detach().sqrt(), rtol=1e-4, atol=1e-5)
    assert_gradient_is_that_of(model, terms.losses, expected)


def test_absolute_errors_as_priorities() -> None:
    model, batch = make_iqn(priority_error="absolute", replay_buffer_class=PrioritizedReplayBuffer), make_batch()
    th.manual_seed(5)
    taus, target_taus, action_taus = (th.rand(B, n).tolist() for n in (T, T_TARGET, K))
    expected = []
    for b in range(B):
        best = best_action(model.q_net_target, batch.next_observations[b], action_taus[b])
        rows = quantiles_of(model.q_net_target, batch.next_observations[b], target_taus[b])
        discount = GAMMA * (1 - batch.dones[b].item())
        targets = [batch.rewards[b].item() + discount * row[best] for row in rows]
        quantiles = [row[int(batch.actions[b])] for row in quantiles_of(model.q_net, batch.observations[b], taus[b])]
        expected.append(sum(abs(y - z) for y in targets for z in quantiles) / T_TARGET)
    th.manual_seed(5)
    assert loss_of(model, batch, GAMMA).errors.tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("settings", [dict(double_q=True), *RISKS], ids=str)
def test_the_settings_of_iqn_matter_in_that_batch(settings: dict[str, Any]) -> None:
    """The comparisons above would be weak if the settings made no difference to the actions in the targets."""
    batch = make_batch()
    neutral, chosen = (iqn_losses(make_iqn(**s), batch, GAMMA, seed=5)[1] for s in ({}, settings))
    assert any(a != b for a, b, done in zip(neutral, chosen, batch.dones, strict=True) if not done)
