"""SB3's DQN policies, with other networks if required."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import nn

from sb3_ext.checks import check_choice, check_interval
from sb3_ext.common.arguments.compatibility import check_policy_fits
from sb3_ext.common.arguments.keywords import check_policy_kwargs, explain_policy_keywords
from sb3_ext.common.arguments.policies import check_policy_arguments
from sb3_ext.common.saved.complete import CompletelySaved
from sb3_ext.keywords import checks_keywords, known_base
from sb3_ext.nets import LayerKind, NatureConvolutions, NoisyLayers, build_action_values, declare_output, noise_in

#: Whether linear layers are noisy
Noisy = bool | Literal["with_epsilon"]
#: Normalizations that have a layer in torch, and in ONNX
PlainNormalization = Literal["layer"]


class ValueNetwork(QNetwork):
    """
    SB3's ``QNetwork``, on request dueling, noisy or normalized.

    :param dueling: ``Q = V + A - mean_a A``. V and A then each have a layer for the last entry of ``net_arch``
    :param noisy: whether the linear layers after the features extractor are noisy, see
        :class:`~sb3_ext.nets.noisy.NoisyLinear`; not the embedding of quantile levels. ``"with_epsilon"``: they are,
        and random actions are allowed as well
    :param noisy_std: sigma_0 of noisy layers, in [0, 100]; ``None``: 0.5
    :param normalization: of the hidden layers after the features extractor, before their activations: ``"layer"``
        or ``None``

    The other parameters are those of ``QNetwork``.

    :raises ValueError: naming the argument, its value and what is allowed
    """

    #: What layers it is made of; ``None``: plain ones
    layer_kind: LayerKind | None = None
    #: Outputs of each action; several have an axis of their own
    n_outputs: int = 1

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
        *,
        noisy: Noisy = False,
        noisy_std: float | None = None,
        normalization: PlainNormalization | None = None,
    ) -> None:
        check_choice("dueling", dueling, (True, False))
        check_choice("noisy", noisy, (True, False, "with_epsilon"))
        if noisy_std is not None:
            check_interval("noisy_std", noisy_std, 0.0, 100.0, "in [0, 100]")
            if not noisy:
                raise ValueError(f"noisy_std={noisy_std!r} has no effect here: it needs noisy=True")
        check_choice("normalization", normalization, (None, *get_args(PlainNormalization)))
        super().__init__(
            observation_space, action_space, features_extractor, features_dim, net_arch, activation_fn, normalize_images
        )
        if dueling and not self.net_arch:
            raise ValueError(
                "dueling=True has no effect with net_arch=[]: the value and the advantages would be linear in the same "
                "features, as Q is without them. Give a hidden layer, such as net_arch=[512]"
            )
        if normalization is not None and not self.net_arch:
            raise ValueError(
                f"normalization={normalization!r} has no effect with net_arch=[]: there is no hidden layer after the "
                "features extractor. Those of NatureConvolutions: features_extractor_kwargs=dict(normalization=...)"
            )
        self.dueling, self.noisy, self.noisy_std, self.normalization = dueling, noisy, noisy_std, normalization
        if noisy:
            self.layer_kind = NoisyLayers() if noisy_std is None else NoisyLayers(noisy_std)
        # torch.compile cannot convert numpy's integer
        self.n_actions = int(action_space.n)
        self.build_networks(features_dim, self.n_actions)

    def build_networks(self, features_dim: int, n_actions: int) -> None:
        """
        Hook: set the networks that follow the features extractor. The constructor calls it after SB3's, which has set
        ``q_net``.

        Attributes of a subclass that it reads must be plain values, set before the constructor of this class.
        """
        if not (self.dueling or self.layer_kind or self.normalization or self.n_outputs > 1):
            declare_output(self.q_net)  # SB3's network with SB3's weights
            return
        network = self.build_action_values(features_dim, n_actions, self.net_arch)
        self.q_net = network if isinstance(network, nn.Sequential) else nn.Sequential(network)

    def build_action_values(self, input_dim: int, n_actions: int, net_arch: list[int]) -> nn.Module:
        """Build a network from features to outputs of the actions, of the kind that the arguments ask for."""
        shape = input_dim, n_actions, net_arch, self.activation_fn
        return build_action_values(*shape, self.dueling, self.layer_kind, self.normalization, self.n_outputs)

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
        names = ("dueling", "noisy", "noisy_std", "normalization")
        return {**super()._get_constructor_parameters(), **{name: getattr(self, name) for name in names}}


def image_network(kwargs: Mapping[str, Any], own_class: type[BaseFeaturesExtractor]) -> dict[str, Any]:
    """
    Return the arguments of a policy for images, with its features extractor and hidden layers where none are given.

    SB3's ``NatureCNN`` ends with a layer of 512 units (``features_dim``), and Q is linear in these. A dueling, noisy or
    normalized network needs that layer for itself. Then the extractor is the convolutions alone.

    :param kwargs: arguments of the policy by name
    :param own_class: the default extractor of the policy
    """
    kwargs = dict(kwargs)
    if kwargs.setdefault("features_extractor_class", own_class) is not own_class:
        return kwargs
    if kwargs.get("net_arch") is None:
        kwargs["net_arch"] = []
        if any(kwargs.get(name) for name in ("dueling", "noisy", "normalization")):
            extractor_kwargs = dict(kwargs.get("features_extractor_kwargs") or {})
            kwargs["net_arch"] = [extractor_kwargs.pop("features_dim", 512)]
            kwargs.update(features_extractor_class=NatureConvolutions, features_extractor_kwargs=extractor_kwargs)
    return kwargs


class ValuePolicy(CompletelySaved, DQNPolicy):
    """
    SB3's ``DQNPolicy`` with networks of the class ``network_class``.

    :param args: arguments of SB3's ``DQNPolicy`` after ``lr_schedule``, in its order
    :param dueling: dueling architecture, https://arxiv.org/abs/1511.06581
    :param noisy: noisy layers, https://arxiv.org/abs/1706.10295. They explore by themselves, so that epsilon must be 0,
        unless it is ``"with_epsilon"``
    :param noisy_std: see :class:`ValueNetwork`
    :param normalization: see :class:`ValueNetwork`
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
        noisy: Noisy = False,
        noisy_std: float | None = None,
        normalization: PlainNormalization | None = None,
        network_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        check_policy_arguments({"dueling": dueling, "network_kwargs": network_kwargs, **kwargs})
        check_policy_kwargs(type(self), {"network_kwargs": network_kwargs, **kwargs})
        if not args:  # among which a features extractor may be
            check_policy_fits(observation_space, known_base(type(self)), kwargs)
        layers = {"noisy": noisy, "noisy_std": noisy_std, "normalization": normalization}
        self.network_kwargs: dict[str, Any] = {"dueling": dueling, **layers, **(network_kwargs or {})}
        super().__init__(observation_space, action_space, lr_schedule, *args, **kwargs)

    def make_q_net(self) -> QNetwork:
        # Each network has its own features extractor, as in SB3
        net_args = self._update_features_extractor(self.net_args, features_extractor=None)
        return self.network_class(**net_args, **self.network_arguments()).to(self.device)

    def network_arguments(self) -> dict[str, Any]:
        """Hook: return what the network gets beside what SB3 passes to it."""
        return self.network_kwargs

    def _predict(self, obs: PyTorchObs, deterministic: bool = True) -> th.Tensor:
        with noise_in(self.q_net, is_wanted=not deterministic):
            return super()._predict(obs, deterministic)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), **self.network_kwargs}
