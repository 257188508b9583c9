"""Which Atari game is emulated and how: this module turns an environment's id and the settings into ALE's arguments."""

import inspect
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from sb3_ext.envs.atari_settings import AtariSettings

#: ALE needs a limit of frames that fits into an int. No game reaches this one, because ``AtariGame`` keeps time limits.
_NO_LIMIT = 2**30
#: Values of ``AtariEnv``'s arguments that ALE's vector environment can reproduce. ``None`` stands for all values.
_ENV_KWARGS: dict[str, tuple | None] = {
    "game": None,
    "frameskip": None,
    "repeat_action_probability": None,
    "full_action_space": None,
    "max_num_frames_per_episode": None,
    "render_mode": None,
    "continuous_action_threshold": None,
    "obs_type": ("rgb",),
    "mode": (None,),
    "difficulty": (None,),
    "continuous": (False,),
    "sound_obs": (False,),
}


@dataclass(frozen=True)
class AtariRules:
    """
    What all games of an ``AtariVecEnv`` have in common.

    :param spec: registration of the environment
    :param settings: how the game is played
    :param vector_kwargs: arguments of ALE's vector environment
    :param max_frames: number of the frame at which an episode is cut off
    :param first_frame: number of the frame with which a game begins. It is above 0 if ALE presses buttons to start.
    :param action_meanings: names of the actions
    """

    spec: EnvSpec
    settings: AtariSettings
    vector_kwargs: dict[str, Any]
    max_frames: int
    first_frame: int
    action_meanings: list[str]


def make_rules(env_id: str | EnvSpec, settings: AtariSettings) -> AtariRules:
    """
    :param env_id: id of a registered environment, or the result of ``gymnasium.spec`` for one
    :param settings: how the game is played; they override the values of the id
    :raises ImportError: without ale-py, or without OpenCV if ``exact_frames`` needs it
    :raises ValueError: if it is not an Atari game, or one that ALE's vector environment cannot play
    """
    ale_py = import_ale()
    if settings.exact_frames:
        import_cv2()
    spec = game_spec(env_id)

    def chosen(name: str, default: Any) -> Any:
        value = getattr(settings, name)
        return spec.kwargs.get(name, default) if value is None else value

    full_action_space = bool(chosen("full_action_space", False))
    interface = ale_py.ALEInterface()
    interface.setLoggerMode(ale_py.LoggerMode.Error)
    interface.loadROM(ale_py.roms.get_rom_path(spec.kwargs["game"]))
    actions = interface.getLegalActionSet() if full_action_space else interface.getMinimalActionSet()
    own_size = interface.getScreenDims()
    interface.reset_game()
    first_frame = int(interface.getEpisodeFrameNumber())
    # SB3 takes the maximum of two screens before it makes them gray and small: only full screens in color allow that
    height, width = own_size if settings.exact_frames else (settings.screen_size, settings.screen_size)
    vector_kwargs = dict(
        game=spec.kwargs["game"],
        max_num_frames_per_episode=_NO_LIMIT,
        repeat_action_probability=float(chosen("repeat_action_probability", 0.25)),
        full_action_space=full_action_space,
        img_height=height,
        img_width=width,
        grayscale=not settings.exact_frames,
        stack_num=1,
        frameskip=settings.frame_skip,
        # ALE draws a number below its `noop_max`, and may draw 0. AtariGame repeats a draw that SB3 would not make
        noop_max=settings.noop_max + 1 if settings.noop_max else 0,
        # SB3's way of doing these two takes several steps, which AtariGame makes
        use_fire_reset=False,
        episodic_life=False,
        reward_clipping=False,
    )
    max_frames = chosen("max_num_frames_per_episode", None) or _NO_LIMIT
    return AtariRules(spec, settings, vector_kwargs, max_frames, first_frame, [action.name for action in actions])


def game_spec(env_id: str | EnvSpec) -> EnvSpec:
    """
    Find the registration of an Atari game.

    :param env_id: id of a registered environment, or the result of ``gymnasium.spec`` for one
    :raises ValueError: if it is not an Atari game, or one that ALE's vector environment cannot play
    """
    try:
        spec = gym.spec(env_id) if isinstance(env_id, str) else env_id
    except gym.error.Error as error:
        raise ValueError(f"env_id={env_id!r} is not a registered id of an Atari game: {error}") from error
    if not str(spec.entry_point).endswith("ale_py.env:AtariEnv") or "game" not in spec.kwargs:
        raise ValueError(
            f"env_id={spec.id!r} is not an Atari game of ale-py (its entry point is {spec.entry_point}), "
            'allowed are ids such as "ALE/Boxing-v5" or "BoxingNoFrameskip-v4"'
        )
    for name, value in spec.kwargs.items():
        allowed = _ENV_KWARGS.get(name, ())
        if allowed is not None and value not in allowed:
            what = f"only {name}={allowed[0]!r} is" if allowed else "the argument is not"
            raise ValueError(f"{spec.id}: {name}={value!r}: {what} possible with ALE's vector environment")
    if isinstance(spec.kwargs.get("frameskip"), (tuple, list)):
        raise ValueError(
            f"{spec.id}: frameskip={spec.kwargs['frameskip']!r}: ALE's vector environment skips a fixed number of "
            "frames, take an id with NoFrameskip in it or one of the ALE/...-v5"
        )
    if spec.max_episode_steps is not None:
        raise ValueError(
            f"{spec.id}: max_episode_steps={spec.max_episode_steps}: only max_num_frames_per_episode is possible"
        )
    return spec


def import_ale() -> Any:
    """
    Import ``ale_py``, and register its games.

    :raises ImportError: if it is not installed, or is too old to hand over screens in color
    """
    try:
        import ale_py
        from ale_py.vector_env import AtariVectorEnv
    except ImportError as error:
        raise ImportError(
            'AtariVecEnv needs ale-py 0.11.2 or later and OpenCV: pip install "ale-py>=0.11.2" opencv-python'
        ) from error
    if "grayscale" not in inspect.signature(AtariVectorEnv.__init__).parameters:
        raise ImportError(
            f"AtariVecEnv needs ale-py 0.11.2 or later, this is {ale_py.__version__}: "
            'pip install --upgrade "ale-py>=0.11.2"'
        )
    gym.register_envs(ale_py)
    return ale_py


def import_cv2() -> Any:
    """Return OpenCV's module, or raise an ImportError that says how to install it."""
    try:
        import cv2
    except ImportError as error:
        raise ImportError("AtariVecEnv(exact_frames=True) needs OpenCV: pip install opencv-python") from error
    return cv2
