"""The networks of the value-based policies: what they share is evaluated once."""

from typing import Any

import pytest
import torch as th

from sb3_ext.double_dqn.policies import CnnPolicy as DoubleDQNCnnPolicy
from sb3_ext.double_dqn.policies import MlpPolicy as DoubleDQNPolicy
from sb3_ext.iqn.policies import MlpPolicy as IQNPolicy
from sb3_ext.nets import DuelingMLP
from sb3_ext.soft_dqn.policies import MlpPolicy as SoftDQNPolicy
from tests.support.value_policies import IMAGES, N_INPUTS, A, count_calls, make_policy

B = 5


@pytest.mark.parametrize("cls", [DoubleDQNPolicy, SoftDQNPolicy, IQNPolicy])
@pytest.mark.parametrize("dueling", [False, True])
def test_shared_parts_are_evaluated_once(cls: Any, dueling: bool) -> None:
    policy = make_policy(cls, net_arch=[6, 8], dueling=dueling)
    heads = [module for module in policy.q_net.modules() if isinstance(module, DuelingMLP)]
    assert len(heads) == dueling
    parts = [policy.q_net.features_extractor, *(part for h in heads for part in (h.trunk, h.value, h.advantage))]
    calls = [count_calls(part) for part in parts]
    assert policy.q_net(th.randn(B, N_INPUTS)).shape == (B, A)
    assert [len(c) for c in calls] == [1] * len(parts)


def test_dueling_images_share_their_convolutions() -> None:
    policy = make_policy(
        DoubleDQNCnnPolicy, IMAGES, dueling=True, net_arch=[6], features_extractor_kwargs=dict(features_dim=8)
    )
    calls = count_calls(policy.q_net.features_extractor)
    observation = th.randint(256, (B, *IMAGES.shape), dtype=th.uint8)
    q_values = policy.q_net(observation)
    assert len(calls) == 1
    (head,) = policy.q_net.q_net
    features = policy.q_net.extract_features(observation, policy.q_net.features_extractor)
    value, advantages = head.value(features), head.advantage(features)
    th.testing.assert_close(q_values, value + advantages - advantages.sum(dim=1, keepdim=True) / A)
