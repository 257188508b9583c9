"""Types of the arguments of policies, checked before anything is built from them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th
from torch import nn

from sb3_ext.checks import check_choice, check_interval, check_mapping, check_no_text

_BOOLEANS = (
    "normalize_images",
    "share_features_extractor",
    "use_expln",
    "use_sde",
    "layer_norm",
    "dueling",
)
_MAPPINGS = ("optimizer_kwargs", "features_extractor_kwargs", "head_kwargs", "network_kwargs")
_NUMBERS = ("log_std_init", "clip_mean")
_NO_NAME = "and not its name"
#: Keys of ``net_arch`` for actor and critics. SAC needs both; PPO and A2C take one alone, too
OF_SAC, OF_PPO = ("pi", "qf"), ("pi", "vf")


def check_policy_arguments(kwargs: Mapping[str, Any], parts: tuple[str, ...] = ()) -> None:
    """
    Check those of a policy's arguments that SB3 takes unseen.

    :param parts: the keys that ``net_arch`` may have as a dictionary: ``OF_SAC``, ``OF_PPO`` or none
    :raises ValueError: naming the argument, its value and what is allowed
    """
    for name, value in kwargs.items():
        if name in _BOOLEANS:
            check_choice(name, value, (True, False))
        elif name in _NUMBERS:
            check_interval(name, value, -np.finfo(np.float64).max, np.finfo(np.float64).max, "a number")
        elif name in _MAPPINGS and value is not None:
            check_mapping(name, value)
            if name == "optimizer_kwargs":
                for key, part in value.items():
                    check_no_text(f"{name}: {key}", part)
        elif name == "net_arch" and value is not None:
            _check_net_arch(name, value, parts)
        elif name == "activation_fn":
            _check_activation(name, value)
        elif name == "optimizer_class":
            _check_factory(name, value, th.optim.Optimizer, "torch.optim.AdamW")
        elif name == "features_extractor_class":
            _check_factory(name, value, nn.Module, "stable_baselines3.common.torch_layers.FlattenExtractor")


def _check_net_arch(name: str, value: Any, parts: tuple[str, ...]) -> None:
    architectures = [value]
    if parts == OF_PPO and isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0]  # SB3's old form, which it still takes
    if parts and isinstance(value, dict):
        is_known = set(parts) <= set(value) if parts == OF_SAC else set(value) <= set(parts)
        architectures = [value[key] for key in parts if key in value] if is_known else [value]
    if all(_is_list_of_widths(architecture, may_be_tuple=parts != OF_SAC) for architecture in architectures):
        return
    other = f", or dict({parts[0]}=[...], {parts[1]}=[...]) of two such lists" if parts else ""
    raise ValueError(f"{name}={value!r} must be a list of integers >= 1, the units of the hidden layers{other}")


def _is_list_of_widths(value: Any, may_be_tuple: bool) -> bool:
    """Tell whether it is what SB3's function for that kind of network takes."""
    return isinstance(value, (list, tuple) if may_be_tuple else list) and all(
        isinstance(width, (int, np.integer)) and not isinstance(width, bool) and width >= 1 for width in value
    )


def _check_activation(name: str, value: Any) -> None:
    allowed = f"{name}={value!r} must be a class of activations such as torch.nn.ReLU, {_NO_NAME} or an instance"
    if not callable(value) or isinstance(value, nn.Module):
        raise ValueError(allowed)
    try:
        with th.random.fork_rng(devices=[]):  # the module is not used
            activation = value()
    except Exception as error:
        raise ValueError(f"{allowed}: without arguments it fails with {error!r}") from error
    if not isinstance(activation, nn.Module):
        raise ValueError(f"{allowed}: it returns {activation!r}")


def _check_factory(name: str, value: Any, base: type, example: str) -> None:
    """Check that an argument is a subclass of ``base``, or another function that may make instances of it."""
    is_right = issubclass(value, base) if isinstance(value, type) else callable(value) and not isinstance(value, base)
    if not is_right:
        raise ValueError(f"{name}={value!r} must be a subclass of {base.__name__} such as {example}, {_NO_NAME}")
