"""Resets of the last layers of a value network, against overfitting to early experience."""

import torch as th
from stable_baselines3.dqn.policies import DQNPolicy


@th.no_grad()
def reset_last_layers(policy: DQNPolicy, shrink: float) -> None:
    """
    Move what follows the features extractor towards new random weights, in both networks alike.

    That is shrink and perturb (https://arxiv.org/abs/1910.08475) for the last layers. BBF
    (https://arxiv.org/abs/2305.19452) resets these completely (``shrink=0``), and also shrinks the encoder. The
    optimizer forgets what it knows about the weights. Frozen parameters stay.

    :param shrink: share of the present weights that stays; 0: a complete reset
    :raises ValueError: if a layer was replaced by one of another shape; nothing is changed
    """
    fresh = dict(policy.make_q_net().named_parameters())
    moves = [
        (name, parameter)
        for network in (policy.q_net, policy.q_net_target)
        for name, parameter in network.named_parameters()
        if not name.startswith("features_extractor.")
    ]
    replaced = [name for name, p in moves if name not in fresh or fresh[name].shape != p.shape]
    if replaced:
        raise ValueError(f"reset_interval needs the layers that the policy makes, and {replaced[0]} is another one")
    frozen = {name for name, p in policy.q_net.named_parameters() if not p.requires_grad}
    for name, parameter in moves:
        if name not in frozen:
            parameter.lerp_(fresh[name], 1 - shrink)
            policy.optimizer.state.pop(parameter, None)
