"""Policies of ``DoubleDQN``: those of SB3, which ``policy_kwargs=dict(dueling=True)`` makes dueling."""

from typing import Any

from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, NatureCNN
from stable_baselines3.dqn.policies import DQNPolicy

from sb3_ext.common.arguments.positional import positional_as_in
from sb3_ext.common.value_policies import ValuePolicy, image_network


class MlpPolicy(ValuePolicy):
    """``ValuePolicy`` for vectors."""


class CnnPolicy(ValuePolicy):
    """
    ``ValuePolicy`` for images, by default with ``NatureCNN`` and no hidden layer after it.

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
        extractor_class, net_arch = image_network(features_extractor_class, net_arch, kwargs, NatureCNN)
        super().__init__(*args, features_extractor_class=extractor_class, net_arch=net_arch, **kwargs)


class MultiInputPolicy(ValuePolicy):
    """``ValuePolicy`` for dictionary observations, with the features extractor ``CombinedExtractor`` by default."""

    @positional_as_in(DQNPolicy)
    def __init__(
        self, *args: Any, features_extractor_class: type[BaseFeaturesExtractor] = CombinedExtractor, **kwargs: Any
    ) -> None:
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)
