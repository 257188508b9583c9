"""What DoubleDQN, SoftDQN and IQN all refuse, at the start and at loading, and what they leave alone."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch as th
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.utils import LinearSchedule

from sb3_ext import (
    IQN,
    DoubleDQN,
    PrioritizedReplayBuffer,
    SoftDQN,
)
from sb3_ext.iqn.policies import MlpPolicy as IQNPolicy
from sb3_ext.soft_dqn.policies import MlpPolicy as SoftDQNPolicy
from tests.support.models import assert_refused, each_value_based, make, settings_of

NAN, INF = float("nan"), float("inf")
PER: dict[str, Any] = dict(replay_buffer_class=PrioritizedReplayBuffer)
BAD_FOR_ALL: list[tuple[dict[str, Any], str]] = [
    (dict(target_clip=0.0), r"target_clip=0.0 must be None or a number > 0"),
    (dict(target_clip=-1), r"target_clip=-1 must be None or a number > 0"),
    (dict(target_clip=NAN), r"target_clip=nan must be"),
    (dict(target_clip=INF), r"target_clip=inf must be"),
    (dict(target_clip="1"), r"target_clip='1' must be"),
    (dict(autocast_dtype="float64"), r"autocast_dtype='float64' is not one of None, 'auto', 'bfloat16'"),
    (dict(autocast_dtype=th.bfloat16), r"autocast_dtype=torch.bfloat16 is not one of"),
    (dict(tau=1.5), r"tau=1.5 must be in \[0, 1\]"),
    (dict(tau=-0.1), r"tau=-0.1 must be in \[0, 1\]"),
    (dict(tau=NAN), r"tau=nan must be in \[0, 1\]"),
    (dict(gamma=1.01), r"gamma=1.01 must be in \[0, 1\]"),
    (dict(n_steps=0), r"n_steps=0 must be an integer of at least 1"),
    (dict(double_q="False"), r"double_q='False' is not one of True, False"),
    (dict(compile="no"), r"compile='no' is not one of True, False"),
    (dict(replay_buffer_kwargs=dict(alpha=0.6)), r"alpha=0.6, which needs a prioritized replay_buffer_class"),
    (dict(target_update_interval=-1), r"target_update_interval=-1 must be a number >= 0"),
    (dict(target_update_interval=NAN), r"target_update_interval=nan must be a number >= 0"),
    (dict(exploration_initial_eps=1.1), r"exploration_initial_eps=1.1 must be in \[0, 1\]"),
    (dict(exploration_final_eps=-0.1), r"exploration_final_eps=-0.1 must be in \[0, 1\]"),
    (dict(learning_rate_final=-1e-4), r"learning_rate_final=-0.0001 must be None or a number >= 0"),
    (dict(learning_rate_fraction=0.0), r"learning_rate_fraction=0.0 must be in \(0, 1\]"),
    (
        dict(learning_rate=LinearSchedule(1e-3, 0.0, 1.0), learning_rate_final=1e-4),
        r"learning_rate_final=0.0001 needs a constant learning_rate",
    ),
    (dict(batch_size=0), r"batch_size=0 must be an integer of at least 1"),
    (dict(gradient_steps=-2), r"gradient_steps=-2 must be an integer of at least -1"),
    (dict(buffer_size=0), r"buffer_size=0 must be an integer of at least 1"),
    (PER | dict(replay_buffer_kwargs=dict(alpha=-0.1)), r"alpha=-0.1 must be a number >= 0"),
    (PER | dict(replay_buffer_kwargs=dict(beta=1.1)), r"beta=1.1 must be in \[0, 1\]"),
    (PER | dict(replay_buffer_kwargs=dict(eps=0.0)), r"eps=0.0 must be a number > 0"),
    (PER | dict(n_steps=3, replay_buffer_kwargs=dict(n_steps=2)), r"has n_steps=2, which contradicts n_steps=3"),
    (PER | dict(gamma=0.9, replay_buffer_kwargs=dict(gamma=0.95)), r"has gamma=0.95, which contradicts gamma=0.9"),
]

# What SB3's DQN takes without a word, and which can only be a mistake
BAD_AND_NOT_CHECKED_BY_SB3: list[tuple[dict[str, Any], str]] = [
    # clip_grad_norm_ multiplies the gradient by a negative number: the network climbs the loss
    (dict(max_grad_norm=-1.0), r"max_grad_norm=-1.0 must be"),
    (dict(max_grad_norm=NAN), r"max_grad_norm=nan must be"),
    (dict(exploration_fraction=-0.1), r"exploration_fraction=-0.1 must be"),
    (dict(exploration_fraction=NAN), r"exploration_fraction=nan must be"),
]


@pytest.mark.parametrize(("kwargs", "message"), BAD_FOR_ALL + BAD_AND_NOT_CHECKED_BY_SB3)
@each_value_based
def test_bad_arguments(cls: Any, kwargs: dict[str, Any], message: str, saved: dict[Any, Path]) -> None:
    assert_refused(cls, message, saved[cls], **kwargs)


@pytest.mark.parametrize(
    ("cls", "policy", "message"),
    [
        (SoftDQN, DQN.policy_aliases["MlpPolicy"], r"policy=DQNPolicy must be a subclass of SoftDQNPolicy"),
        (SoftDQN, DoubleDQN.policy_aliases["MlpPolicy"], r"policy=MlpPolicy must be a subclass of SoftDQNPolicy"),
        (SoftDQN, IQNPolicy, r"policy=IQNPolicy must be a subclass of SoftDQNPolicy"),
        (IQN, DQN.policy_aliases["MlpPolicy"], r"policy=DQNPolicy must be a subclass of IQNPolicy"),
        (IQN, SoftDQNPolicy, r"policy=SoftDQNPolicy must be a subclass of IQNPolicy"),
        # These two would train, but explore by the rules of the other algorithm
        (DoubleDQN, SoftDQNPolicy, r"policy=SoftDQNPolicy must be"),
        (DoubleDQN, IQNPolicy, r"policy=IQNPolicy must be"),
        (DoubleDQN, SAC.policy_aliases["MlpPolicy"], r"policy=SACPolicy must be"),
    ],
)
def test_policies_of_other_algorithms(cls: Any, policy: Any, message: str, saved: dict[Any, Path]) -> None:
    with pytest.raises(ValueError, match=message):
        cls(policy, "CartPole-v1")
    with pytest.raises(ValueError, match=message):
        cls.load(saved[cls], policy_class=policy)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(loss="mae"), "loss='mae' is not one of 'huber', 'mse'"),
        (dict(huber_delta=0.0), "huber_delta=0.0 must be None or a number > 0"),
        (dict(huber_delta=NAN), "huber_delta=nan must be"),
        (dict(loss="mse", huber_delta=1.0), "huber_delta=1.0 has no effect here: it needs loss='huber'"),
    ],
)
@pytest.mark.parametrize("cls", [DoubleDQN, SoftDQN])
def test_bad_losses(cls: Any, kwargs: dict[str, Any], message: str, saved: dict[Any, Path]) -> None:
    assert_refused(cls, message, saved[cls], **kwargs)


@each_value_based
def test_continuous_actions_are_refused_with_the_error_of_sb3(cls: Any) -> None:
    with pytest.raises(AssertionError, match="action_space=Box"):
        cls("MlpPolicy", "Pendulum-v1")


@each_value_based
def test_a_word_is_no_choice_of_architecture(cls: Any) -> None:
    with pytest.raises(ValueError, match="dueling='no' is not one of True, False"):
        make(cls, policy_kwargs=dict(dueling="no"))


@each_value_based
def test_dictionaries_of_the_caller_stay_as_they_were(cls: Any, tmp_path: Path) -> None:
    policy_kwargs = dict(net_arch=[8, 7], dueling=True, optimizer_kwargs=dict(weight_decay=0.1))
    buffer_kwargs = dict(alpha=0.5, handle_timeout_termination=True)
    before = copy.deepcopy((policy_kwargs, buffer_kwargs))
    arguments: dict[str, Any] = dict(PER, n_steps=3, policy_kwargs=policy_kwargs, replay_buffer_kwargs=buffer_kwargs)
    model = cls("MlpPolicy", "CartPole-v1", **(settings_of(cls) | dict(buffer_size=100) | arguments)).learn(30)
    assert (policy_kwargs, buffer_kwargs) == before
    # And what is saved is what was asked for
    model.save(tmp_path / "model")
    loaded = cls.load(tmp_path / "model", policy_kwargs=policy_kwargs, replay_buffer_kwargs=buffer_kwargs)
    assert (policy_kwargs, buffer_kwargs) == before == (loaded.policy_kwargs, loaded.replay_buffer_kwargs)
    assert loaded.replay_buffer.n_steps == 3
