"""What is said of an unknown keyword argument."""

import functools
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_ext import BC, CEMQ, IQN, NAF, REDQSAC, AtariVecEnv, DAgger, DoubleDQN, PrioritizedReplayBuffer, SoftDQN
from sb3_ext.keywords import OTHER_NAMES, Place, accepted_names, hint, public_classes, show
from tests.support.models import CLASSES, make

PLACES = [Place(["buffer_size", "tau"]), Place(["net_arch", "dropout"], "policy_kwargs=dict({})")]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("buffersize", 5, ": did you mean buffer_size=5?"),
        ("dropout", 0.1, ": did you mean policy_kwargs=dict(dropout=0.1)?"),
        ("drop_out", 0.1, ": did you mean policy_kwargs=dict(dropout=0.1)?"),
        ("dropout_rate", 0.1, ": did you mean policy_kwargs=dict(dropout=0.1)?"),
        ("polyak", 0.995, ": did you mean tau=1 - 0.995?"),
        ("hidden_sizes", {"pi": [3]}, ": did you mean policy_kwargs=dict(net_arch={'pi': [3]})?"),
        ("munchausen_coef", 0.9, ": it belongs elsewhere, as in SoftDQN(..., munchausen_coef=0.9)"),
        ("munchausen", True, ": it belongs elsewhere, as in SoftDQN(..., munchausen_coef=0.9)"),
        ("zzz", 1, ", allowed are buffer_size, tau"),
    ],
)
def test_hint(name: str, value: Any, expected: str) -> None:
    assert hint(name, value, PLACES, [Place(["munchausen_coef"], "SoftDQN(..., {})")]) == expected


def test_without_arguments_there_is_nothing_to_suggest() -> None:
    assert hint("zzz", 1, [Place(["_private"])]) == ", there are none that may be given"


@pytest.mark.parametrize(
    ("value", "expected"),
    [(th.nn.Tanh, "Tanh"), ("a", "'a'"), (np.eye(2), "array([[1., 0.], [0., 1.]])"), ("x" * 100, f"'{'x' * 56}...")],
)
def test_values_are_shown_as_written_and_not_too_long(value: Any, expected: str) -> None:
    assert show(value) == expected


class Closed:
    def __init__(self, first: int, *, second: int = 0) -> None: ...


class PassesOn(Closed):
    def __init__(self, third: int, **kwargs: Any) -> None: ...


def test_the_arguments_of_a_user_s_class_are_near_too() -> None:
    class Own(DoubleDQN):
        def __init__(self, *args: Any, sharpness: int = 0, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)

    with pytest.raises(TypeError, match=r"Own has no argument sharpnes=3: did you mean sharpness=3\?"):
        Own("MlpPolicy", "CartPole-v1", sharpnes=3)


@pytest.mark.parametrize(("method", "allowed"), [("learn", "total_timesteps"), ("save", "path"), ("predict", "observ")])
def test_methods(method: str, allowed: str) -> None:
    model = make(DoubleDQN)
    with pytest.raises(TypeError, match=rf"DoubleDQN.{method}\(\) has no argument zzz=1, allowed are {allowed}"):
        getattr(model, method)(zzz=1)


def test_only_the_constructors_of_known_packages_pass_everything_on() -> None:
    assert accepted_names(Closed) == ["first", "second"]
    assert accepted_names(PassesOn) is None
    assert accepted_names(type("AsWell", (PrioritizedReplayBuffer,), {})) == accepted_names(PrioritizedReplayBuffer)
    assert {"alpha", "n_steps", "buffer_size"} < set(accepted_names(PrioritizedReplayBuffer) or [])
    assert accepted_names(functools.partial(th.optim.Adam, lr=1)) == accepted_names(th.optim.Adam)
    assert [accepted_names(target) for target in (int, dict, "text", None, lambda **kwargs: 1)] == [None] * 5


def every_name() -> set[str]:
    policies = [policy for cls in CLASSES for policy in cls.policy_aliases.values()]
    owners = [*CLASSES, *policies, *public_classes(ReplayBuffer), *(cls.learn for cls in CLASSES), AtariVecEnv]
    return {name for owner in owners for name in accepted_names(owner) or []}


def test_other_names_lead_to_names_that_exist() -> None:
    targets = {target.partition("=")[0] for targets in OTHER_NAMES.values() for target in targets}
    assert targets <= every_name()


@pytest.mark.parametrize(
    ("cls", "name", "meant"),
    [
        (REDQSAC, "alpha", "ent_coef=0.5?"),
        (SoftDQN, "alpha", "temperature_initial=0.5?"),
        (DoubleDQN, "alpha", "replay_buffer_class=PrioritizedReplayBuffer, replay_buffer_kwargs=dict(alpha=0.5)"),
        (SoftDQN, "ent_coef", "temperature_initial=0.5?"),
        (DoubleDQN, "ensemble_size", "CEMQ(..., policy_kwargs=dict(n_critics=0.5))"),
        (REDQSAC, "ensemble_size", "policy_kwargs=dict(n_critics=0.5)?"),
        (REDQSAC, "utd_ratio", "train_freq=1, gradient_steps=0.5?"),
        (DoubleDQN, "lr", "learning_rate=0.5?"),
        (REDQSAC, "critic_lr", "qf_learning_rate=0.5 or learning_rate=0.5?"),
        (REDQSAC, "init_temperature", "ent_coef='auto_0.5'?"),
        (SoftDQN, "init_temperature", "temperature_initial=0.5?"),
        (IQN, "wrapper_class", "env=make_vec_env(..., wrapper_class=0.5)?"),
        (DoubleDQN, "epsilon", "exploration_final_eps=0.5?"),
        (IQN, "num_tau_prime_samples", "n_target_quantile_samples=0.5?"),
        (IQN, "weight_decay", "policy_kwargs=dict(optimizer_kwargs=dict(weight_decay=0.5))?"),
    ],
)
def test_names_from_elsewhere(cls: Any, name: str, meant: str) -> None:
    with pytest.raises(TypeError) as caught:
        cls("MlpPolicy", "Pendulum-v1" if cls is REDQSAC else "CartPole-v1", **{name: 0.5})
    assert str(caught.value).startswith(f"{cls.__name__} has no argument {name}=0.5: ")
    assert str(caught.value).endswith((f"did you mean {meant}", f"it belongs elsewhere, as in {meant}"))


def test_several_are_named_at_once() -> None:
    with pytest.raises(TypeError) as caught:
        SoftDQN("MlpPolicy", "CartPole-v1", gama=1, tua=2)
    assert str(caught.value).splitlines() == [
        "SoftDQN has no argument gama=1: did you mean gamma=1?",
        "SoftDQN has no argument tua=2: did you mean tau=2?",
    ]


def test_the_algorithms_are_the_public_ones() -> None:
    assert set(public_classes(OffPolicyAlgorithm)) == {*CLASSES, BC, DAgger, CEMQ, NAF}
