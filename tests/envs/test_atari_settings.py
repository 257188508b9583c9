"""The settings of a game: their checks, and where they are listed."""

import inspect
from dataclasses import fields
from typing import Any

import pytest

from sb3_ext import AtariVecEnv
from sb3_ext.envs import AtariSettings


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(noop_max=-1), r"noop_max=-1 must be an integer of at least 0"),
        (dict(frame_skip=0), r"frame_skip=0 must be an integer of at least 1"),
        (dict(screen_size=84.0), r"screen_size=84.0 must be an integer of at least 1"),
        (dict(num_threads=-2), r"num_threads=-2 must be an integer of at least 0"),
        (dict(clip_reward="sign"), r"clip_reward='sign' is not one of True, False"),
        (dict(repeat_action_probability=1.5), r"repeat_action_probability=1.5 must be a number from 0 to 1"),
        (dict(max_num_frames_per_episode=0), r"max_num_frames_per_episode=0 must be an integer of at least 1"),
        (dict(full_action_space="yes"), r"full_action_space='yes' is not one of"),
    ],
)
def test_values_are_checked(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AtariVecEnv("ALE/Boxing-v5", **kwargs)


def test_a_wrong_name_is_an_error_that_says_the_right_one() -> None:
    with pytest.raises(TypeError, match=r"AtariVecEnv has no argument frameskip=3: did you mean frame_skip=3\?"):
        AtariVecEnv("ALE/Boxing-v5", frameskip=3)
    with pytest.raises(TypeError, match=r"no argument env_fns=\[\]: did you mean env_id=\[\]\?"):
        AtariVecEnv(env_fns=[])
    with pytest.raises(TypeError, match=r"AtariVecEnv has no argument x=3, allowed are env_id, n_envs, .*frame_skip"):
        AtariVecEnv("ALE/Boxing-v5", x=3)


def test_the_signature_shows_every_setting_with_its_default() -> None:
    shown = inspect.signature(AtariVecEnv).parameters
    assert list(shown)[:4] == ["env_id", "n_envs", "seed", "monitor_dir"]
    assert {name: shown[name].default for name in list(shown)[4:]} == {
        setting.name: setting.default for setting in fields(AtariSettings)
    }
    assert {shown[name].kind for name in list(shown)[2:]} == {inspect.Parameter.KEYWORD_ONLY}


def test_a_subclass_shows_its_own_arguments() -> None:
    class Boxing(AtariVecEnv):
        def __init__(self, n_envs: int) -> None:
            super().__init__("ALE/Boxing-v5", n_envs)

    assert list(inspect.signature(Boxing).parameters) == ["n_envs"]
