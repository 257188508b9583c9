"""Checks that the policy and the replay buffer fit the observation space, before either is built."""

from functools import cache
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer
from stable_baselines3.sac.policies import SACPolicy
from torch import nn

from sb3_ext.buffers.spaces import UnsupportedSpaceError
from sb3_ext.common.arguments.keywords import check_model_kwargs
from sb3_ext.common.arguments.normalization import check_normalized_images, known_extractor
from sb3_ext.common.arguments.policies import OF_PPO, OF_SAC, check_policy_arguments
from sb3_ext.common.arguments.spaces import check_spaces, transformed
from sb3_ext.common.arguments.types import check_buffer_arguments

_GOAL_KEYS = ("observation", "achieved_goal", "desired_goal")


@cache
def smallest_image() -> int:
    """Return the height and width of the smallest image that the convolutions of ``NatureCNN`` can process."""
    with th.random.fork_rng(devices=[]):  # the weights are not used, and must not change those of the model
        network = NatureCNN(spaces.Box(0, 255, (1, 84, 84), np.uint8), features_dim=1)
    size = 1
    for layer in reversed([module for module in network.modules() if isinstance(module, nn.Conv2d)]):
        size = (size - 1) * layer.stride[0] + layer.dilation[0] * (layer.kernel_size[0] - 1) + 1
    return size


def check_compatibility(model: Any) -> None:
    """
    Check spaces, the dictionaries of arguments, and that policy and replay buffer of an algorithm fit the spaces.

    :param model: an algorithm that is about to build its networks. Its ``replay_buffer_class`` is ``None`` for SB3's
        choice
    :raises ValueError: naming the argument, its value and what is allowed or helps
    :raises TypeError: if a dictionary has an argument that does not exist
    """
    if getattr(model, "observation_space", None) is None:
        raise ValueError("env=None must be an environment or its id: only a saved model can be loaded without one")
    check_spaces(model.observation_space, model.action_space, model.action_space_type)
    bases = {SACPolicy: OF_SAC, ActorCriticPolicy: OF_PPO}
    parts = next((keys for base, keys in bases.items() if issubclass(model.policy_class, base)), ())
    check_policy_arguments(model.policy_kwargs, parts)
    check_model_kwargs(model)
    # First, because it explains where a space that does not fit comes from
    check_normalized_images(model._vec_normalize_env, model.policy_class, model.policy_kwargs)
    check_buffer_arguments(model.replay_buffer_class, model.replay_buffer_kwargs)
    check_policy_fits(model.observation_space, model.policy_class, model.policy_kwargs)
    buffer_class = model.replay_buffer_class or model._default_buffer_class()
    check_buffer_fits(model.observation_space, buffer_class, model.n_steps)


def check_policy_fits(observation_space: spaces.Space, policy_class: type, policy_kwargs: dict[str, Any]) -> None:
    """
    Check that SB3's features extractors can process the observations. Extractors of the user are not checked.

    :param observation_space: of the wrapped environment, so with images that have their channels first
    :raises UnsupportedSpaceError: naming the space, or its key, and what helps
    """
    extractor = known_extractor(policy_class, policy_kwargs)
    if extractor is None:
        return
    is_normalized = not policy_kwargs.get("normalize_images", True) or bool(
        (policy_kwargs.get("features_extractor_kwargs") or {}).get("normalized_image", False)
    )
    name, is_dict = f"observation_space={observation_space}", isinstance(observation_space, spaces.Dict)
    if is_dict and (extractor is FlattenExtractor or issubclass(extractor, NatureCNN)):
        raise UnsupportedSpaceError(
            f"{name} is a Dict, which {extractor.__name__} cannot process: use MultiInputPolicy"
        )
    if issubclass(extractor, CombinedExtractor):
        if not isinstance(observation_space, spaces.Dict):
            raise UnsupportedSpaceError(f"{name} is no Dict: use MlpPolicy, or CnnPolicy for images")
        for key, space in observation_space.spaces.items():
            _check_key(key)
            if is_image_space(space, normalized_image=is_normalized):
                _check_image_size(f"observation_space[{key!r}]", space, key)
    elif issubclass(extractor, NatureCNN):
        if not is_image_space(observation_space, normalized_image=is_normalized):
            raise UnsupportedSpaceError(
                f"{name} is no image, which is a Box of uint8 from 0 to 255 with three axes: use MlpPolicy. "
                "policy_kwargs=dict(normalize_images=False) allows other numbers"
            )
        _check_image_size("observation_space", observation_space)


def _check_image_size(name: str, space: spaces.Space, key: str | None = None) -> None:
    """
    Check that the convolutions can process images.

    :param key: of the images in a ``Dict``; ``None``: there is none
    """
    assert isinstance(space, spaces.Box)
    channels, height, width = space.shape
    smallest = smallest_image()
    if min(height, width) >= smallest:
        return
    size = f"{name}={space} has images of {height}x{width} with {channels} channels"
    if width < min(channels, height) and min(channels, height) >= smallest:
        moved = "np.moveaxis({}, -1, 0)"
        target = f"spaces.Box({space.low.min()}, {space.high.max()}, {(width, channels, height)}, np.{space.dtype})"
        raise UnsupportedSpaceError(
            f"{size}, but channels must be first, and SB3 moves only those of uint8 from 0 to 255: wrap each "
            f"environment in gymnasium.wrappers.{transformed(key, moved, target)}"
        )
    factor = -(-smallest // min(height, width))
    larger = (
        f"gymnasium.wrappers.ResizeObservation(env, ({smallest}, {smallest})) makes them larger, where an environment "
        "has its channels last"
        if key is None and space.dtype == np.uint8
        else f"gymnasium.wrappers.TransformObservation(env, function, space) can make them larger, such as with "
        f"np.repeat(image, {factor}, axis) for height and width"
    )
    raise UnsupportedSpaceError(
        f"{size}, and the convolutions need at least {smallest}x{smallest}. {larger}. "
        "policy_kwargs=dict(features_extractor_class=...) takes a network with smaller kernels. MlpPolicy takes "
        "images of any size, and gymnasium.wrappers.FlattenObservation(env) makes a vector of a Dict for it"
    )


def _check_key(key: Any) -> None:
    """Check that a key can be the name of a module, because SB3's ``CombinedExtractor`` makes it one."""
    if isinstance(key, str) and key and "." not in key and not hasattr(nn.ModuleDict(), key):
        return
    new_key = str(key).replace(".", "_") + "_"
    renamed = f"{{{new_key!r} if key == {key!r} else key: value for key, value in "
    raise UnsupportedSpaceError(
        f"observation_space has the key {key!r}, which no module of torch can have as its name: wrap each environment "
        f"in gymnasium.wrappers.TransformObservation(env, lambda obs: {renamed}obs.items()}}, "
        f"spaces.Dict({renamed}env.observation_space.spaces.items()}}))"
    )


def check_buffer_fits(observation_space: spaces.Space, buffer_class: type[ReplayBuffer] | None, n_steps: int) -> None:
    """
    Check that a replay buffer of SB3 can store the observations. Those of this package check it themselves.

    :param buffer_class: ``None`` for SB3's choice
    :raises UnsupportedSpaceError: naming the space, the buffer and what helps
    """
    name, is_dict = f"observation_space={observation_space}", isinstance(observation_space, spaces.Dict)
    if buffer_class is None:
        if is_dict and n_steps > 1:
            raise UnsupportedSpaceError(
                f"{name} with n_steps={n_steps}: SB3's buffer forms no n-step returns of a Dict. "
                "replay_buffer_class=PrioritizedReplayBuffer and FrameDedupReplayBuffer do"
            )
    elif issubclass(buffer_class, HerReplayBuffer):
        if not isinstance(observation_space, spaces.Dict) or not set(_GOAL_KEYS) <= set(observation_space.spaces):
            raise UnsupportedSpaceError(
                f"{name} with replay_buffer_class={buffer_class.__name__}: it needs an environment with goals, "
                f"whose observations are a Dict with the keys {', '.join(_GOAL_KEYS)}"
            )
    elif issubclass(buffer_class, DictReplayBuffer) and not is_dict:
        raise UnsupportedSpaceError(
            f"{name} is no Dict, which replay_buffer_class={buffer_class.__name__} needs: use ReplayBuffer"
        )
    elif buffer_class in (ReplayBuffer, NStepReplayBuffer) and is_dict:
        raise UnsupportedSpaceError(
            f"{name} is a Dict, which replay_buffer_class={buffer_class.__name__} cannot store: use DictReplayBuffer, "
            "PrioritizedReplayBuffer or FrameDedupReplayBuffer"
        )
