"""Each space is learned from, or refused when a model is made, with a wrapper that helps."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import ResizeObservation
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, NatureCNN
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer
from torch import nn

from sb3_ext import (
    REDQSAC,
    DeviceReplayBuffer,
    DoubleDQN,
    FrameDedupReplayBuffer,
    PrioritizedFrameDedupReplayBuffer,
    PrioritizedReplayBuffer,
)
from sb3_ext.common.arguments.compatibility import smallest_image
from tests.support.models import CLASSES, make
from tests.support.spaces import HANDLED, WITHOUT_SIZE, WRAPPED, Emitting, box, float32, in_dict, policy_of, wrapper_in

OURS: list[Any] = [FrameDedupReplayBuffer, PrioritizedReplayBuffer, PrioritizedFrameDedupReplayBuffer]
DISCRETE, CONTINUOUS = spaces.Discrete(3), box()
OBSERVATIONS = [*HANDLED, *(in_dict(space) for space in HANDLED)]
REFUSED = [
    *WRAPPED,
    *map(in_dict, WRAPPED),
    in_dict(in_dict(box())),
    spaces.Dict({}),
    spaces.Dict({"a": box(shape=(0,))}),
]
#: Continuous actions that are refused, with a wrapper
BOXES = [
    box(-np.inf, np.inf),
    box(5, np.inf),
    box(-np.inf, -5, shape=(2, 2)),
    float32([-np.inf, 0], [np.inf, 1]),
    box(-3e38, 3e38),
    float32([0, -1], [0, 1]),
    box(shape=(0,)),
    box(0, 255, dtype=np.uint8),
    *(box(-2, 2, dtype=dtype) for dtype in (np.int32, np.int64, np.float16)),
    spaces.Dict({"a": box(), "b": box(0, 5)}),
    spaces.Tuple((box(), box(0, 5))),
]
#: Other actions that value-based algorithms refuse, with a wrapper
DISCRETES = [
    spaces.Discrete(3, start=1),
    spaces.Discrete(3, start=-1),
    spaces.MultiDiscrete([2, 3]),
    spaces.MultiDiscrete([[2, 3]], start=[[1, -1]]),
    spaces.MultiBinary(3),
    spaces.MultiBinary((2, 2)),
    box(),
]


def actions_of(cls: Any) -> spaces.Space:
    return CONTINUOUS if issubclass(cls, REDQSAC) else DISCRETE


def make_with(
    cls: Any, observation_space: spaces.Space, action_space: spaces.Space | None = None, **kwargs: Any
) -> Any:
    action_space = actions_of(cls) if action_space is None else action_space
    policy = kwargs.pop("policy", policy_of(observation_space))
    return make(cls, Emitting(observation_space, action_space), policy, gradient_steps=1, **kwargs)


def refusal(cls: Any, observation_space: spaces.Space, action_space: spaces.Space | None = None, **kwargs: Any) -> str:
    with pytest.raises(ValueError) as caught:
        make_with(cls, observation_space, action_space, **kwargs)
    return str(caught.value)


def learns_with_wrapper(cls: Any, message: str, observation_space: spaces.Space, action_space: spaces.Space) -> Any:
    env = wrapper_in(message, Emitting(observation_space, action_space))
    model = make(cls, env, policy_of(env.observation_space), learning_starts=8, batch_size=4, gradient_steps=1)
    model.learn(12)
    assert model._n_updates > 0
    return env


@pytest.mark.parametrize("space", OBSERVATIONS, ids=str)
def test_observations_are_learned_from_saved_and_loaded(space: spaces.Space, tmp_path: Path) -> None:
    index = OBSERVATIONS.index(space)
    of_ours, cls = OURS[index % 3], CLASSES[index % 4]
    actions = actions_of(cls)
    for buffer_class in [of_ours] if isinstance(space, spaces.Dict) else [None, of_ours]:
        model = make_with(cls, space, learning_starts=8, replay_buffer_class=buffer_class).learn(12)
        assert model._n_updates > 0
        model.save(tmp_path / "model")
        model.save_replay_buffer(tmp_path / "buffer")
        loaded = cls.load(tmp_path / "model", env=Emitting(space, actions))
        loaded.load_replay_buffer(tmp_path / "buffer")
        loaded.learn(4, reset_num_timesteps=False)
        assert loaded.predict(space.sample(), deterministic=True)[0] in actions


@pytest.mark.parametrize("space", REFUSED, ids=str)
@pytest.mark.parametrize("cls", CLASSES)
def test_observations_are_refused_with_a_wrapper(cls: Any, space: spaces.Space) -> None:
    message = refusal(cls, space)
    assert message.startswith("observation_space")
    if cls is DoubleDQN:
        learns_with_wrapper(cls, message, space, actions_of(cls))


@pytest.mark.parametrize("space", [*WITHOUT_SIZE, *map(in_dict, WITHOUT_SIZE)], ids=str)
@pytest.mark.parametrize("cls", CLASSES)
def test_observations_without_size_are_refused(cls: Any, space: spaces.Space) -> None:
    assert "TransformObservation" in refusal(cls, space)


@pytest.mark.parametrize("space", BOXES, ids=str)
def test_continuous_actions_are_refused_with_a_wrapper(space: spaces.Space) -> None:
    message = refusal(REDQSAC, box(), space)
    assert message.startswith(f"action_space={space}")
    assert isinstance(learns_with_wrapper(REDQSAC, message, box(), space).action_space, spaces.Box)


@pytest.mark.parametrize("space", DISCRETES, ids=str)
@pytest.mark.parametrize("cls", CLASSES[1:])
def test_other_actions_are_refused_with_a_wrapper(cls: Any, space: spaces.Space) -> None:
    message = refusal(cls, box(), space)
    assert message.startswith(f"action_space={space}")
    if cls is DoubleDQN:
        assert isinstance(learns_with_wrapper(cls, message, box(), space).action_space, spaces.Discrete)


def test_joint_actions_too_many_for_one_space_are_no_wrapper() -> None:
    assert "PPO" in refusal(DoubleDQN, box(), spaces.MultiBinary(100))


@pytest.mark.parametrize("space", [spaces.Text(3), spaces.Tuple((DISCRETE, box())), spaces.Graph(box(), None)], ids=str)
@pytest.mark.parametrize("cls", CLASSES)
def test_actions_of_other_kinds_are_refused(cls: Any, space: spaces.Space) -> None:
    assert "TransformAction" in refusal(cls, box(), space)


@pytest.mark.parametrize(
    "space", [box(-1, 5), box(shape=(2, 3)), box(shape=()), box(dtype=np.float64), float32([0, -3], [1, 2])], ids=str
)
def test_continuous_actions_reach_the_environment_inside_their_space(space: spaces.Space) -> None:
    model = make_with(REDQSAC, box(), space, learning_starts=8).learn(12)
    assert model.predict(box().sample())[0] in space


@pytest.mark.parametrize("n_actions", [1, np.int64(3), np.int32(3)])
@pytest.mark.parametrize("cls", CLASSES[1:])
def test_numbers_of_discrete_actions(cls: Any, n_actions: Any) -> None:
    assert make_with(cls, box(), spaces.Discrete(n_actions), learning_starts=8).learn(12)._n_updates > 0


@pytest.mark.parametrize("shape", [(20, 60, 3), (3, 60, 20), (35, 35, 1)])
@pytest.mark.parametrize("as_dict", [False, True])
@pytest.mark.parametrize("cls", CLASSES)
def test_images_too_small_for_the_convolutions(cls: Any, as_dict: bool, shape: tuple[int, ...]) -> None:
    image = box(0, 255, shape, np.uint8)
    space, policy = (in_dict(image), "MultiInputPolicy") if as_dict else (image, "CnnPolicy")
    message = refusal(cls, space, policy=policy)
    assert "at least 36x36" in message and ("ResizeObservation" in message) is not as_dict  # which takes no Dict
    assert message.startswith("observation_space['b']=Box" if as_dict else "observation_space=Box")


def test_the_smallest_image_is_that_of_the_network() -> None:
    size = smallest_image()
    NatureCNN(box(0, 255, (3, size, size), np.uint8))
    with pytest.raises(RuntimeError):
        NatureCNN(box(0, 255, (3, size, size - 1), np.uint8))


@pytest.mark.parametrize("cls", CLASSES)
def test_small_images_are_learned_from_as_the_message_says(cls: Any) -> None:
    env = Emitting(box(0, 255, (20, 20, 3), np.uint8), actions_of(cls))
    for policy, wrapped in (("CnnPolicy", ResizeObservation(env, (36, 36))), ("MlpPolicy", env)):
        model = make(cls, wrapped, policy, learning_starts=8, batch_size=2, gradient_steps=1).learn(10)
        assert model._n_updates > 0


@pytest.mark.parametrize("as_dict", [False, True])
@pytest.mark.parametrize("cls", CLASSES)
def test_images_of_floats_with_channels_last(cls: Any, as_dict: bool) -> None:
    image = box(0, 1, (36, 40, 3))
    space, policy = (in_dict(image), "MultiInputPolicy") if as_dict else (image, "CnnPolicy")
    kwargs: dict[str, Any] = dict(policy_kwargs=dict(normalize_images=False))
    wrapped = wrapper_in(refusal(cls, space, policy=policy, **kwargs), Emitting(space, actions_of(cls)))
    assert make(cls, wrapped, policy, **kwargs).observation_space == wrapped.observation_space


class SmallCNN(NatureCNN):
    def __init__(self, observation_space: spaces.Box, features_dim: int = 4) -> None:
        BaseFeaturesExtractor.__init__(self, observation_space, features_dim)
        self.cnn = nn.Sequential(nn.Conv2d(3, 2, 5), nn.Flatten())
        self.linear = nn.Linear(2 * 16 * 16, features_dim)


class SmallImages(CombinedExtractor):
    def __init__(self, observation_space: spaces.Dict) -> None:
        BaseFeaturesExtractor.__init__(self, observation_space, 8)
        self.extractors = nn.ModuleDict({key: SmallCNN(space) for key, space in observation_space.spaces.items()})


@pytest.mark.parametrize("gives_extractor", [False, True])
@pytest.mark.parametrize("cls", CLASSES)
def test_a_user_s_own_layers_process_small_images(cls: Any, gives_extractor: bool) -> None:
    image = box(0, 255, (20, 20, 3), np.uint8)
    policies: Any = cls.policy_aliases
    cases: list[tuple[str, spaces.Space, Any]] = [
        ("CnnPolicy", image, SmallCNN),
        ("MultiInputPolicy", spaces.Dict({"a": image, "b": image}), SmallImages),
    ]
    for name, space, extractor in cases:
        policy: Any = name
        policy_kwargs: dict[str, Any] = dict(features_extractor_class=extractor)
        if gives_extractor:

            class OwnPolicy(policies[name]):  # type: ignore[misc]
                def __init__(self, *args: Any, **kwargs: Any) -> None:
                    super().__init__(*args, **kwargs, features_extractor_class=extractor)  # noqa: B023

            policy = OwnPolicy
            policy_kwargs = dict(features_extractor_kwargs=dict(features_dim=3)) if extractor is SmallCNN else {}
        model = make_with(cls, space, policy=policy, policy_kwargs=policy_kwargs, learning_starts=8).learn(10)
        assert model._n_updates > 0


@pytest.mark.parametrize("cls", CLASSES)
def test_layers_of_sb3_are_looked_at_in_classes_of_users_too(cls: Any) -> None:
    def own_init(self: Any, *args: Any, **kwargs: Any) -> None:
        super(type(self), self).__init__(*args, **kwargs)

    extractor = dict(features_extractor_class=type("OwnExtractor", (NatureCNN,), {}))
    policies: Any = cls.policy_aliases
    own_cnn, own_mlp = (
        type("Own", (policies[name],), {"__init__": own_init, "__module__": "own"})
        for name in ("CnnPolicy", "MlpPolicy")
    )
    space = box(0, 255, (20, 20, 3), np.uint8)
    assert "at least 36x36" in refusal(cls, space, policy="CnnPolicy", policy_kwargs=extractor)
    assert "at least 36x36" in refusal(cls, space, policy=own_cnn)
    assert "MultiInputPolicy" in refusal(cls, in_dict(box()), policy=own_mlp)
    with pytest.raises(TypeError, match=r"did you mean .*weight_decay=1"):
        make_with(cls, box(), policy=own_mlp, policy_kwargs=dict(optimizer_kwargs=dict(wight_decay=1)))


@pytest.mark.parametrize("key", ["a.b", "", "keys", "type", 1])
@pytest.mark.parametrize("cls", CLASSES)
def test_keys_that_no_module_can_have(cls: Any, key: Any) -> None:
    space = spaces.Dict({key: box()})
    message = refusal(cls, space)
    assert f"observation_space has the key {key!r}" in message
    if cls is DoubleDQN:
        learns_with_wrapper(cls, message, space, actions_of(cls))


@pytest.mark.parametrize(
    ("policy", "space", "message"),
    [
        ("MultiInputPolicy", box(), "use MlpPolicy"),
        ("CnnPolicy", box(), "is no image"),
        (DoubleDQN.policy_aliases["MlpPolicy"], in_dict(box()), "MultiInputPolicy"),
        (DoubleDQN.policy_aliases["CnnPolicy"], in_dict(box()), "MultiInputPolicy"),
    ],
)
def test_policies_that_do_not_fit_the_space(policy: Any, space: spaces.Space, message: str) -> None:
    assert message in refusal(DoubleDQN, space, policy=policy)


@pytest.mark.parametrize(
    ("buffer_class", "space", "n_steps"),
    [
        (ReplayBuffer, in_dict(box()), 1),
        (NStepReplayBuffer, in_dict(box()), 3),
        (DeviceReplayBuffer, in_dict(box()), 1),
        (DictReplayBuffer, box(), 1),
        (HerReplayBuffer, box(), 1),
        (HerReplayBuffer, in_dict(box()), 1),
        (None, in_dict(box()), 3),
    ],
)
@pytest.mark.parametrize("cls", CLASSES)
def test_buffers_that_do_not_fit_the_space(cls: Any, buffer_class: Any, space: spaces.Space, n_steps: int) -> None:
    assert "observation_space=" in refusal(cls, space, replay_buffer_class=buffer_class, n_steps=n_steps)


@pytest.mark.parametrize("cls", CLASSES)
def test_environments_given_later_are_checked(cls: Any, tmp_path: Path) -> None:
    bad = DummyVecEnv([lambda: Emitting(spaces.Discrete(3, start=1), actions_of(cls))])
    model = make_with(cls, spaces.Discrete(3))
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match="observation_space=Discrete"):
        model.set_env(bad)
    with pytest.raises(ValueError, match="observation_space=Discrete"):
        cls.load(tmp_path / "model", env=bad)


@pytest.mark.parametrize("buffer_class", [*OURS, DeviceReplayBuffer])
@pytest.mark.parametrize(
    ("observation_space", "action_space", "name"),
    [
        (box(shape=(0,)), DISCRETE, "observation_space"),
        (spaces.Text(3), DISCRETE, "observation_space"),
        (spaces.MultiDiscrete([[3, 4]]), DISCRETE, "observation_space"),
        (box(), box(shape=(0,)), "action_space"),
        (box(), spaces.MultiBinary((2, 2)), "action_space"),
        (box(), spaces.MultiDiscrete([[3, 4]]), "action_space"),
        (box(), spaces.Tuple((DISCRETE,)), "action_space"),
        ((3,), DISCRETE, "observation_space"),
        (box(), 3, "action_space"),
    ],
)
def test_buffers_of_their_own_refuse_what_they_cannot_store(
    buffer_class: Any, observation_space: Any, action_space: Any, name: str
) -> None:
    with pytest.raises(ValueError, match=f"{name}="):
        buffer_class(10, observation_space, action_space)


@pytest.mark.parametrize("buffer_class", OURS)
@pytest.mark.parametrize("key", ["", 0])
def test_buffers_of_their_own_refuse_keys_without_a_name(buffer_class: Any, key: Any) -> None:
    with pytest.raises(ValueError, match="keys must be strings"):
        buffer_class(10, spaces.Dict({key: box()}), DISCRETE)
