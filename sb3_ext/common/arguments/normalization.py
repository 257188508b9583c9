"""What ``VecNormalize`` can and cannot do with observations that an off-policy algorithm stores."""

from typing import Any

from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.torch_layers import NatureCNN
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ext.keywords import default_of

_RIGHT_ORDER = "VecNormalize(VecTransposeImage(env), norm_obs=False)"


def check_normalized_images(
    vec_normalize: VecNormalize | None, policy_class: type[BasePolicy], policy_kwargs: dict[str, Any]
) -> None:
    """
    Check that a policy with convolutions gets images.

    :raises ValueError: if ``VecNormalize`` makes something else of them
    """
    if vec_normalize is None or not vec_normalize.norm_obs or not _has_convolutions(policy_class, policy_kwargs):
        return
    images = vec_normalize.venv.observation_space
    if not isinstance(images, spaces.Box) or not is_image_space(images):
        return
    # Networks that take normalised images as they are work, once the channels are first
    if policy_kwargs.get("normalize_images", True) or not is_image_space_channels_first(images):
        raise ValueError(
            f"{policy_class.__name__} needs images, but VecNormalize with norm_obs=True makes "
            f"{vec_normalize.observation_space} of them. The policy divides images by 255 itself: write "
            f"{_RIGHT_ORDER}; or VecNormalize(VecTransposeImage(env)) with policy_kwargs=dict(normalize_images=False)"
        )


def check_original_observations(vec_normalize: VecNormalize | None, observation_space: spaces.Space) -> None:
    """
    Check that ``VecNormalize`` has the observations that the algorithm learns from. A replay buffer stores its
    original ones, so no wrapper above it may change them.

    :raises ValueError: if the shapes differ
    """
    if vec_normalize is None:
        return
    own, learned = _shapes(vec_normalize.observation_space), _shapes(observation_space)
    if own != learned:
        raise ValueError(
            f"VecNormalize has observations of shape {own}, but the algorithm gets {learned}: VecNormalize must be the "
            "outermost wrapper that changes observations, VecTransposeImage and VecFrameStack go inside. SB3 adds a "
            f"missing VecTransposeImage outside. For images write {_RIGHT_ORDER}"
        )


def _shapes(space: spaces.Space) -> Any:
    return {name: part.shape for name, part in space.items()} if isinstance(space, spaces.Dict) else space.shape


def _has_convolutions(policy_class: type[BasePolicy], policy_kwargs: dict[str, Any]) -> bool:
    name = "features_extractor_class"
    extractor = policy_kwargs.get(name) or default_of(policy_class, name)
    return isinstance(extractor, type) and issubclass(extractor, NatureCNN)
