"""
Train REDQ-SAC on Pendulum-v1, save it, load it and go on: about two minutes on a laptop CPU.

    python examples/redq_pendulum.py --timesteps 5000
"""

import argparse
from pathlib import Path

from stable_baselines3.common.evaluation import evaluate_policy

from sb3_ext import REDQSAC


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timesteps", type=int, default=5000)
    parser.add_argument("--folder", type=Path, default=Path("redq_pendulum"), help="where model and replay buffer go")
    args = parser.parse_args()

    # 5 critics and 5 updates a step are enough for a task this small; the defaults (10 and 20) are the paper's
    model = REDQSAC(
        "MlpPolicy",
        "Pendulum-v1",
        learning_rate=1e-3,
        learning_starts=500,
        gradient_steps=5,
        policy_kwargs=dict(n_critics=5, net_arch=[64, 64]),
        seed=0,
    )
    model.learn(args.timesteps, progress_bar=True)
    mean, std = evaluate_policy(model, model.get_env(), n_eval_episodes=10)
    print(f"after {model.num_timesteps} steps and {model._n_updates} updates: {mean:.0f} +/- {std:.0f}")

    args.folder.mkdir(parents=True, exist_ok=True)
    model.save(args.folder / "model")
    model.save_replay_buffer(args.folder / "replay_buffer")

    loaded = REDQSAC.load(args.folder / "model", env=model.get_env())
    loaded.load_replay_buffer(args.folder / "replay_buffer")
    loaded.learn(500, reset_num_timesteps=False)
    print(f"continued to {loaded.num_timesteps} steps and {loaded._n_updates} updates")


if __name__ == "__main__":
    main()
