"""
Several agents, one policy: DoubleDQN on simple_spread of MPE, through PettingZoo and SuperSuit.

    pip install mpe2 supersuit
    python examples/shared_policy.py     # three agents that cover three landmarks, some minutes on a laptop

SuperSuit hands each agent to SB3 as one environment of a `VecEnv`. All of them fill one replay buffer and act by one
network, which sees positions relative to its own agent. MPE: Lowe et al. 2017, https://arxiv.org/abs/1706.02275.
"""

import argparse

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import supersuit
from mpe2 import simple_spread_v3
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecMonitor
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from sb3_ext import DoubleDQN

COLORS = ["#0072B2", "#D55E00", "#009E73"]
EPISODE = 25


class TimeLimits(VecEnvWrapper):
    """
    Marks each end of an episode as a time limit, so that targets go on beyond it.

    Episodes of simple_spread end by time only. SuperSuit hands on the last observation, but not why an episode ended.
    """

    def seed(self, seed: int | None = None) -> list[int | None]:
        self.venv.venv.reset(seed=seed)  # SuperSuit's own `seed` fails
        return [seed] * self.num_envs

    def reset(self) -> VecEnvObs:
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = self.venv.step_wait()
        for done, info in zip(dones, infos, strict=True):
            if done:
                info["TimeLimit.truncated"] = True
        return observations, rewards, dones.astype(bool), infos


def make_env(n_games: int) -> VecEnv:
    """Return ``n_games`` games with three agents each, as ``3 * n_games`` environments."""
    game = simple_spread_v3.parallel_env(N=3, max_cycles=EPISODE)
    agents = supersuit.pettingzoo_env_to_vec_env_v1(game)
    return VecMonitor(TimeLimits(supersuit.concat_vec_envs_v1(agents, n_games, base_class="stable_baselines3")))


def play(model: DoubleDQN, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the agents' positions, shape (steps, agents, 2), those of the places, (places, 2), and the mean return."""
    game = simple_spread_v3.parallel_env(N=3, max_cycles=EPISODE)
    observations, _ = game.reset(seed=seed)
    world, agents, total, path = game.unwrapped.world, list(game.agents), 0.0, []
    while game.agents:
        path.append([body.state.p_pos.copy() for body in world.agents])
        actions, _ = model.predict(np.stack([observations[agent] for agent in agents]), deterministic=True)
        observations, rewards, *_ = game.step(dict(zip(agents, actions.tolist(), strict=True)))
        total += float(np.mean(list(rewards.values())))
    return np.array(path), np.array([place.state.p_pos for place in world.landmarks]), total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timesteps", type=int, default=200_000, help="of all agents together")
    parser.add_argument("--output", default="shared_policy.png")
    args = parser.parse_args()
    env = make_env(n_games=8)
    model = DoubleDQN(
        "MlpPolicy",
        env,
        learning_rate=5e-4,
        buffer_size=args.timesteps,
        learning_starts=min(5000, args.timesteps // 2),
        batch_size=256,
        gamma=0.95,
        train_freq=1,
        gradient_steps=2,
        target_update_interval=2000,
        exploration_fraction=0.3,
        policy_kwargs=dict(net_arch=[128, 128]),
        seed=0,
    )
    before = np.mean([play(model, seed)[2] for seed in range(50)])
    model.learn(args.timesteps, progress_bar=True)
    after = np.mean([play(model, seed)[2] for seed in range(50)])
    figure, panels = plt.subplots(1, 3, figsize=(6.9, 2.6), layout="constrained")
    for seed, axes in enumerate(panels):
        path, places, total = play(model, seed)
        axes.scatter(*places.T, marker="x", color="0.4", s=60)
        for agent, color in enumerate(COLORS):
            axes.plot(*path[:, agent].T, color=color)
            axes.plot(*path[-1, agent], "o", color=color)
        axes.set(title=f"return {total:.1f}", xticks=[], yticks=[], xlim=(-1.6, 1.6), ylim=(-1.6, 1.6), aspect="equal")
    figure.suptitle("Three agents (dots: where they end) and three landmarks (crosses)")
    figure.savefig(args.output, dpi=150)
    print(f"mean return of an agent over 50 episodes: {before:.1f} before the training, {after:.1f} after")
    print(f"{args.output}: three episodes")


if __name__ == "__main__":
    main()
