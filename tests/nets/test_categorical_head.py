"""The categorical head against numbers worked out by hand: N = 2 critics, B = 3 transitions, K = 5 atoms."""

import copy
import math
import re

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import FlattenExtractor

from sb3_ext.functional.ensemble import TARGET_BACKUPS, TargetBackup
from sb3_ext.nets import CategoricalHead, EnsembleCritic, ScalarHead
from sb3_ext.nets.heads import HEADS

N, B, K = 2, 3, 5
PROBABILITIES = th.tensor(
    [
        [[0.0, 0.0, 0.0, 0.5, 0.5], [0.25, 0.25, 0.0, 0.25, 0.25], [0.5, 0.5, 0.0, 0.0, 0.0]],
        [[0.0, 0.0, 0.5, 0.5, 0.0], [0.0, 0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0]],
    ]
)
VALUES = [[1.5, 0.0, -1.5], [0.5, 0.0, 2.0]]
TARGETS = th.tensor(
    [
        [[0.0, 0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0]],
        [[0.0, 0.0, 0.5, 0.5, 0.0], [0.0, 0.0, 0.5, 0.0, 0.5], [0.0, 0.0, 0.0, 0.5, 0.5]],
    ]
)
# Values 2, 0, -2 and 0.5, 1, 1.5

HEAD = CategoricalHead(n_bins=K, bound=2.0)


def outputs_of(probabilities: th.Tensor) -> th.Tensor:
    """
    Outputs with these probabilities. A constant is added, which must not count.
    """
    return probabilities.clamp(min=1e-30).log() + 3.0


def test_values() -> None:
    assert HEAD.n_outputs == K
    assert HEAD.bound == 2.0
    assert HEAD.support.tolist() == [-2.0, -1.0, 0.0, 1.0, 2.0]
    th.testing.assert_close(HEAD.values(outputs_of(PROBABILITIES)), th.tensor(VALUES))
    several_actions = outputs_of(PROBABILITIES).unsqueeze(1).expand(N, 4, B, K)
    th.testing.assert_close(HEAD.values(several_actions), th.tensor(VALUES).unsqueeze(1).expand(N, 4, B))


def test_values_are_differentiable() -> None:
    # d/dlogit_k of sum p_j z_j is p_k (z_k - value)
    outputs = outputs_of(PROBABILITIES).requires_grad_()
    HEAD.values(outputs).sum().backward()
    expected = PROBABILITIES * (HEAD.support - th.tensor(VALUES).unsqueeze(-1))
    th.testing.assert_close(outputs.grad, expected, rtol=0, atol=1e-6)


def test_defaults() -> None:
    head = CategoricalHead()
    assert (head.n_outputs, head.bound, len(head.support)) == (101, 5.0, 101)
    assert head.support[[0, 40, 50, 100]].tolist() == pytest.approx([-5.0, -1.0, 0.0, 5.0], abs=1e-6)


@pytest.mark.parametrize(
    ("weights", "bits"),
    [
        # Each target's mean of the 1, 2, 3, 4, 4 bits: 4, 3, 1 and 3.5, 3.5, 4. (8 + 11) / 3
        (None, 19 / 3),
        # (2 + 6 + 0 + 1.75 + 7 + 0) / 3
        ([0.5, 2.0, 0.0], 16.75 / 3),
    ],
    ids=["unweighted", "weighted"],
)
def test_loss(weights: list[float] | None, bits: float) -> None:
    predicted = th.tensor([1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 16]).expand(N, B, K)
    outputs = outputs_of(predicted).requires_grad_()
    factors = th.ones(B) if weights is None else th.tensor(weights)
    loss = HEAD.loss(outputs, TARGETS, None if weights is None else factors)
    loss.backward()
    assert loss.item() == pytest.approx(bits * math.log(2))
    # The number of critics is not in it
    th.testing.assert_close(outputs.grad, (predicted - TARGETS) * factors.unsqueeze(-1) / B)


@pytest.mark.parametrize("shape", [(1, B, K), (N, B, 1), (N, B), (B, K)])
def test_loss_does_not_broadcast(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(2, 3, 5\)"):
        HEAD.loss(outputs_of(PROBABILITIES), th.zeros(shape), None)


@pytest.mark.parametrize(
    ("backup", "chosen"),
    [
        # In the second transition both values are 0: the first critic's distribution counts
        ("min", [(1, 0, 0)] * 2),
        ("redq", [(1, 0, 0)] * 2),
        ("vanilla", [(0, 0, 0), (1, 1, 1)]),
        ("doubleq", [(1, 1, 1), (0, 0, 0)]),
    ],
)
def test_backup(backup: TargetBackup, chosen: list[tuple[int, ...]]) -> None:
    result = HEAD.backup(outputs_of(PROBABILITIES), backup, n_critics=N, mixture=None)
    expected = th.stack([th.stack([PROBABILITIES[c, b] for b, c in enumerate(critics)]) for critics in chosen])
    th.testing.assert_close(result, expected)


def test_backup_with_random_weights_of_the_critics() -> None:
    mixture = th.tensor([[0.25, 0.5, 1.0], [0.75, 0.5, 0.0]])
    result = HEAD.backup(outputs_of(PROBABILITIES), "rem", n_critics=N, mixture=mixture)
    expected = [[0, 0, 0.375, 0.5, 0.125], [0.125, 0.125, 0.5, 0.125, 0.125], [0.5, 0.5, 0, 0, 0]]
    th.testing.assert_close(result, th.tensor([expected] * N))


@pytest.mark.parametrize("backup", TARGET_BACKUPS)
def test_mean_of_a_backup_is_what_the_scalar_head_learns(backup: TargetBackup) -> None:
    mixture = th.tensor([[0.25, 0.5, 1.0], [0.75, 0.5, 0.0]])
    result = HEAD.backup(outputs_of(PROBABILITIES), backup, N, mixture)
    values = ScalarHead().backup(th.tensor(VALUES).unsqueeze(-1), backup, N, mixture)
    th.testing.assert_close((result * HEAD.support).sum(-1), values)


@pytest.mark.parametrize("discounts", [0.5, [0.5, 0.5, 0.25]])
def test_td_targets(discounts: float | list[float]) -> None:
    # Transition 1: z becomes 1 + 0.5 (z - 1). Transition 2 is terminal. Transition 3: -1 + 0.5 z, or -1 + 0.25 z
    rewards, dones, bonus = th.tensor([1.0, 0.5, -1.0]), th.tensor([0.0, 1.0, 0.0]), th.tensor([-1.0, 7.0, 0.0])
    last = [[0.75, 0.25, 0, 0, 0], [0, 0, 1.0, 0, 0]]
    if discounts != 0.5:
        discounts, last = th.tensor(discounts), [[0.375, 0.625, 0, 0, 0], [0, 0.5, 0.5, 0, 0]]
    targets = HEAD.td_targets(rewards, dones, discounts, PROBABILITIES, bonus)
    first = [[0, 0, 0, 0.75, 0.25], [0, 0, 0.25, 0.75, 0]]
    th.testing.assert_close(targets, th.tensor([[first[i], [0, 0, 0.5, 0.5, 0], last[i]] for i in range(N)]))


def test_td_errors() -> None:
    errors = HEAD.td_errors(outputs_of(PROBABILITIES).requires_grad_(), TARGETS)
    assert not errors.requires_grad
    th.testing.assert_close(errors, th.tensor([0.25, 0.5, 0.5]))


@pytest.mark.parametrize("n_bins", [0, 1, -1, 2.5, 3.0, True, math.nan, math.inf, "51", None])
def test_bad_number_of_bins(n_bins: object) -> None:
    with pytest.raises(ValueError, match=re.escape(f"n_bins={n_bins!r} must be an integer of at least 2")):
        CategoricalHead(n_bins=n_bins)


@pytest.mark.parametrize("bound", [0, 0.0, -1.0, math.nan, math.inf, -math.inf, True, "5", None, 1e-45, 2e38, 1e39])
def test_bad_bound(bound: object) -> None:
    with pytest.raises(ValueError, match=re.escape(f"bound={bound!r} must be a number")):
        CategoricalHead(bound=bound)


@pytest.mark.parametrize("bound", [1, np.float32(0.5), 1e-15, 1e15])
@pytest.mark.parametrize("n_bins", [2, np.int64(101)])
def test_every_support_that_is_accepted_can_be_projected_onto(n_bins: int, bound: float) -> None:
    head = CategoricalHead(n_bins, bound)
    probabilities = th.rand(N, B, n_bins, generator=th.Generator().manual_seed(0)).softmax(-1)
    targets = head.td_targets(th.zeros(B), th.zeros(B), 1.0, probabilities, th.zeros(B))
    th.testing.assert_close(targets, probabilities)


def test_support_follows_the_critic_but_is_not_saved() -> None:
    head = copy.deepcopy(HEAD).double()
    assert head.support.dtype == th.float64
    assert HEAD.support.dtype == th.float32
    assert not head.state_dict()
    assert not list(head.parameters())
    assert repr(head) == "CategoricalHead(n_bins=5, bound=2.0)"


def test_names() -> None:
    assert sorted(HEADS.items()) == [("categorical", CategoricalHead), ("scalar", ScalarHead)]
    assert ScalarHead().bound is None


def test_critic_learns_the_distribution_of_its_targets() -> None:
    """
    Gradient descent on single transitions must end at the frequencies of their projected returns.
    """
    space = spaces.Box(-1, 1, (2,), dtype=np.float32)
    th.manual_seed(0)
    critic = EnsembleCritic(
        space,
        spaces.Box(-1, 1, (1,), dtype=np.float32),
        net_arch=[32],
        features_extractor=FlattenExtractor(space),
        features_dim=2,
        n_critics=N,
        head=CategoricalHead(n_bins=K, bound=2.0),
    )
    # The first state ends with -1, -1, -1, 0.5 or 9; the second goes on to certain returns of 0 or 2
    obs = th.tensor([[-1.0, 1.0]] * 5 + [[1.0, 0.5]] * 4)
    actions = th.zeros(9, 1)
    rewards = th.tensor([-1.0, -1.0, -1.0, 0.5, 9.0, 1.0, 1.0, 1.0, 1.0])
    dones = th.tensor([1.0] * 5 + [0.0] * 4)
    next_returns = th.eye(K)[[0] * 5 + [2, 2, 2, 4]].expand(N, 9, K)
    # 1 + 0.5 (0 + 0.5) = 1.25 three times, 1 + 0.5 (2 + 0.5) = 2.25 once
    targets = critic.head.td_targets(rewards, dones, 0.5, next_returns, th.full((9,), 0.5))
    expected = th.tensor([[0, 0.6, 0.1, 0.1, 0.2], [0, 0, 0, 0.5625, 0.4375]])

    optimizer = th.optim.Adam(critic.parameters(), lr=0.03)
    for _ in range(400):
        optimizer.zero_grad()
        critic.head.loss(critic.outputs(obs, actions), targets, None).backward()
        optimizer.step()
    outputs = critic.outputs(obs, actions)[:, [0, 5]].detach()
    assert outputs.shape == (N, 2, K)
    th.testing.assert_close(outputs.softmax(-1), expected.expand(N, 2, K), rtol=0, atol=0.01)
    # -0.6 + 0.1 + 0.4 = -0.1 and 0.5625 + 0.875
    values = critic.stacked(obs, actions)[:, [0, 5]].detach()
    th.testing.assert_close(values, th.tensor([[-0.1, 1.4375]] * N), rtol=0, atol=0.02)
    th.testing.assert_close(th.cat(critic(obs, actions), dim=1).T[:, [0, 5]].detach(), values)
