"""Random changes of images that leave their meaning as it is."""

from typing import Literal, TypeVar

import torch as th
from torch.nn import functional as F

from sb3_ext.functional.fields import Field

#: How sampled images can be changed
Augmentation = Literal["shift"]
Samples = TypeVar("Samples", bound=tuple)


def random_shift(images: th.Tensor, n_pixels: int = 4) -> th.Tensor:
    """
    Shift each image by up to ``n_pixels`` in each direction, and repeat its borders (DrQ,
    https://arxiv.org/abs/2004.13649).

    The frames of a stack are channels of one image, so that they move together.

    :param images: shape (B, C, H, W), of any type
    :return: the same shape and type
    """
    n_images, _, height, width = images.shape
    padded = F.pad(images.float(), [n_pixels] * 4, mode="replicate").to(images.dtype)
    rows, columns = (th.randint(2 * n_pixels + 1, (n_images, 1), device=images.device) for _ in range(2))
    rows = rows + th.arange(height, device=images.device)
    columns = columns + th.arange(width, device=images.device)
    index = th.arange(n_images, device=images.device)
    return padded.permute(0, 2, 3, 1)[index[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def shifted(samples: Samples, n_axes: int = 1) -> Samples:
    """
    Apply :func:`random_shift` to the images among the observations and next observations of samples.

    :param n_axes: number of axes before those of an observation: 1 for B transitions, 2 for B windows of L steps
    """

    def shift_images(part: th.Tensor) -> th.Tensor:
        if part.ndim != n_axes + 3:
            return part
        leading = part.shape[:n_axes]
        return random_shift(part.flatten(0, n_axes - 1)).unflatten(0, leading)

    def shift(observations: Field) -> Field:
        if isinstance(observations, dict):
            return {key: shift_images(part) for key, part in observations.items()}
        return observations if observations is None else shift_images(observations)

    fields = {name: shift(getattr(samples, name)) for name in ("observations", "next_observations")}
    return samples._replace(**fields)  # type: ignore[attr-defined]
