"""The replay buffers of this package, named on rl_zoo3's command line, in an environment that has only the wheel."""

import pickle

import pytest

from sb3_ext import FrameDedupReplayBuffer, PrioritizedReplayBuffer

ATARI = "BreakoutNoFrameskip-v4"
SHORT = ("buffer_size:300", "learning_starts:60", "train_freq:40", "batch_size:4")


def train_atari(installed, folder, algo):
    pytest.importorskip("ale_py")
    return installed.run(
        *("-m", "rl_zoo3.train", "--algo", algo, "--env", ATARI, "-n", "400", "--eval-freq", "-1", "--seed", "1"),
        *("--save-replay-buffer", "-params", *SHORT, "replay_buffer_class:'FrameDedupReplayBuffer'"),
        cwd=folder,
    )


def saved_buffer(folder, algo, env_id):
    with (folder / "logs" / algo / f"{env_id}_1" / "replay_buffer.pkl").open("rb") as file:
        return pickle.load(file)


@pytest.mark.parametrize("algo", ["dqn", pytest.param("qrdqn", marks=pytest.mark.slow)])
def test_stock_algorithms_train_on_atari_with_frames_stored_once(installed, tmp_path, algo):
    train_atari(installed, tmp_path, algo)
    buffer = saved_buffer(tmp_path, algo, ATARI)
    assert type(buffer) is FrameDedupReplayBuffer
    assert buffer.size() == 300
    buffer.check_valid()
    # Stacks of 4 were recognised: 28 kB of observation and next observation in one frame and little else
    assert buffer.nbytes() / 300 < 1.5 * 84 * 84
    output = installed.run(
        *("-m", "rl_zoo3.enjoy", "--algo", algo, "--env", ATARI, "-f", "logs", "--no-render", "-n", "20"), cwd=tmp_path
    )
    assert "Loading" in output


def test_redq_sac_with_priorities(installed, tmp_path):
    installed.run(
        *("-m", "rl_zoo3.train", "--algo", "redq_sac", "--env", "Pendulum-v1", "-n", "80", "--eval-freq", "-1"),
        *("--save-replay-buffer", "-params", "learning_starts:20", "batch_size:8", "gradient_steps:2"),
        *("buffer_size:500", "policy_kwargs:dict(n_critics=3, net_arch=[8])"),
        *("replay_buffer_class:'PrioritizedReplayBuffer'", "replay_buffer_kwargs:dict(alpha=0.5)"),
        cwd=tmp_path,
    )
    buffer = saved_buffer(tmp_path, "redq_sac", "Pendulum-v1")
    assert type(buffer) is PrioritizedReplayBuffer
    assert (buffer.alpha, buffer.size()) == (0.5, 80)
    assert len(set(buffer.priorities)) > 1


def test_priorities_and_a_stock_algorithm_are_a_clear_error(installed, tmp_path):
    process = installed.start(
        *("-m", "rl_zoo3.train", "--algo", "dqn", "--env", "CartPole-v1", "-n", "80", "--eval-freq", "-1"),
        *("-params", "learning_starts:20", "buffer_size:500", "train_freq:1", "gradient_steps:1"),
        "replay_buffer_class:'PrioritizedReplayBuffer'",
        cwd=tmp_path,
    )
    error = installed.finish(process, success=False)
    assert "PrioritizedReplayBuffer needs an algorithm that weights its loss and writes priorities back" in error
