"""Arguments of another type are refused when a model is made, by their names; numpy's numbers are numbers."""

import inspect
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import DQN, SAC, HerReplayBuffer
from stable_baselines3.common.buffers import NStepReplayBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.her.goal_selection_strategy import GoalSelectionStrategy
from torch import nn

from sb3_ext import (
    REDQSAC,
    AtariVecEnv,
    DiagnosisCallback,
    DoubleDQN,
    FrameDedupReplayBuffer,
    PrioritizedReplayBuffer,
    estimate_memory,
)
from sb3_ext.common.arguments.types import BUFFERS, prepared
from tests.support.models import CLASSES, make, settings_of

each_class = pytest.mark.parametrize("cls", CLASSES)
# What no argument takes
JUNK: list[Any] = [object(), b"x", 1j, np.ones(2), th.ones(2), float("nan"), [object()], {1: 2}]
ENVS: dict[Any, str] = {cls: "Pendulum-v1" if issubclass(cls, REDQSAC) else "CartPole-v1" for cls in CLASSES}


def constructor_arguments(cls: Any) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(cls).parameters
    return {name: parameter for name, parameter in parameters.items() if name != "_init_setup_model"}


def policy_arguments(cls: Any) -> set[str]:
    """Names of the keyword arguments that the constructors of the algorithm's policy have between them."""
    constructors = (vars(base).get("__init__") for base in cls.policy_aliases["MlpPolicy"].__mro__)
    parameters = [p for init in constructors if init for p in inspect.signature(init).parameters.values()]
    return {p.name for p in parameters if p.default is not p.empty}


def make_with(cls: Any, name: str, value: Any) -> Any:
    if name == "policy":
        return make(cls, policy=value)
    if name == "env":
        return cls("MlpPolicy", value, **settings_of(cls))
    if name == "policy_kwargs":
        return cls("MlpPolicy", ENVS[cls], policy_kwargs=value, **settings_of(cls))
    return make(cls, **{name: value})


@each_class
def test_what_no_argument_takes_is_refused_by_name(cls: Any) -> None:
    for name in constructor_arguments(cls):
        for value in JUNK:
            with pytest.raises(ValueError, match=rf"^{name}="):
                make_with(cls, name, value)


@each_class
def test_what_no_argument_of_a_policy_takes_is_refused_by_name(cls: Any) -> None:
    # SB3 sets these three itself. Some are arguments of IQN, which says so
    for name in policy_arguments(cls) - {"features_extractor", "squash_output", "use_sde"}:
        for value in JUNK:
            with pytest.raises(ValueError, match=rf"^{name}=|^policy_kwargs has {name}="):
                make(cls, policy_kwargs={name: value})


@each_class
def test_what_is_refused_is_refused_in_a_policy_of_its_own(cls: Any) -> None:
    model = make(cls)
    arguments = model.observation_space, model.action_space, model.lr_schedule
    for name in ("net_arch", "activation_fn", "optimizer_class", "optimizer_kwargs", "features_extractor_class"):
        with pytest.raises(ValueError, match=rf"^{name}='x' must be"):
            model.policy_class(*arguments, **{name: "x"})


@each_class
def test_numbers_of_numpy_are_numbers(cls: Any, tmp_path: Path) -> None:
    defaults = {name: p.default for name, p in constructor_arguments(cls).items()}
    numbers = {n: v for n, v in defaults.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
    as_numpy = {n: np.int64(v) if isinstance(v, int) else np.float32(v) for n, v in numbers.items()}
    as_numpy |= {"seed": np.int64(3), "buffer_size": np.int32(500), "learning_starts": np.int64(8)}
    model = make(cls, **as_numpy).learn(12)
    model.save(tmp_path / "model")
    loaded = cls.load(tmp_path / "model", env=ENVS[cls] and gym.make(ENVS[cls]), learning_rate=np.float32(0.5))
    assert loaded.learning_rate == 0.5 and loaded.seed == 3
    assert len(as_numpy) > 10


@each_class
def test_numbers_of_numpy_in_a_tuple(cls: Any) -> None:
    assert make(cls, train_freq=(np.int64(2), "episode")).train_freq.frequency == 2


@each_class
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(policy="MLPPolicy"), "policy='MLPPolicy' is not one of 'MlpPolicy', "),
        (dict(policy=dict), "policy=dict must be a subclass"),
        (dict(env=gym.Env), "env=<class 'gymnasium.core.Env'> must be an environment"),
        (dict(env=None), "env=None must be an environment"),
        (dict(replay_buffer_class="PriorisedReplayBuffer"), "Buffer' is not one of 'PrioritizedReplayBuffer', "),
        (dict(replay_buffer_class="mine.ReplayBuffer"), "'mine.ReplayBuffer' is not one of 'ReplayBuffer', "),
        (dict(replay_buffer_class="stable_baselines3.PrioritizedReplayBuffer"), "is not one of 'Prior"),
        (dict(replay_buffer_class=RolloutBuffer), "RolloutBuffer'> must be None, a subclass of SB3's ReplayBuffer"),
        (dict(replay_buffer_class=partial(PrioritizedReplayBuffer, alpha=1)), "replay_buffer_class=functools"),
        (dict(replay_buffer_kwargs="dict(n_steps=3)"), r"replay_buffer_kwargs='dict\(n_steps=3\)' must be.*rl_zoo3"),
        (dict(policy_kwargs="dict(net_arch=[64])"), r"policy_kwargs='dict\(net_arch=\[64\]\)' must be a dict"),
        (dict(learning_rate="1e-3"), "learning_rate='1e-3' must be a number.*or the name of a schedule such as"),
        (dict(learning_rate="cos_fast"), "learning_rate='cos_fast' is no schedule: its numbers must be finite"),
        (dict(learning_rate="exp_1e-3"), "learning_rate='exp_1e-3' is no schedule: it must be like lin_1e-3"),
        (dict(learning_rate=-1e-3), "learning_rate=-0.001 must be a number >= 0"),
        (dict(learning_rate=lambda progress: "x"), "learning_rate=<function.*at 1.0 it fails with ValueError"),
        (dict(learning_rate=lambda progress: None), "learning_rate=<function.*at 1.0 it fails with TypeError"),
        (dict(learning_rate=lambda progress: progress - 0.4), r"learning_rate=<function.*at 0.0 it returns -0.4"),
        (dict(learning_rate=lambda: 1e-3), "learning_rate=<function.*at 1.0 it fails with TypeError"),
        (dict(learning_rate=float), "learning_rate=<class 'float'> must be"),
        (dict(train_freq="step"), "train_freq='step' must be an integer"),
        (dict(train_freq=(4, "steps")), r"train_freq=\(4, 'steps'\) must be an integer"),
        (dict(train_freq=(4, "step", 1)), r"train_freq=\(4, 'step', 1\) must be"),
        (dict(train_freq=[4, "step"]), r"train_freq=\[4, 'step'\] must be"),
        (dict(train_freq=0), "train_freq=0 must be an integer of at least 1"),
        (dict(train_freq=True), "train_freq=True must be"),
        (dict(gradient_steps=1e3), "gradient_steps=1000.0 must be an integer"),
        (dict(device="gpu"), "device='gpu' must be 'auto', 'cpu', 'cuda' or another"),
        (dict(device="meta"), "device='meta' must be"),
        (dict(seed=-1), "seed=-1 must be"),
        (dict(seed=2**32), "seed=4294967296 must be"),
        (dict(verbose="1"), "verbose='1' must be 0, 1 or 2"),
        (dict(tensorboard_log=True), "tensorboard_log=True must be a path"),
        (dict(stats_window_size=-1), "stats_window_size=-1 must be an integer"),
        (dict(learning_starts="1e3"), "learning_starts='1e3' must be a number"),
        (dict(policy_kwargs=dict(optimizer_class="th.optim.AdamW")), "optimizer_class='th.optim.AdamW' must be a sub"),
        (dict(policy_kwargs=dict(optimizer_class=nn.ReLU)), "optimizer_class=<class.*must be a subclass of Optimizer"),
        (dict(policy_kwargs=dict(activation_fn="ReLU")), "activation_fn='ReLU' must be a class of activations"),
        (dict(policy_kwargs=dict(activation_fn=nn.ReLU())), r"activation_fn=ReLU\(\) must be a class"),
        (dict(policy_kwargs=dict(activation_fn=th.relu)), "activation_fn=<built-in.*it fails with TypeError"),
        (dict(policy_kwargs=dict(activation_fn=dict)), "activation_fn=<class 'dict'>.*it returns {}"),
        (dict(policy_kwargs=dict(features_extractor_class="NatureCNN")), "features_extractor_class='NatureCNN' must"),
        (dict(policy_kwargs=dict(net_arch="64")), "net_arch='64' must be a list of integers"),
        (dict(policy_kwargs=dict(net_arch=64)), "net_arch=64 must be a list of integers"),
        (dict(policy_kwargs=dict(net_arch=[64.0])), r"net_arch=\[64.0\] must be"),
        (dict(policy_kwargs=dict(net_arch=[0])), r"net_arch=\[0\] must be"),
        (dict(policy_kwargs=dict(net_arch=dict(pi=[8]))), r"net_arch={'pi': \[8\]} must be"),
        (
            dict(policy_kwargs=dict(net_arch=[dict(pi=[8], qf=[8])])),
            r"net_arch=\[{.*} must be|net_arch=\[{.*}\] must be",
        ),
        (dict(policy_kwargs=dict(normalize_images="yes")), "normalize_images='yes' is not one of True, False"),
        (dict(policy_kwargs=dict(optimizer_kwargs=[1])), r"optimizer_kwargs=\[1\] must be a dictionary"),
        (
            dict(policy_kwargs=dict(optimizer_kwargs=dict(eps="1e-5"))),
            "optimizer_kwargs: eps='1e-5' is text",
        ),
    ],
)
def test_wrong_arguments(cls: Any, arguments: dict[str, Any], message: str) -> None:
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=message):
        make_with(cls, name, value)


@each_class
def test_what_no_argument_of_learn_takes_is_refused_by_name(cls: Any) -> None:
    model = make(cls)
    wrong: dict[str, list[Any]] = dict(
        total_timesteps=[*JUNK, "100", None],
        callback=[*JUNK, "x", 3, DiagnosisCallback, ["x"]],
        log_interval=[*JUNK, "4", 0],
    )
    for name, values in wrong.items():
        for value in values:
            with pytest.raises(ValueError, match=rf"^{name}="):
                model.learn(**{"total_timesteps": 2, name: value})
    for callback in (None, [], lambda local_variables, global_variables: True, CheckpointCallback(10, "x")):
        model.learn(np.int64(1), callback, log_interval=-1)
    model.learn(1e0, log_interval=None)


@each_class
def test_what_is_refused_is_refused_when_an_attribute_is_set(cls: Any) -> None:
    model = make(cls)
    names = {"batch_size", "gradient_steps", "tau", "learning_starts", "target_update_interval"}
    for name in names | ({"action_noise", "policy_delay"} if cls is REDQSAC else {"max_grad_norm", "double_q"}):
        right = getattr(model, name)
        with pytest.raises(ValueError, match=rf"^{name}='x'"):
            setattr(model, name, "x")
            model.learn(2)
        setattr(model, name, right)
    model.learn(2)


@each_class
def test_what_no_argument_of_load_takes_is_refused_by_name(cls: Any, tmp_path: Path) -> None:
    make(cls).save(tmp_path / "model")
    wrong: dict[str, Any] = dict(device="gpu", custom_objects=[1], env=ENVS[cls])
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=rf"^{name}="):
            cls.load(tmp_path / "model", **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("handle_timeout_termination", "yes"),
        ("copy_info_dict", None),
        ("n_sampled_goal", "4"),
        ("goal_selection_strategy", "futur"),
        ("goal_selection_strategy", 1),
    ],
)
def test_arguments_of_sb3_s_buffers(name: str, value: Any) -> None:
    def make_her(**kwargs: Any) -> Any:
        settings: dict[str, Any] = dict(replay_buffer_class=HerReplayBuffer, replay_buffer_kwargs=kwargs)
        return make(DoubleDQN, BitFlippingEnv(3), "MultiInputPolicy", **settings)

    with pytest.raises(ValueError, match=f"^{name}="):
        make_her(**{name: value})
    for strategy in ("FUTURE", *GoalSelectionStrategy):
        make_her(goal_selection_strategy=strategy, n_sampled_goal=np.int64(2), copy_info_dict=False)


@pytest.mark.parametrize("value", [NormalActionNoise, "normal", 0.1])
def test_action_noise_of_another_type(value: Any) -> None:
    with pytest.raises(ValueError, match=r"action_noise=.* must be None or an ActionNoise"):
        make(action_noise=value)


@each_class
@pytest.mark.parametrize(
    "policy_kwargs",
    [
        dict(net_arch=[]),
        dict(net_arch=[np.int64(8), 7]),
        dict(activation_fn=partial(nn.LeakyReLU, 0.1)),
        dict(activation_fn=nn.Tanh, optimizer_class=partial(th.optim.SGD, momentum=0.5)),
        dict(optimizer_kwargs=None, features_extractor_kwargs=None),
    ],
)
def test_what_sb3_takes_is_taken(cls: Any, policy_kwargs: dict[str, Any]) -> None:
    stock = SAC if cls is REDQSAC else DQN
    stock("MlpPolicy", ENVS[cls], policy_kwargs=dict(policy_kwargs), buffer_size=10, device="cpu")
    model = make(cls, policy_kwargs=policy_kwargs)
    action, _ = model.predict(model.observation_space.sample(), deterministic=True)
    assert action in model.action_space


def test_architectures_that_differ_between_kinds_of_algorithms() -> None:
    make(REDQSAC, policy_kwargs=dict(net_arch=dict(pi=[8], qf=[7])))
    make(DoubleDQN, policy_kwargs=dict(net_arch=(8, 7)))


@pytest.mark.parametrize("name", BUFFERS)
def test_names_of_replay_buffers(name: str) -> None:
    package = BUFFERS[name].__module__.partition(".")[0]
    for text in (name, f"{package}.{name}", f"{BUFFERS[name].__module__}.{name}"):
        assert prepared("replay_buffer_class", text) is BUFFERS[name]


@each_class
def test_a_model_keeps_and_saves_the_class_of_a_named_buffer(cls: Any, tmp_path: Path) -> None:
    model = make(cls, replay_buffer_class="PrioritizedReplayBuffer", n_steps=2, replay_buffer_kwargs=dict(alpha=0.5))
    assert model.replay_buffer_class is type(model.replay_buffer) is PrioritizedReplayBuffer
    assert model.replay_buffer.n_steps == 2
    model.save(tmp_path / "model")
    assert cls.load(tmp_path / "model").replay_buffer_class is PrioritizedReplayBuffer
    other = cls.load(tmp_path / "model", replay_buffer_class="NStepReplayBuffer", replay_buffer_kwargs={})
    assert type(other.replay_buffer) is NStepReplayBuffer
    with pytest.raises(ValueError, match="replay_buffer_class='x' is not one of"):
        cls.load(tmp_path / "model", replay_buffer_class="x")


def test_names_are_those_of_rl_zoo3() -> None:
    assert BUFFERS["HerReplayBuffer"] is HerReplayBuffer
    assert {"PrioritizedReplayBuffer", "FrameDedupReplayBuffer"} <= BUFFERS.keys()


@pytest.mark.parametrize("name", [name for name in BUFFERS if BUFFERS[name].__module__.startswith("sb3_ext")])
def test_what_no_argument_of_a_buffer_takes_is_refused_by_name(name: str) -> None:
    given: dict[str, Any] = dict(
        buffer_size=10,
        observation_space=gym.spaces.Box(-1, 1, (3,)),
        action_space=gym.spaces.Discrete(3),
    )
    constructors = (vars(base).get("__init__") for base in BUFFERS[name].__mro__ if "sb3_ext" in base.__module__)
    parameters = [p for init in constructors if init for p in inspect.signature(init).parameters.values()]
    named = {p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)} - {"self"}
    assert named > given.keys()
    for argument in named:
        for value in JUNK:
            with pytest.raises(ValueError, match=rf"^{argument}="):
                BUFFERS[name](**(given | {argument: value}))


@pytest.mark.parametrize("cls", [DiagnosisCallback, AtariVecEnv])
def test_what_no_argument_of_callback_and_games_takes_is_refused_by_name(cls: Any) -> None:
    given = {"env_id": "ALE/Pong-v5"} if cls is AtariVecEnv else {}
    # A seed is looked at when the games run, which takes long
    for name in inspect.signature(cls).parameters.keys() - ({"seed"} if given else set()):
        for value in JUNK:
            with pytest.raises(ValueError, match=rf"^{name}="):
                cls(**(given | {name: value}))


@pytest.mark.parametrize("value", ["PrioritizedReplayBuffer", None])
def test_memory_is_estimated_for_classes(value: Any) -> None:
    with pytest.raises(ValueError, match="buffer_class="):
        estimate_memory(value, 10, gym.spaces.Box(-1, 1, (3,)), gym.spaces.Discrete(3))


def test_no_name_is_no_buffer() -> None:
    assert prepared("replay_buffer_class", None) is None
    assert prepared("replay_buffer_class", FrameDedupReplayBuffer) is FrameDedupReplayBuffer
