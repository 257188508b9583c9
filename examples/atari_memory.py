"""
What a replay buffer of Atari frames takes, and stock DQN with one that stores each frame once.

    python examples/atari_memory.py --timesteps 5000        (needs: pip install ".[atari,lz4]")
"""

import argparse

import ale_py
import gymnasium as gym
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecFrameStack, VecTransposeImage

from sb3_ext import FrameDedupReplayBuffer, estimate_memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timesteps", type=int, default=5_000)
    timesteps = parser.parse_args().timesteps

    gym.register_envs(ale_py)
    env = VecTransposeImage(VecFrameStack(make_atari_env("BreakoutNoFrameskip-v4", n_envs=4, seed=0), n_stack=4))
    for buffer_class, kwargs in (
        (ReplayBuffer, {}),
        (FrameDedupReplayBuffer, {}),
        (FrameDedupReplayBuffer, {"compression": "lz4"}),
        (FrameDedupReplayBuffer, {"storage_path": "frames.bin"}),
    ):
        n_bytes = estimate_memory(
            buffer_class, 1_000_000, env.observation_space, env.action_space, env.num_envs, **kwargs
        )
        print(f"{buffer_class.__name__:24s} {kwargs!s:36s} a million transitions: {n_bytes / 1e9:5.2f} GB of RAM")

    model = DQN(
        "CnnPolicy",
        env,
        buffer_size=100_000,
        learning_starts=timesteps // 2,
        train_freq=16,
        replay_buffer_class=FrameDedupReplayBuffer,
        seed=0,
    )
    model.learn(timesteps, progress_bar=True)
    buffer = model.replay_buffer
    assert isinstance(buffer, FrameDedupReplayBuffer)
    n_stored = buffer.size() * buffer.n_envs
    print(f"{n_stored} transitions are stored in {buffer.nbytes() / n_stored:.0f} bytes each")


if __name__ == "__main__":
    main()
