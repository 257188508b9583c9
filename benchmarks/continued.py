"""
Many settings from one checkpoint: REDQSAC goes on with other arguments, and is evaluated.

    python benchmarks/continued.py rl_model_110000_steps.zip --env Humanoid-v4 --name noise_1 --steps 20000 \
        --output continued.csv --set noise_repeat=1
    python benchmarks/continued.py rl_model_110000_steps.zip --env Humanoid-v4 --name slow_actor --steps 20000 \
        --output continued.csv --set qf_learning_rate=3.6e-4 --rates 1e-4 1e-4

The checkpoint is one of SB3's ``CheckpointCallback(save_replay_buffer=True)``, with its replay buffer beside it. What
helps late in a training shows so in minutes, where the whole training takes an hour. Without ``--rates`` the learning
rate is the line from ``learning_rate`` to ``learning_rate_final`` over ``--total`` steps. Rows are added to the CSV
file as they come: the mean of the evaluation, and that of the last ten training episodes.
"""

import argparse
import ast
import csv
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.utils import FloatSchedule

from sb3_ext import REDQSAC
from sb3_ext.schedules import Linear

COLUMNS = ("env", "name", "checkpoint", "timesteps", "evaluation", "training", "changed")
N_TRAINING_EPISODES = 10


class AveragedActorExplores(REDQSAC):
    """The running average of the actor chooses the actions of rollouts, too. For ``noise_repeat`` above 1."""

    def _exploring_actor(self) -> Any:
        return self.policy.averaged_actor


def line(first: float, last: float, begin: int, end: int) -> Linear:
    """Return the learning rate that is ``first`` at the time step ``begin``, and ``last`` at ``end``, the last one."""
    return Linear(last + (first - last) * end / (end - begin), last)


class Rows(EvalCallback):
    """Adds a row to a CSV file after each evaluation."""

    def __init__(self, path: Path, identity: dict[str, Any], env: gym.Env, **kwargs: Any) -> None:
        super().__init__(env, verbose=0, **kwargs)
        self.path, self.identity = path, identity

    def _on_step(self) -> bool:
        goes_on = super()._on_step()
        if self.n_calls % self.eval_freq == 0:
            recent = [episode["r"] for episode in list(self.model.ep_info_buffer)[-N_TRAINING_EPISODES:]]
            training = f"{sum(recent) / len(recent):.1f}" if recent else ""
            row = {"timesteps": self.num_timesteps, "evaluation": f"{self.last_mean_reward:.1f}", "training": training}
            is_new = not self.path.exists()
            with self.path.open("a", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                if is_new:
                    writer.writeheader()
                writer.writerow(self.identity | row)
            print(self.identity["name"], row, flush=True)
        return goes_on


def value_of(text: str) -> Any:
    """Read a Python literal, or take the text as it is."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def keep_recent(buffer: Any, n_transitions: int) -> None:
    """
    Drop all but the newest transitions of a buffer of SB3's layout, which is not full.
    """
    if buffer.full or n_transitions > buffer.pos:
        raise ValueError(f"recent={n_transitions} must be at most {buffer.pos}, and the buffer not full")
    first, last = buffer.pos - n_transitions, buffer.pos
    for array in vars(buffer).values():
        if isinstance(array, np.ndarray) and len(array) == buffer.buffer_size:
            array[:n_transitions] = array[first:last].copy()
    buffer.pos = n_transitions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--env", required=True)
    parser.add_argument("--name", required=True, help="of the setting, in the CSV file")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--total", type=int, default=300_000, help="steps of the whole training, for the learning rate")
    parser.add_argument("--eval-freq", type=int, default=10_000)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--set", nargs="*", default=[], metavar="ARGUMENT=VALUE", help="of REDQSAC")
    parser.add_argument("--rates", type=float, nargs=2, help="learning rate at the first and the last step")
    parser.add_argument("--averaged-actor-explores", action="store_true")
    parser.add_argument("--recent", type=int, help="keep only so many transitions, the newest")
    args = parser.parse_args()
    th.set_num_threads(1)
    changed = {name: value_of(text) for name, text in (item.split("=", 1) for item in args.set)}
    cls = AveragedActorExplores if args.averaged_actor_explores else REDQSAC
    model = cls.load(args.checkpoint, env=Monitor(gym.make(args.env)), **changed)
    model.load_replay_buffer(
        args.checkpoint.with_name(
            args.checkpoint.name.replace("model", "model_replay_buffer", 1).replace(".zip", ".pkl")
        )
    )
    if args.recent is not None:
        keep_recent(model.replay_buffer, args.recent)
    begin, end = model.num_timesteps, model.num_timesteps + args.steps
    if args.rates is not None:
        first, last = args.rates
    else:
        start = FloatSchedule(model.learning_rate)(1.0)  # a number or, from a file, a schedule of it
        fall = (start - model.learning_rate_final) / args.total
        first, last = (start - fall * step for step in (begin, end))
    model.learning_rate_final = None  # first, since it goes with constant learning rates only
    model.learning_rate = line(first, last, begin, end)
    how = " ".join(
        [
            *args.set,
            *(["averaged actor explores"] if args.averaged_actor_explores else []),
            *([] if args.recent is None else [f"newest {args.recent} transitions"]),
        ]
    )
    how += "" if args.rates is None else f" rates {first:g} to {last:g}"
    identity = {"env": args.env, "name": args.name, "checkpoint": args.checkpoint.name, "changed": how.strip()}
    evaluation = Rows(args.output, identity, Monitor(gym.make(args.env)), n_eval_episodes=10, eval_freq=args.eval_freq)
    model.learn(args.steps, callback=evaluation, reset_num_timesteps=False)


if __name__ == "__main__":
    main()
