"""The policies of DoubleDQN."""

from stable_baselines3 import DQN

from sb3_ext import (
    DoubleDQN,
)
from tests.support.models import make


def test_double_dqn_takes_a_policy_written_for_dqn() -> None:
    model = make(DoubleDQN, policy=DQN.policy_aliases["MlpPolicy"])
    model.learn(60)
    assert type(model.policy) is DQN.policy_aliases["MlpPolicy"] and model._n_updates == 20
