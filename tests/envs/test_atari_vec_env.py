"""The interface of SB3's ``VecEnv``: seeds, threads, actions, attributes, and training with it."""

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import DQN
from stable_baselines3.common.atari_wrappers import EpisodicLifeEnv, NoopResetEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor, load_results
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecTransposeImage

from sb3_ext import AtariVecEnv, FrameDedupReplayBuffer
from sb3_ext.envs import AtariSettings

gym.register_envs(pytest.importorskip("ale_py"))


@pytest.mark.parametrize("num_threads", [1, 2, 3, 0])
def test_the_number_of_threads_changes_nothing(
    num_threads: int, ale_atari: Callable, play: Callable, same_traces: Callable
) -> None:
    kwargs = dict(n_envs=3, noop_max=30, repeat_action_probability=0.25)
    same_traces(
        play(ale_atari("BreakoutNoFrameskip-v4", **kwargs), 60),
        play(ale_atari("BreakoutNoFrameskip-v4", **kwargs, num_threads=num_threads), 60),
    )


def test_seeds(ale_atari: Callable, play: Callable) -> None:
    def observations(seed: int | None, n_envs: int = 3) -> np.ndarray:
        venv = ale_atari("ALE/MsPacman-v5", n_envs, seed, noop_max=30, repeat_action_probability=0.25)
        return np.array(play(venv, 30).observations)

    first = observations(7)
    np.testing.assert_array_equal(first, observations(7))
    # Environment i of seed 7 is environment i - 1 of seed 8; the actions differ, so only their first observations
    np.testing.assert_array_equal(first[0, 1:], observations(8)[0, :2])
    assert (first[:, 0] != first[:, 1]).any()
    assert (observations(None) != observations(None)).any()
    assert observations(2**32 - 1).shape == first.shape


def test_a_new_seed_begins_a_new_game_and_none_goes_on(ale_atari: Callable) -> None:
    venv = ale_atari("ALE/MsPacman-v5", 1, 15, noop_max=30)
    first = venv.reset()
    venv.step(np.array([1]))
    venv.reset()
    # Like SB3's EpisodicLifeEnv, the reset made one step without action
    assert venv.reset_infos[0]["episode_frame_number"] > 8
    assert venv.seed(15) == [15]
    np.testing.assert_array_equal(venv.reset(), first)
    venv.close()


def test_what_was_returned_is_not_overwritten(ale_atari: Callable) -> None:
    venv = ale_atari("MsPacmanNoFrameskip-v4")
    obs = venv.reset()
    after, rewards, dones, infos = venv.step(np.zeros(2, dtype=int))
    kept = [array.copy() for array in (obs, after, rewards, dones)]
    for _ in range(100):
        venv.step(np.ones(2, dtype=int))
    for array, copy in zip((obs, after, rewards, dones), kept, strict=True):
        np.testing.assert_array_equal(array, copy)
    assert infos[0]["episode_frame_number"] == 4
    venv.close()


def test_the_rest_of_the_interface(tmp_path: Path, ale_atari: Callable) -> None:
    venv = ale_atari("BreakoutNoFrameskip-v4", monitor_dir=tmp_path)
    assert venv.env_is_wrapped(Monitor) == [True, True]
    assert venv.env_is_wrapped(EpisodicLifeEnv, indices=0) == [True]
    assert venv.env_is_wrapped(NoopResetEnv, indices=[1]) == [False]
    assert venv.env_method("get_action_meanings", indices=1) == [["NOOP", "FIRE", "RIGHT", "LEFT"]]
    assert venv.get_attr("spec")[0].id == "BreakoutNoFrameskip-v4"
    assert not venv.has_attr("nothing")
    venv.set_attr("something", 3, indices=1)
    assert venv.get_attr("something", indices=1) == [3]
    venv.reset()
    assert venv.render("rgb_array").shape == (420, 160, 3)
    while not venv.step(np.ones(2, dtype=int))[3][0].get("episode"):
        pass
    venv.close()
    venv.close()
    assert len(load_results(str(tmp_path))) >= 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.monitor.csv", "1.monitor.csv"]


def test_evaluate_policy_gets_the_score_of_whole_games(ale_atari: Callable) -> None:
    venv = VecTransposeImage(ale_atari("BreakoutNoFrameskip-v4", 1))
    model = DQN("CnnPolicy", venv, buffer_size=10, seed=0, device="cpu")
    # evaluate_policy warns of environments without episode statistics
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rewards, lengths = evaluate_policy(model, venv, 2, deterministic=False, return_episode_rewards=True)
    assert len(rewards) == 2
    # Lengths are in frames, as Monitor under AtariWrapper counts them. A game of five lives is longer than 300
    assert min(lengths) > 300
    venv.close()


def test_stock_dqn_learns_from_it(ale_atari: Callable) -> None:
    venv = VecTransposeImage(VecFrameStack(ale_atari("BreakoutNoFrameskip-v4"), 4))
    model = DQN(
        "CnnPolicy",
        venv,
        replay_buffer_class=FrameDedupReplayBuffer,
        policy_kwargs=dict(net_arch=[8]),
        buffer_size=400,
        learning_starts=250,
        batch_size=4,
        train_freq=8,
        seed=0,
        device="cpu",
    )
    model.learn(300)
    assert model._n_updates > 0
    assert len(model.ep_info_buffer) >= 1
    samples = model.replay_buffer.sample(32)
    assert samples.observations.shape == (32, 4, 84, 84)
    model.replay_buffer.check_valid()
    venv.close()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(n_envs=0), r"n_envs=0 must be an integer of at least 1"),
        (dict(seed=-1), r"seed=-1 must be an integer of at least 0"),
    ],
)
def test_arguments_are_checked(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AtariVecEnv("ALE/Boxing-v5", **kwargs)


@pytest.mark.parametrize(
    "actions", [np.array([0, 18]), np.array([-1, 0]), np.array([0]), np.zeros(2), np.zeros((2, 1), dtype=int)]
)
def test_actions_are_checked(actions: np.ndarray, ale_atari: Callable) -> None:
    venv = ale_atari("ALE/Boxing-v5")
    venv.reset()
    with pytest.raises(ValueError, match="actions"):
        venv.step(actions)
    venv.step(np.array([0, 17]))  # and it works on
    venv.close()


def test_an_interrupted_step_does_not_hang_or_come_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C between sending and receiving; then on without a reset, and with one."""
    env = AtariVecEnv("BreakoutNoFrameskip-v4", n_envs=2, noop_max=0, seed=0)
    env.reset()

    def interrupted(self: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("sb3_ext.envs.atari_game.AtariGame.observe", interrupted)
        with pytest.raises(KeyboardInterrupt):
            env.step(np.zeros(2, dtype=int))
    # Nobody received the second environment's step, and yet both environments are at the same frame
    infos = [env.step(np.zeros(2, dtype=int))[-1] for _ in range(2)]
    frames = [[info["episode_frame_number"] for info in step] for step in infos]
    assert frames[0][0] == frames[0][1] and [after - before for before, after in zip(*frames, strict=True)] == [4, 4]
    env.step_async(np.zeros(2, dtype=int))
    env.seed(0)
    env.reset()
    assert env.step(np.zeros(2, dtype=int))[-1][0]["episode_frame_number"] < frames[1][0]
    env.close()
    with pytest.raises(RuntimeError, match="closed"):
        env.reset()


INTERRUPTED = """
import signal
import numpy as np
from sb3_ext.envs import AtariVecEnv

def interrupt(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
env = AtariVecEnv("BreakoutNoFrameskip-v4", n_envs=2, seed=0, terminal_on_life_loss=False)
env.reset()
n_interrupts = 0
for attempt in range(60):
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.002 + 0.0002 * attempt)
        for _ in range(10_000):
            env.step(np.array([2, 3]))
            if attempt % 5 == 0:
                env.reset()
    except KeyboardInterrupt:
        n_interrupts += 1
    if attempt % 2:
        env.reset()
    # Both games answer the step that they were given: 4 frames later, or in a new game
    infos = [env.step(np.array([0, 0]))[-1] for _ in range(3)]
    for before, after in zip(infos[1], infos[2]):
        step = after["episode_frame_number"] - before["episode_frame_number"]
        assert step == 4 or "episode" in before, infos
print(n_interrupts, "interrupts")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="has no such timers")
def test_interrupts_within_calls_of_ale_do_not_hang() -> None:
    command = [sys.executable, "-c", INTERRUPTED]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.stdout == "60 interrupts\n", result.stderr


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("name", ["send", "recv", "reset"])
def test_an_interrupt_within_a_call_of_ale(name: str, before: bool) -> None:
    env = AtariVecEnv("BreakoutNoFrameskip-v4", n_envs=2, seed=0, terminal_on_life_loss=False)
    env.reset()
    for _ in range(5):
        env.step(np.zeros(2, dtype=int))
    ale = env._games[0]._ale

    class Interrupted:
        """ALE's environment, whose call is interrupted before it does anything, or after it has."""

        def __getattr__(self, called: str) -> Any:
            return getattr(ale, called)

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        if not before:
            getattr(ale, name)(*args, **kwargs)
        raise KeyboardInterrupt

    broken = Interrupted()
    setattr(broken, name, interrupted)
    env._games[0]._ale = broken
    with pytest.raises(KeyboardInterrupt):
        env.reset() if name == "reset" else env.step(np.zeros(2, dtype=int))
    infos = [env.step(np.zeros(2, dtype=int))[-1] for _ in range(2)]
    frames = [[info["episode_frame_number"] for info in step] for step in infos]
    assert [after - earlier for earlier, after in zip(*frames, strict=True)] == [4, 4]
    assert env._games[0]._ale not in (broken, ale)  # nobody knows what it has done


def test_a_closed_environment_stays_closed() -> None:
    env = AtariVecEnv("BreakoutNoFrameskip-v4", n_envs=2)
    env.reset()
    env.step_async(np.zeros(2, dtype=int))
    env.close()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="closed"):
            env.step(np.zeros(2, dtype=int))


def test_a_step_before_the_first_reset_is_an_error() -> None:
    env = AtariVecEnv("BreakoutNoFrameskip-v4", n_envs=2)
    with pytest.raises(RuntimeError, match="before the first step"):
        env.step(np.zeros(2, dtype=int))
    assert env.reset().shape == (2, 84, 84, 1)
    with pytest.raises(RuntimeError, match=r"step_async\(\) comes before"):
        env.step_wait()
    with pytest.raises(AttributeError, match="method_name='reset' is not one of"):
        env.env_method("reset")
    env.close()


def test_actions_and_indices_may_have_every_form_that_sb3_takes(sb3_atari: Callable, ale_atari: Callable) -> None:
    stock, ours = sb3_atari("BreakoutNoFrameskip-v4"), ale_atari("BreakoutNoFrameskip-v4")
    for venv in (stock, ours):
        venv.reset()
        for dtype in (np.int32, np.uint8, object):
            assert len(venv.step(np.array([1, 2], dtype))[0]) == 2
        for actions in ([1, 2], (1, 2), [np.int64(1), np.array(2)], th.tensor([1, 2])):
            assert len(venv.step(actions)[0]) == 2
        for indices in ([0, 1], (0, 1), range(2), np.arange(2), None):
            assert len(venv.get_attr("spec", indices)) == len(venv.env_is_wrapped(Monitor, indices)) == 2
        assert len(venv.get_attr("spec", -1)) == len(venv.env_method("get_action_meanings", indices=0)) == 1
        venv.set_options()
        venv.set_options({})
        assert len(venv.seed()) == len(venv.seed(np.int64(3))) == 2
        assert {name for name in dir(VecEnv) if not name.startswith("_")} <= set(dir(venv))


def test_what_would_have_no_effect_says_so(ale_atari: Callable) -> None:
    venv = ale_atari("BreakoutNoFrameskip-v4")
    for name in AtariSettings.names():
        with pytest.raises(
            AttributeError, match=rf"attr_name='{name}' cannot be set .* AtariVecEnv\(\.\.\., {name}=1\)"
        ):
            venv.set_attr(name, 1)
    for name in ("ale", "unwrapped", "frame_skip"):
        with pytest.raises(AttributeError, match=rf"attr_name='{name}' is unknown: AtariVecEnv has .*`settings`"):
            venv.get_attr(name)
    for options in ({"level": 2}, [{}, {"level": 2}]):
        with pytest.warns(UserWarning, match="have no effect: resets of Atari games take no options"):
            venv.set_options(options)
        assert venv.reset().shape[0] == 2
