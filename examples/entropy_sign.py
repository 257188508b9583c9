"""
The sign of the entropy in the soft backup: right, left out, and wrong.

    python examples/entropy_sign.py --output entropy_sign      # writes entropy_sign.csv and .png, some minutes

The value of a state under a Boltzmann policy is ``E Q + alpha H``: an uncertain policy is worth more. A mistake that
programs often have is ``E Q - alpha H``, which punishes states where several actions are good. The backup
``"boltzmann"`` leaves the entropy out. The wrong sign is one overridden hook.
"""

import argparse
import csv

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ext import SoftDQN
from sb3_ext.functional.soft_value import soft_state_value

COLUMNS = ("variant", "seed", "timesteps", "return", "entropy", "q_value")
COLORS = {"E Q + alpha H": "#0072B2", "E Q": "#009E73", "E Q - alpha H": "#D55E00"}


class WrongSign(SoftDQN):
    """Subtracts what the soft backup adds."""

    def state_values(self, next_q: th.Tensor, selector_q: th.Tensor | None) -> th.Tensor:
        expected = soft_state_value("boltzmann", next_q, self.q_net.temperature, selector_q)
        return 2 * expected - super().state_values(next_q, selector_q)


def make(variant: str, seed: int) -> SoftDQN:
    """Make a model that trains in half a minute, at a constant temperature."""
    cls = WrongSign if variant == "E Q - alpha H" else SoftDQN
    return cls(
        "MlpPolicy",
        "CartPole-v1",
        learning_rate=1e-3,
        batch_size=64,
        learning_starts=1000,
        target_update_interval=10,
        train_freq=64,
        gradient_steps=32,
        temperature_initial=1.0,
        temperature_final=1.0,
        target_backup="boltzmann" if variant == "E Q" else "soft",
        policy_kwargs=dict(net_arch=[64, 64]),
        seed=seed,
    )


class Record(BaseCallback):
    """Keeps what was logged, every so many steps."""

    def __init__(self, identity: tuple[str, int], every: int) -> None:
        super().__init__()
        self.identity, self.every = identity, every
        self.rows: list[tuple[object, ...]] = []

    def _on_step(self) -> bool:
        logged = self.logger.name_to_value
        if self.n_calls % self.every == 0 and "train/entropy" in logged and self.model.ep_info_buffer:
            recent = [episode["r"] for episode in list(self.model.ep_info_buffer)[-20:]]
            values = sum(recent) / len(recent), logged["train/entropy"], logged["train/q_value"]
            self.rows.append((*self.identity, self.num_timesteps, *(round(float(value), 3) for value in values)))
        return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timesteps", type=int, default=20_000, help="more than the 1000 of the warm-up")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", default="entropy_sign")
    args = parser.parse_args()
    rows: list[tuple[object, ...]] = []
    figure, axes = plt.subplots(1, 3, figsize=(9, 3), layout="constrained")
    for variant, color in COLORS.items():
        for seed in range(args.seeds):
            record = Record((variant, seed), every=max(args.timesteps // 40, 1))
            make(variant, seed).learn(args.timesteps, callback=record, log_interval=10**9)
            if not record.rows:
                parser.error(f"--timesteps {args.timesteps} is too short: nothing was learned")
            rows += record.rows
            for axis, index in zip(axes, (3, 4, 5), strict=True):
                label = variant if seed == 0 and index == 3 else None
                axis.plot(
                    [row[2] for row in record.rows], [row[index] for row in record.rows], color=color, label=label
                )
            print(f"{variant}, seed {seed}: return {record.rows[-1][3]}, Q {record.rows[-1][5]}", flush=True)
    for axis, title in zip(axes, ("return of training", "entropy of the policy (nats)", "Q"), strict=True):
        axis.set(title=title, xlabel="time steps")
        axis.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncol=3)
    figure.savefig(f"{args.output}.png", dpi=150)
    with open(f"{args.output}.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    print(f"wrote {args.output}.csv and .png")


if __name__ == "__main__":
    main()
