"""
What IQN knows that DQN does not: the distribution of the return of each action, drawn for one state.

    python examples/iqn_return_distribution.py            # trains on CartPole-v1, a minute on a laptop
    python examples/iqn_return_distribution.py --model logs/iqn/LunarLander-v3_1/best_model.zip --env LunarLander-v3
"""

import argparse

import gymnasium as gym
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch as th

from sb3_ext import IQN
from sb3_ext.functional.quantile import quantile_midpoints

# Okabe and Ito's palette, told apart by colour-blind readers; the line style says it once more
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
LINE_STYLES = ["-", "--", "-.", ":"]


def return_quantiles(model: IQN, observation: object, n_quantiles: int = 200) -> th.Tensor:
    """
    :param model: trained
    :param observation: one, as the environment returns it
    :param n_quantiles: number of levels, (k + 1/2) / n
    :return: quantiles of the discounted return of each action, shape (n_quantiles, n_actions)
    """
    obs, _ = model.policy.obs_to_tensor(observation)
    with th.no_grad():
        return model.q_net.quantiles(obs, quantile_midpoints(n_quantiles, model.device).unsqueeze(0))[0].cpu()


def draw(quantiles: th.Tensor, path: str, title: str) -> None:
    """
    :param quantiles: shape (n_quantiles, n_actions)
    :param path: of the PNG
    :param title: of the figure
    """
    taus = quantile_midpoints(len(quantiles))
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for action, values in enumerate(quantiles.T):
        color, style = COLORS[action % len(COLORS)], LINE_STYLES[action % len(LINE_STYLES)]
        # Sorted, because nothing forces a network's quantiles to be in order
        axes.plot(values.sort().values, taus, style, color=color, label=f"action {action}, mean {values.mean():.2f}")
        axes.axvline(float(values.mean()), color=color, linestyle=style, linewidth=0.7)
    axes.set(xlabel="discounted return", ylabel="probability of at most this return", title=title, ylim=(0, 1))
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)
    print(f"{path}: the distribution of the return of {quantiles.shape[1]} actions")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="CartPole-v1", help="id of the environment")
    parser.add_argument("--model", help="a trained IQN; without it one is trained")
    parser.add_argument("--timesteps", type=int, default=20_000, help="steps of that training")
    parser.add_argument("--steps", type=int, default=10, help="how many greedy steps from the start the state lies")
    parser.add_argument("--seed", type=int, default=0, help="of training and environment")
    parser.add_argument("--output", default="iqn_return_distribution.png", help="the figure")
    args = parser.parse_args()

    if args.model:
        model = IQN.load(args.model)
    else:
        model = IQN(
            "MlpPolicy",
            args.env,
            learning_rate=1e-3,
            learning_starts=1000,
            target_update_interval=500,
            n_quantile_samples=8,
            n_target_quantile_samples=8,
            seed=args.seed,
        )
        model.learn(args.timesteps, progress_bar=True)

    env = gym.make(args.env)
    observation, _ = env.reset(seed=args.seed)
    for step in range(args.steps):
        action, _ = model.predict(observation, deterministic=True)
        observation, _, terminated, truncated, _ = env.step(action.item())
        if terminated or truncated:
            raise SystemExit(f"the episode ended at step {step + 1}: choose --steps below that")
    draw(return_quantiles(model, observation), args.output, f"IQN on {args.env}, step {args.steps}")


if __name__ == "__main__":
    main()
