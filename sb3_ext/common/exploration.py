"""Uniformly random actions, of which a network may mask some."""

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.dqn.policies import DQNPolicy

from sb3_ext.common.value_policies import ValueNetwork


def masks_actions(policy: DQNPolicy) -> bool:
    """Tell whether the network of a policy says which actions are possible."""
    network = type(policy.q_net)
    return issubclass(network, ValueNetwork) and network.allowed_actions is not ValueNetwork.allowed_actions


def random_actions(
    policy: DQNPolicy, action_space: spaces.Space, observation: np.ndarray | dict[str, np.ndarray], n_states: int
) -> list[Any]:
    """
    Draw one of the possible actions in each of B states.

    :param observation: of B states, or of a single one
    :param n_states: B
    """
    allowed = None
    if masks_actions(policy):
        assert isinstance(policy.q_net, ValueNetwork)
        with th.no_grad():
            allowed = policy.q_net.checked_mask(policy.obs_to_tensor(observation)[0], n_states)
    if allowed is None:
        return [action_space.sample() for _ in range(n_states)]
    return [action_space.sample(mask=row) for row in allowed.cpu().numpy().astype(np.int8)]
