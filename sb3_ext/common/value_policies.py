"""SB3's DQN policies, with other networks if required."""

import math
from typing import Any, ClassVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import nn

from sb3_ext.checks import check_choice
from sb3_ext.common.arguments.compatibility import check_policy_fits
from sb3_ext.common.arguments.keywords import check_policy_kwargs, explain_policy_keywords
from sb3_ext.common.arguments.policies import check_policy_arguments
from sb3_ext.common.saved.complete import CompletelySaved
from sb3_ext.keywords import checks_keywords, known_base
from sb3_ext.nets import LayerKind, build_action_values, declare_output


class ValueNetwork(QNetwork):
    """
    SB3's ``QNetwork``, on request dueling.

    :param dueling: ``Q = V + A - mean_a A``. V and A then each have a layer for the last entry of ``net_arch``

    The other parameters are those of ``QNetwork``.
    """

    #: What layers it is made of; ``None``: plain ones
    layer_kind: ClassVar[LayerKind | None] = None

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Discrete,
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        net_arch: list[int] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        normalize_images: bool = True,
        dueling: bool = False,
    ) -> None:
        check_choice("dueling", dueling, (True, False))
        super().__init__(
            observation_space, action_space, features_extractor, features_dim, net_arch, activation_fn, normalize_images
        )
        self.dueling = dueling
        # torch.compile cannot convert numpy's integer
        self.n_actions = int(action_space.n)
        self.build_networks(features_dim, self.n_actions)

    def build_networks(self, features_dim: int, n_actions: int) -> None:
        """
        Hook: set the networks that follow the features extractor. The constructor calls it after SB3's, which has set
        ``q_net``.

        Attributes of a subclass that it reads must be plain values, set before the constructor of this class.
        """
        if not self.dueling and self.layer_kind is None:
            declare_output(self.q_net)  # SB3's network with SB3's weights
            return
        arguments = features_dim, n_actions, self.net_arch, self.activation_fn, self.dueling, self.layer_kind
        network = build_action_values(*arguments)
        self.q_net = network if isinstance(network, nn.Sequential) else nn.Sequential(network)

    def allowed_actions(self, obs: PyTorchObs) -> th.Tensor | None:
        """
        Hook: return which actions are possible in each state, booleans of shape (B, A), or ``None`` for all.

        The others get the value -inf, so no policy, target or random exploration takes them. Every state in which the
        agent acts, or at which a time limit cuts an episode off, must have a possible action.
        """
        return None

    def checked_mask(self, obs: PyTorchObs, n_states: int) -> th.Tensor | None:
        """
        Return :meth:`allowed_actions` of B states.

        :raises ValueError: if these are no booleans of shape (B, A)
        """
        allowed = self.allowed_actions(obs)
        expected = (n_states, self.n_actions)
        if allowed is not None and (allowed.dtype != th.bool or allowed.shape != expected):
            raise ValueError(
                f"allowed_actions() of {type(self).__name__} returned {allowed.dtype} of shape {tuple(allowed.shape)}: "
                f"it must return booleans of shape (B, A), which is {expected} here"
            )
        return allowed

    def mask(self, values: th.Tensor, obs: PyTorchObs) -> th.Tensor:
        """Put -inf in place of the values of impossible actions, shape (B, A) or (B, T, A)."""
        allowed = self.checked_mask(obs, values.shape[0])
        if allowed is None:
            return values
        return values.masked_fill(~(allowed if values.ndim == 2 else allowed.unsqueeze(1)), -math.inf)

    def forward(self, obs: PyTorchObs) -> th.Tensor:
        return self.mask(super().forward(obs), obs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "dueling": self.dueling}


class ValuePolicy(CompletelySaved, DQNPolicy):
    """
    SB3's ``DQNPolicy`` with networks of the class ``network_class``.

    :param args: arguments of SB3's ``DQNPolicy`` after ``lr_schedule``, in its order
    :param dueling: dueling architecture, https://arxiv.org/abs/1511.06581
    :param network_kwargs: further arguments of the network

    The other parameters are those of ``stable_baselines3.dqn.policies.DQNPolicy``.
    """

    network_class: ClassVar[type[QNetwork]] = ValueNetwork
    #: Name of the only algorithm that may use the policy; ``None`` for every algorithm that needs only Q-values
    only_for: ClassVar[str | None] = None

    @checks_keywords(explain_policy_keywords)
    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Discrete,
        lr_schedule: Schedule,
        *args: Any,
        dueling: bool = False,
        network_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        check_policy_arguments({"dueling": dueling, "network_kwargs": network_kwargs, **kwargs}, has_actor=False)
        check_policy_kwargs(type(self), {"network_kwargs": network_kwargs, **kwargs})
        if not args:  # among which a features extractor may be
            check_policy_fits(observation_space, known_base(type(self)), kwargs)
        self.network_kwargs: dict[str, Any] = {"dueling": dueling, **(network_kwargs or {})}
        super().__init__(observation_space, action_space, lr_schedule, *args, **kwargs)

    def make_q_net(self) -> QNetwork:
        # Each network has its own features extractor, as in SB3
        net_args = self._update_features_extractor(self.net_args, features_extractor=None)
        return self.network_class(**net_args, **self.network_kwargs).to(self.device)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), **self.network_kwargs}
