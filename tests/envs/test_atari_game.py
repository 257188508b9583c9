"""Each game shows an agent what SB3's ``AtariWrapper`` in a ``DummyVecEnv`` shows it."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.atari_wrappers import NoopResetEnv
from stable_baselines3.common.env_util import unwrap_wrapper

gym.register_envs(pytest.importorskip("ale_py"))

GAMES = ["BreakoutNoFrameskip-v4", "MsPacmanNoFrameskip-v4", "ALE/Boxing-v5"]


@pytest.mark.parametrize("terminal_on_life_loss", [True, False])
@pytest.mark.parametrize("env_id", GAMES)
def test_everything_equals_sb3s_chain(
    env_id: str,
    terminal_on_life_loss: bool,
    sb3_atari: Callable,
    ale_atari: Callable,
    play: Callable,
    same_traces: Callable,
) -> None:
    n_steps = 600 if "Pacman" in env_id else 250
    settings = dict(terminal_on_life_loss=terminal_on_life_loss)
    expected, actual = (play(make(env_id, **settings), n_steps) for make in (sb3_atari, ale_atari))
    same_traces(expected, actual)
    # Both traces contain what the test is about
    if "Boxing" not in env_id:
        assert len(expected.episodes()) >= 1
        assert bool(expected.terminal(at_game_over=False)) == terminal_on_life_loss
    assert any(rewards.any() for rewards in expected.rewards)


@pytest.mark.parametrize(
    "settings",
    [
        dict(frame_skip=1),
        dict(frame_skip=2, screen_size=42, clip_reward=False),
        dict(frame_skip=5, terminal_on_life_loss=False),
    ],
)
def test_other_settings_equal_sb3s_chain(
    settings: dict[str, Any], sb3_atari: Callable, ale_atari: Callable, play: Callable, same_traces: Callable
) -> None:
    env_id = "MsPacmanNoFrameskip-v4"
    expected, actual = (
        play(make(env_id, **settings), 900 // settings["frame_skip"]) for make in (sb3_atari, ale_atari)
    )
    same_traces(expected, actual)
    largest = max(rewards.max() for rewards in actual.rewards)
    assert largest == (1 if settings.get("clip_reward", True) else 10)


def test_sticky_actions_are_those_of_the_same_seed(
    sb3_atari: Callable, ale_atari: Callable, play: Callable, same_traces: Callable
) -> None:
    expected = play(sb3_atari("ALE/Breakout-v5", env=dict(repeat_action_probability=0.25)), 200)
    actual = play(ale_atari("ALE/Breakout-v5", repeat_action_probability=None), 200)
    same_traces(expected, actual)
    without = play(ale_atari("ALE/Breakout-v5"), 200)
    assert any((one != other).any() for one, other in zip(without.observations, actual.observations, strict=True))


@pytest.mark.parametrize("env_id", ["BreakoutNoFrameskip-v4", "MsPacmanNoFrameskip-v4", "ALE/Berzerk-v5"])
def test_a_game_begins_with_1_to_noop_max_noops(env_id: str, sb3_atari: Callable, ale_atari: Callable) -> None:
    noop_max, n_envs = 2, 8
    venv = ale_atari(env_id, n_envs, noop_max=noop_max, terminal_on_life_loss=False)
    observations = venv.reset()
    # FireResetEnv presses two buttons for four frames each
    fire = 8 if "FIRE" in venv.env_method("get_action_meanings")[0] else 0
    # ALE presses a button for 20 frames to start Berzerk and counts them, SB3 does not count them
    before = 20 if "Berzerk" in env_id else 0
    counts = [info["episode_frame_number"] - fire - before for info in venv.reset_infos]
    venv.close()
    assert set(counts) == {1, 2}
    chain = sb3_atari(env_id, n_envs, noop_max=noop_max, terminal_on_life_loss=False)
    for env, count in zip(chain.envs, counts, strict=True):
        unwrap_wrapper(env, NoopResetEnv).override_num_noops = count
    np.testing.assert_array_equal(observations, chain.reset())
    chain.close()


def test_a_time_limit_that_is_a_multiple_of_the_skipped_frames_equals_sb3s(
    sb3_atari: Callable, ale_atari: Callable, play: Callable, same_traces: Callable
) -> None:
    settings = dict(terminal_on_life_loss=False)
    expected = play(sb3_atari("BreakoutNoFrameskip-v4", env=dict(max_num_frames_per_episode=100), **settings), 60)
    actual = play(ale_atari("BreakoutNoFrameskip-v4", max_num_frames_per_episode=100, **settings), 60)
    same_traces(expected, actual)
    assert {length for *_, length in actual.episodes()} == {100}
    assert all(
        infos[0]["TimeLimit.truncated"] == dones[0] for infos, dones in zip(actual.infos, actual.dones, strict=True)
    )
    for key, observation in expected.terminal(at_game_over=True).items():
        np.testing.assert_array_equal(observation, actual.terminal(at_game_over=True)[key])


def test_another_time_limit_ends_with_the_step_that_passes_it(
    sb3_atari: Callable, ale_atari: Callable, play: Callable
) -> None:
    # SB3 cuts the step short and shows the frames of the step before
    env_id, settings, limit = "BreakoutNoFrameskip-v4", dict(n_envs=1, terminal_on_life_loss=False), 102
    chain = play(sb3_atari(env_id, env=dict(max_num_frames_per_episode=limit), **settings), 120)
    actual = play(ale_atari(env_id, max_num_frames_per_episode=limit, **settings), 120)
    np.testing.assert_array_equal(chain.dones, actual.dones)
    assert [length for *_, length in chain.episodes()] == 5 * [102]
    assert [length for *_, length in actual.episodes()] == 5 * [104]
    at_end, sb3s_at_end = actual.terminal(at_game_over=True), chain.terminal(at_game_over=True)
    assert any((at_end[key] != sb3s_at_end[key]).any() for key in at_end)
    # The terminal observation is the one that the agent would have got without a limit
    unlimited = play(ale_atari(env_id, **settings), 24)
    np.testing.assert_array_equal(at_end[23, 0], unlimited.observations[24][0])


def test_the_last_frame_of_a_game_is_ales(
    sb3_atari: Callable, ale_atari: Callable, play: Callable, same_traces: Callable
) -> None:
    """
    When a game ends, ALE and SB3 stop in the middle of the skipped frames. SB3 shows the last of them. ALE may show the
    frame before, which is harmless because targets ignore the observation at the end of a game.
    """
    settings = dict(frame_skip=1, terminal_on_life_loss=False)
    expected, actual = (
        play(make("BreakoutNoFrameskip-v4", n_envs=1, **settings), 1200) for make in (sb3_atari, ale_atari)
    )
    same_traces(expected, actual)
    ((step, env),) = expected.terminal(at_game_over=True)
    terminal = actual.terminal(at_game_over=True)[step, env]
    np.testing.assert_array_equal(terminal, actual.observations[step][env])
    assert np.abs(terminal.astype(int) - expected.terminal(at_game_over=True)[step, env]).max() <= 110


@pytest.mark.parametrize(("env_id", "largest"), [("MsPacmanNoFrameskip-v4", 37), ("BreakoutNoFrameskip-v4", 0)])
def test_ales_own_gray_differs_in_few_pixels(env_id: str, largest: int, ale_atari: Callable, play: Callable) -> None:
    # ALE makes each frame gray and then takes the maximum, SB3 takes that of each color
    exact, fast = (play(ale_atari(env_id, exact_frames=exact), 250) for exact in (True, False))
    difference = np.abs(np.array(exact.observations, dtype=int) - np.array(fast.observations, dtype=int))
    assert difference.max() <= largest
    assert (difference > 1).mean() < 0.005
    if largest:
        assert difference.max() > 1
    for name in ("rewards", "dones"):
        np.testing.assert_array_equal(getattr(exact, name), getattr(fast, name))
