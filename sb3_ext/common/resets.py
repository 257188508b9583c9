"""Resets of the last layers of a value network, against overfitting to early experience."""

import torch as th
from stable_baselines3.dqn.policies import DQNPolicy


@th.no_grad()
def reset_last_layers(policy: DQNPolicy, shrink: float) -> None:
    """
    Move what follows the features extractor towards new random weights, in both networks alike.

    Shrink and perturb (https://arxiv.org/abs/1910.08475), as in SR-SPR and BBF (https://arxiv.org/abs/2305.19452). The
    optimizer forgets what it knows about these weights.

    :param shrink: share of the present weights that stays; 0: a complete reset
    """
    fresh = dict(policy.make_q_net().named_parameters())
    for network in (policy.q_net, policy.q_net_target):
        for name, parameter in network.named_parameters():
            if not name.startswith("features_extractor."):
                parameter.lerp_(fresh[name], 1 - shrink)
                policy.optimizer.state.pop(parameter, None)
