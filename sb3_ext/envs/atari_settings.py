"""Settings of the Atari games that ``AtariVecEnv`` plays, with their defaults and checks."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TypeVar

from sb3_ext.checks import check_choice, check_integer, check_interval

_Constructor = TypeVar("_Constructor", bound=Callable[..., None])


@dataclass(frozen=True, kw_only=True)
class AtariSettings:
    """
    How ``AtariVecEnv`` plays its games. The first five settings have the names and defaults of SB3's ``AtariWrapper``.

    :param noop_max: largest number of frames without action at the start of a game. The number is drawn uniformly,
        starting from 1; with 0 there are no such frames.
    :param frame_skip: number of frames for which each action is repeated
    :param screen_size: side of the square observation, in pixels
    :param terminal_on_life_loss: whether a lost life ends the episode. The game goes on in the next episode.
    :param clip_reward: whether each reward is replaced by its sign
    :param repeat_action_probability: probability from 0 to 1 that a frame repeats the previous action instead of the
        new one. ``None`` takes the value of the environment's id.
    :param full_action_space: whether the agent has all 18 actions, or only those that the game uses. ``None`` takes
        the value of the environment's id.
    :param max_num_frames_per_episode: number of frames after which a game is cut off. ``None`` takes the value of the
        environment's id.
    :param exact_frames: whether observations equal SB3's bit for bit. Otherwise ALE makes them gray and small in its
        own threads, and the gray levels differ slightly.
    :param num_threads: number of games that are emulated at the same time; 0 means all of them
    :raises ValueError: if a value is out of its range
    """

    noop_max: int = 30
    frame_skip: int = 4
    screen_size: int = 84
    terminal_on_life_loss: bool = True
    clip_reward: bool = True
    repeat_action_probability: float | None = None
    full_action_space: bool | None = None
    max_num_frames_per_episode: int | None = None
    exact_frames: bool = True
    num_threads: int = 0

    def __post_init__(self) -> None:
        for name, minimum in (("noop_max", 0), ("frame_skip", 1), ("screen_size", 1), ("num_threads", 0)):
            check_integer(name, getattr(self, name), minimum)
        for name in ("terminal_on_life_loss", "clip_reward", "exact_frames"):
            check_choice(name, getattr(self, name), (True, False))
        if self.repeat_action_probability is not None:
            check_interval("repeat_action_probability", self.repeat_action_probability, 0, 1, "a number from 0 to 1")
        if self.full_action_space is not None:
            check_choice("full_action_space", self.full_action_space, (None, True, False))
        if self.max_num_frames_per_episode is not None:
            check_integer("max_num_frames_per_episode", self.max_num_frames_per_episode, 1)

    @classmethod
    def names(cls) -> list[str]:
        """Names of all settings."""
        return [setting.name for setting in fields(cls)]


def show_settings(constructor: _Constructor) -> _Constructor:
    """Let ``help()`` and ``inspect.signature`` list every setting where a constructor has ``**settings``."""
    signature = inspect.signature(constructor)
    own = [parameter for parameter in signature.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
    settings = inspect.signature(AtariSettings).parameters.values()
    # The attribute belongs to the function and not to its class, so that subclasses may have other arguments
    constructor.__signature__ = signature.replace(parameters=[*own, *settings])  # type: ignore[attr-defined]
    return constructor
