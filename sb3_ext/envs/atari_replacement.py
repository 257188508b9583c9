"""Replaces SB3's Atari environments by ``AtariVecEnv``, which is how a YAML file of rl_zoo3 gets it."""

from copy import deepcopy
from typing import Any

import gymnasium as gym
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
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_ext.envs.atari_rules import game_spec, import_ale
from sb3_ext.envs.atari_settings import AtariSettings
from sb3_ext.envs.atari_vec_env import AtariVecEnv
from sb3_ext.keywords import Place, unknown_keywords

_PARTS_OF_ATARI_WRAPPER = (
    *(StickyActionEnv, NoopResetEnv, MaxAndSkipEnv, EpisodicLifeEnv, FireResetEnv, WarpFrame, ClipRewardEnv),
)
#: ``AtariVecEnv`` does what these wrappers do
_REPLACEABLE_WRAPPERS = (
    *(Monitor, AtariWrapper, *_PARTS_OF_ATARI_WRAPPER),
    *(gym.wrappers.OrderEnforcing, gym.wrappers.PassiveEnvChecker),
)


def use_ale_vector(venv: VecEnv, **settings: Any) -> AtariVecEnv:
    """
    Replace SB3's environments by ALE's vector environment. It is made for ``vec_env_wrapper`` in a YAML file of
    rl_zoo3::

        vec_env_wrapper: sb3_ext.envs.use_ale_vector

    The game, the number of environments, their seeds and the settings of ``AtariWrapper`` stay the same. The open
    monitor files go on, and the old environments are closed.

    :param venv: environments that have not been reset yet
    :param settings: fields of :class:`~sb3_ext.envs.AtariSettings`. They override those of ``AtariWrapper``, which is
        not required.
    :raises ImportError: without ale-py
    :raises TypeError: if there is no setting of that name
    :raises ValueError: if a setting is out of its range, or ``venv`` is not a ``DummyVecEnv``, or its
        environments or wrappers cannot be replaced
    """
    unknown = {name: value for name, value in settings.items() if name not in AtariSettings.names()}
    if unknown:
        raise unknown_keywords("use_ale_vector has no argument {}", unknown, [Place(AtariSettings.names())])
    if type(venv) is not DummyVecEnv:
        raise ValueError(
            f"use_ale_vector got a {type(venv).__name__}, it can replace only a DummyVecEnv that nothing wraps yet: "
            "leave out --vec-env subproc (and, with enjoy, --n-envs above 1), and name it first in vec_env_wrapper"
        )
    import_ale()
    # The game is checked before the wrappers: a complaint about other games' wrappers would be misleading
    spec = game_spec(_common_spec(venv))
    monitors = [_find_monitor(env) for env in venv.envs]
    found, *others = [_wrapper_settings(env) for env in venv.envs]
    if any(other != found for other in others):
        raise ValueError(f"use_ale_vector needs the same AtariWrapper in all environments, got {[found, *others]}")
    new = AtariVecEnv(spec, venv.num_envs, **{**found, **settings})
    new.action_space = deepcopy(venv.action_space) if venv.action_space == new.action_space else new.action_space
    # `make_vec_env` has set the seeds, and the first reset, which uses them, is still to come
    new.take_over(venv._seeds, monitors)
    venv.close()
    return new


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
            f"use_ale_vector can replace only environments made from one id with the same arguments, got {specs}"
        )
    return spec


def _find_monitor(env: gym.Env) -> Monitor | None:
    """Return the ``Monitor`` of an environment. What ``AtariVecEnv`` cannot replace raises a ValueError."""
    monitor = None
    for wrapper in _wrappers(env):
        if type(wrapper) not in _REPLACEABLE_WRAPPERS:
            names = ", ".join(known.__name__ for known in _REPLACEABLE_WRAPPERS)
            raise ValueError(
                f"use_ale_vector cannot replace the wrapper {type(wrapper).__name__} of {env}, allowed are {names}"
            )
        if isinstance(wrapper, Monitor):
            monitor = wrapper
    if monitor is not None and (monitor.info_keywords or monitor.reset_keywords):
        raise ValueError(
            f"monitor_kwargs: info_keywords={monitor.info_keywords!r} and reset_keywords={monitor.reset_keywords!r} "
            "must be empty with use_ale_vector"
        )
    return monitor


def _wrapper_settings(env: gym.Env) -> dict[str, Any]:
    """Return the settings of ``AtariWrapper``, if it is there. A part of it, or two frame skips, raise a ValueError."""
    wrappers: dict[type, Any] = {type(wrapper): wrapper for wrapper in _wrappers(env)}
    if WarpFrame not in wrappers:
        alone = [known.__name__ for known in _PARTS_OF_ATARI_WRAPPER if known in wrappers]
        if alone:
            raise ValueError(
                f"use_ale_vector got {', '.join(alone)} without the rest of AtariWrapper: name AtariWrapper in "
                "env_wrapper, or nothing, and give the settings to use_ale_vector"
            )
        return {}
    spec = env.unwrapped.spec
    skipped = (spec.kwargs if spec is not None else {}).get("frameskip", 1)
    if skipped != 1:
        raise ValueError(
            f"frameskip={skipped!r} of the environment would be multiplied by AtariWrapper's: give it 1 "
            '(env_kwargs: {"frameskip": 1}, --env-kwargs frameskip:1), or leave out env_wrapper'
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
