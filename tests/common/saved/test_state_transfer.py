"""What goes from one model to another, by any way, goes on there as it would have gone on here."""

import copy
import enum
import gc
import pickle
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ext import IQN, REDQSAC, DoubleDQN, PrioritizedReplayBuffer, SoftDQN
from tests.support.models import CLASSES, make
from tests.support.states import assert_equal, state

VARIANTS: list[tuple[Any, dict[str, Any]]] = [
    # 15 steps with 3 updates each: 1 of 4 towards the next update of the actor
    (REDQSAC, dict(gradient_steps=3, policy_delay=4, learning_rate_final=1e-5)),
    (REDQSAC, dict(gradient_steps=3, policy_delay=2, ent_coef=0.1, replay_buffer_class=PrioritizedReplayBuffer)),
    (REDQSAC, dict(gradient_steps=1, use_sde=True, ent_coef="auto_0.5")),
    (DoubleDQN, dict(learning_rate_final=1e-5)),
    (SoftDQN, {}),
    (SoftDQN, dict(auto_temperature=True, exploration_initial_eps=0.9, exploration_final_eps=0.2)),
    (IQN, dict(exploration_final_eps=0.3)),
]


def by_parameters(model: Any, other: Any, path: Path) -> Any:
    other.set_parameters(model.get_parameters())
    return other


def by_parameters_of_file(model: Any, other: Any, path: Path) -> Any:
    model.save(path)
    other.set_parameters(path)
    return other


def by_file(model: Any, other: Any, path: Path) -> Any:
    model.save(path)
    return type(model).load(path, env=other.env)


def by_deepcopy(model: Any, other: Any, path: Path) -> Any:
    return copy.deepcopy(model)


def by_pickle(model: Any, other: Any, path: Path) -> Any:
    return pickle.loads(pickle.dumps(model))


WAYS = [by_parameters, by_parameters_of_file, by_file, by_deepcopy, by_pickle]
each_variant = pytest.mark.parametrize(("cls", "settings"), VARIANTS)


@pytest.fixture(scope="module")
def learned() -> Callable[..., tuple[Any, Any]]:
    """Two models with the same arguments that have learned differently, anew as often as a test asks."""
    pickled: dict[str, bytes] = {}

    def models(cls: Any, settings: dict[str, Any]) -> tuple[Any, Any]:
        key = f"{cls} {settings}"
        if key not in pickled:
            pair = [make(cls, seed=seed, **settings).learn(steps) for seed, steps in ((1, 35), (2, 28))]
            pickled[key] = pickle.dumps(pair)
        return tuple(pickle.loads(pickled[key]))

    return models


def go_on(model: Any) -> None:
    np.random.seed(7)
    th.manual_seed(7)
    model.train(5, batch_size=8)


def actions_of(model: Any) -> np.ndarray:
    np.random.seed(3)
    th.manual_seed(3)
    model.action_space.seed(3)
    observations = np.zeros((50, *model.observation_space.shape), np.float32)
    # The noise of gSDE is drawn anew by each rollout
    return model.predict(observations, deterministic=model.use_sde)[0]


@pytest.mark.parametrize("way", WAYS)
@each_variant
def test_what_is_transferred_goes_on(
    cls: Any, settings: dict[str, Any], way: Any, learned: Any, tmp_path: Path
) -> None:
    model, other = learned(cls, settings)
    heir = way(model, other, tmp_path / "model.zip")
    heir.replay_buffer = copy.deepcopy(model.replay_buffer)
    heir.set_logger(model.logger)
    before = state(model)
    assert_equal(state(heir), before)
    assert (actions_of(heir) == actions_of(model)).all()
    go_on(heir)
    assert_equal(state(model), before)
    go_on(model)
    assert_equal(state(heir), state(model))
    assert any(not th.equal(value, before[name]) for name, value in state(model).items())
    assert heir._n_updates == model._n_updates


@pytest.mark.parametrize("way", [by_deepcopy, by_pickle])
@pytest.mark.parametrize("cls", CLASSES)
def test_a_model_in_the_midst_of_learning(cls: Any, way: Any, tmp_path: Path) -> None:
    class Copy(BaseCallback):
        def _on_step(self) -> bool:
            if self.n_calls == 25:
                self.heir = way(self.model, None, tmp_path)
                self.expected = state(self.model)
            return True

    callback = Copy()
    make(cls, gradient_steps=1, train_freq=1).learn(30, callback)
    assert_equal(state(callback.heir), callback.expected)
    assert callback.heir.learn(5, reset_num_timesteps=False).num_timesteps == 30


@each_variant
def test_a_deep_copy_shares_nothing(cls: Any, settings: dict[str, Any], learned: Any) -> None:
    model, _ = learned(cls, settings)
    heir = copy.deepcopy(model)
    assert len(reachable(heir)) > 50
    assert not reachable(model).keys() & reachable(heir).keys()


def reachable(root: Any) -> dict[int, Any]:
    """Arrays, tensors and objects with a state, by their ids."""
    found: dict[int, Any] = {}
    visited: dict[int, Any] = {}
    waiting = [root]
    while waiting:
        each = waiting.pop()
        if id(each) in visited or isinstance(each, (type, types.ModuleType, enum.Enum)):
            continue
        visited[id(each)] = each
        if isinstance(each, types.FunctionType):
            waiting += [cell.cell_contents for cell in each.__closure__ or ()]
            continue
        waiting += gc.get_referents(each)
        is_ours = type(each).__module__.startswith(("stable_baselines3", "sb3_ext", "gymnasium"))
        if is_ours or isinstance(each, (np.ndarray, th.Tensor, th.nn.Module, th.optim.Optimizer)):
            found[id(each)] = each
    return found
