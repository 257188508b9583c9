"""What ``train/q_value``, ``train/target_value``, ``train/entropy`` and ``train/target_mass_at_bound`` say."""

import copy
from typing import Any

import pytest
import torch as th

from sb3_ext import REDQSAC, PrioritizedReplayBuffer
from tests.support.environments import SameStep


def model_of_rewards(policy: str, **arguments: Any) -> REDQSAC:
    """A model whose targets are the rewards."""
    settings: dict[str, Any] = dict(gamma=0.0, learning_starts=20, gradient_steps=2, batch_size=4, seed=0)
    return REDQSAC(policy, SameStep(), backup_entropy=False, **settings, **arguments)


@pytest.mark.usefixtures("traced_only", "no_excuses")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("policy", "policy_kwargs", "arguments"),
    [
        ("MlpPolicy", dict(n_critics=3, net_arch=[8]), {}),
        ("MlpPolicy", dict(n_critics=3, net_arch=[8], head="categorical"), dict(normalize_returns=True)),
        ("NormalizedMlpPolicy", dict(n_blocks=1, width=8, actor_width=8), dict(normalize_returns=True)),
    ],
)
def test_target_values_are_in_the_units_of_returns(
    policy: str, policy_kwargs: dict[str, Any], arguments: dict[str, Any], compiled: bool
) -> None:
    """With ``gamma=0`` every target is the reward."""
    model = model_of_rewards(policy, compile=compiled, policy_kwargs=policy_kwargs, **arguments)
    model.learn(25)
    assert model.logger.name_to_value["train/target_value"] == pytest.approx(2.0, rel=1e-5)


@pytest.mark.usefixtures("traced_only", "no_excuses")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("prioritized", [False, True])
@pytest.mark.parametrize(("bound", "share"), [(1.5, 1.0), (3.0, 0.0)])
def test_targets_beyond_the_bins(bound: float, share: float, prioritized: bool, compiled: bool) -> None:
    """Each reward, and so each target, is 2."""
    model = model_of_rewards(
        "MlpPolicy",
        compile=compiled,
        policy_kwargs=dict(n_critics=2, net_arch=[8], head="categorical", head_kwargs=dict(bound=bound)),
        replay_buffer_class=PrioritizedReplayBuffer if prioritized else None,
    )
    if bound < 2:
        with pytest.warns(UserWarning, match="beyond bound"):
            model.learn(24)
    else:
        model.learn(24)
    assert model.logger.name_to_value["train/target_mass_at_bound"] == pytest.approx(share, abs=1e-6)


def test_the_entropy_may_push_targets_beyond_the_bins() -> None:
    """The scale keeps returns within them, but not what the entropy adds."""
    arguments: dict[str, Any] = dict(learning_starts=20, gradient_steps=1, normalize_returns=True, ent_coef=100.0)
    model = REDQSAC("NormalizedMlpPolicy", SameStep(), **arguments, policy_kwargs=dict(width=8, actor_width=8))
    model.learn(24)
    assert model.logger.name_to_value["train/target_mass_at_bound"] > 0.9


def test_a_scalar_head_has_no_bound() -> None:
    model = REDQSAC("MlpPolicy", SameStep(), learning_starts=20, policy_kwargs=dict(n_critics=2, net_arch=[8]))
    model.learn(22)
    assert "train/target_mass_at_bound" not in model.logger.name_to_value


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
