"""The scalar head against numbers worked out by hand. N = 2 critics, B = 3 transitions."""

import pytest
import torch as th

from sb3_ext.nets import ScalarHead

OUTPUTS = th.tensor([[[1.0], [5.0], [-2.0]], [[3.0], [4.0], [-1.0]]])
TARGETS = th.tensor([[2.0, 5.0, -4.0], [2.0, 7.0, -4.0]])
# Errors: -1, 0, 2 and 1, -3, 3


def test_values() -> None:
    head = ScalarHead()
    assert head.n_outputs == 1
    assert head.values(OUTPUTS).tolist() == [[1.0, 5.0, -2.0], [3.0, 4.0, -1.0]]
    several_actions = OUTPUTS.expand(4, 2, 3, 1)
    assert head.values(several_actions).shape == (4, 2, 3)


@pytest.mark.parametrize(
    ("backup", "expected"),
    [
        ("min", [[1.0, 4.0, -2.0]] * 2),
        ("mean", [[2.0, 4.5, -1.5]] * 2),
        ("redq", [[1.0, 4.0, -2.0]] * 2),
        ("vanilla", [[1.0, 5.0, -2.0], [3.0, 4.0, -1.0]]),
    ],
)
def test_backup(backup: str, expected: list[list[float]]) -> None:
    assert ScalarHead().backup(OUTPUTS, backup, n_critics=2, mixture=None).tolist() == expected


def test_backup_with_random_weights_of_the_critics() -> None:
    mixture = th.tensor([[0.25, 0.5, 1.0], [0.75, 0.5, 0.0]])
    backup = ScalarHead().backup(OUTPUTS, "rem", n_critics=2, mixture=mixture)
    assert backup.tolist() == [[2.5, 4.5, -2.0]] * 2


@pytest.mark.parametrize("discounts", [0.5, [0.5, 0.5, 0.25]])
def test_td_targets(discounts: float | list[float]) -> None:
    rewards, dones = th.tensor([1.0, 10.0, 100.0]), th.tensor([0.0, 1.0, 0.0])
    next_returns, bonus = th.tensor([[2.0, 8.0, 4.0], [6.0, 7.0, 12.0]]), th.tensor([2.0, 1.0, 4.0])
    given = discounts if isinstance(discounts, float) else th.tensor(discounts)
    targets = ScalarHead().td_targets(rewards, dones, given, next_returns, bonus)
    last = [104.0, 108.0] if discounts == 0.5 else [102.0, 104.0]
    assert targets.tolist() == [[3.0, 10.0, last[0]], [5.0, 10.0, last[1]]]


@pytest.mark.parametrize(
    ("weights", "loss", "gradients"),
    [
        # Half the mean over the transitions, (1 + 0 + 4) / 6 and (1 + 9 + 9) / 6, summed over the critics
        (None, 4.0, [[-1 / 3, 0.0, 2 / 3], [1 / 3, -1.0, 1.0]]),
        # (0.5 + 0 + 4) / 6 and (0.5 + 1.8 + 9) / 6
        ([0.5, 0.2, 1.0], 15.8 / 6, [[-0.5 / 3, 0.0, 2 / 3], [0.5 / 3, -0.2, 1.0]]),
    ],
    ids=["unweighted", "weighted"],
)
def test_loss(weights: list[float] | None, loss: float, gradients: list[list[float]]) -> None:
    outputs = OUTPUTS.clone().requires_grad_()
    actual = ScalarHead().loss(outputs, TARGETS, None if weights is None else th.tensor(weights))
    actual.backward()
    assert actual.item() == pytest.approx(loss)
    th.testing.assert_close(outputs.grad, th.tensor(gradients).unsqueeze(-1))


def test_td_errors() -> None:
    errors = ScalarHead().td_errors(OUTPUTS.clone().requires_grad_(), TARGETS)
    assert not errors.requires_grad
    assert errors.tolist() == [1.0, 1.5, 2.5]
