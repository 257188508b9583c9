"""What SB3's Atari environments are made of: the game, the settings of ``AtariWrapper`` and the monitor files."""

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.atari_wrappers import (
    AtariWrapper,
    ClipRewardEnv,
    EpisodicLifeEnv,
    FireResetEnv,
    MaxAndSkipEnv,
    NoopResetEnv,
    StickyActionEnv,
    WarpFrame,
)
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_ext.checks import check_integer
from sb3_ext.envs.atari_rules import game_spec, import_ale

_PARTS_OF_ATARI_WRAPPER = (
    *(StickyActionEnv, NoopResetEnv, MaxAndSkipEnv, EpisodicLifeEnv, FireResetEnv, WarpFrame, ClipRewardEnv),
)
#: ``AtariVecEnv`` does what these wrappers do
_REPLACEABLE_WRAPPERS = (
    *(Monitor, AtariWrapper, *_PARTS_OF_ATARI_WRAPPER),
    *(gym.wrappers.OrderEnforcing, gym.wrappers.PassiveEnvChecker),
)


class Originals(NamedTuple):
    """
    Environments that an ``AtariVecEnv`` replaces.

    :param spec: registration of the game
    :param settings: those of ``AtariWrapper``, if it is there
    :param monitors: of each environment
    :param seeds: for the next reset of each environment
    :param action_space: with its own random numbers
    """

    spec: EnvSpec
    settings: dict[str, Any]
    monitors: list[Monitor | None]
    seeds: list[int | None]
    action_space: spaces.Space


def read_originals(venv: DummyVecEnv) -> Originals:
    """
    Read what must stay the same when environments are replaced.

    :raises ValueError: if the environments differ, or are no games that can be replaced
    """
    import_ale()
    # The game is checked before the wrappers: a complaint about other games' wrappers would be misleading
    spec = game_spec(_common_spec(venv))
    monitors = [_find_monitor(env) for env in venv.envs]
    found, *others = [_wrapper_settings(env) for env in venv.envs]
    if any(other != found for other in others):
        raise ValueError(f"AtariVecEnv needs the same AtariWrapper in all environments, got {[found, *others]}")
    return Originals(spec, found, monitors, list(venv._seeds), venv.action_space)


def make_originals(env_fns: Any, n_envs: int) -> tuple[DummyVecEnv, Originals]:
    """
    Call the functions that a ``VecEnv`` of SB3 takes, as ``make_vec_env`` and ``make_atari_env`` hand them over.

    :param n_envs: must fit, or be 1, its default
    :return: the environments, still open, and what was read of them
    :raises ValueError: if there are no functions, or not as many, or their environments cannot be replaced
    """
    functions: list[Callable[[], gym.Env]] = list(env_fns) if isinstance(env_fns, (list, tuple)) else []
    if not functions or not all(callable(function) for function in functions):
        raise ValueError(
            f"env_id={env_fns!r} must be the id of an Atari game, the result of gymnasium.spec, or a list of functions "
            'that make one game each. Usual is AtariVecEnv("ALE/Boxing-v5", n_envs=8)'
        )
    check_integer("n_envs", n_envs, 1)
    if n_envs not in (1, len(functions)):
        raise ValueError(f"n_envs={n_envs} contradicts the {len(functions)} functions in env_id: leave n_envs out")
    venv = DummyVecEnv(functions)
    try:
        return venv, read_originals(venv)
    except Exception:
        venv.close()
        raise


def _wrappers(env: gym.Env) -> list[gym.Wrapper]:
    wrappers = []
    while isinstance(env, gym.Wrapper):
        wrappers.append(env)
        env = env.env
    return wrappers


def _common_spec(venv: DummyVecEnv) -> EnvSpec:
    """Return the registration of all environments. Different ones, or a missing one, raise a ValueError."""
    specs = [env.unwrapped.spec for env in venv.envs]
    spec = specs[0]
    if spec is None or any(other is None or other.kwargs != spec.kwargs for other in specs):
        raise ValueError(
            f"AtariVecEnv can replace only environments made from one id with the same arguments, got {specs}"
        )
    return spec


def _find_monitor(env: gym.Env) -> Monitor | None:
    """Return the ``Monitor`` of an environment. What ``AtariVecEnv`` cannot replace raises a ValueError."""
    monitor = None
    for wrapper in _wrappers(env):
        if type(wrapper) not in _REPLACEABLE_WRAPPERS:
            names = ", ".join(known.__name__ for known in _REPLACEABLE_WRAPPERS)
            raise ValueError(
                f"AtariVecEnv cannot replace the wrapper {type(wrapper).__name__} of {env}, allowed are {names}"
            )
        if isinstance(wrapper, Monitor):
            monitor = wrapper
    if monitor is not None and (monitor.info_keywords or monitor.reset_keywords):
        raise ValueError(
            f"monitor_kwargs: info_keywords={monitor.info_keywords!r} and reset_keywords={monitor.reset_keywords!r} "
            "must be empty with AtariVecEnv"
        )
    return monitor


def _wrapper_settings(env: gym.Env) -> dict[str, Any]:
    """Return the settings of ``AtariWrapper``, if it is there. A part of it, or two frame skips, raise a ValueError."""
    wrappers: dict[type, Any] = {type(wrapper): wrapper for wrapper in _wrappers(env)}
    if WarpFrame not in wrappers:
        alone = [known.__name__ for known in _PARTS_OF_ATARI_WRAPPER if known in wrappers]
        if alone:
            raise ValueError(
                f"AtariVecEnv got {', '.join(alone)} without the rest of AtariWrapper: use AtariWrapper, or no wrapper "
                "and settings of AtariVecEnv instead"
            )
        return {}
    spec = env.unwrapped.spec
    skipped = (spec.kwargs if spec is not None else {}).get("frameskip", 1)
    if skipped != 1:
        raise ValueError(
            f"frameskip={skipped!r} of the environment would be multiplied by AtariWrapper's. In Python write "
            f"AtariVecEnv({spec.id if spec is not None else '...'!r}, n_envs), or give make_atari_env "
            "env_kwargs=dict(frameskip=1). In rl_zoo3 leave out env_wrapper, or give --env-kwargs frameskip:1"
        )
    settings: dict[str, Any] = dict(
        noop_max=wrappers[NoopResetEnv].noop_max if NoopResetEnv in wrappers else 0,
        frame_skip=wrappers[MaxAndSkipEnv]._skip if MaxAndSkipEnv in wrappers else 1,
        screen_size=wrappers[WarpFrame].width,
        terminal_on_life_loss=EpisodicLifeEnv in wrappers,
        clip_reward=ClipRewardEnv in wrappers,
    )
    if StickyActionEnv in wrappers:
        settings["repeat_action_probability"] = _sticky_probability(wrappers[StickyActionEnv], env)
    return settings


def _sticky_probability(sticky: StickyActionEnv, env: gym.Env) -> float:
    """Return the probability of sticky actions. A ValueError is raised if the emulator repeats actions as well."""
    spec = env.unwrapped.spec
    own = (spec.kwargs if spec is not None else {}).get("repeat_action_probability", 0.25)
    if own:
        raise ValueError(
            f"repeat_action_probability={own} of the environment and action_repeat_probability="
            f"{sticky.action_repeat_probability} of AtariWrapper cannot be had at once: set one of them to 0"
        )
    return sticky.action_repeat_probability
