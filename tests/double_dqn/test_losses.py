"""What DoubleDQN makes of a minibatch, against plain loops over what its networks return."""

from typing import Any

import pytest

from sb3_ext import DoubleDQN
from tests.support.value_losses import (
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


@discounts_given
@double_q_given
@pytest.mark.parametrize("target_clip", [None, 0.8])
def test_double_dqn(double_q: bool, discounts: Any, target_clip: float | None) -> None:
    model, batch = unlike_networks(DoubleDQN, double_q=double_q, target_clip=target_clip), make_batch()
    values = rows_of(model.q_net_target, batch.next_observations)
    choosers = rows_of(model.q_net, batch.next_observations) if double_q else values
    targets = []
    for b in range(B):
        value = values[b][max(range(A), key=lambda a, b=b: choosers[b][a])]
        not_done = 1 - batch.dones[b].item()
        targets.append(batch.rewards[b].item() + discount_of(discounts, b) * not_done * value)
    assert any(v[c.index(max(c))] != max(v) for v, c in zip(values, choosers, strict=True)) == double_q
    if target_clip is not None:
        assert any(abs(target) > target_clip for target in targets) and any(abs(t) < target_clip for t in targets)
        targets = [min(max(target, -target_clip), target_clip) for target in targets]
    check_scalar_values(model, loss_of(model, batch, discounts), batch, targets)
