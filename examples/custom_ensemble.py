"""
DroQ, clipped double-Q and a REINFORCE actor: what REDQSAC's arguments combine to.

    python examples/custom_ensemble.py --timesteps 2000
"""

import argparse
from typing import Any

from stable_baselines3.common.evaluation import evaluate_policy

from sb3_ext import REDQSAC

VARIANTS: dict[str, dict[str, Any]] = {
    # Two critics with dropout and layer normalisation in place of ten (https://arxiv.org/abs/2110.02034)
    "DroQ": dict(policy_kwargs=dict(n_critics=2, dropout=0.01, layer_norm=True, net_arch=[64, 64])),
    # SB3's SAC, but with several updates a step
    "clipped double-Q": dict(
        target_backup="min", actor_q="min", policy_delay=1, policy_kwargs=dict(n_critics=2, net_arch=[64, 64])
    ),
    # No gradient through the critics: the log-probabilities of 8 sampled actions, weighted by their values
    "REINFORCE-8": dict(
        actor_gradient="reinforce", n_actor_samples=8, policy_kwargs=dict(n_critics=3, net_arch=[64, 64])
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timesteps", type=int, default=2000)
    args = parser.parse_args()
    for name, variant in VARIANTS.items():
        settings: dict[str, Any] = dict(gradient_steps=2, learning_rate=1e-3, learning_starts=300) | variant
        model = REDQSAC("MlpPolicy", "Pendulum-v1", seed=0, **settings)
        model.learn(args.timesteps)
        mean, std = evaluate_policy(model, model.get_env(), n_eval_episodes=10)
        print(f"{name}: {mean:.0f} +/- {std:.0f} after {args.timesteps} steps")


if __name__ == "__main__":
    main()
