"""ALE's vector environment shows an agent what SB3's ``AtariWrapper`` in a ``DummyVecEnv`` shows it."""

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import cv2
import gymnasium as gym
import numpy as np
import pytest
import yaml
from stable_baselines3 import DQN
from stable_baselines3.common.atari_wrappers import AtariWrapper, EpisodicLifeEnv, NoopResetEnv
from stable_baselines3.common.env_util import make_atari_env, make_vec_env, unwrap_wrapper
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor, load_results
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecFrameStack, VecTransposeImage

from sb3_ext import FrameDedupReplayBuffer
from sb3_ext.envs.atari import AtariVecEnv, use_ale_vector

ale_py = pytest.importorskip("ale_py")
gym.register_envs(ale_py)

N_ENVS = 2
# Both seeds, this one and the next, are those whose sticky actions are SB3's: see docs/atari.md
SEED = 15
GAMES = ["BreakoutNoFrameskip-v4", "MsPacmanNoFrameskip-v4", "ALE/Boxing-v5"]


def sb3_chain(
    env_id: str, n_envs: int = N_ENVS, seed: int = SEED, env: dict | None = None, **wrapper: Any
) -> DummyVecEnv:
    """SB3's chain, without random no-ops and sticky actions unless told otherwise."""
    env_kwargs = {"frameskip": 1, "repeat_action_probability": 0.0, **(env or {})}
    venv = make_atari_env(env_id, n_envs, seed, wrapper_kwargs={"noop_max": 0, **wrapper}, env_kwargs=env_kwargs)
    assert isinstance(venv, DummyVecEnv)
    return venv


def ours(env_id: str, n_envs: int = N_ENVS, seed: int | None = SEED, **kwargs: Any) -> AtariVecEnv:
    """The same of ours."""
    return AtariVecEnv(env_id, n_envs, **{"seed": seed, "noop_max": 0, "repeat_action_probability": 0.0, **kwargs})


class Trace:
    """
    What an environment returned, from its first reset on.

    :param venv: to play with random actions, the same ones for every environment, and to close
    :param n_steps: how many
    """

    def __init__(self, venv: VecEnv, n_steps: int) -> None:
        rng = np.random.default_rng(0)
        self.observations, self.rewards, self.dones = [venv.reset()], [], []
        self.infos: list[list[dict[str, Any]]] = []
        for _ in range(n_steps):
            obs, rewards, dones, infos = venv.step(rng.integers(0, venv.action_space.n, venv.num_envs))
            self.observations.append(obs)
            self.rewards.append(rewards)
            self.dones.append(dones)
            self.infos.append(infos)
        venv.close()

    def episodes(self) -> list[tuple]:
        """Whole games: step, environment, return, length."""
        return [
            (step, env, info["episode"]["r"], info["episode"]["l"])
            for step, infos in enumerate(self.infos)
            for env, info in enumerate(infos)
            if "episode" in info
        ]

    def terminal(self, at_game_over: bool) -> dict[tuple[int, int], np.ndarray]:
        """Terminal observations by step and environment."""
        return {
            (step, env): info["terminal_observation"]
            for step, infos in enumerate(self.infos)
            for env, info in enumerate(infos)
            if "terminal_observation" in info and ("episode" in info) == at_game_over
        }

    def plain_infos(self) -> list[list[dict[str, Any]]]:
        """Infos without what is compared in other ways."""
        left_out = ("terminal_observation", "episode", "seeds")
        return [[{k: v for k, v in info.items() if k not in left_out} for info in infos] for infos in self.infos]


def assert_same(expected: Trace, actual: Trace) -> None:
    """All is the same to the bit; the terminal observations at the end of a game are compared elsewhere."""
    for name in ("observations", "rewards", "dones"):
        for one, other in zip(getattr(expected, name), getattr(actual, name), strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other, err_msg=name)
    assert expected.plain_infos() == actual.plain_infos()
    assert expected.episodes() == actual.episodes()
    lost, also_lost = expected.terminal(at_game_over=False), actual.terminal(at_game_over=False)
    assert lost.keys() == also_lost.keys()
    for key, observation in lost.items():
        assert observation.shape == also_lost[key].shape
        np.testing.assert_array_equal(observation, also_lost[key])
    assert expected.terminal(at_game_over=True).keys() == actual.terminal(at_game_over=True).keys()


@pytest.mark.parametrize("terminal_on_life_loss", [True, False])
@pytest.mark.parametrize("env_id", GAMES)
def test_everything_equals_sb3s_chain(env_id: str, terminal_on_life_loss: bool) -> None:
    n_steps = 600 if "Pacman" in env_id else 250
    settings = dict(terminal_on_life_loss=terminal_on_life_loss)
    expected, actual = (Trace(make(env_id, **settings), n_steps) for make in (sb3_chain, ours))
    assert_same(expected, actual)
    # Otherwise there was nothing to compare
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
def test_other_settings_equal_sb3s_chain(settings: dict[str, Any]) -> None:
    env_id = "MsPacmanNoFrameskip-v4"
    expected, actual = (Trace(make(env_id, **settings), 900 // settings["frame_skip"]) for make in (sb3_chain, ours))
    assert_same(expected, actual)
    largest = max(rewards.max() for rewards in actual.rewards)
    assert largest == (1 if settings.get("clip_reward", True) else 10)


def test_sticky_actions_are_those_of_the_same_seed() -> None:
    expected = Trace(sb3_chain("ALE/Breakout-v5", env=dict(repeat_action_probability=0.25)), 200)
    actual = Trace(ours("ALE/Breakout-v5", repeat_action_probability=None), 200)
    assert_same(expected, actual)
    without = Trace(ours("ALE/Breakout-v5"), 200)
    assert any((one != other).any() for one, other in zip(without.observations, actual.observations, strict=True))


@pytest.mark.parametrize("env_id", ["BreakoutNoFrameskip-v4", "MsPacmanNoFrameskip-v4", "ALE/Berzerk-v5"])
def test_a_game_begins_with_1_to_noop_max_noops(env_id: str) -> None:
    noop_max, n_envs = 2, 8
    venv = ours(env_id, n_envs, noop_max=noop_max, terminal_on_life_loss=False)
    observations = venv.reset()
    # Two buttons are pressed for four frames each
    fire = 8 if "FIRE" in venv.env_method("get_action_meanings")[0] else 0
    # And 20 to start Berzerk, which ALE counts and SB3 does not
    before = 20 if "Berzerk" in env_id else 0
    counts = [info["episode_frame_number"] - fire - before for info in venv.reset_infos]
    venv.close()
    assert set(counts) == {1, 2}
    chain = sb3_chain(env_id, n_envs, noop_max=noop_max, terminal_on_life_loss=False)
    for env, count in zip(chain.envs, counts, strict=True):
        unwrap_wrapper(env, NoopResetEnv).override_num_noops = count
    np.testing.assert_array_equal(observations, chain.reset())
    chain.close()


def test_a_time_limit_that_is_a_multiple_of_the_skipped_frames_equals_sb3s() -> None:
    settings = dict(terminal_on_life_loss=False)
    expected = Trace(sb3_chain("BreakoutNoFrameskip-v4", env=dict(max_num_frames_per_episode=100), **settings), 60)
    actual = Trace(ours("BreakoutNoFrameskip-v4", max_num_frames_per_episode=100, **settings), 60)
    assert_same(expected, actual)
    assert {length for *_, length in actual.episodes()} == {100}
    assert all(
        infos[0]["TimeLimit.truncated"] == dones[0] for infos, dones in zip(actual.infos, actual.dones, strict=True)
    )
    for key, observation in expected.terminal(at_game_over=True).items():
        np.testing.assert_array_equal(observation, actual.terminal(at_game_over=True)[key])


def test_another_time_limit_ends_with_the_step_that_passes_it() -> None:
    # SB3 cuts the step short, and shows the frames of the step before
    env_id, settings, limit = "BreakoutNoFrameskip-v4", dict(n_envs=1, terminal_on_life_loss=False), 102
    chain = Trace(sb3_chain(env_id, env=dict(max_num_frames_per_episode=limit), **settings), 120)
    actual = Trace(ours(env_id, max_num_frames_per_episode=limit, **settings), 120)
    np.testing.assert_array_equal(chain.dones, actual.dones)
    assert [length for *_, length in chain.episodes()] == 5 * [102]
    assert [length for *_, length in actual.episodes()] == 5 * [104]
    at_end, sb3s_at_end = actual.terminal(at_game_over=True), chain.terminal(at_game_over=True)
    assert any((at_end[key] != sb3s_at_end[key]).any() for key in at_end)
    # What the agent would have seen if it had gone on
    unlimited = Trace(ours(env_id, **settings), 24)
    np.testing.assert_array_equal(at_end[23, 0], unlimited.observations[24][0])


def test_the_last_frame_of_a_game_is_ales() -> None:
    """
    When a game ends, ALE and SB3 stop in the middle of the skipped frames. SB3 has looked at the last of them, ALE has
    not, so its terminal observation may show the frame before. The target of such a transition ignores it.
    """
    settings = dict(frame_skip=1, terminal_on_life_loss=False)
    expected, actual = (Trace(make("BreakoutNoFrameskip-v4", n_envs=1, **settings), 1200) for make in (sb3_chain, ours))
    assert_same(expected, actual)
    ((step, env),) = expected.terminal(at_game_over=True)
    terminal = actual.terminal(at_game_over=True)[step, env]
    np.testing.assert_array_equal(terminal, actual.observations[step][env])
    assert np.abs(terminal.astype(int) - expected.terminal(at_game_over=True)[step, env]).max() <= 110


@pytest.mark.parametrize(("env_id", "largest"), [("MsPacmanNoFrameskip-v4", 37), ("BreakoutNoFrameskip-v4", 0)])
def test_ales_own_grey_differs_in_few_pixels(env_id: str, largest: int) -> None:
    # ALE makes each frame grey and then takes the maximum, SB3 takes that of each colour
    exact, fast = (Trace(ours(env_id, exact_frames=exact), 250) for exact in (True, False))
    difference = np.abs(np.array(exact.observations, dtype=int) - np.array(fast.observations, dtype=int))
    assert difference.max() <= largest
    assert (difference > 1).mean() < 0.005
    if largest:
        assert difference.max() > 1
    for name in ("rewards", "dones"):
        np.testing.assert_array_equal(getattr(exact, name), getattr(fast, name))


@pytest.mark.parametrize("num_threads", [1, 2, 3, 0])
def test_the_number_of_threads_changes_nothing(num_threads: int) -> None:
    kwargs = dict(n_envs=3, noop_max=30, repeat_action_probability=0.25)
    assert_same(Trace(ours(GAMES[0], **kwargs), 60), Trace(ours(GAMES[0], **kwargs, num_threads=num_threads), 60))


def test_seeds() -> None:
    def observations(seed: int | None, n_envs: int = 3) -> np.ndarray:
        venv = ours("ALE/MsPacman-v5", n_envs, seed, noop_max=30, repeat_action_probability=0.25)
        return np.array(Trace(venv, 30).observations)

    first = observations(7)
    np.testing.assert_array_equal(first, observations(7))
    # Environment i of seed 7 is environment i - 1 of seed 8; the actions differ, so only their first observations
    np.testing.assert_array_equal(first[0, 1:], observations(8)[0, :2])
    assert (first[:, 0] != first[:, 1]).any()
    assert (observations(None) != observations(None)).any()
    assert observations(2**32 - 1).shape == first.shape


def test_a_new_seed_begins_a_new_game_and_none_goes_on() -> None:
    venv = ours("ALE/MsPacman-v5", 1, noop_max=30)
    first = venv.reset()
    venv.step(np.array([1]))
    venv.reset()
    # As SB3's EpisodicLifeEnv: one step without action
    assert venv.reset_infos[0]["episode_frame_number"] > 8
    assert venv.seed(SEED) == [SEED]
    np.testing.assert_array_equal(venv.reset(), first)
    venv.close()


def test_what_was_returned_is_not_overwritten() -> None:
    venv = ours("MsPacmanNoFrameskip-v4")
    obs = venv.reset()
    after, rewards, dones, infos = venv.step(np.zeros(2, dtype=int))
    kept = [array.copy() for array in (obs, after, rewards, dones)]
    for _ in range(100):
        venv.step(np.ones(2, dtype=int))
    for array, copy in zip((obs, after, rewards, dones), kept, strict=True):
        np.testing.assert_array_equal(array, copy)
    assert infos[0]["episode_frame_number"] == 4
    venv.close()


def test_the_rest_of_the_interface(tmp_path: Path) -> None:
    venv = ours("BreakoutNoFrameskip-v4", monitor_dir=tmp_path)
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


def test_evaluate_policy_gets_the_score_of_whole_games() -> None:
    venv = VecTransposeImage(ours("BreakoutNoFrameskip-v4", 1))
    model = DQN("CnnPolicy", venv, buffer_size=10, seed=0, device="cpu")
    # It warns of environments without episode statistics
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rewards, lengths = evaluate_policy(model, venv, 2, deterministic=False, return_episode_rewards=True)
    assert len(rewards) == 2
    # In frames, as Monitor under AtariWrapper counts them: five lives last longer than this
    assert min(lengths) > 300
    venv.close()


def test_stock_dqn_learns_from_it() -> None:
    venv = VecTransposeImage(VecFrameStack(ours("BreakoutNoFrameskip-v4"), 4))
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
        (dict(env_id="CartPole-v1"), r"env_id='CartPole-v1' is not an Atari game"),
        (dict(env_id="NoSuchGame-v4"), r"env_id='NoSuchGame-v4' is not a registered id"),
        (dict(env_id="Boxing-v4"), r"Boxing-v4: frameskip=\(2, 5\)"),
        (dict(n_envs=0), r"n_envs=0 must be an integer of at least 1"),
        (dict(noop_max=-1), r"noop_max=-1 must be an integer of at least 0"),
        (dict(frame_skip=0), r"frame_skip=0 must be an integer of at least 1"),
        (dict(screen_size=84.0), r"screen_size=84.0 must be an integer of at least 1"),
        (dict(num_threads=-2), r"num_threads=-2 must be an integer of at least 0"),
        (dict(clip_reward="sign"), r"clip_reward='sign' is not one of True, False"),
        (dict(repeat_action_probability=1.5), r"repeat_action_probability=1.5 must be a number from 0 to 1"),
        (dict(max_num_frames_per_episode=0), r"max_num_frames_per_episode=0 must be an integer of at least 1"),
        (dict(full_action_space="yes"), r"full_action_space='yes' is not one of"),
        (dict(seed=-1), r"seed=-1 must be an integer of at least 0"),
    ],
)
def test_arguments_are_checked(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AtariVecEnv(**{"env_id": "ALE/Boxing-v5", **kwargs})


@pytest.mark.parametrize(
    "actions", [np.array([0, 18]), np.array([-1, 0]), np.array([0]), np.zeros(2), np.zeros((2, 1), dtype=int)]
)
def test_actions_are_checked(actions: np.ndarray) -> None:
    venv = ours("ALE/Boxing-v5")
    venv.reset()
    with pytest.raises(ValueError, match="actions"):
        venv.step(actions)
    venv.step(np.array([0, 17]))  # and it works on
    venv.close()


def test_the_zoos_environments_are_replaced_by_the_same(tmp_path: Path) -> None:
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
    expected, actual = Trace(chain, 500), Trace(replaced, 500)
    assert_same(expected, actual)
    results, our_results = (load_results(str(tmp_path / name)) for name in ("sb3", "ours"))
    assert len(our_results) == len(expected.episodes()) >= 4
    assert sorted(zip(results.r, results.l, strict=True)) == sorted(zip(our_results.r, our_results.l, strict=True))


def test_settings_go_before_those_of_the_wrapper() -> None:
    # Without AtariWrapper, and with frames skipped by the id, which count for nothing
    venv = use_ale_vector(make_vec_env("ALE/MsPacman-v5", N_ENVS, SEED), noop_max=0, repeat_action_probability=0.0)
    assert_same(Trace(sb3_chain("ALE/MsPacman-v5"), 60), Trace(venv, 60))
    chain = sb3_chain("ALE/MsPacman-v5", screen_size=42, action_repeat_probability=0.25)
    venv = use_ale_vector(chain, screen_size=20)
    assert venv.observation_space.shape == (20, 20, 1)
    assert venv._rules.vector_kwargs["repeat_action_probability"] == 0.25
    venv.close()


class Unknown(gym.Wrapper):
    """A wrapper that nobody knows."""


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
        (lambda: make_vec_env("ALE/Boxing-v5"), dict(frameskip=4), "setting of use_ale_vector='frameskip' is not one"),
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


def test_processes_cannot_be_replaced() -> None:
    # Which game they play is not asked for
    venv = make_vec_env("CartPole-v1", 1, vec_env_cls=SubprocVecEnv)
    try:
        with pytest.raises(ValueError, match="got a SubprocVecEnv"):
            use_ale_vector(venv)
    finally:
        venv.close()


def test_without_ale_py_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ale_py.vector_env", None)
    with pytest.raises(ImportError, match=r'pip install "sb3-ext\[atari\]"'):
        AtariVecEnv("ALE/Boxing-v5")


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
    # 300 steps in each of two environments, 100 steps a game
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
    # The game's own colours and size, and it moves
    assert frames[0].shape == (210, 160, 3) and frames[0].std() > 10
    assert any((frame != frames[0]).any() for frame in frames)


def test_the_wrapper_needs_nothing_of_the_zoo() -> None:
    """What the YAML entry names is a plain function of a VecEnv."""
    chain = make_vec_env("BreakoutNoFrameskip-v4", 1, wrapper_class=AtariWrapper)
    venv = use_ale_vector(chain)
    assert isinstance(venv, AtariVecEnv) and venv.env_is_wrapped(AtariWrapper) == [True]
    venv.close()


def test_an_interrupted_step_does_not_hang_or_come_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C between sending and receiving; then on without a reset, and with one."""
    env = AtariVecEnv("BreakoutNoFrameskip-v4", n_envs=2, noop_max=0, seed=0)
    env.reset()

    def interrupted(self: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("sb3_ext.envs.atari._Game.observe", interrupted)
        with pytest.raises(KeyboardInterrupt):
            env.step(np.zeros(2, dtype=int))
    # The second environment's step was never waited for. Both have made it all the same: nothing is a step late
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


def test_half_of_atari_wrapper_is_refused() -> None:
    env = make_vec_env("BreakoutNoFrameskip-v4", wrapper_class=NoopResetEnv)
    with pytest.raises(ValueError, match="NoopResetEnv without the rest of AtariWrapper"):
        use_ale_vector(env)
    env.close()
