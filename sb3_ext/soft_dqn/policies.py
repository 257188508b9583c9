"""Policies of ``SoftDQN``: a Boltzmann distribution over SB3's Q-values."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork

from sb3_ext.common.arguments.positional import positional_as_in
from sb3_ext.common.value_policies import ValueNetwork, ValuePolicy, image_network
from sb3_ext.functional.soft_value import boltzmann_log_policy
from sb3_ext.nets import ChannelsLastCNN
from sb3_ext.speed.optimizers import with_fused_adam


class BoltzmannNetwork(ValueNetwork):
    """
    A Q-network that samples its actions from ``softmax(Q / temperature)``.

    The algorithm sets the temperature. It is a buffer, so that it is saved and loaded with the network.
    """

    temperature: th.Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer("temperature", th.ones(1))

    def _predict(self, observation: PyTorchObs, deterministic: bool = True) -> th.Tensor:
        q_values = self(observation)
        if deterministic:
            return q_values.argmax(dim=1)
        # The largest of log pi + Gumbel noise is a sample of pi. Unlike pi itself, log pi does not round to zero
        log_policy = boltzmann_log_policy(q_values, self.temperature)
        return (log_policy + gumbel_noise(log_policy)).argmax(dim=1)


def gumbel_noise(like: th.Tensor) -> th.Tensor:
    """Return standard Gumbel noise, the negative logarithm of exponential noise, in the shape of a tensor."""
    if th.onnx.is_in_onnx_export():  # ONNX draws uniform and normal numbers only
        return -(-th.rand_like(like).log()).log()
    return -th.empty_like(like).exponential_().log()


class SoftDQNPolicy(ValuePolicy):
    """
    ``ValuePolicy`` that samples from the Boltzmann distribution; ``deterministic=True`` takes the best action.

    :param optimizer_class: as in SB3
    :param optimizer_kwargs: as in SB3, but Adam and AdamW run fused by default, which is faster

    The other parameters are those of ``ValuePolicy``.
    """

    network_class: ClassVar[type[QNetwork]] = BoltzmannNetwork
    only_for: ClassVar[str | None] = "SoftDQN"

    @positional_as_in(DQNPolicy)
    def __init__(
        self,
        *args: Any,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        optimizer_kwargs = with_fused_adam(optimizer_class, optimizer_kwargs)
        super().__init__(*args, optimizer_class=optimizer_class, optimizer_kwargs=optimizer_kwargs, **kwargs)


MlpPolicy = SoftDQNPolicy


class CnnPolicy(SoftDQNPolicy):
    """
    ``SoftDQNPolicy`` for images.

    :param features_extractor_class: by default ``ChannelsLastCNN``, a faster form of SB3's ``NatureCNN``
    :param net_arch: by default no hidden layer after the features extractor, as in SB3 for ``NatureCNN``. With
        ``dueling``, ``noisy`` or ``normalization`` its layer of 512 units belongs to the network that follows
    """

    @positional_as_in(DQNPolicy)
    def __init__(
        self,
        *args: Any,
        features_extractor_class: type[BaseFeaturesExtractor] = ChannelsLastCNN,
        net_arch: list[int] | None = None,
        **kwargs: Any,
    ) -> None:
        own = {"features_extractor_class": features_extractor_class, "net_arch": net_arch}
        super().__init__(*args, **self.with_network({**own, **kwargs}))

    @staticmethod
    def with_network(kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """See :func:`~sb3_ext.common.value_policies.image_network`."""
        return image_network(kwargs, ChannelsLastCNN)


class MultiInputPolicy(SoftDQNPolicy):
    """``SoftDQNPolicy`` for dictionary observations, with the features extractor ``CombinedExtractor`` by default."""

    @positional_as_in(DQNPolicy)
    def __init__(
        self, *args: Any, features_extractor_class: type[BaseFeaturesExtractor] = CombinedExtractor, **kwargs: Any
    ) -> None:
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)
