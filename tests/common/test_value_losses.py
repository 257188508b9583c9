"""`loss` and `huber_delta`: what an update minimizes, beside errors that do not depend on it."""

from typing import Any

import pytest
import torch as th

from sb3_ext import DoubleDQN, SoftDQN
from tests.support.value_losses import GAMMA, loss_of, make_batch, unlike_networks


@pytest.mark.parametrize("settings", [{}, dict(loss="mse"), dict(huber_delta=0.9), dict(loss="huber", huber_delta=5.0)])
@pytest.mark.parametrize("cls", [DoubleDQN, SoftDQN])
def test_losses_against_loops(cls: Any, settings: dict[str, Any]) -> None:
    batch = make_batch()
    terms = loss_of(unlike_networks(cls, **settings), batch, GAMMA)
    errors = loss_of(unlike_networks(cls), batch, GAMMA).errors
    assert th.equal(terms.errors, errors)  # priorities are made of them
    delta = settings.get("huber_delta", 1.0)
    assert errors.min() < delta
    for loss, error in zip(terms.losses.tolist(), errors.tolist(), strict=True):
        if settings.get("loss") == "mse":
            expected = error**2
        else:
            expected = error**2 / 2 if error <= delta else delta * (error - delta / 2)
        assert loss == pytest.approx(expected, rel=1e-5, abs=1e-7)
