"""The value-based algorithms in bfloat16: close to float32 where it may be, and exact where it has to be."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch as th

from sb3_ext import (
    IQN,
)
from sb3_ext.speed import precision
from tests.support.models import each_value_based, make
from tests.support.value_losses import gradients_of, losses_of


@pytest.mark.parametrize("double_q", [False, True])
@each_value_based
def test_lower_precision_is_close(cls: Any, double_q: bool) -> None:
    reference, model = make(cls, double_q=double_q).learn(60), make(cls, double_q=double_q, autocast_dtype="bfloat16")
    expected, actual = losses_of(model, reference)
    # bfloat16 has 8 bits: close, but not the same
    assert actual.losses.dtype == actual.errors.dtype == th.float32
    assert not th.equal(actual.losses, expected.losses)
    th.testing.assert_close(actual.losses, expected.losses, rtol=0.1, atol=0.02)
    gradient = gradients_of(reference, expected.losses)
    assert (gradients_of(model, actual.losses) - gradient).norm() < 0.05 * gradient.norm()
    model.learn(60)
    assert all(value.dtype in (th.float32, th.int64) for value in model.policy.state_dict().values())


@pytest.mark.parametrize("dueling", [False, True])
@each_value_based
def test_values_keep_their_digits_in_lower_precision(cls: Any, dueling: bool) -> None:
    """bfloat16 knows 1000 and 1004, and nothing between them."""
    model = make(cls, autocast_dtype="bfloat16", policy_kwargs=dict(net_arch=[64], dueling=dueling))
    network = model.q_net
    head = network.f if cls is IQN else network.q_net
    if dueling:
        head = (head if cls is IQN else head[0]).value
    with th.no_grad():
        head[-1].bias += 1001.5
        obs = th.rand(256, 4)
        exact, lower = network(obs), model.evaluator(network, obs)
    assert lower.dtype == th.float32 and not th.equal(lower, exact)
    assert (lower - exact).abs().max() < 0.05
    assert (exact.bfloat16().float() - exact).abs().min() > 0.5


@each_value_based
def test_auto_is_what_the_processor_computes_in(cls: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for has_bfloat16, same in ((True, "bfloat16"), (False, None)):
        monkeypatch.setattr(precision, "cpu_computes_in_bfloat16", lambda value=has_bfloat16: value)
        automatic, named = make(cls, autocast_dtype="auto").learn(40), make(cls, autocast_dtype=same).learn(40)
        for name, value in named.policy.state_dict().items():
            assert th.equal(automatic.policy.state_dict()[name], value), name
        automatic.save(tmp_path / "model")
        assert cls.load(tmp_path / "model").autocast_dtype == copy.deepcopy(automatic).autocast_dtype == "auto"


@pytest.mark.parametrize("autocast_dtype", [None, "bfloat16"])
@each_value_based
def test_a_copy_trains_its_own_networks(cls: Any, autocast_dtype: str | None) -> None:
    model = make(cls, autocast_dtype=autocast_dtype).learn(60)
    kept = {name: value.clone() for name, value in model.policy.state_dict().items()}
    twin = copy.deepcopy(model)
    twin.train(5, 32)
    assert any(not th.equal(value, kept[name]) for name, value in twin.policy.state_dict().items())
    assert all(th.equal(value, kept[name]) for name, value in model.policy.state_dict().items())
