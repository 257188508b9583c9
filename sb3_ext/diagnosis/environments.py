"""A second environment for Monte-Carlo rollouts, so that the training does not notice them."""

import copy
from collections.abc import Callable
from typing import Any

import gymnasium as gym
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecCheckNan,
    VecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
    VecVideoRecorder,
    unwrap_vec_normalize,
)

from sb3_ext.envs import AtariVecEnv

# These wrappers change nothing that a critic or a policy sees.
_TRANSPARENT = (VecMonitor, VecCheckNan, VecVideoRecorder)
_LEFT_OUT = ("Monitor", "RecordVideo", "RecordEpisodeStatistics", "HumanRendering")
# Gymnasium's, whose running statistics a second environment would not share
_NORMALIZING = ("NormalizeObservation", "NormalizeReward")
_ADVICE = "give env=... an environment wrapped as the training's, or n_episodes=0 to do without Monte-Carlo returns"


def make_rollout_env(model: BaseAlgorithm, n_envs: int, env_wrapper: Any, keep_time_limit: bool) -> VecEnv:
    """
    Make the training's environment once more, from its spec.

    What only watches, such as ``Monitor`` and ``RecordVideo``, is left out. VecNormalize (with frozen statistics),
    VecFrameStack and VecTransposeImage are put around the environment in the training's order.

    :param env_wrapper: replaces the wrappers of the training's environment, in the syntax of an rl_zoo3 YAML file
    :param keep_time_limit: if false, the time limit of the spec is left out, so that returns do not end there
    :raises ValueError: if the environment cannot be made
    """
    training_env = model.get_env()
    assert training_env is not None
    wrappers, base = _wrappers_of(training_env)
    if isinstance(base, AtariVecEnv):
        if env_wrapper is not None:
            raise ValueError(f"env_wrapper={env_wrapper!r} is not allowed with AtariVecEnv, which has none")
        env: VecEnv = base.another(n_envs)
    else:
        env = _from_spec(base, n_envs, env_wrapper, keep_time_limit)
    for wrapper in reversed(wrappers):
        env = _wrapped_as(wrapper, env)
    return env


def _from_spec(base: VecEnv, n_envs: int, env_wrapper: Any, keep_time_limit: bool) -> VecEnv:
    spec = _spec_of(base)
    spec.additional_wrappers = _wrapper_specs(spec, env_wrapper)
    # Nobody watches rollouts, but a wrapper may observe a picture
    render_mode = spec.kwargs.pop("render_mode", None)
    if render_mode not in (None, "human"):
        spec.kwargs["render_mode"] = render_mode.removesuffix("_list")
    wrap = _wrapper_function(env_wrapper)

    def make() -> gym.Env:
        try:
            env = gym.make(copy.deepcopy(spec), max_episode_steps=None if keep_time_limit else -1)
        except Exception as error:
            raise ValueError(
                f"the training's environment {spec.id} cannot be made a second time for rollouts: {error}. For other "
                f"rollouts {_ADVICE}"
            ) from error
        return wrap(env)

    return DummyVecEnv([make] * n_envs)


def training_time_limit(model: BaseAlgorithm) -> int | None:
    """The time limit in the spec of the training's environment; ``None`` without a spec or a limit."""
    training_env = model.get_env()
    assert training_env is not None
    try:
        return _spec_of(training_env).max_episode_steps
    except ValueError:
        return None


def prepare_env(model: BaseAlgorithm, env: gym.Env | VecEnv) -> VecEnv:
    """
    Vectorise an environment, put images channels first, and add a VecNormalize if the training has one.

    :raises ValueError: if the spaces are not those of the model
    """
    vec_env = model._wrap_env(env, monitor_wrapper=False)
    training = model.get_vec_normalize_env()
    if training is not None and unwrap_vec_normalize(vec_env) is None:
        vec_env = _wrapped_as(training, vec_env)
    for name in ("observation_space", "action_space"):
        theirs, ours = getattr(model, name), getattr(vec_env, name)
        if theirs != ours:
            raise ValueError(
                f"the environment for Monte-Carlo rollouts has the {name} {ours}, which must be the training's, "
                f"{theirs}: {_ADVICE}"
            )
    return vec_env


def check_is_another(model: BaseAlgorithm, env: gym.Env | VecEnv) -> None:
    """Raise a ValueError if ``env`` is the training's environment, whose episodes rollouts would disturb."""
    training_env = model.get_env()
    assert training_env is not None
    base = training_env.unwrapped
    theirs = [base, *(one.unwrapped for one in getattr(base, "envs", []))]
    if any(env.unwrapped is one for one in theirs):
        raise ValueError("env is the training's environment, which rollouts would disturb: give another one")


def freeze_normalization(model: BaseAlgorithm, env: VecEnv) -> None:
    """
    Give the environment for rollouts the normalisation that the training has at this moment.

    Rewards are included, because the critics learn from normalised ones.
    """
    training, ours = model.get_vec_normalize_env(), unwrap_vec_normalize(env)
    if ours is None:
        return
    if training is None:
        ours.training = ours.norm_obs = ours.norm_reward = False
        return
    ours.training = False
    for name in ("norm_obs", "norm_reward", "norm_obs_keys", "clip_obs", "clip_reward", "epsilon"):
        setattr(ours, name, getattr(training, name))
    for name in ("obs_rms", "ret_rms"):
        if hasattr(training, name):
            setattr(ours, name, copy.deepcopy(getattr(training, name)))


def _wrappers_of(env: VecEnv) -> tuple[list[VecEnvWrapper], VecEnv]:
    """Return the wrappers that matter, the outermost first, and what is inside. An unknown one raises a ValueError."""
    wrappers: list[VecEnvWrapper] = []
    while isinstance(env, VecEnvWrapper):
        if isinstance(env, (VecNormalize, VecFrameStack, VecTransposeImage)):
            wrappers.append(env)
        elif not isinstance(env, _TRANSPARENT):
            raise ValueError(f"the training's {type(env).__name__} cannot be put around another environment: {_ADVICE}")
        env = env.venv
    return wrappers, env


def _wrapped_as(wrapper: VecEnvWrapper, env: VecEnv) -> VecEnvWrapper:
    if isinstance(wrapper, VecFrameStack):
        stacked = wrapper.stacked_obs
        order = (
            {key: _channels_order(part) for key, part in stacked.sub_stacked_observations.items()}
            if isinstance(stacked.observation_space, spaces.Dict)
            else _channels_order(stacked)
        )
        return VecFrameStack(env, stacked.n_stack, order)
    if isinstance(wrapper, VecNormalize):
        return VecNormalize(
            env,
            training=False,
            norm_obs=wrapper.norm_obs,
            norm_reward=wrapper.norm_reward,
            clip_obs=wrapper.clip_obs,
            clip_reward=wrapper.clip_reward,
            gamma=wrapper.gamma,
            epsilon=wrapper.epsilon,
            norm_obs_keys=wrapper.norm_obs_keys,
        )
    assert isinstance(wrapper, VecTransposeImage)
    return VecTransposeImage(env, skip=wrapper.skip)


def _channels_order(stacked: Any) -> str:
    return "first" if stacked.channels_first else "last"


def _spec_of(env: VecEnv) -> EnvSpec:
    try:
        spec = env.get_attr("spec")[0]
    except (AttributeError, NotImplementedError):
        spec = None
    if not isinstance(spec, EnvSpec) or spec.entry_point is None:
        raise ValueError(f"the training's environment, {type(env).__name__}, has no spec to make it from: {_ADVICE}")
    return copy.deepcopy(spec)


def _wrapper_specs(spec: EnvSpec, env_wrapper: Any) -> tuple[Any, ...]:
    """Return the specs of the wrappers to make again. One whose arguments are unknown raises a ValueError."""
    if env_wrapper is not None:
        return ()
    wrappers = [wrapper for wrapper in spec.additional_wrappers if wrapper.name not in _LEFT_OUT]
    for wrapper in wrappers:
        if wrapper.name in _NORMALIZING:
            raise ValueError(
                f"the training's environment {spec.id} is wrapped in {wrapper.name}, whose running statistics rollouts "
                "would not share: normalize by SB3's VecNormalize; or give n_episodes=0 to do without Monte-Carlo "
                "returns"
            )
        if wrapper.kwargs is None:
            raise ValueError(
                f"the training's environment {spec.id} is wrapped in {wrapper.name}, which does not tell its arguments "
                "(it is no gymnasium.utils.RecordConstructorArgs): give env_wrapper=... as in a YAML file of rl_zoo3; "
                f"or {_ADVICE}"
            )
    return tuple(wrappers)


def _wrapper_function(env_wrapper: Any) -> Callable[[gym.Env], gym.Env]:
    if env_wrapper is None:
        return lambda env: env
    # The syntax is rl_zoo3's, so that users can copy an entry of a YAML file.
    from rl_zoo3.utils import get_wrapper_class

    wrap = get_wrapper_class({"env_wrapper": env_wrapper})
    assert wrap is not None
    return wrap
