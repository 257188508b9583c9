"""What ``train/q_value``, ``train/target_value`` and ``train/entropy`` say."""

import copy
from typing import Any

import pytest
import torch as th

from sb3_ext import REDQSAC
from tests.support.environments import SameStep


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("policy", "policy_kwargs", "arguments"),
    [
        ("MlpPolicy", dict(n_critics=3), {}),
        ("MlpPolicy", dict(n_critics=3, head="categorical"), dict(normalize_returns=True)),
        ("NormalizedMlpPolicy", dict(width=8, actor_width=8), dict(normalize_returns=True)),
    ],
)
def test_target_values_are_in_the_units_of_returns(
    policy: str, policy_kwargs: dict[str, Any], arguments: dict[str, Any], compiled: bool
) -> None:
    """With ``gamma=0`` every target is the reward."""
    model = REDQSAC(
        policy,
        SameStep(),
        gamma=0.0,
        learning_starts=20,
        gradient_steps=2,
        batch_size=4,
        backup_entropy=False,
        compile=compiled,
        policy_kwargs=policy_kwargs,
        seed=0,
        **arguments,
    )
    model.learn(25)
    assert model.logger.name_to_value["train/target_value"] == pytest.approx(2.0, rel=1e-5)


@pytest.mark.parametrize("normalize_returns", [False, True])
def test_values_and_entropy_before_the_update(normalize_returns: bool) -> None:
    arguments = dict(learning_starts=30, gradient_steps=1, normalize_returns=normalize_returns)
    model = REDQSAC("MlpPolicy", SameStep(), policy_kwargs=dict(n_critics=3), **arguments)
    model.learn(30)
    critic, obs = copy.deepcopy(model.critic), th.tensor([[0.5, -0.5]]).expand(8, 2)
    drawn: list[th.Tensor] = []
    sample = model.replay_buffer.sample

    def recording(*args: Any, **kwargs: Any) -> Any:
        samples = sample(*args, **kwargs)
        drawn.append(samples.actions)
        return samples

    model.replay_buffer.sample = recording
    th.manual_seed(7)
    entropy = -model.updater.sample_policy(obs).log_prob.mean().item()
    th.manual_seed(7)
    model.train(gradient_steps=1, batch_size=8)
    with th.no_grad():
        q_value = th.stack(critic(obs, drawn[0])).mean().item() * model.return_scale
    assert (model.return_scale != 1.0) == normalize_returns
    assert model.logger.name_to_value["train/q_value"] == pytest.approx(q_value, rel=1e-5)
    assert model.logger.name_to_value["train/entropy"] == pytest.approx(entropy, rel=1e-5)
