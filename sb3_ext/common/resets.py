"""
Resets of the last layers of a value network, against overfitting to early experience.

Nikishin et al. 2022, https://arxiv.org/abs/2205.07802, reset the last layers; D'Oro et al. 2023 (SR-SPR),
https://openreview.net/forum?id=OpC-9aBBVJe, and Schwarzer et al. 2023 (BBF), https://arxiv.org/abs/2305.19452, also
shrink and perturb (https://arxiv.org/abs/1910.08475) what is before them.
"""

import torch as th
from stable_baselines3.dqn.policies import DQNPolicy
from torch import nn
from torch.nn.modules.conv import _ConvNd

#: Share of a training after which nothing is reset. BBF's published settings: none after 100,000 of 200,000 updates
RESET_FRACTION = 0.5
#: The least share of the weights before the last layers that stays at a reset: BBF's
ENCODER_SHRINK = 0.5


def is_reset_due(n_updates: int, interval: int, fraction: float, progress_remaining: float) -> bool:
    """
    Tell whether there is a reset after an update.

    :param n_updates: number of updates so far, this one included
    :param interval: number of updates from one reset to the next
    :param fraction: share of the training after which there are no more resets, in (0, 1]
    :param progress_remaining: share of the training that remains; below 0 where the last steps exceed the training
    """
    return n_updates % interval == 0 and max(progress_remaining, 0.0) >= 1 - fraction


@th.no_grad()
def reset_last_layers(policy: DQNPolicy, shrink: float) -> None:
    """
    Move the last layers towards new random weights, in both networks alike, and those before them by at most half.

    The last layers are those after the features extractor, and a linear layer that follows convolutions inside it, such
    as the 512 units of ``NatureCNN``. The optimizer forgets what it knows about their weights. Of the others, the share
    ``max(shrink, 0.5)`` stays. So ``shrink=0`` is the reset of BBF. Frozen parameters stay.

    :param shrink: share of the present weights of the last layers that stays; 0: a complete reset
    :raises ValueError: if a layer was replaced by one of another shape; nothing is changed
    """
    fresh = dict(policy.make_q_net().named_parameters())
    networks = (policy.q_net, policy.q_net_target)
    moves = [(name, parameter) for network in networks for name, parameter in network.named_parameters()]
    replaced = [name for name, p in moves if name not in fresh or fresh[name].shape != p.shape]
    if replaced:
        raise ValueError(f"reset_interval needs the layers that the policy makes, and {replaced[0]} is another one")
    frozen = {name for name, p in policy.q_net.named_parameters() if not p.requires_grad}
    encoder = encoder_parameters(policy.q_net)
    for name, parameter in moves:
        if name in frozen:
            continue
        if name in encoder:
            parameter.lerp_(fresh[name], 1 - max(shrink, ENCODER_SHRINK))
        else:
            parameter.lerp_(fresh[name], 1 - shrink)
            policy.optimizer.state.pop(parameter, None)


def encoder_parameters(q_net: nn.Module) -> set[str]:
    """Return the names of the features extractor's parameters, without a linear layer after convolutions."""
    prefix = "features_extractor"
    result: set[str] = set()
    # What is between two layers, such as a normalization, belongs to the first of them
    follows_convolutions, is_last = False, False
    for module_name, module in q_net.get_submodule(prefix).named_modules(prefix=prefix):
        if isinstance(module, _ConvNd):
            follows_convolutions, is_last = True, False
        elif isinstance(module, nn.Linear):
            is_last = follows_convolutions
        if not is_last:
            result |= {f"{module_name}.{name}" for name, _ in module.named_parameters(recurse=False)}
    return result
