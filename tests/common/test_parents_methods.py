"""What a public method or constructor of SB3 takes, ours takes, and answers the same."""

import importlib
import inspect
import itertools
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import DummyVecEnv

import sb3_ext
from sb3_ext import IQN, REDQSAC, DiagnosisCallback, DoubleDQN, SoftDQN
from sb3_ext.callbacks import ReduceLearningRateOnPlateau, SystemMonitorCallback
from sb3_ext.common.continuous_q import ContinuousQLearning
from sb3_ext.envs import AtariVecEnv
from sb3_ext.imitation.imitation import Imitation
from sb3_ext.naf.policies import NAFNetwork
from tests.support.environments import Blank
from tests.support.models import CLASSES, make

VECTOR, IMAGE = spaces.Box(-1, 1, (4,), np.float32), spaces.Box(0, 255, (1, 36, 36), np.uint8)
SPACES = {
    "vector": VECTOR,
    "image": IMAGE,
    "discrete": spaces.Discrete(5),
    "multi": spaces.MultiDiscrete([3, 4]),
    "binary": spaces.MultiBinary(3),
    "dict": spaces.Dict(a=VECTOR, b=spaces.Discrete(3), c=IMAGE),
}
OF_SB3 = ("stable_baselines3", "sb3_contrib", "rl_zoo3")
# These have arguments of their own: SB3's VecEnv, callbacks, OffPolicyAlgorithm and BaseModel are abstract
CONSTRUCTORS_OF_THEIR_OWN = (
    AtariVecEnv,
    DiagnosisCallback,
    ContinuousQLearning,
    Imitation,
    NAFNetwork,
    ReduceLearningRateOnPlateau,
    SystemMonitorCallback,
)


def our_classes() -> Iterator[type]:
    for module in pkgutil.walk_packages(sb3_ext.__path__, "sb3_ext."):
        if not module.name.endswith(("__main__", "ray_backend", "sb3_ext_startup")):
            values = vars(importlib.import_module(module.name)).values()
            yield from (value for value in values if isinstance(value, type) and value.__module__ == module.name)


def overrides() -> Iterator[Any]:
    """Each public method, and constructor, that replaces one of SB3."""
    for cls in our_classes():
        for name, function in vars(cls).items():
            if not inspect.isfunction(function) or (name.startswith("_") and name != "__init__"):
                continue
            if name == "__init__" and issubclass(cls, (BasePolicy, *CONSTRUCTORS_OF_THEIR_OWN)):
                continue
            of_parents = [
                vars(base)[name]
                for base in cls.__mro__[1:]
                if base.__module__.startswith(OF_SB3) and name in vars(base)
            ]
            if of_parents:
                yield pytest.param(function, of_parents[0], id=f"{cls.__module__}.{cls.__name__}.{name}")


@pytest.mark.parametrize(("function", "parents"), list(overrides()))
def test_arguments_of_the_parent_are_accepted(function: Any, parents: Any) -> None:
    signature, theirs = inspect.signature(function), inspect.signature(parents).parameters.values()
    named = [p for p in theirs if p.kind is p.POSITIONAL_OR_KEYWORD]
    takes_names = all(p.kind is not p.VAR_POSITIONAL for p in signature.parameters.values())
    values = {parameter.name: object() for parameter in named}
    by_position = signature.bind(*values.values()).arguments
    if takes_names:
        assert {name: by_position[name] for name in values} == values, "another order"
    only_self = {named[0].name: values[named[0].name]}
    signature.bind(*only_self.values(), **{name: value for name, value in values.items() if name not in only_self})
    signature.bind(*(values[p.name] for p in named if p.default is p.empty))


POLICIES = [cls.policy_aliases[name] for cls in CLASSES for name in cls.policy_aliases]


@pytest.mark.parametrize("cls", POLICIES, ids=lambda cls: f"{cls.__module__}.{cls.__name__}")
def test_policies_take_positional_arguments_in_the_order_of_sb3(cls: Any) -> None:
    (parent,) = [
        base
        for base in cls.__mro__
        if base.__name__ in ("SACPolicy", "DQNPolicy") and base.__module__.startswith(OF_SB3)
    ]
    values = {name: p.default for name, p in inspect.signature(parent).parameters.items()}
    is_continuous = parent.__name__ == "SACPolicy"
    values |= dict(observation_space=VECTOR, action_space=VECTOR if is_continuous else spaces.Discrete(3))
    values |= dict(lr_schedule=lambda _: 0.01, net_arch=[7], activation_fn=th.nn.Tanh, normalize_images=False)
    values |= dict(optimizer_class=th.optim.SGD, optimizer_kwargs=dict(momentum=0.5))
    values |= dict(n_critics=3, share_features_extractor=True) if is_continuous else {}
    needs = dict(n_blocks=0) if cls.__name__.startswith("Normalized") else {}  # for `net_arch`
    th.manual_seed(0)
    policy = cls(*values.values(), **needs)
    th.manual_seed(0)
    by_name = cls(**values, **needs)
    assert (
        type(policy.features_extractor_class) is type
        and policy.features_extractor_class is values["features_extractor_class"]
    )
    assert policy.optimizer_class is th.optim.SGD and policy.optimizer_kwargs["momentum"] == 0.5
    states = policy.state_dict(), by_name.state_dict()
    assert states[0].keys() == states[1].keys() and all(th.equal(states[0][key], states[1][key]) for key in states[0])
    with pytest.raises(TypeError, match=r"positional argument|takes from"):
        cls(*values.values(), None)
    with pytest.raises(TypeError, match="multiple values"):
        cls(*list(values.values())[:4], net_arch=[7])


def forms(space: spaces.Space, batch: int | None) -> Iterator[Any]:
    """An observation, or a batch of them, in many forms."""
    space.seed(0)
    samples = [space.sample() for _ in range(batch or 1)]
    keys = list(space.spaces) if isinstance(space, spaces.Dict) else []
    stacked = [np.stack([np.asarray(s[key] if keys else s) for s in samples]) for key in keys or [None]]
    arrays = stacked if batch else [array[0] for array in stacked]

    def form(function: Callable[[np.ndarray], Any]) -> Any:
        return dict(zip(keys, map(function, arrays), strict=True)) if keys else function(arrays[0])

    yield form(np.asarray)
    yield form(lambda array: array.tolist())
    yield form(lambda array: array.astype(np.float64))
    yield form(lambda array: array.astype(np.int32))
    yield form(lambda array: np.asarray(array, order="F"))
    yield form(lambda array: tuple(array.tolist()) if array.ndim else array[()])
    yield form(th.as_tensor)
    if isinstance(space, spaces.Box) and len(space.shape) == 3:  # channels last
        yield form(lambda array: np.moveaxis(array, -3, -1))


def answer(model: Any, observation: Any, **kwargs: Any) -> Any:
    np.random.seed(3)
    th.manual_seed(3)
    model.action_space.seed(3)
    actions, state = model.predict(observation, **kwargs)
    assert isinstance(actions, np.ndarray)
    return actions.tolist(), actions.dtype, actions.shape, state


@pytest.mark.parametrize(
    ("cls", "name"),
    [*((DoubleDQN, name) for name in SPACES), *((cls, name) for cls in (SoftDQN, IQN) for name in ("vector", "dict"))],
)
def test_predict_answers_whatever_dqn_answers(cls: Any, name: str) -> None:
    policy = {"dict": "MultiInputPolicy", "image": "CnnPolicy"}.get(name, "MlpPolicy")
    env = Blank(SPACES[name], spaces.Discrete(3))
    stock = DQN(policy, env, policy_kwargs=dict(net_arch=[8]), buffer_size=1, seed=0, device="cpu")
    model = make(cls, env, policy=policy, buffer_size=1)
    if cls is DoubleDQN:
        model.policy.load_state_dict(stock.policy.state_dict())
    given = dict(state=(np.ones(2),), episode_start=np.ones(1), deterministic=True)
    n_answered = 0
    for batch, (rate, kwargs) in itertools.product([None, 1, 3], [(0.0, {}), (0.5, {}), (1.0, {}), (1.0, given)]):
        stock.exploration_rate = model.exploration_rate = rate
        for observation in forms(SPACES[name], batch):
            try:
                expected = answer(stock, observation, **kwargs)
            except (AttributeError, TypeError):  # ours may know better
                continue
            n_answered += 1
            actual = answer(model, observation, **kwargs)
            assert actual[1:] == expected[1:]
            # Each environment explores by itself, so several take other random numbers
            if (cls is DoubleDQN or rate == 1.0) and (batch != 3 or rate == 0.0 or kwargs):
                assert actual[0] == expected[0] or (kwargs and cls is not DoubleDQN)
    assert n_answered > 45


@pytest.mark.parametrize("cls", [DoubleDQN, SoftDQN, IQN])
def test_lists_are_observations_whether_or_not_they_explore(cls: Any) -> None:
    for name, space in SPACES.items():
        policy = {"dict": "MultiInputPolicy", "image": "CnnPolicy"}.get(name, "MlpPolicy")
        model = make(cls, Blank(space, spaces.Discrete(3)), policy=policy, buffer_size=1)
        for batch, model.exploration_rate in itertools.product([None, 3], [0.0, 0.5, 1.0]):
            arrays, lists, *_ = forms(space, batch)
            answers = [answer(model, observation) for observation in (arrays, lists)]
            assert answers[0] == answers[1] and answers[0][2] == (() if batch is None else (3,))


@pytest.mark.parametrize("cls", [DoubleDQN, SoftDQN, IQN])
def test_wrong_shapes_are_refused_as_by_dqn(cls: Any) -> None:
    for agent in (DQN("MlpPolicy", "CartPole-v1", buffer_size=1, device="cpu"), make(cls)):
        for agent.exploration_rate in (0.0, 1.0):
            for shape in ((), (3,), (4, 1), (2, 3), (2, 2, 4)):
                with pytest.raises(ValueError, match="Unexpected observation shape"):
                    agent.predict(np.zeros(shape, np.float32))


@pytest.mark.parametrize("rate", [0.0, 1.0])
@pytest.mark.parametrize("cls", [DoubleDQN, SoftDQN, IQN])
def test_the_pair_of_gymnasiums_reset_is_explained(cls: Any, rate: float) -> None:
    model = make(cls)
    model.exploration_rate = rate
    with pytest.raises(ValueError, match="You are probably mixing Gym API with SB3 VecEnv API"):
        model.predict((np.zeros(4, np.float32), {}))


class Counting(BaseCallback):
    def _on_step(self) -> bool:
        return True


def set_another_env(model: Any) -> None:
    model.set_env(DummyVecEnv([lambda: gym.make(model.env.envs[0].spec.id)]), force_reset=False)
    model.learn(5)


CALLS: dict[str, Callable[[Any], Any]] = {
    "function": lambda model: model.learn(25, lambda local_values, global_values: True),
    "list": lambda model: model.learn(25, [Counting(), Counting()]),
    "positional": lambda model: model.learn(25, None, 1, "name", True, False),
    "no log": lambda model: model.learn(25, log_interval=None),
    "no name": lambda model: model.learn(25, tb_log_name=None),
    "float": lambda model: model.learn(25.0),
    "nothing": lambda model: model.learn(0),
    "no update": lambda model: model.learn(25).train(0),
    "default batch": lambda model: model.learn(25).train(1),
    "by name": lambda model: model.learn(25).train(gradient_steps=2, batch_size=5),
    "numpy update": lambda model: model.learn(25).train(np.int64(2), np.int64(1)),
    "environment": set_another_env,
    "other spaces": lambda model: model.set_env(gym.make("Acrobot-v1")),
    "seed": lambda model: model.set_random_seed(),
    "rollout": lambda model: model.learn(25).collect_rollouts(
        model.env, CallbackList([]), model.train_freq, model.replay_buffer
    ),
    "list to policy": lambda model: model.policy.predict([0.0] * model.observation_space.shape[0]),
    "list to tensor": lambda model: model.policy.obs_to_tensor([[0.0] * model.observation_space.shape[0]] * 2),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("cls", CLASSES)
def test_calls_end_as_those_of_the_parent(cls: Any, call: Callable[[Any], Any]) -> None:
    parent, env = (SAC, "Pendulum-v1") if cls is REDQSAC else (DQN, "CartPole-v1")
    stock = parent("MlpPolicy", env, policy_kwargs=dict(net_arch=[8]), buffer_size=99, learning_starts=20, device="cpu")
    ends: list[Any] = []
    for model in (stock, make(cls, gradient_steps=1)):
        try:
            result = call(model)
            ends.append("the model" if result is model else type(result).__name__)
        except Exception as error:
            ends.append(type(error))
    expected, end = ends
    # An error may be a more special one
    assert end == expected or issubclass(end, expected)
