"""The critics' interface, which is SB3's, and the policy's arguments through save and load."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import FlattenExtractor, NatureCNN
from stable_baselines3.sac.policies import SACPolicy
from torch import nn

from sb3_ext.redq_sac.policies import CnnPolicy, MultiInputPolicy, REDQSACPolicy

N, B, K, A = 5, 7, 3, 2

OBSERVATIONS = spaces.Box(-1, 1, (4,), dtype=np.float32)
IMAGES = spaces.Box(0, 255, (2, 36, 36), dtype=np.uint8)
MIXED = spaces.Dict({"joints": OBSERVATIONS, "goal": spaces.Box(-1, 1, (6,), dtype=np.float32)})
ACTIONS = spaces.Box(-1, 1, (A,), dtype=np.float32)


def make_policy(cls: type[REDQSACPolicy] = REDQSACPolicy, space: spaces.Space = OBSERVATIONS, **kwargs: Any) -> Any:
    th.manual_seed(0)
    kwargs = {"net_arch": [8, 6], "n_critics": N, **kwargs}
    return cls(space, ACTIONS, lambda _: 1e-3, **kwargs)


def random_obs(space: spaces.Space = OBSERVATIONS, batch_size: int = B) -> Any:
    generator = th.Generator().manual_seed(1)
    if isinstance(space, spaces.Dict):
        return {key: random_obs(part, batch_size) for key, part in space.spaces.items()}
    if space is IMAGES:
        return th.randint(0, 256, (batch_size, *IMAGES.shape), dtype=th.uint8, generator=generator)
    return th.rand(batch_size, *space.shape, generator=generator) * 2 - 1


def random_actions(*shape: int) -> th.Tensor:
    return th.rand(*shape, A, generator=th.Generator().manual_seed(2)) * 2 - 1


SPACES = pytest.mark.parametrize(
    ("cls", "space"), [(REDQSACPolicy, OBSERVATIONS), (MultiInputPolicy, MIXED), (CnnPolicy, IMAGES)]
)


@SPACES
def test_critic_returns_a_tuple_as_sb3s(cls: type[REDQSACPolicy], space: spaces.Space) -> None:
    critic = make_policy(cls, space).critic
    obs, actions = random_obs(space), random_actions(B)
    values = critic(obs, actions)
    assert isinstance(values, tuple)
    assert [value.shape for value in values] == [(B, 1)] * N
    assert all(not th.allclose(values[0], value) for value in values[1:])
    first = critic.q1_forward(obs, actions)
    assert first.shape == (B, 1)
    th.testing.assert_close(first, values[0])
    th.testing.assert_close(critic.stacked(obs, actions), th.cat(values, dim=1).T)


@SPACES
def test_several_actions_are_several_calls(cls: type[REDQSACPolicy], space: spaces.Space) -> None:
    critic = make_policy(cls, space).critic
    obs, actions = random_obs(space), random_actions(K, B)
    members = th.tensor([4, 1])
    stacked, subset = critic.stacked(obs, actions), critic.stacked(obs, actions, members)
    assert stacked.shape == (N, K, B)
    assert subset.shape == (2, K, B)
    for k in range(K):
        separate = critic.stacked(obs, actions[k])
        assert separate.shape == (N, B)
        th.testing.assert_close(stacked[:, k], separate, rtol=1e-5, atol=1e-6)
        th.testing.assert_close(subset[:, k], separate[members], rtol=1e-5, atol=1e-6)
        th.testing.assert_close(critic.stacked(obs, actions[k], members), separate[members], rtol=1e-5, atol=1e-6)


def test_members_keep_their_order() -> None:
    critic = make_policy().critic
    values = critic(random_obs(), random_actions(B))
    subset = critic.stacked(random_obs(), random_actions(B), th.tensor([3, 0, 2]))
    for row, member in enumerate([3, 0, 2]):
        th.testing.assert_close(subset[row], values[member].flatten())


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


def gradients(module: nn.Module) -> list[bool]:
    return [parameter.grad is not None for parameter in module.parameters()]


@pytest.mark.parametrize("share_features_extractor", [False, True])
def test_critic_loss_trains_its_own_extractor_only(share_features_extractor: bool) -> None:
    policy = make_policy(CnnPolicy, IMAGES, share_features_extractor=share_features_extractor)
    policy.critic.stacked(random_obs(IMAGES), random_actions(B)).sum().backward()
    assert all(gradients(policy.critic.ensemble))
    own = gradients(policy.critic.features_extractor)
    assert own and all(own) == any(own) == (not share_features_extractor)
    assert not any(gradients(policy.actor))


@pytest.mark.parametrize("members", [None, [3, 1]])
def test_frozen_critic_trains_the_actions_only(members: list[int] | None) -> None:
    critic = make_policy(CnnPolicy, IMAGES).critic
    indices = None if members is None else th.tensor(members)
    frozen_actions = random_actions(K, B).requires_grad_()
    critic.stacked(random_obs(IMAGES), frozen_actions, indices, frozen=True).square().sum().backward()
    assert not any(gradients(critic))

    actions = random_actions(K, B).requires_grad_()
    critic.stacked(random_obs(IMAGES), actions, indices).square().sum().backward()
    assert all(gradients(critic))
    assert frozen_actions.grad is not None and frozen_actions.grad.any()
    th.testing.assert_close(frozen_actions.grad, actions.grad)


def test_no_gradient_where_it_is_switched_off() -> None:
    critic = make_policy(CnnPolicy, IMAGES).critic
    with th.no_grad():
        assert not critic.stacked(random_obs(IMAGES), random_actions(B)).requires_grad


def test_target_starts_as_a_copy() -> None:
    policy = make_policy(layer_norm=True)
    copies = zip(policy.critic.parameters(), policy.critic_target.parameters(), strict=True)
    assert all(th.equal(own, target) and own is not target for own, target in copies)


def test_critic_optimizer_has_all_its_parameters() -> None:
    policy = make_policy(layer_norm=True)
    optimized = {id(p) for group in policy.critic.optimizer.param_groups for p in group["params"]}
    assert optimized == {id(p) for p in policy.critic.parameters()}


# Arguments


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


# Save and load

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


def test_dropout_can_be_active_in_the_target_alone() -> None:
    """
    DroQ's targets are computed with dropout, while SB3 keeps the target network in evaluation mode.
    """
    policy = make_policy(dropout=0.5, net_arch=[64])
    obs, actions = random_obs(), random_actions(B)
    target = policy.critic_target
    assert th.equal(target.stacked(obs, actions), target.stacked(obs, actions))
    target.ensemble.train()
    policy.critic.set_training_mode(False)
    assert not th.equal(target.stacked(obs, actions), target.stacked(obs, actions))
    assert th.equal(policy.critic.stacked(obs, actions), policy.critic.stacked(obs, actions))
