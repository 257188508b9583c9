"""How far it is from `train()` to a target: whoever reads an algorithm jumps as often."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from sb3_ext import PrioritizedReplayBuffer
from sb3_ext.functional.bellman import soft_td_target
from sb3_ext.functional.ensemble import ensemble_backup
from tests.support.models import each_value_based, make


def frames_to(function: Callable[..., Any], model: Any) -> int:
    """The most frames from `train()` to the function, both included."""
    depths: list[int] = []

    def trace(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code is function.__code__:
            depth, outer = 1, frame.f_back
            while outer is not None and outer.f_code.co_name != "train":
                depth, outer = depth + 1, outer.f_back
            assert outer is not None
            depths.append(depth + 1)

    sys.setprofile(trace)
    try:
        model.train(4, 8)
    finally:
        sys.setprofile(None)
    assert depths
    return max(depths)


@pytest.mark.parametrize(
    "settings",
    [{}, dict(actor_gradient="reinforce", n_actor_samples=2), dict(replay_buffer_class=PrioritizedReplayBuffer)],
    ids=str,
)
def test_at_most_four_frames_to_redqs_target(settings: dict[str, Any]) -> None:
    model = make(**settings).learn(25)
    assert frames_to(soft_td_target, model) <= 4
    # The minimum over the subset, too
    assert frames_to(ensemble_backup, model) <= 4


@each_value_based
def test_at_most_four_frames_to_a_value_based_target(cls: Any) -> None:
    assert frames_to(soft_td_target, make(cls).learn(25)) <= 4
