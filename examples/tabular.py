"""
Q-learning, SARSA, SARSA(lambda) and expected SARSA on CliffWalking-v1, in tables, beside the exact solutions.

    python examples/tabular.py --output tabular      # writes tabular.csv and tabular.png in seconds

Q-learning learns the values of the greedy policy, whose path runs along the cliff. The others learn those of the policy
that acts, whose random steps fall off it, so that their path keeps a distance. Both exact solutions are solved from the
environment's transition table: value iteration for the first, and for the second with the mean over random actions.
"""

import argparse
import csv
from typing import Any

import gymnasium as gym
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

METHODS = ("Q-learning", "SARSA", "SARSA(lambda)", "expected SARSA")
EPSILON, GAMMA, STEP_SIZE, LAMBDA = 0.1, 1.0, 0.2, 0.8
MAX_STEPS = 400
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


def probabilities(values: np.ndarray) -> np.ndarray:
    """Return the epsilon-greedy policy of the values of one state, or of all, on the last axis."""
    best = values == values.max(axis=-1, keepdims=True)
    return EPSILON / values.shape[-1] + (1 - EPSILON) * best / best.sum(axis=-1, keepdims=True)


def exact(env: Any, is_greedy: bool) -> np.ndarray:
    """Solve for the values of the greedy, or of the best epsilon-greedy policy, shape (n_states, n_actions)."""
    table, shape = env.unwrapped.P, (env.observation_space.n, env.action_space.n)
    values = np.zeros(shape)
    for _ in range(5000):
        new = np.zeros(shape)
        for state, action in np.ndindex(shape):
            for p, following, reward, ends in table[state][action]:
                row = values[following]
                ahead = row.max() if is_greedy else (probabilities(row) * row).sum()
                new[state, action] += p * (reward + GAMMA * (0.0 if ends else ahead))
        if np.abs(new - values).max() < 1e-9:
            break
        values = new
    return values


def learn(env: Any, method: str, n_episodes: int, seed: int) -> tuple[np.ndarray, list[float]]:
    """Return the table after the episodes, and the return of each."""
    rng, returns = np.random.default_rng(seed), []
    values = np.zeros((env.observation_space.n, env.action_space.n))
    for episode in range(n_episodes):
        state, _ = env.reset(seed=seed if episode == 0 else None)
        traces, total, step = np.zeros_like(values), 0.0, 0
        action = rng.choice(4, p=probabilities(values[state]))
        ends = False
        while not ends and step < MAX_STEPS:
            following, reward, ends, _, _ = env.step(action)
            next_action = rng.choice(4, p=probabilities(values[following]))
            ahead = {
                "Q-learning": values[following].max(),
                "expected SARSA": (probabilities(values[following]) * values[following]).sum(),
            }.get(method, values[following, next_action])
            error = reward + GAMMA * (0.0 if ends else ahead) - values[state, action]
            if method == "SARSA(lambda)":
                # Replacing traces: what led here learns, too
                traces *= GAMMA * LAMBDA
                traces[state] = 0.0
                traces[state, action] = 1.0
                values += STEP_SIZE * error * traces
            else:
                values[state, action] += STEP_SIZE * error
            state, action, total, step = following, next_action, total + reward, step + 1
        returns.append(total)
    return values, returns


def greedy_path(env: Any, values: np.ndarray) -> list[int]:
    """Return the states that the greedy policy visits."""
    state, path = int(env.reset()[0]), []
    while len(path) < MAX_STEPS:
        path.append(state)
        following, _, ends, _, _ = env.step(int(values[state].argmax()))
        state = int(following)
        if ends:
            return [*path, state]
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="tabular", help="name of the table and of the figure")
    parser.add_argument("--episodes", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=10)
    args = parser.parse_args()
    env: Any = gym.make("CliffWalking-v1")
    figure, (curves, grid) = plt.subplots(1, 2, figsize=(6.9, 3.2), layout="constrained", width_ratios=(3, 2))
    rows, start = [], int(env.reset()[0])
    optima = {"greedy": exact(env, True), "epsilon-greedy": exact(env, False)}
    for method, color in zip(METHODS, COLORS, strict=True):
        results = [learn(env, method, args.episodes, seed) for seed in range(args.seeds)]
        returns = np.array([result[1] for result in results])
        mean_values = np.mean([result[0] for result in results], axis=0)
        target = optima["greedy" if method == "Q-learning" else "epsilon-greedy"]
        smooth = np.apply_along_axis(lambda row: np.convolve(row, np.ones(20) / 20, "valid"), 1, returns)
        curves.plot(np.arange(smooth.shape[1]) + 20, smooth.mean(axis=0), color=color, label=method)
        path = greedy_path(env, mean_values)
        at_start, best = float(mean_values[start].max()), float(target[start].max())
        rows.append([method, round(returns[:, -100:].mean(), 1), round(at_start, 1), round(best, 1), len(path) - 1])
        shift = 0.08 * (METHODS.index(method) - 1.5)
        grid.plot([state % 12 + shift for state in path], [state // 12 + shift for state in path], color=color)
    with open(f"{args.output}.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["method", "return_last_100", "value_at_start", "exact_value_at_start", "steps_of_greedy_path"])
        writer.writerows(rows)
    curves.set(xlabel="episode", ylabel="return, mean of 20 episodes", ylim=(-100, -10))
    curves.legend(fontsize="small", frameon=False)
    grid.add_patch(plt.Rectangle((0.5, 2.5), 10, 1, color="#999999"))
    grid.set(
        title="greedy paths; grey: the cliff", xlim=(-0.5, 11.5), ylim=(3.5, -0.5), xticks=[], yticks=[], aspect="equal"
    )
    figure.savefig(f"{args.output}.png", dpi=150)
    for row in rows:
        print("{}: return {}, value at the start {} (exact {}), greedy path of {} steps".format(*row))


if __name__ == "__main__":
    main()
