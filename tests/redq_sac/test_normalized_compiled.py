"""Normalized networks compiled, recorded and in bfloat16: the same training as the plain one."""

import copy
from typing import Any

import pytest
import torch as th
from stable_baselines3.common.envs import SimpleMultiObsEnv

from sb3_ext import REDQSAC, PrioritizedReplayBuffer
from sb3_ext.redq_sac.policies import gaussian_parameters_by_batch
from tests.support.models import make_normalized
from tests.support.recording import Recorded
from tests.support.states import assert_same_training

VARIANTS: list[dict[str, Any]] = [
    dict(target_network="none"),
    dict(policy_kwargs=dict(normalization="batch_renorm", head="scalar"), joint_gradient="full"),
    dict(target_network="none", joint_gradient="full", target_backup="mean", policy_kwargs=dict(n_critics=3)),
    dict(
        policy_kwargs=dict(normalization="rms", n_critics=3),
        target_backup="rem",
        replay_buffer_class=PrioritizedReplayBuffer,
    ),
    dict(
        policy_kwargs=dict(normalization="layer", weight_projection=False, n_blocks=0),
        n_steps=3,
        target_backup="doubleq",
    ),
]
each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=str)


@pytest.mark.usefixtures("traced_only", "no_excuses")
@pytest.mark.parametrize(
    "variant", [*VARIANTS[:2], *(pytest.param(v, marks=pytest.mark.slow) for v in VARIANTS[2:])], ids=str
)
def test_traced_updates_are_the_plain_ones(variant: dict[str, Any]) -> None:
    plain, compiled = (make_normalized(compile=c, **variant).learn(26) for c in (False, True))
    assert_same_training(compiled, plain, tolerance=1e-3)
    assert compiled.logger.name_to_value["train/critic_loss"] == pytest.approx(
        plain.logger.name_to_value["train/critic_loss"], rel=1e-3
    )


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler", "no_excuses")
@pytest.mark.parametrize("variant", [dict(target_network="none"), dict(actor_gradient="reinforce")], ids=str)
def test_compiled_updates_are_the_plain_ones(variant: dict[str, Any]) -> None:
    plain, compiled = (make_normalized(compile=c, **variant).learn(26) for c in (False, True))
    assert_same_training(compiled, plain, tolerance=1e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("traced_only", "no_excuses")
def test_traced_dictionaries() -> None:
    env = SimpleMultiObsEnv(discrete_actions=False)
    kwargs = dict(
        policy="NormalizedMultiInputPolicy", policy_kwargs=dict(features_extractor_kwargs=dict(cnn_output_dim=4))
    )
    plain, compiled = (make_normalized(env=copy.deepcopy(env), compile=c, **kwargs).learn(23) for c in (False, True))
    assert_same_training(compiled, plain, tolerance=1e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("traced_only", "no_excuses", "compiled_with_gradients")
def test_traced_networks_with_gradients() -> None:
    """As on a GPU."""
    plain = make_normalized(actor_gradient="reinforce").learn(24)
    assert_same_training(make_normalized(compile=True, actor_gradient="reinforce").learn(24), plain, tolerance=1e-3)


@each_variant
def test_recorded_updates_are_the_plain_ones(variant: dict[str, Any]) -> None:
    plain, recorded = (make_normalized(cls, cuda_graphs=True, **variant).learn(32) for cls in (REDQSAC, Recorded))
    assert_same_training(recorded, plain, tolerance=1e-4)
    assert recorded.tape.replays > 0


def test_recorded_with_two_learning_rates() -> None:
    settings: dict[str, Any] = dict(qf_learning_rate=1e-3, learning_rate_final=1e-5, cuda_graphs=True)
    plain, recorded = (make_normalized(cls, **settings).learn(40) for cls in (REDQSAC, Recorded))
    assert_same_training(recorded, plain, tolerance=1e-4)
    rates = [float(optimizer.param_groups[0]["lr"]) for optimizer in recorded.updater.optimizers()]
    assert rates == pytest.approx([1e-5, 1e-3, 1e-5]) and recorded.tape.replays > 0


@each_variant
def test_lower_precision_is_near(variant: dict[str, Any]) -> None:
    plain, lower = (make_normalized(autocast_dtype=dtype, **variant).learn(24) for dtype in (None, "bfloat16"))
    assert_same_training(lower, plain, tolerance=0.05)
    changed = [not th.equal(a, b) for a, b in zip(lower.critic.parameters(), plain.critic.parameters(), strict=True)]
    assert any(changed)
    assert all(tensor.dtype in (th.float32, th.int64) for tensor in lower.policy.state_dict().values())


@pytest.mark.slow
@pytest.mark.usefixtures("traced_only", "no_excuses")
def test_traced_lower_precision_is_the_plain_one() -> None:
    plain, compiled = (make_normalized(autocast_dtype="bfloat16", compile=c).learn(24) for c in (False, True))
    assert_same_training(compiled, plain, tolerance=1e-2)
    assert all(parameter.grad.dtype == th.float32 for parameter in compiled.critic.parameters())


def test_outputs_and_statistics_keep_their_digits_in_lower_precision() -> None:
    model = make_normalized(autocast_dtype="bfloat16", policy_kwargs=dict(head="scalar", width=64, actor_width=64))
    critic, actor = model.critic, model.actor
    with th.no_grad():
        for bias in (critic.ensemble.layers[-1].bias, actor.mu.bias, actor.log_std.bias):
            bias.add_(1.502)  # bfloat16 knows 1.5 and 1.508
        obs, actions = th.rand(256, 3), th.rand(256, 1)
        statistics: list[th.Tensor] = []
        calls: list[tuple[Any, ...]] = [
            (critic.stacked, obs, actions),
            (gaussian_parameters_by_batch, actor, obs),
            (lambda *rows: critic.joint_outputs(*rows, statistics), obs, actions, obs + 1, actions),
        ]
        for function, *args in calls:
            statistics.clear()
            exact, lower = function(*args), model.evaluator(function, *args)
            for one, other in zip(exact, lower, strict=True):
                assert other.dtype == th.float32
                th.testing.assert_close(other, one, rtol=0.05, atol=0.1)
                if other.shape[-1] != 256 and len(other) != 256:  # statistics
                    continue
                # Rounded to 8 bits there would be some dozens of values
                assert not th.equal(one, other) and len(other.unique()) > 200
    assert all(part.dtype == th.float32 for part in statistics) and len(statistics) == 12
