"""Bad input for normalized networks, heads, returns and noise is refused by the constructor, and later."""

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ext import REDQSAC
from sb3_ext.redq_sac.policies import MlpPolicy, NormalizedMlpPolicy
from tests.support.environments import Blank
from tests.support.models import make, make_normalized

BOUND = r"must be a number from 1e-15 to 1e15: the atoms go from -bound to bound"
RATE = "must be a number >= 0, or a function that returns one for the remaining progress from 1 to 0"
ENTROPY = r"must be a number, 'auto', or 'std_' and a number > 0"


@pytest.mark.parametrize(
    ("policy_kwargs", "message"),
    [
        *[
            (dict(head_kwargs=dict(n_bins=value)), rf"n_bins={value!r} must be an integer of at least 2")
            for value in (1, 0, -3, 2.0, True, "51", None)
        ],
        *[
            (dict(head_kwargs=dict(bound=value)), rf"bound={re.escape(repr(value))} {BOUND}")
            for value in (0, -1.0, float("nan"), float("inf"), "5", None, True, 3e38, 1e-38)
        ],
        (dict(head="gaussian"), r"head='gaussian' is not one of None, 'scalar', 'categorical'"),
        (dict(head="gaussian", head_kwargs=dict(n_bins=3)), r"head='gaussian' is not one of"),
        (dict(head=["scalar"]), r"head=\['scalar'\] is not one of"),
        (dict(head_kwargs=[3]), r"head_kwargs=\[3\] must be a dictionary with strings as keys"),
        (
            dict(normalization="group"),
            r"normalization='group' is not one of None, 'layer', 'rms', 'batch', 'batch_renorm'",
        ),
        (dict(weight_projection="yes"), r"weight_projection='yes' is not one of True, False"),
        (dict(n_blocks=-1), r"n_blocks=-1 must be an integer of at least 0"),
        (dict(n_blocks=1.5), r"n_blocks=1.5 must be an integer of at least 0"),
        *[
            ({name: value}, rf"{name}={value!r} must be an integer of at least 1")
            for name in ("width", "expansion", "actor_width", "actor_expansion", "n_critics")
            for value in (0, 0.5)
        ],
        (dict(net_arch=[8]), r"net_arch=\[8\] has no effect with n_blocks=1: it needs n_blocks=0"),
        *[
            (dict(n_blocks=0, net_arch=[8]) | {name: 7}, rf"{name}=7 has no effect with n_blocks=0: give net_arch")
            for name in ("width", "expansion", "actor_width", "actor_expansion")
        ],
        (dict(layer_norm=True), r"layer_norm=True is not defined for NormalizedMlpPolicy: leave it out"),
        (dict(dropout=0.1), r"dropout=0.1 is not defined for NormalizedMlpPolicy: leave it out"),
        (dict(activation_fn=th.nn.PReLU), r"activation_fn=PReLU has parameters"),
    ],
    ids=str,
)
def test_bad_networks_and_heads(policy_kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_normalized(policy_kwargs=policy_kwargs)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(target_network="hard"), r"target_network='hard' is not one of 'ema', 'none'"),
        (dict(target_network=None), r"target_network=None is not one of 'ema', 'none'"),
        (dict(joint_gradient=True), r"joint_gradient=True is not one of 'half', 'full'"),
        (dict(batch_size=1), r"batch_size=1 with batch normalization: it needs batch_size >= 2"),
        (dict(use_sde=True), r"use_sde=True is not defined for NormalizedMlpPolicy"),
        *[
            (dict(noise_repeat=value), rf"noise_repeat={value!r} must be an integer of at least 1")
            for value in (0, -1, 1.5, True, "4", None)
        ],
        (dict(normalize_returns="yes"), r"normalize_returns='yes' is not one of True, False"),
        *[
            (dict(qf_learning_rate=value), rf"qf_learning_rate={re.escape(repr(value))} {RATE}")
            for value in (-1.0, "1e-3", float("nan"), float("inf"), True, [1e-3])
        ],
        (dict(qf_learning_rate=lambda _: -1.0), rf"qf_learning_rate=.* {RATE}: at 1.0 it returns -1.0"),
        (dict(qf_learning_rate=lambda _: "x"), rf"qf_learning_rate=.* {RATE}: at 1.0 it fails with ValueError"),
        *[
            (dict(target_entropy=value), rf"target_entropy={value!r} {ENTROPY}")
            for value in ("std_0", "std_-1", "std_", "std_x", "std_nan", "std_inf", "std_1_0", "std", "0.15_std")
        ],
        (
            dict(target_backup="doubleq", policy_kwargs=dict(n_critics=1)),
            r"'doubleq' with n_critics=1: it needs n_critics >= 2",
        ),
        (dict(subset_size=3), r"subset_size=3 must be in \[1, n_critics=2\]"),
        (
            dict(actor_gradient="reinforce", reinforce_baseline="loo"),
            r"reinforce_baseline='loo' with n_actor_samples=1: it needs n_actor_samples >= 2",
        ),
        (dict(policy="NormalizedCnnPolicy"), r"policy='NormalizedCnnPolicy' is not one of 'Normalized"),
        (dict(policy="NormalizedMultiInputPolicy"), r"is no Dict: use MlpPolicy"),
    ],
)
def test_bad_settings(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_normalized(**kwargs)


NEEDS_BATCH = r"needs critics with batch normalization, without which it usually diverges: .* or tau=1"


@pytest.mark.parametrize("normalization", [None, "layer", "rms"])
def test_joint_passes_need_joint_statistics(normalization: str | None) -> None:
    policy_kwargs = dict(normalization=normalization)
    with pytest.raises(ValueError, match=f"target_network='none' {NEEDS_BATCH}"):
        make_normalized(target_network="none", policy_kwargs=policy_kwargs)
    with pytest.raises(ValueError, match=r"joint_gradient='full' has no effect here: it needs critics with batch norm"):
        make_normalized(joint_gradient="full", policy_kwargs=policy_kwargs)
    # What the message says instead
    assert make_normalized(tau=1, policy_kwargs=policy_kwargs).learn(24)._n_updates > 0
    assert make_normalized(batch_size=1, policy_kwargs=policy_kwargs).learn(24)._n_updates > 0


def test_the_plain_policy_has_no_joint_passes() -> None:
    with pytest.raises(ValueError, match=f"target_network='none' {NEEDS_BATCH}"):
        make(target_network="none")
    with pytest.raises(ValueError, match=r"joint_gradient='full' has no effect here: .*NormalizedMlpPolicy"):
        make(joint_gradient="full")


def test_held_noise_is_that_of_a_gaussian() -> None:
    with pytest.raises(ValueError, match=r"noise_repeat=2 has no effect here: it needs use_sde=False"):
        make(noise_repeat=2, use_sde=True)
    assert make(use_sde=True).noise_repeat == 1


@pytest.mark.parametrize(
    ("policy_kwargs", "message"),
    [
        (
            dict(head_kwargs=dict(bins=3)),
            r"head_kwargs has bins=3, which is no argument of CategoricalHead: did you mean .*n_bins=3",
        ),
        (dict(head="scalar", head_kwargs=dict(n_bins=3)), r"head_kwargs has n_bins=3, which is no argument of Scalar"),
        (dict(widht=3), r"policy_kwargs has widht=3, which is no argument of NormalizedMlpPolicy: .*width=3"),
    ],
    ids=str,
)
def test_names_that_do_not_exist(policy_kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make_normalized(policy_kwargs=policy_kwargs)


def test_a_plain_critic_has_no_body() -> None:
    for name, value in dict(width=8, n_blocks=2, normalization="batch", weight_projection=True).items():
        with pytest.raises(TypeError, match=f"{name}=.*, which is no argument of REDQSACPolicy"):
            make(policy_kwargs={name: value})


class Subclass(NormalizedMlpPolicy):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


class WithoutConstructor(NormalizedMlpPolicy):
    pass


class Categorical(MlpPolicy):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, head="categorical", **kwargs)


@pytest.mark.parametrize("policy", [Subclass, WithoutConstructor, Categorical, "NormalizedMlpPolicy"])
def test_the_head_may_be_described_without_its_name(policy: Any) -> None:
    kwargs: dict[str, Any] = dict(policy=policy, policy_kwargs=dict(head_kwargs=dict(n_bins=7, bound=np.float64(3))))
    model = make(**kwargs) if policy is Categorical else make_normalized(**kwargs)
    assert (model.critic.head.n_outputs, model.critic_target.head.bound) == (7, 3.0)
    kwargs["policy_kwargs"] = dict(head_kwargs=dict(n_bin=7))
    with pytest.raises(TypeError, match="head_kwargs has n_bin=7, which is no argument of CategoricalHead"):
        make(**kwargs) if policy is Categorical else make_normalized(**kwargs)


def test_a_plain_body_may_have_a_categorical_head() -> None:
    model = make(policy_kwargs=dict(head="categorical", head_kwargs=dict(n_bins=5)), normalize_returns=True).learn(24)
    assert model.critic.head.n_outputs == 5 and model._n_updates > 0


def test_arguments_written_by_load_are_checked(tmp_path: Path) -> None:
    make_normalized().save(tmp_path / "model")
    for name, value in dict(noise_repeat=0, target_network="x", qf_learning_rate=-1, batch_size=1).items():
        with pytest.raises(ValueError, match=f"{name}={value!r}"):
            REDQSAC.load(tmp_path / "model", **{name: value})
    with pytest.raises(ValueError, match=r"both would scale the rewards"):
        REDQSAC.load(tmp_path / "model", env=VecNormalize(make_vec_env("Pendulum-v1")))


@pytest.mark.parametrize("learns_before", [False, True])
def test_attributes_set_later_are_checked(learns_before: bool) -> None:
    model = make_normalized()
    if learns_before:
        model.learn(22)
    for name, value in dict(noise_repeat=0, target_network="x", joint_gradient="x", normalize_returns=2).items():
        before = getattr(model, name)
        setattr(model, name, value)
        with pytest.raises(ValueError, match=f"{name}={value!r}"):
            model.learn(1)
        setattr(model, name, before)
    assert model.learn(24)._n_updates > 0


def test_what_fits_no_longer_is_refused_by_learn() -> None:
    """Where it depends on the networks or the environment."""
    model = make_normalized().learn(24)
    model.batch_size = 1
    with pytest.raises(ValueError, match="batch_size=1 with batch normalization"):
        model.learn(1)
    model.batch_size = 16
    model.set_env(VecNormalize(make_vec_env("Pendulum-v1")))
    with pytest.raises(ValueError, match="both would scale the rewards"):
        model.learn(1)
    model.normalize_returns = False
    assert model.learn(4, reset_num_timesteps=False).num_timesteps == 28
    plain = make()
    plain.target_network = "none"
    with pytest.raises(ValueError, match=f"target_network='none' {NEEDS_BATCH}"):
        plain.learn(1)


def test_settings_that_only_look_unusual() -> None:
    """Without a warning."""
    env = Blank(spaces.Box(-1.0, 1.0, (3,)), spaces.Box(-2.0, 2.0, (1, 2)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kwargs in (
            dict(policy_kwargs=dict(n_blocks=0, net_arch=[])),
            dict(policy_kwargs=dict(n_blocks=0, net_arch=dict(pi=[8], qf=[4, 5]))),
            dict(policy_kwargs=dict(dropout=0.0, layer_norm=False)),
            dict(policy_kwargs=dict(head_kwargs=dict(n_bins=2, bound=1e-3))),
            dict(qf_learning_rate=0),
            dict(qf_learning_rate=np.float32(1e-3)),
            dict(noise_repeat=np.int64(3), batch_size=2),
            dict(target_network="none", tau=0.0),
        ):
            make_normalized(env=env, **kwargs)
