"""Policies of ``DoubleDQN``: SB3's, which can be dueling or noisy, and value actions by distributions (C51)."""

from collections.abc import Mapping
from typing import Any, Literal

import torch as th
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork

from sb3_ext.checks import check_choice
from sb3_ext.common.arguments.policies import check_policy_arguments
from sb3_ext.common.arguments.positional import positional_as_in
from sb3_ext.common.value_policies import ValueNetwork, ValuePolicy, image_network
from sb3_ext.nets import CategoricalHead


class CategoricalNetwork(ValueNetwork):
    """
    A network with a distribution over fixed returns for each action (C51, https://arxiv.org/abs/1707.06887).

    ``q_net(obs)`` returns the means, and :meth:`outputs` the logits. If it is dueling, the logits are (Rainbow,
    https://arxiv.org/abs/1710.02298).

    :param bound: the returns go from ``-bound`` to ``bound``; 10 in the papers, for clipped rewards
    :param n_bins: number of returns, at least 2
    """

    def __init__(self, *args: Any, bound: float, n_bins: int = 51, **kwargs: Any) -> None:
        CategoricalHead(n_bins, bound)  # refuses wrong values before SB3 uses one of them
        self.n_outputs = n_bins
        super().__init__(*args, **kwargs)
        self.head = CategoricalHead(n_bins, bound)

    def outputs(self, obs: PyTorchObs) -> th.Tensor:
        """Return the logits of each action's distribution, shape (B, A, n_bins)."""
        return self.q_net(self.extract_features(obs, self.features_extractor))

    def values(self, outputs: th.Tensor, obs: PyTorchObs) -> th.Tensor:
        """Return the means, shape (B, A), from logits; -inf for masked actions."""
        return self.mask(self.head.values(outputs), obs)

    def forward(self, obs: PyTorchObs) -> th.Tensor:
        return self.values(self.outputs(obs), obs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "n_bins": self.n_outputs, "bound": self.head.bound}


class DoubleDQNPolicy(ValuePolicy):
    """
    ``ValuePolicy`` with a choice of heads.

    :param head: ``"scalar"`` or ``None``: each action has a value. ``"categorical"``: it has a distribution, see
        :class:`CategoricalNetwork`. A ``network_class`` of your own is then a subclass of that
    :param head_kwargs: ``bound`` of that, which it needs, and ``n_bins``

    The other parameters are those of ``ValuePolicy``.

    :raises ValueError: naming the argument, its value and what is allowed
    """

    @positional_as_in(DQNPolicy)
    def __init__(
        self,
        *args: Any,
        head: Literal["scalar", "categorical"] | None = None,
        head_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        check_choice("head", head, (None, "scalar", "categorical"))
        check_policy_arguments({"head_kwargs": head_kwargs})
        if head_kwargs and head != "categorical":
            raise ValueError(f"head_kwargs={head_kwargs!r} has no effect with head={head!r}: it needs 'categorical'")
        self.head, self.head_kwargs = head, dict(head_kwargs or {})
        if head == "categorical" and "bound" not in self.head_kwargs:
            raise ValueError(
                f"head='categorical' with head_kwargs={head_kwargs!r}: it needs head_kwargs=dict(bound=...), at least "
                "the largest discounted return, since the bins go from -bound to bound (10 for clipped Atari rewards)"
            )
        super().__init__(*args, **kwargs)

    def make_q_net(self) -> QNetwork:
        if self.head == "categorical" and self.network_class is ValueNetwork:
            self.network_class = CategoricalNetwork  # type: ignore[misc]
        if self.head == "categorical" and not issubclass(self.network_class, CategoricalNetwork):
            raise ValueError(
                f"network_class={self.network_class.__name__} of {type(self).__name__} with head='categorical' must be "
                "a subclass of CategoricalNetwork"
            )
        return super().make_q_net()

    def network_arguments(self) -> dict[str, Any]:
        return {**super().network_arguments(), **self.head_kwargs}

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "head": self.head, "head_kwargs": self.head_kwargs}


class MlpPolicy(DoubleDQNPolicy):
    """``DoubleDQNPolicy`` for vectors."""


class CnnPolicy(DoubleDQNPolicy):
    """
    ``DoubleDQNPolicy`` for images, by default with ``NatureCNN`` and no hidden layer after it.

    With ``dueling``, ``noisy`` or ``normalization`` its layer of 512 units belongs to the network that follows.
    """

    @positional_as_in(DQNPolicy)
    def __init__(
        self,
        *args: Any,
        features_extractor_class: type[BaseFeaturesExtractor] = NatureCNN,
        net_arch: list[int] | None = None,
        **kwargs: Any,
    ) -> None:
        own = {"features_extractor_class": features_extractor_class, "net_arch": net_arch}
        super().__init__(*args, **self.with_network({**own, **kwargs}))

    @staticmethod
    def with_network(kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """See :func:`~sb3_ext.common.value_policies.image_network`."""
        return image_network(kwargs, NatureCNN)


class MultiInputPolicy(DoubleDQNPolicy):
    """``DoubleDQNPolicy`` for dictionary observations, with the features extractor ``CombinedExtractor`` by default."""

    @positional_as_in(DQNPolicy)
    def __init__(
        self, *args: Any, features_extractor_class: type[BaseFeaturesExtractor] = CombinedExtractor, **kwargs: Any
    ) -> None:
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)
