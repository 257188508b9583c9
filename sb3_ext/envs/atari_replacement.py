"""Replaces SB3's Atari environments by ``AtariVecEnv``, which is how a YAML file of rl_zoo3 gets it."""

from typing import Any

from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_ext.envs.atari_originals import read_originals
from sb3_ext.envs.atari_settings import AtariSettings
from sb3_ext.envs.atari_vec_env import AtariVecEnv
from sb3_ext.keywords import Place, unknown_keywords


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
    originals = read_originals(venv)
    new = AtariVecEnv(originals.spec, venv.num_envs, **{**originals.settings, **settings})
    # `make_vec_env` has set the seeds, and the first reset, which uses them, is still to come
    new.take_over(originals)
    venv.close()
    return new
