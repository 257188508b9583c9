"""``use_ale_vector`` replaces SB3's environments by ones that do the same, also within rl_zoo3."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import gymnasium as gym
import numpy as np
import pytest
import yaml
from stable_baselines3.common.atari_wrappers import AtariWrapper, NoopResetEnv
from stable_baselines3.common.env_util import make_atari_env, make_vec_env
from stable_baselines3.common.monitor import load_results
from stable_baselines3.common.vec_env import SubprocVecEnv, VecFrameStack

from sb3_ext import AtariVecEnv
from sb3_ext.envs import use_ale_vector
from sb3_ext.envs.atari_rules import make_rules

gym.register_envs(pytest.importorskip("ale_py"))

N_ENVS, SEED = 2, 15


def test_the_zoos_environments_are_replaced_by_the_same(tmp_path: Path, play: Callable, same_traces: Callable) -> None:
    env_kwargs = dict(
        frameskip=1, repeat_action_probability=0.0, full_action_space=True, max_num_frames_per_episode=400
    )
    wrapper_kwargs = dict(noop_max=0, frame_skip=2, screen_size=42, terminal_on_life_loss=False, clip_reward=False)
    chain, to_replace = (
        make_atari_env(
            "ALE/MsPacman-v5",
            N_ENVS,
            SEED,
            monitor_dir=str(folder),
            env_kwargs=env_kwargs,
            wrapper_kwargs=wrapper_kwargs,
        )
        for folder in (tmp_path / "sb3", tmp_path / "ours")
    )
    replaced = use_ale_vector(to_replace)
    assert [replaced.action_space.sample() for _ in range(5)] == [chain.action_space.sample() for _ in range(5)]
    expected, actual = play(chain, 500), play(replaced, 500)
    same_traces(expected, actual)
    results, our_results = (load_results(str(tmp_path / name)) for name in ("sb3", "ours"))
    assert len(our_results) == len(expected.episodes()) >= 4
    assert sorted(zip(results.r, results.l, strict=True)) == sorted(zip(our_results.r, our_results.l, strict=True))


def test_settings_go_before_those_of_the_wrapper(sb3_atari: Callable, play: Callable, same_traces: Callable) -> None:
    # The id skips frames and there is no AtariWrapper: neither changes the number of skipped frames
    venv = use_ale_vector(make_vec_env("ALE/MsPacman-v5", N_ENVS, SEED), noop_max=0, repeat_action_probability=0.0)
    same_traces(play(sb3_atari("ALE/MsPacman-v5", N_ENVS, SEED), 60), play(venv, 60))
    chain = sb3_atari("ALE/MsPacman-v5", screen_size=42, action_repeat_probability=0.25)
    venv = use_ale_vector(chain, screen_size=20)
    assert venv.observation_space.shape == (20, 20, 1)
    (spec,) = venv.get_attr("spec", indices=0)
    assert make_rules(spec, venv.settings).vector_kwargs["repeat_action_probability"] == 0.25
    venv.close()


class Unknown(gym.Wrapper):
    """A wrapper that ``use_ale_vector`` cannot replace."""


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (lambda: make_vec_env("CartPole-v1"), {}, "env_id='CartPole-v1' is not an Atari game"),
        (lambda: VecFrameStack(make_atari_env("BoxingNoFrameskip-v4"), 4), {}, "got a VecFrameStack"),
        (lambda: make_atari_env("ALE/Boxing-v5"), {}, "frameskip=4 of the environment would be multiplied"),
        (lambda: make_vec_env("ALE/Boxing-v5", env_kwargs=dict(mode=0)), {}, "mode=0: only mode=None is possible"),
        (lambda: make_vec_env("ALE/Boxing-v5", env_kwargs=dict(obs_type="ram")), {}, "obs_type='ram'"),
        (lambda: make_vec_env("ALE/Boxing-v5", wrapper_class=Unknown), {}, "cannot replace the wrapper Unknown"),
        (lambda: make_vec_env("ALE/Boxing-v5", monitor_kwargs=dict(info_keywords=("lives",))), {}, "info_keywords"),
        (
            lambda: make_atari_env(
                "ALE/Boxing-v5",
                env_kwargs=dict(frameskip=1),
                wrapper_kwargs=dict(action_repeat_probability=0.1),
            ),
            {},
            "cannot be had at once",
        ),
    ],
)
def test_what_cannot_be_replaced_is_refused(make: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        use_ale_vector(make(), **settings)


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(TypeError, match=r"use_ale_vector has no argument frameskip=3: did you mean frame_skip=3\?"):
        use_ale_vector(make_vec_env("ALE/Boxing-v5"), frameskip=3)


def test_processes_cannot_be_replaced(play: Callable) -> None:
    # The type of the VecEnv is checked before the game
    venv = make_vec_env("CartPole-v1", 1, vec_env_cls=SubprocVecEnv)
    try:
        with pytest.raises(ValueError, match="got a SubprocVecEnv"):
            use_ale_vector(venv)
    finally:
        venv.close()


def test_half_of_atari_wrapper_is_refused() -> None:
    env = make_vec_env("BreakoutNoFrameskip-v4", wrapper_class=NoopResetEnv)
    with pytest.raises(ValueError, match="NoopResetEnv without the rest of AtariWrapper"):
        use_ale_vector(env)
    env.close()


def test_the_wrapper_needs_nothing_of_the_zoo() -> None:
    chain = make_vec_env("BreakoutNoFrameskip-v4", 1, wrapper_class=AtariWrapper)
    venv = use_ale_vector(chain)
    assert isinstance(venv, AtariVecEnv) and venv.env_is_wrapped(AtariWrapper) == [True]
    venv.close()


CONFIGURATION = {
    "vec_env_wrapper": [{"sb3_ext.envs.use_ale_vector": {"max_num_frames_per_episode": 400}}],
    "n_envs": 2,
    "frame_stack": 4,
    "policy": "CnnPolicy",
    "n_timesteps": 1e6,
    "buffer_size": 800,
    "learning_starts": 300,
    "batch_size": 4,
    "train_freq": 16,
    "policy_kwargs": "dict(net_arch=[8])",
}


def zoo(*arguments: str, folder: Path) -> str:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "SDL_VIDEODRIVER": "dummy"}
    command = [sys.executable, "-m", *arguments]
    result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, f"{result.stdout[-2000:]}\n{result.stderr[-4000:]}"
    return result.stdout


@pytest.mark.slow
def test_rl_zoo3_trains_evaluates_enjoys_and_records(tmp_path: Path) -> None:
    (tmp_path / "fast.yml").write_text(yaml.safe_dump({"ALE/Boxing-v5": CONFIGURATION}))
    names = ("--algo", "dqn", "--env", "ALE/Boxing-v5")
    options = ("-n", "600", "--seed", "3", "--eval-freq", "400", "--eval-episodes", "1")
    zoo("rl_zoo3.train", *names, "--conf-file", "fast.yml", *options, folder=tmp_path)
    run = tmp_path / "logs" / "dqn" / "ALE-Boxing-v5_1"
    assert (run / "ALE-Boxing-v5.zip").is_file()
    # Each of the two environments makes 300 steps, and a game has 100
    results = load_results(str(run))
    assert len(results) >= 4
    assert set(results.l) == {400, 401, 402, 403} & set(results.l)
    lengths = np.load(run / "evaluations.npz")["ep_lengths"]
    assert ((lengths >= 400) & (lengths <= 403)).all()
    output = zoo("rl_zoo3.enjoy", *names, "-f", "logs", "--no-render", "-n", "150", folder=tmp_path)
    assert "Atari Episode Score" in output
    zoo("rl_zoo3.record_video", *names, "-f", "logs", "-n", "40", "--seed", "0", folder=tmp_path)
    (video,) = (run / "videos").glob("*.mp4")
    recording = cv2.VideoCapture(str(video))
    frames = [frame for found, frame in iter(recording.read, (False, None)) if found]
    assert len(frames) >= 40
    # The video has the game's own colors and size, and it moves
    assert frames[0].shape == (210, 160, 3) and frames[0].std() > 10
    assert any((frame != frames[0]).any() for frame in frames)
