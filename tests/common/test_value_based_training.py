"""What a value-based training makes of its losses: weights, priorities, discounts, clipping, the log."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.logger import configure

from sb3_ext import IQN, DoubleDQN, PrioritizedReplayBuffer, SoftDQN
from sb3_ext.common.value_based import ValueBasedAlgorithm
from tests.support.value_losses import GAMMA, IQN_SIZES, B, T, unlike_networks

ALGORITHMS = pytest.mark.parametrize(
    ("cls", "settings"),
    [(DoubleDQN, {}), (SoftDQN, dict(temperature_initial=0.7, temperature_final=0.7)), (IQN, IQN_SIZES)],
    ids=["DoubleDQN", "SoftDQN", "IQN"],
)

ALPHA, BETA, EPS = 0.7, 0.3, 1e-3
N_STORED = 60


def model_that_stands_still(cls: type[ValueBasedAlgorithm], **settings: Any) -> Any:
    """A learning rate of 0, so that what a training step saw can be computed before it; priorities of all sizes."""
    model = unlike_networks(
        cls,
        learning_rate=0.0,
        learning_starts=10**6,
        replay_buffer_class=PrioritizedReplayBuffer,
        replay_buffer_kwargs=dict(alpha=ALPHA, beta=BETA, eps=EPS),
        **settings,
    )
    model.learn(N_STORED)
    model.set_logger(configure(None, []))
    model.replay_buffer.update_priorities(np.arange(N_STORED), np.random.default_rng(0).exponential(size=N_STORED))
    return model


@ALGORITHMS
@pytest.mark.parametrize("progress_remaining", [1.0, 0.25])
def test_weighted_losses_and_priorities(cls: Any, settings: dict[str, Any], progress_remaining: float) -> None:
    model = model_that_stands_still(cls, **settings)
    model._current_progress_remaining = progress_remaining
    # A copy, whose priorities are changed as the training should change them
    buffer, n_updates = copy.deepcopy(model.replay_buffer), 3
    before = buffer.priorities.copy()

    beta = BETA + (1 - BETA) * (1 - progress_remaining)
    np.random.seed(3)
    th.manual_seed(4)
    losses, unweighted = [], []
    for _ in range(n_updates):
        batch = buffer.sample_prioritized(B, progress_remaining=progress_remaining)
        terms = model.compute_loss(batch, GAMMA)
        # (n P)^-beta without the constants, since the largest is made 1
        weights = [buffer.priorities[index] ** -beta for index in batch.indices.tolist()]
        pairs = zip(weights, terms.losses.tolist(), strict=True)
        losses.append(sum(weight / max(weights) * loss for weight, loss in pairs) / B)
        unweighted.append(terms.losses.mean().item())
        # The next minibatch is drawn by what this one writes back
        expected = buffer.priorities.copy()
        expected[batch.indices.numpy()] = [(error + EPS) ** ALPHA for error in terms.errors.tolist()]
        buffer.update_priorities(batch.indices, terms.errors)
        np.testing.assert_allclose(buffer.priorities, expected, rtol=1e-6)
    assert (buffer.priorities != before).sum() > B

    np.random.seed(3)
    th.manual_seed(4)
    model.train(n_updates, batch_size=B)
    np.testing.assert_allclose(model.replay_buffer.priorities, buffer.priorities, rtol=1e-4)
    assert model.logger.name_to_value["train/loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert np.mean(losses) != pytest.approx(np.mean(unweighted), rel=1e-2)
    assert model._n_updates == n_updates
    model.replay_buffer.check_valid()


@ALGORITHMS
def test_discounts_of_the_transitions_reach_the_loss(cls: Any, settings: dict[str, Any]) -> None:
    model = unlike_networks(cls, learning_rate=0.0, learning_starts=10**6, n_steps=3, **settings)
    model.learn(N_STORED)
    model.set_logger(configure(None, []))
    np.random.seed(3)
    batch = model.replay_buffer.sample(B * T)
    assert len(set(np.round(batch.discounts.flatten().tolist(), 6))) > 1
    th.manual_seed(4)
    expected = model.compute_loss(batch, batch.discounts.flatten()).losses.mean().item()
    th.manual_seed(4)
    assert model.compute_loss(batch, GAMMA).losses.mean().item() != pytest.approx(expected, rel=1e-3)
    np.random.seed(3)
    th.manual_seed(4)
    model.train(1, batch_size=B * T)
    assert model.logger.name_to_value["train/loss"] == pytest.approx(expected, rel=1e-5)


@ALGORITHMS
def test_the_norm_in_the_log_is_that_before_clipping(cls: Any, settings: dict[str, Any]) -> None:
    max_grad_norm = 0.01
    model = unlike_networks(
        cls,
        learning_rate=1.0,
        learning_starts=10**6,
        max_grad_norm=max_grad_norm,
        policy_kwargs=dict(optimizer_class=th.optim.SGD),
        **settings,
    )
    model.learn(N_STORED)
    model.set_logger(configure(None, []))
    np.random.seed(3)
    batch = model.replay_buffer.sample(B)
    th.manual_seed(4)
    loss = model.compute_loss(batch, GAMMA).losses.mean()
    gradients = th.autograd.grad(loss, list(model.q_net.parameters()))
    norm = math.sqrt(sum(gradient.square().sum().item() for gradient in gradients))
    before = [parameter.detach().clone() for parameter in model.policy.parameters()]
    np.random.seed(3)
    th.manual_seed(4)
    model.train(1, batch_size=B)
    assert model.logger.name_to_value["train/grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert norm > 10 * max_grad_norm
    moved = [old - new.detach() for old, new in zip(before, model.policy.parameters(), strict=True)]
    assert math.sqrt(sum(step.square().sum().item() for step in moved)) == pytest.approx(max_grad_norm, rel=1e-2)


@ALGORITHMS
def test_the_log_is_the_mean_over_the_updates(cls: Any, settings: dict[str, Any]) -> None:
    model = unlike_networks(cls, learning_rate=0.0, learning_starts=10**6, **settings)
    model.learn(N_STORED)
    model.set_logger(configure(None, []))
    np.random.seed(3)
    th.manual_seed(4)
    terms = [model.compute_loss(model.replay_buffer.sample(B), GAMMA) for _ in range(4)]
    np.random.seed(3)
    th.manual_seed(4)
    model.train(4, batch_size=B)
    logged = model.logger.name_to_value
    assert logged["train/loss"] == pytest.approx(np.mean([t.losses.mean().item() for t in terms]), rel=1e-5)
    for name in terms[0].metrics:
        assert logged[f"train/{name}"] == pytest.approx(np.mean([t.metrics[name].item() for t in terms]), rel=1e-4), (
            name
        )
