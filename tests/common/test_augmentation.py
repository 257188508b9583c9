"""Random shifts of images, and where an algorithm makes them."""

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from sb3_ext.buffers.samples import WindowSamples
from sb3_ext.buffers.spaces import has_images
from sb3_ext.functional.augmentation import random_shift, shifted
from tests.support.models import VALUE_BASED, make

B, C, H, W = 7, 3, 10, 12


def images(dtype: th.dtype = th.uint8) -> th.Tensor:
    """Every pixel is different, and a frame is the one before it plus 1."""
    pixels = 2 * th.arange(H * W).reshape(1, 1, H, W) % 251
    return (pixels + th.arange(C).reshape(1, C, 1, 1)).to(dtype).repeat(B, 1, 1, 1)


def moved(image: th.Tensor, down: int, right: int) -> th.Tensor:
    """By loops: where there is no pixel, the nearest one."""
    result = th.empty_like(image)
    for row in range(H):
        for column in range(W):
            result[:, row, column] = image[:, min(max(row + down, 0), H - 1), min(max(column + right, 0), W - 1)]
    return result


@pytest.mark.parametrize("dtype", [th.uint8, th.float32])
def test_each_image_moves_as_a_whole(dtype: th.dtype) -> None:
    th.manual_seed(0)
    before, n_pixels, found = images(dtype), 2, []
    for image, result in zip(before, random_shift(before, n_pixels), strict=True):
        assert result.dtype == dtype
        shifts = [(down, right) for down in range(-2, 3) for right in range(-2, 3)]
        found += [shift for shift in shifts if th.equal(moved(image, *shift), result)]
    assert len(found) == B and len(set(found)) > 3


def test_every_shift_is_equally_likely() -> None:
    th.manual_seed(0)
    image = th.zeros(1, 1, 9, 9)
    image[0, 0, 4, 4] = 1.0
    result = random_shift(image.expand(20_000, -1, -1, -1), 1)[:, 0, 3:6, 3:6].mean(dim=0)
    th.testing.assert_close(result, th.full((3, 3), 1 / 9), atol=0.01, rtol=0)


def test_observations_and_next_ones_move_and_nothing_else_does() -> None:
    th.manual_seed(0)
    vector = th.rand(B, 4)
    observations: Any = {"image": images(), "vector": vector}
    samples = ReplayBufferSamples(observations, vector, dict(observations), vector, vector, None)
    result = shifted(samples)
    assert result.actions is vector and result.rewards is vector and result.discounts is None
    for part in (result.observations, result.next_observations):
        assert th.equal(part["vector"], vector) and not th.equal(part["image"], observations["image"])
    assert not th.equal(result.observations["image"], result.next_observations["image"])


@pytest.mark.parametrize("as_dict", [False, True])
def test_each_step_of_a_window_moves_by_itself(as_dict: bool) -> None:
    th.manual_seed(0)
    length = 5
    steps = images().unsqueeze(1).repeat(1, length, 1, 1, 1)
    numbers = th.rand(B, length)
    # A vector of three numbers a step has as many axes as one image
    observations: Any = {"image": steps, "vector": th.rand(B, length, 3)} if as_dict else steps
    actions, valid, indices = th.zeros(B, length, 1), th.ones(B, length, dtype=th.bool), th.arange(B)
    windows = WindowSamples(observations, actions, observations, numbers, numbers, None, valid, None, indices)
    result = shifted(windows, n_axes=2)
    assert result.rewards is numbers and result.valid is valid and result.indices is indices
    found = []
    for field in (result.observations, result.next_observations):
        part: Any = field
        if as_dict:
            assert th.equal(part["vector"], observations["vector"])
            part = part["image"]
        assert part.shape == steps.shape and part.dtype == steps.dtype
        for image, moved_image in zip(steps.flatten(0, 1), part.flatten(0, 1), strict=True):
            # Where the pixel in the middle comes from tells the shift, which is that of all frames of the stack
            row, column = divmod(int(moved_image[0, 5, 6]) // 2, W)
            assert th.equal(moved(image, row - 5, column - 6), moved_image)
            found.append((row - 5, column - 6))
    assert len(set(found)) > 20


@pytest.mark.parametrize("cls", VALUE_BASED)
def test_an_algorithm_learns_from_moved_images(cls: Any, tmp_path: Any) -> None:
    env = FakeImageEnv(screen_height=40, screen_width=40, n_channels=1, discrete=True, channel_first=True)
    small = dict(features_extractor_kwargs=dict(features_dim=8))
    model = make(cls, env, "CnnPolicy", small, augmentation="shift").learn(30)
    assert model._n_updates > 0
    np.random.seed(0)
    plain = model.replay_buffer.sample(16).observations
    np.random.seed(0)
    sampled = model.sample_minibatch(16).observations
    assert sampled.dtype == plain.dtype == th.uint8 and not th.equal(sampled, plain)
    model.save(tmp_path / "model")
    assert cls.load(tmp_path / "model").augmentation == "shift"


def test_which_spaces_have_images() -> None:
    image, vector = spaces.Box(0, 255, (3, 8, 8), np.uint8), spaces.Box(0, 1, (3,), np.float32)
    assert has_images(image) and has_images(spaces.Dict(a=vector, b=image))
    assert not has_images(vector) and not has_images(spaces.Dict(a=vector)) and not has_images(spaces.Discrete(3))


@pytest.mark.parametrize("cls", VALUE_BASED)
def test_what_is_refused(cls: Any) -> None:
    with pytest.raises(ValueError, match=r"augmentation='shift' with observation_space=.* it needs images"):
        make(cls, augmentation="shift")
    with pytest.raises(ValueError, match="augmentation='crop' is not one of None, 'shift'"):
        make(cls, augmentation="crop")
