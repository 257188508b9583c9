"""The usual ways to make a ``VecEnv`` and to wrap it, with ``AtariVecEnv`` in the place of SB3's classes."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.atari_wrappers import AtariWrapper
from stable_baselines3.common.env_util import make_atari_env, make_vec_env
from stable_baselines3.common.monitor import load_results
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize, VecTransposeImage

from sb3_ext import AtariVecEnv
from tests.support.models import CLASSES, VALUE_BASED, make

gym.register_envs(pytest.importorskip("ale_py"))

ID = "BreakoutNoFrameskip-v4"


def test_make_atari_env(tmp_path: Path, play: Callable, same_traces: Callable) -> None:
    """The games, seeds, settings and monitor files are those of SB3's environments."""
    kwargs: dict[str, Any] = dict(
        n_envs=2,
        seed=15,
        start_index=3,
        wrapper_kwargs=dict(noop_max=0, terminal_on_life_loss=False, screen_size=40),
        env_kwargs=dict(repeat_action_probability=0.25),
    )
    chain = make_atari_env(ID, monitor_dir=str(tmp_path / "chain"), **kwargs)
    threads = dict(num_threads=1)
    new = make_atari_env(
        ID, monitor_dir=str(tmp_path / "new"), vec_env_cls=AtariVecEnv, vec_env_kwargs=threads, **kwargs
    )
    assert isinstance(new, AtariVecEnv) and new.settings.num_threads == 1
    assert [new.action_space.sample() for _ in range(9)] == [chain.action_space.sample() for _ in range(9)]
    same_traces(play(chain, 200), play(new, 200))
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["3.monitor.csv", "4.monitor.csv"]
    columns = ["r", "l"]
    assert load_results(str(tmp_path / "new"))[columns].equals(load_results(str(tmp_path / "chain"))[columns])


@pytest.mark.parametrize(
    "construct",
    [
        lambda: make_vec_env("ALE/Breakout-v5", 2, vec_env_cls=AtariVecEnv),
        lambda: make_vec_env(ID, 2, vec_env_cls=AtariVecEnv, wrapper_class=AtariWrapper),
        lambda: AtariVecEnv([lambda: gym.make("ALE/Breakout-v5")] * 2),
        lambda: AtariVecEnv((lambda: AtariWrapper(gym.make(ID)), lambda: AtariWrapper(gym.make(ID))), 2),
        lambda: AtariVecEnv(gym.spec("ALE/Breakout-v5"), 2),
    ],
)
def test_constructions_that_work(construct: Callable[[], AtariVecEnv]) -> None:
    venv = construct()
    assert venv.num_envs == 2 and venv.reset().shape == (2, 84, 84, 1)
    assert venv.step(np.zeros(2, dtype=int))[0].shape == (2, 84, 84, 1)
    again = venv.another(1)
    assert again.settings == venv.settings
    again.close()
    venv.close()


@pytest.mark.parametrize(
    ("construct", "message"),
    [
        (lambda: make_atari_env("ALE/Breakout-v5", 2, vec_env_cls=AtariVecEnv), r"AtariVecEnv\('ALE/Breakout-v5', n_"),
        (lambda: make_vec_env("CartPole-v1", vec_env_cls=AtariVecEnv), "'CartPole-v1' is not an Atari game"),
        (lambda: AtariVecEnv([lambda: gym.make(ID)], 3), "n_envs=3 contradicts the 1 functions"),
        (lambda: AtariVecEnv([lambda: gym.make(ID)], 0), "n_envs=0 must be an integer"),
        (lambda: AtariVecEnv([lambda: gym.make(ID)], monitor_dir="logs"), "give it to make_vec_env"),
        (lambda: AtariVecEnv([lambda: gym.make(ID, mode=0)]), "mode=0: only mode=None is possible"),
        (
            lambda: AtariVecEnv([lambda: gym.make(ID), lambda: gym.make("PongNoFrameskip-v4")]),
            "only environments made from one id",
        ),
        (
            lambda: AtariVecEnv([lambda: gym.make(ID), lambda: AtariWrapper(gym.make(ID))]),
            "the same AtariWrapper in all",
        ),
        (lambda: AtariVecEnv([]), r'env_id=\[\] must be .* AtariVecEnv\("ALE/Boxing-v5", n_envs=8\)'),
        (lambda: AtariVecEnv(lambda: gym.make(ID)), "must be .* a list of functions"),
        (lambda: AtariVecEnv(gym.make(ID)), "must be .* a list of functions"),
        (lambda: AtariVecEnv([gym.make(ID)]), "must be .* a list of functions"),
        (lambda: AtariVecEnv(DummyVecEnv([lambda: gym.make(ID)])), "must be .* a list of functions"),
        (lambda: AtariVecEnv(None), "env_id=None must be"),
        (lambda: AtariVecEnv("ALE/Braekout-v5"), "not a registered id of an Atari game.*Did you mean: `Breakout`"),
    ],
)
def test_constructions_that_are_refused(construct: Callable[[], AtariVecEnv], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        construct()


def test_a_picture_needs_a_reset() -> None:
    venv = AtariVecEnv(ID, 2)
    for render in (lambda: venv.render("rgb_array"), lambda: venv.env_method("render"), venv.get_images):
        with pytest.raises(RuntimeError, match=r"reset\(\) comes before render\(\)"):
            render()
    venv.close()


def make_image_model(cls: Any, venv: Any, policy: str = "CnnPolicy", **policy_kwargs: Any) -> Any:
    return make(cls, venv, policy, policy_kwargs, learning_starts=8, batch_size=2, buffer_size=40)


@pytest.mark.parametrize("cls", VALUE_BASED)
def test_normalized_rewards_of_images(cls: Any) -> None:
    """With the channels first the training works. Otherwise it says what to write, before it begins."""
    venv = AtariVecEnv(ID, 2)
    for wrong in (VecNormalize(venv, norm_obs=False), VecFrameStack(VecNormalize(venv, norm_obs=False), 2)):
        with pytest.raises(ValueError, match=r"write VecNormalize\(VecTransposeImage\(env\), norm_obs=False\)"):
            make_image_model(cls, wrong).learn(20)
    right = VecNormalize(VecTransposeImage(VecFrameStack(venv, 2)), norm_obs=False)
    model = make_image_model(cls, right).learn(20)
    assert model._n_updates > 0 and model.observation_space.shape == (2, 84, 84)
    restored = pickle.loads(pickle.dumps(right))
    restored.set_venv(right.venv)
    assert restored.ret_rms.var == right.ret_rms.var
    venv.close()


@pytest.mark.parametrize("cls", VALUE_BASED)
def test_normalized_images(cls: Any) -> None:
    venv = AtariVecEnv(ID, 2, screen_size=40)
    for wrong in (VecNormalize(venv), VecNormalize(VecFrameStack(venv, 2)), VecNormalize(VecTransposeImage(venv))):
        with pytest.raises(ValueError, match=r"CnnPolicy needs images, but VecNormalize with norm_obs=True"):
            make_image_model(cls, wrong)
    with pytest.raises(ValueError, match=r"CnnPolicy needs images, but VecNormalize with norm_obs=True"):
        make_image_model(cls, VecNormalize(venv), normalize_images=False)
    model = make_image_model(cls, VecNormalize(VecTransposeImage(venv)), normalize_images=False).learn(20)
    assert model._n_updates > 0
    assert make_image_model(cls, VecNormalize(venv), "MlpPolicy").learn(20)._n_updates > 0
    venv.close()


@pytest.mark.parametrize("cls", CLASSES)
def test_vectors_may_be_normalized_and_stacked(cls: Any) -> None:
    venv = make_vec_env("Pendulum-v1" if cls not in VALUE_BASED else "CartPole-v1")
    with pytest.raises(ValueError, match=r"VecNormalize has observations of shape .* VecFrameStack go inside"):
        make(cls, VecFrameStack(VecNormalize(venv), 2)).learn(30)
    assert make(cls, VecNormalize(VecFrameStack(venv, 2))).learn(30)._n_updates > 0
