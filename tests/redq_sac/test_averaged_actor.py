"""`actor_average`: a running average of the actor that plays when no exploration is wanted."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.utils import get_parameters_by_name

from sb3_ext import REDQSAC
from tests.support.models import make, make_normalized
from tests.support.states import assert_trained_alike, reloaded

BOTH = pytest.mark.parametrize("maker", [make, make_normalized])
OBS = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)


def tensors(network: Any) -> list[th.Tensor]:
    values = *network.parameters(), *get_parameters_by_name(network, ["running_"])
    return [tensor.detach().clone() for tensor in values]


@BOTH
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_it_follows_the_actor(maker: Any, compiled: bool) -> None:
    rate = 0.25
    model = maker(policy_kwargs=dict(actor_average=rate), compile=compiled, policy_delay=1).learn(25)
    policy, expected = model.policy, tensors(model.policy.averaged_actor)
    for _ in range(5):
        model.train(1, 16)
        present = tensors(policy.actor)
        expected = [old + rate * (new - old) for old, new in zip(expected, present, strict=True)]
        if maker is make_normalized:
            # Each unit's incoming weights have norm 1 in the actor, and so in the average
            shadow = [parameter.clone() for parameter in policy.averaged_actor.parameters()]
            for index, weight in enumerate(shadow):
                if weight.ndim == 2 or (weight.ndim == 3 and weight.shape[1] > 1):
                    axis = -2 if weight.ndim == 3 else -1
                    norm = weight.norm(dim=axis)
                    th.testing.assert_close(norm, th.ones_like(norm), rtol=1e-5, atol=1e-5)
                    mixed = expected[index]
                    expected[index] = mixed / mixed.norm(dim=axis, keepdim=True)
                else:
                    expected[index] = weight  # gains and shifts have norms of their own
        for found, value in zip(tensors(policy.averaged_actor), expected, strict=True):
            th.testing.assert_close(found, value, rtol=1e-4, atol=1e-5)
    assert not th.allclose(tensors(policy.averaged_actor)[0], tensors(policy.actor)[0])


@BOTH
def test_it_plays_only_without_exploration(maker: Any) -> None:
    model = maker(policy_kwargs=dict(actor_average=0.01)).learn(60)
    policy = model.policy
    policy.set_training_mode(False)
    with th.no_grad():
        averaged, present = (
            actor(th.as_tensor(OBS), deterministic=True).numpy() for actor in (policy.averaged_actor, policy.actor)
        )
    assert np.abs(averaged - present).max() > 1e-4
    np.testing.assert_allclose(model.predict(OBS, deterministic=True)[0], 2 * averaged, rtol=1e-5, atol=1e-6)
    # The noise of exploration is around the present actor
    th.manual_seed(0)
    actions = np.mean([model.predict(OBS)[0] for _ in range(3)], axis=0)
    th.manual_seed(0)
    with th.no_grad():
        expected = np.mean([policy.actor(th.as_tensor(OBS)).numpy() for _ in range(3)], axis=0)
    np.testing.assert_allclose(actions, 2 * expected, rtol=1e-5, atol=1e-6)


@BOTH
def test_training_is_the_same_without_it(maker: Any) -> None:
    plain, averaging = (
        maker(policy_kwargs=dict(actor_average=rate)).learn(60).policy.state_dict() for rate in (None, 1.0)
    )
    for name, value in plain.items():
        assert th.equal(value, averaging[name]), name
        if name.startswith("actor."):
            # The whole way in one step. The norms are those of the actor already, but for rounding
            th.testing.assert_close(averaging[f"averaged_{name}"], value, rtol=1e-5, atol=1e-6)


@BOTH
def test_saved_models_continue(maker: Any, tmp_path: Path) -> None:
    model = maker(policy_kwargs=dict(actor_average=0.1)).learn(60)
    loaded = reloaded(model, tmp_path)
    assert np.array_equal(*(each.predict(OBS, deterministic=True)[0] for each in (model, loaded)))
    assert_trained_alike(model, loaded, 5)
    assert np.array_equal(*(each.predict(OBS, deterministic=True)[0] for each in (model, loaded)))
    model.policy.save(str(tmp_path / "policy"))
    policy = type(model.policy).load(str(tmp_path / "policy"))
    assert np.array_equal(*(each.predict(OBS, deterministic=True)[0] for each in (model, policy)))


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.5, float("nan"), "fast"])
def test_what_is_refused(rate: Any) -> None:
    with pytest.raises(ValueError, match=r"actor_average=.* must be None or in \(0, 1\]"):
        make(REDQSAC, policy_kwargs=dict(actor_average=rate))


def test_a_policy_with_an_average_and_gsde_can_be_copied() -> None:
    model = make(use_sde=True, policy_kwargs=dict(actor_average=0.1)).learn(30)
    duplicate = copy.deepcopy(model.policy)
    for one, other in zip(tensors(model.policy), tensors(duplicate), strict=True):
        assert th.equal(one, other)
