"""Policies of ``DoubleDQN``: those of SB3, which ``policy_kwargs=dict(dueling=True)`` makes dueling."""

from typing import Any

from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, NatureCNN
from stable_baselines3.dqn.policies import DQNPolicy

from sb3_ext.common.arguments.positional import positional_as_in
from sb3_ext.common.value_policies import ValuePolicy


class MlpPolicy(ValuePolicy):
    """``ValuePolicy`` for vectors."""


class CnnPolicy(ValuePolicy):
    """``ValuePolicy`` for images, with the features extractor ``NatureCNN`` by default."""

    @positional_as_in(DQNPolicy)
    def __init__(
        self, *args: Any, features_extractor_class: type[BaseFeaturesExtractor] = NatureCNN, **kwargs: Any
    ) -> None:
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


class MultiInputPolicy(ValuePolicy):
    """``ValuePolicy`` for dictionary observations, with the features extractor ``CombinedExtractor`` by default."""

    @positional_as_in(DQNPolicy)
    def __init__(
        self, *args: Any, features_extractor_class: type[BaseFeaturesExtractor] = CombinedExtractor, **kwargs: Any
    ) -> None:
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)
