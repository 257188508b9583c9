"""The comparison that decides whether a stack is made of the frames of the one before, against plain loops."""

import numpy as np
import pytest

from sb3_ext.buffers.stacks import StackLayout


def frames_of(observation: np.ndarray, layout: StackLayout) -> list[np.ndarray]:
    return np.split(observation, layout.n_stack, axis=layout.axis)


def has_moved_on(before: np.ndarray, after: np.ndarray, layout: StackLayout) -> bool:
    pairs = zip(frames_of(before, layout)[1:], frames_of(after, layout)[:-1], strict=True)
    return all(earlier.tobytes() == later.tobytes() for earlier, later in pairs)


def as_vec_transpose_image_gives_it(observations: np.ndarray) -> np.ndarray:
    """Channels first in the shape, last in memory."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(observations, 1, -1)), -1, 1)


@pytest.mark.parametrize(
    ("layout", "dtype", "transposed"),
    [
        (StackLayout((4, 6, 8), 0, 4), np.uint8, False),  # each frame in one piece
        (StackLayout((4, 6, 8), 0, 4), np.uint8, True),  # frames interleaved
        (StackLayout((6, 8, 4), -1, 4), np.uint8, False),
        (StackLayout((6, 8, 2), -1, 2), np.uint8, False),
        (StackLayout((6, 8, 8), -1, 8), np.uint8, False),
        (StackLayout((6, 8, 12), -1, 4), np.uint8, False),  # RGB
        (StackLayout((3, 5, 7), 0, 3), np.uint8, False),  # odd
        (StackLayout((5, 7, 3), -1, 3), np.uint8, False),
        (StackLayout((4, 3), 0, 4), np.float32, False),
        # Small frames
        (StackLayout((4, 1), 0, 4), np.float32, False),
        (StackLayout((8, 2), 0, 8), np.uint8, False),
        (StackLayout((4, 2, 2), 0, 4), np.uint8, False),
        (StackLayout((8,), -1, 4), np.float32, False),
        (StackLayout((3, 4), -1, 2), np.float64, False),
        (StackLayout((2, 3, 3), 0, 2), np.float32, True),
    ],
)
def test_every_byte_counts_but_those_of_the_newest_frames(
    layout: StackLayout, dtype: type[np.generic], transposed: bool
) -> None:
    rng = np.random.default_rng(0)
    before = rng.integers(0, 256, size=(3, *layout.shape)).astype(dtype)
    moved = np.stack(
        [np.concatenate([*frames_of(one, layout)[1:], frames_of(one, layout)[0]], axis=layout.axis) for one in before]
    )
    seen = set()
    for byte in range(moved[0].nbytes):
        after = moved.copy()
        after.view(np.uint8).reshape(3, -1)[1, byte] ^= 1  # one bit in the second of three environments
        expected = [has_moved_on(*pair, layout) for pair in zip(before, after, strict=True)]
        if transposed:
            before_given, after_given = as_vec_transpose_image_gives_it(before), as_vec_transpose_image_gives_it(after)
        else:
            before_given, after_given = before, after
        assert layout.moved_on(before_given, after_given).tolist() == expected
        assert layout.moved_on(before, after_given).tolist() == expected
        seen.add(expected[1])
    assert seen == {True, False}
