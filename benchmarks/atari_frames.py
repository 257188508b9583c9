"""
How many frames of ``AtariVecEnv`` are those of SB3's ``AtariWrapper``, game by game, with SB3's way of making them gray
and small (``exact_frames=True``, the default) and with ALE's own.

The same random actions, no no-ops at the start and no sticky actions, which draw other random numbers.

    python benchmarks/atari_frames.py --output benchmarks/results/atari_frames.csv
"""

import argparse
from contextlib import closing
from pathlib import Path
from typing import Any

import ale_py
import gymnasium as gym
import numpy as np
from reporting import installed_versions, write_csv
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecEnv
from tqdm import tqdm

from sb3_ext.envs import AtariVecEnv

GAMES = [
    "AirRaid",
    "Asterix",
    "BeamRider",
    "Boxing",
    "Breakout",
    "Enduro",
    "Freeway",
    "JourneyEscape",
    "MsPacman",
    "Phoenix",
    "Pong",
    "Qbert",
    "Seaquest",
    "Skiing",
    "SpaceInvaders",
]
PACKAGES = ("stable-baselines3", "gymnasium", "ale-py", "numpy", "opencv-python", "opencv-python-headless")


def compare(game: str, exact: bool, n_steps: int) -> dict[str, Any]:
    """
    Play a game in both ways.

    :param game: its name in ids
    :param exact: ``exact_frames``
    :param n_steps: of one environment
    :return: a row of the CSV file
    """
    env_id = f"{game}NoFrameskip-v4"
    reference = make_atari_env(env_id, 1, 0, wrapper_kwargs=dict(noop_max=0))
    ours = AtariVecEnv(env_id, 1, seed=0, noop_max=0, exact_frames=exact)
    rng = np.random.default_rng(0)
    with closing(reference), closing(ours):
        expected, actual = reference.reset(), ours.reset()
        differences = [difference(expected, actual)]
        n_same_outcomes = 0
        for _ in range(n_steps):
            actions = rng.integers(0, ours.action_space.n, 1)
            expected, *outcome = step(reference, actions)
            actual, *also_outcome = step(ours, actions)
            n_same_outcomes += outcome == also_outcome
            differences.append(difference(expected, actual))
    array = np.stack(differences)
    return {
        "game": game,
        "exact_frames": exact,
        "frames": len(array),
        "equal": int((array == 0).all(axis=1).sum()),
        "largest_difference": int(array.max()),
        "pixels_off_by_more_than_1_percent": f"{100 * (array > 1).mean():.4g}",
        "steps": n_steps,
        "same_rewards_and_dones": n_same_outcomes,
    }


def step(venv: VecEnv, actions: np.ndarray) -> tuple[np.ndarray, float, bool]:
    """
    :param venv: of one environment
    :param actions: shape (1,)
    :return: observation, reward, done
    """
    obs, rewards, dones, _ = venv.step(actions)
    assert isinstance(obs, np.ndarray)
    return obs, float(rewards[0]), bool(dones[0])


def difference(one: Any, other: Any) -> np.ndarray:
    """
    :param one: an image of grey levels
    :param other: of the same shape
    :return: by how much they differ at each pixel, flat
    """
    return np.abs(one.astype(np.int16) - other.astype(np.int16)).ravel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="CSV file")
    parser.add_argument("--games", nargs="+", default=GAMES, help="names as in their ids; %(default)s")
    parser.add_argument("--steps", type=int, default=500, help="of each game")
    args = parser.parse_args()
    if args.steps < 1:
        parser.error(f"--steps {args.steps} must be at least 1")
    gym.register_envs(ale_py)
    unknown = [game for game in args.games if f"{game}NoFrameskip-v4" not in gym.registry]
    if unknown:
        parser.error(f"--games {' '.join(unknown)}: there is no id {unknown[0]}NoFrameskip-v4")
    rows = []
    for game in tqdm(args.games):
        rows += [compare(game, exact, args.steps) for exact in (True, False)]
        write_csv(args.output, rows, installed_versions(PACKAGES))
    for row in rows:
        print(*row.values())


if __name__ == "__main__":
    main()
