"""What ``VecNormalize`` can and cannot do with observations that an off-policy algorithm stores."""

from typing import Any

from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ext.keywords import default_extractor

_RIGHT_ORDER = "VecNormalize(VecTransposeImage(env), norm_obs=False)"


def check_normalized_images(
    vec_normalize: VecNormalize | None, policy_class: type[BasePolicy], policy_kwargs: dict[str, Any]
) -> None:
    """
    Check that a policy with convolutions gets images.

    :raises ValueError: if ``VecNormalize`` makes something else of them
    """
    if vec_normalize is None or not vec_normalize.norm_obs:
        return
    extractor = known_extractor(policy_class, policy_kwargs)
    if extractor is None or not issubclass(extractor, NatureCNN):
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


def known_extractor(
    policy_class: type[BasePolicy], policy_kwargs: dict[str, Any]
) -> type[BaseFeaturesExtractor] | None:
    """
    Return the class of the features extractor, or ``None`` if the user's own constructor makes its layers.

    Such a class may extend SB3's, and still process what SB3's layers cannot.
    """
    name = "features_extractor_class"
    extractor = policy_kwargs.get(name) or default_extractor(policy_class, policy_kwargs)
    if not isinstance(extractor, type):
        return None
    maker = next(base for base in extractor.__mro__ if "__init__" in vars(base))
    return extractor if maker.__module__.partition(".")[0] in ("stable_baselines3", "sb3_ext") else None
