"""REDQSAC's policies: how they start, and their arguments through save and load."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import FlattenExtractor, NatureCNN
from stable_baselines3.sac.policies import SACPolicy
from torch import nn

from sb3_ext.redq_sac.policies import CnnPolicy, REDQSACPolicy
from tests.support.policies import ACTIONS, IMAGES, OBSERVATIONS, B, N, make_policy, random_actions, random_obs


@pytest.mark.parametrize("share_features_extractor", [False, True])
@pytest.mark.parametrize("n_critics", [1, 2, 5])
def test_starts_as_sb3s_policy(n_critics: int, share_features_extractor: bool) -> None:
    kwargs: dict[str, Any] = {
        "net_arch": [8, 6],
        "n_critics": n_critics,
        "share_features_extractor": share_features_extractor,
    }
    ours = make_policy(**kwargs)
    th.manual_seed(0)
    sb3s = SACPolicy(OBSERVATIONS, ACTIONS, lambda _: 1e-3, **kwargs)
    for mine, theirs in zip(ours.actor.parameters(), sb3s.actor.parameters(), strict=True):
        assert th.equal(mine, theirs)
    for net in ("critic", "critic_target"):
        mine = th.cat(getattr(ours, net)(random_obs(), random_actions(B)), dim=1)
        theirs = th.cat(getattr(sb3s, net)(random_obs(), random_actions(B)), dim=1)
        th.testing.assert_close(mine, theirs)


def test_target_starts_as_a_copy() -> None:
    policy = make_policy(layer_norm=True)
    copies = zip(policy.critic.parameters(), policy.critic_target.parameters(), strict=True)
    assert all(th.equal(own, target) and own is not target for own, target in copies)


def test_critic_optimizer_has_all_its_parameters() -> None:
    policy = make_policy(layer_norm=True)
    optimized = {id(p) for group in policy.critic.optimizer.param_groups for p in group["params"]}
    assert optimized == {id(p) for p in policy.critic.parameters()}


@pytest.mark.parametrize("optimizer_kwargs", [{}, {"eps": 1e-5}, {"fused": False}, {"foreach": True}])
def test_callers_arguments_are_left_alone(optimizer_kwargs: dict[str, Any]) -> None:
    before = dict(optimizer_kwargs)
    net_arch = {"pi": [8], "qf": [6, 3]}
    policy = make_policy(optimizer_kwargs=optimizer_kwargs, net_arch=net_arch)
    assert optimizer_kwargs == before
    assert net_arch == {"pi": [8], "qf": [6, 3]}
    # ... and obeyed
    for optimizer in (policy.actor.optimizer, policy.critic.optimizer):
        assert {key: optimizer.defaults[key] for key in before} == before


def test_other_optimizers() -> None:
    policy = make_policy(optimizer_class=th.optim.RMSprop, optimizer_kwargs={"alpha": 0.9})
    assert isinstance(policy.critic.optimizer, th.optim.RMSprop)
    assert policy.critic.optimizer.defaults["alpha"] == 0.9


@pytest.mark.parametrize("value", [0, -1, 2.0, 2.5, "2", None, True])
def test_bad_n_critics(value: Any) -> None:
    with pytest.raises(ValueError) as caught:
        make_policy(n_critics=value)
    message = str(caught.value)
    assert "n_critics" in message and repr(value) in message and "at least 1" in message


@pytest.mark.parametrize("value", [-0.1, 1.0, 1, 1.5, float("nan"), float("inf"), "0.1", None, True])
def test_bad_dropout(value: Any) -> None:
    with pytest.raises(ValueError) as caught:
        make_policy(dropout=value)
    message = str(caught.value)
    assert "dropout" in message and repr(value) in message and "[0, 1)" in message


@pytest.mark.parametrize("value", [0, 0.0, 0.01, 0.9])
def test_good_dropout(value: float) -> None:
    policy = make_policy(dropout=value)
    dropouts = [m.p for m in policy.critic.modules() if isinstance(m, nn.Dropout)]
    assert dropouts == ([value, value] if value else [])


def test_numpy_integer_as_n_critics() -> None:
    assert len(make_policy(n_critics=np.int64(3)).critic(random_obs(), random_actions(B))) == 3


VARIANTS = pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"n_critics": 2, "layer_norm": True, "dropout": 0.3},
        {"n_critics": 3, "dropout": 0.5, "share_features_extractor": True},
        {"net_arch": {"pi": [8], "qf": [6, 3]}, "activation_fn": nn.Tanh, "layer_norm": True},
        {"use_sde": True, "log_std_init": -2.0, "optimizer_kwargs": {"eps": 1e-5}},
        {"optimizer_class": th.optim.SGD, "optimizer_kwargs": {"momentum": 0.9}},
    ],
    ids=["default", "droq", "shared", "arch", "gsde", "sgd"],
)


@VARIANTS
def test_constructor_parameters_round_trip(kwargs: dict[str, Any]) -> None:
    policy = make_policy(**kwargs)
    parameters = policy._get_constructor_parameters()
    # Also what was passed comes back: nothing is silently a default. ``optimizer_kwargs`` may be completed.
    for name, value in kwargs.items():
        assert parameters[name] == value or (name == "optimizer_kwargs" and value.items() <= parameters[name].items())
    again = REDQSACPolicy(**parameters)._get_constructor_parameters()
    # A function that SB3 makes anew
    assert callable(parameters.pop("lr_schedule")) and callable(again.pop("lr_schedule"))
    assert again == parameters


@VARIANTS
def test_save_and_load(kwargs: dict[str, Any], tmp_path: Path) -> None:
    policy = make_policy(**kwargs)
    with th.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * th.randn_like(parameter))
    path = tmp_path / "policy.pth"
    policy.save(path)
    loaded = REDQSACPolicy.load(path, device="cpu")

    obs, actions = random_obs(), random_actions(B)
    np.testing.assert_array_equal(
        loaded.predict(obs.numpy(), deterministic=True)[0], policy.predict(obs.numpy(), deterministic=True)[0]
    )
    for net in ("critic", "critic_target"):
        mine, theirs = getattr(policy, net), getattr(loaded, net)
        assert theirs.n_critics == kwargs.get("n_critics", N)
        # With dropout active and the same random state, an own dropout probability would show
        for mode in (True, False):
            mine.train(mode)
            theirs.train(mode)
            th.manual_seed(3)
            expected = mine.stacked(obs, actions)
            th.manual_seed(3)
            assert th.equal(theirs.stacked(obs, actions), expected)

    shared = kwargs.get("share_features_extractor", False)
    assert loaded.share_features_extractor == loaded.critic.share_features_extractor == shared
    assert (loaded.critic.features_extractor is loaded.actor.features_extractor) == shared


@pytest.mark.parametrize(
    ("cls", "space", "extractor"), [(CnnPolicy, IMAGES, NatureCNN), (REDQSACPolicy, OBSERVATIONS, FlattenExtractor)]
)
def test_save_and_load_extractors(
    cls: type[REDQSACPolicy], space: spaces.Space, extractor: type[nn.Module], tmp_path: Path
) -> None:
    policy = make_policy(cls, space, share_features_extractor=True)
    policy.save(tmp_path / "policy.pth")
    loaded = cls.load(tmp_path / "policy.pth", device="cpu")
    assert isinstance(loaded.critic.features_extractor, extractor)
    for mine, theirs in zip(policy.parameters(), loaded.parameters(), strict=True):
        assert th.equal(mine, theirs)
    values = loaded.critic.stacked(random_obs(space), random_actions(B))
    assert th.equal(values, policy.critic.stacked(random_obs(space), random_actions(B)))
