"""
The bias of returns over several steps, and what removes it: exact fixed points on a walk of six states.

    python examples/n_step_bias.py --output n_step_bias      # writes n_step_bias.csv and n_step_bias.png in seconds

The greedy policy walks right, which costs 1 a step until the end. The behaviour takes a random action with probability
epsilon. All windows of n steps are counted with their probabilities, and exact updates are repeated until nothing
changes. So no number here has noise, and what differs from the values of the greedy policy is bias.
"""

import argparse
import csv
import itertools
from typing import get_args

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch as th

from sb3_ext.functional.bellman import soft_td_target
from sb3_ext.functional.traces import NStepCorrection, return_correction, trace_coefficients

N_STATES, GAMMA = 6, 0.95
LEFT, RIGHT = 0, 1
# The policy that is learned about
POLICY = np.tile([0.0, 1.0], (N_STATES, 1))
EPSILONS, STEPS = (0.0, 0.1, 0.3, 1.0), (1, 2, 3, 5)


def move(state: int, action: int) -> tuple[int, bool]:
    """Return the next state, and whether it is the end."""
    following = state + 1 if action == RIGHT else max(state - 1, 0)
    return min(following, N_STATES - 1), following == N_STATES


def windows(n_steps: int, epsilon: float) -> list[dict[str, np.ndarray | float]]:
    """Return all windows of up to n steps, with their probabilities given the first state and action."""
    behaviour = (1 - epsilon) * POLICY + epsilon / 2
    found = []
    for first, actions in itertools.product(range(N_STATES), itertools.product((LEFT, RIGHT), repeat=n_steps)):
        states, probability, done = [first], 1.0, np.zeros(n_steps)
        length = n_steps
        for k, action in enumerate(actions):
            probability *= behaviour[states[-1], action] if k > 0 else 1.0
            following, ends = move(states[-1], action)
            states.append(following)
            if ends:
                done[k], length = 1.0, k + 1
                states += [following] * (n_steps - k - 1)
                # What follows does not matter: these windows are one
                probability *= float(all(later == LEFT for later in actions[k + 1 :]))
                break
        found.append(dict(states=np.array(states), actions=np.array(actions), dones=done, length=length, p=probability))
    return [window for window in found if window["p"] > 0]


def fixed_point(correction: NStepCorrection, n_steps: int, epsilon: float) -> np.ndarray:
    """Return the values of all states and actions to which repeated updates lead, shape (N_STATES, 2)."""
    every = windows(n_steps, epsilon)
    states, actions, dones, lengths, p = (
        np.array([window[name] for window in every]) for name in ("states", "actions", "dones", "length", "p")
    )
    valid, rewards = th.arange(n_steps) < th.from_numpy(lengths)[:, None], -th.ones(len(every), n_steps).double()
    behaviour = (1 - epsilon) * POLICY + epsilon / 2
    later = states[:, 1:-1], actions[:, 1:]
    with np.errstate(divide="ignore"):
        log_policy, log_behaviour = (th.from_numpy(np.log(table[later])) for table in (POLICY, behaviour))
    if correction == "none":
        factors = None
    else:
        factors = trace_coefficients(correction, log_policy, log_behaviour, th.from_numpy(later[1] == RIGHT))
    q_values = np.zeros((N_STATES, 2))
    for _ in range(400):
        next_values = th.from_numpy(q_values[:, RIGHT][states[:, 1:]])
        end, each = th.from_numpy(dones), (rewards, th.from_numpy(dones), valid, next_values)
        if factors is None:
            last = lengths - 1
            rows = np.arange(len(last))
            y = (GAMMA ** th.arange(n_steps) * valid * rewards).sum(dim=1)
            y += GAMMA ** th.from_numpy(lengths) * (1 - end[rows, last]) * next_values[rows, last]
        else:
            y = soft_td_target(rewards[:, 0], end[:, 0], GAMMA, next_values[:, 0])
            y += return_correction(*(part[:, 1:] for part in each), th.from_numpy(q_values[later]), factors, GAMMA)
        q_values = np.zeros((N_STATES, 2))
        np.add.at(q_values, (states[:, 0], actions[:, 0]), p * y.numpy())
    return q_values


def exact_values() -> np.ndarray:
    """Return the values of the policy, from the number of steps to the end."""
    value = [-(1 - GAMMA ** (N_STATES - state)) / (1 - GAMMA) for state in range(N_STATES)] + [0.0]
    return np.array([[-1 + GAMMA * value[max(s - 1, 0)], -1 + GAMMA * value[s + 1]] for s in range(N_STATES)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="n_step_bias", help="name of the table and of the figure")
    output = parser.parse_args().output
    exact, rows = exact_values(), []
    for correction, n_steps, epsilon in itertools.product(get_args(NStepCorrection), STEPS, EPSILONS):
        bias = float((fixed_point(correction, n_steps, epsilon) - exact).mean())
        rows.append(dict(correction=correction, n_steps=n_steps, epsilon=epsilon, bias=round(bias, 6) + 0.0))
    with open(f"{output}.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)

    figure, axes = plt.subplots(figsize=(6.9, 3.6), layout="constrained")
    for epsilon, color, marker in zip(EPSILONS, ("#0072B2", "#E69F00", "#D55E00", "#000000"), "os^D", strict=True):
        biases = [row["bias"] for row in rows if row["correction"] == "none" and row["epsilon"] == epsilon]
        axes.plot(STEPS, biases, marker=marker, color=color, label=f"none, epsilon {epsilon:g}")
    axes.plot(STEPS, [0.0] * len(STEPS), color="#009E73", linestyle="--", linewidth=3, label="any correction")
    axes.set(xlabel="steps of the returns", ylabel="bias of the values", xticks=STEPS)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), title="correction, behaviour", frameon=False)
    figure.savefig(f"{output}.png", dpi=150)
    plain, corrected = (
        max((row["bias"] for row in rows if (row["correction"] == "none") == is_plain), key=abs)
        for is_plain in (True, False)
    )
    print(f"{output}.csv and .png: without a correction the bias is up to {plain:.2f}, with one {corrected:.1g}")


if __name__ == "__main__":
    main()
