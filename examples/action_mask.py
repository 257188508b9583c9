"""
Actions that are impossible in some states: the game of Nim, where nobody can take more stones than there are.

The observation says which actions are possible, and the network gives all others the value -inf.

    python examples/action_mask.py --timesteps 6000             # SoftDQN, half a minute on a laptop
    python examples/action_mask.py --algo iqn
"""

import argparse
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_ext import IQN, DoubleDQN, SoftDQN, double_dqn, iqn, soft_dqn
from sb3_ext.common.value_policies import ValueNetwork
from sb3_ext.iqn.policies import ImplicitQuantileNetwork
from sb3_ext.soft_dqn.policies import BoltzmannNetwork

LARGEST_PILE, MOST_STONES = 21, 4


class Nim(gym.Env):
    """
    Two players take 1 to 4 stones in turn, and whoever takes the last one wins. The opponent moves at random.

    The reward is 1 for a win and -1 for a loss. An impossible action is an error, as it is in many simulators.
    """

    observation_space = spaces.Dict(
        {"pile": spaces.Discrete(LARGEST_PILE + 1), "action_mask": spaces.MultiBinary(MOST_STONES)}
    )
    action_space = spaces.Discrete(MOST_STONES)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self.pile = int(self.np_random.integers(LARGEST_PILE // 2, LARGEST_PILE + 1))
        return self.observe(), {}

    def observe(self) -> dict[str, Any]:
        # When the game is over, no action is possible
        return {"pile": self.pile, "action_mask": (np.arange(1, MOST_STONES + 1) <= self.pile).astype(np.int8)}

    def step(self, action: int) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        if action + 1 > self.pile:
            raise ValueError(f"{action + 1} stones cannot be taken from a pile of {self.pile}")
        self.pile -= int(action) + 1
        reward = 1.0 if self.pile == 0 else 0.0
        if self.pile > 0:
            self.pile -= int(self.np_random.integers(1, min(self.pile, MOST_STONES) + 1))
            reward = -1.0 if self.pile == 0 else 0.0
        return self.observe(), reward, self.pile == 0, False, {}


class MaskedActions:
    """All that a network needs. It goes before the class of the network."""

    def allowed_actions(self, obs: dict[str, th.Tensor]) -> th.Tensor:
        return obs["action_mask"].bool()


class MaskedValueNetwork(MaskedActions, ValueNetwork):
    pass


class MaskedBoltzmannNetwork(MaskedActions, BoltzmannNetwork):
    pass


class MaskedQuantileNetwork(MaskedActions, ImplicitQuantileNetwork):
    pass


class DoubleDQNPolicy(double_dqn.MultiInputPolicy):
    network_class = MaskedValueNetwork


class SoftDQNPolicy(soft_dqn.MultiInputPolicy):
    network_class = MaskedBoltzmannNetwork


class IQNPolicy(iqn.MultiInputPolicy):
    network_class = MaskedQuantileNetwork


ALGORITHMS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "double_dqn": (DoubleDQN, DoubleDQNPolicy, dict(exploration_fraction=0.5)),
    "soft_dqn": (SoftDQN, SoftDQNPolicy, dict(temperature_initial=0.3, temperature_final=0.02)),
    "iqn": (IQN, IQNPolicy, dict(exploration_fraction=0.5, n_quantile_samples=8, n_target_quantile_samples=8)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algo", choices=ALGORITHMS, default="soft_dqn")
    parser.add_argument("--timesteps", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    cls, policy, settings = ALGORITHMS[args.algo]
    model = cls(
        policy,
        Nim(),
        learning_rate=1e-3,
        gamma=1.0,
        target_update_interval=100,
        policy_kwargs=dict(net_arch=[64]),
        seed=args.seed,
        **settings,
    )
    model.learn(args.timesteps)
    # With the best moves every game is won that does not begin with a multiple of 5 stones, and most of the others
    mean, _ = evaluate_policy(model, model.get_env(), n_eval_episodes=100)
    print(f"{args.algo}: {(1 + mean) / 2:.0%} of 100 games won after {args.timesteps} steps, no move was impossible")


if __name__ == "__main__":
    main()
