"""Bad input is refused before work starts, with the argument, its value and what is allowed."""

from typing import Any

import pytest
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.utils import LinearSchedule

from sb3_ext import REDQSAC
from tests.support.models import make


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            dict(target_backup="median"),
            r"target_backup='median' is not one of 'vanilla', 'doubleq', 'min', 'mean', 'redq', 'rem'",
        ),
        (dict(subset_size=4), r"subset_size=4 must be in \[1, n_critics=3\]"),
        (dict(subset_size=0.5), r"subset_size=0.5 must be in \[1, n_critics=3\]"),
        (dict(subset_size=0), r"subset_size=0 must be"),
        (dict(subset_size=float("nan")), r"subset_size=nan must be"),
        (dict(subset_size=2, policy_kwargs=dict(n_critics=1)), r"subset_size=2 must be in \[1, n_critics=1\]"),
        (
            dict(target_backup="doubleq", policy_kwargs=dict(n_critics=1)),
            r"'doubleq' with n_critics=1: it needs n_critics >= 2",
        ),
        (dict(policy_kwargs=dict(n_critics=0)), r"n_critics=0 must be an integer of at least 1"),
        (dict(policy_kwargs=dict(n_critics=2.0)), r"n_critics=2.0 must be an integer of at least 1"),
        (dict(policy_kwargs=dict(dropout=1.0)), r"dropout=1.0 must be a probability in \[0, 1\)"),
        (dict(policy_kwargs=dict(dropout=-0.1)), r"dropout=-0.1 must be a probability"),
        (dict(ent_coef=-0.1), r"ent_coef=-0.1 must be a number >= 0, 'auto', or 'auto_' and a number > 0"),
        (dict(ent_coef="auto_-1"), r"ent_coef='auto_-1' must be"),
        (dict(ent_coef="auto_0"), r"ent_coef='auto_0' must be"),
        (dict(ent_coef="auto0.5"), r"ent_coef='auto0.5' must be"),
        (dict(ent_coef="auto_"), r"ent_coef='auto_' must be"),
        (dict(ent_coef="auto_1_2"), r"ent_coef='auto_1_2' must be"),
        (dict(ent_coef="_0.5"), r"ent_coef='_0.5' must be"),
        (dict(ent_coef="automatic"), r"ent_coef='automatic' must be"),
        (dict(ent_coef=float("nan")), r"ent_coef=nan must be"),
        (
            dict(target_entropy="automatic"),
            r"target_entropy='automatic' must be a number, 'auto', or 'std_' and a number > 0",
        ),
        (dict(target_entropy=float("nan")), r"target_entropy=nan must be a number, 'auto', or 'std_' and a number > 0"),
        (dict(gamma=2.0), r"gamma=2.0 must be in \[0, 1\]"),
        (dict(batch_size=0), r"batch_size=0 must be an integer of at least 1"),
        (dict(policy_delay=0), r"policy_delay=0 must be an integer of at least 1"),
        (dict(policy_delay=1.5), r"policy_delay=1.5 must be an integer of at least 1"),
        (dict(n_actor_samples=0), r"n_actor_samples=0 must be an integer of at least 1"),
        (dict(actor_gradient="pathwise"), r"actor_gradient='pathwise' is not one of 'reparam', 'reinforce'"),
        (dict(actor_q="max"), r"actor_q='max' is not one of 'mean', 'min'"),
        (
            dict(reinforce_baseline="state"),
            r"reinforce_baseline='state' is not one of None, 'loo', 'mean_action', 'batch', 'none'",
        ),
        (dict(normalize_advantage=True), r"normalize_advantage=True has no effect here: it needs actor_gradient="),
        (dict(normalize_advantage=1.5), r"normalize_advantage=1.5 is not one of True, False"),
        (
            dict(normalize_advantage=True, actor_gradient="reinforce", batch_size=1),
            r"normalize_advantage=True with batch_size=1 and n_actor_samples=1: one advantage has no standard",
        ),
        (
            dict(actor_gradient="reinforce", reinforce_baseline="loo", n_actor_samples=1),
            r"reinforce_baseline='loo' with n_actor_samples=1: it needs n_actor_samples >= 2",
        ),
        (dict(actor_gradient="reinforce", use_sde=True), r"use_sde=True with actor_gradient='reinforce'"),
        (dict(n_actor_samples=2, use_sde=True), r"use_sde=True with n_actor_samples=2"),
        (dict(target_update_interval=2.5), r"target_update_interval=2.5 must be an integer of at least 1"),
        (dict(target_update_interval=0), r"target_update_interval=0 must be an integer of at least 1"),
        (dict(gradient_steps=-2), r"gradient_steps=-2 must be an integer of at least -1"),
        (dict(tau=1.5), r"tau=1.5 must be in \[0, 1\]"),
        (dict(random_steps=-1), r"random_steps=-1 must be an integer of at least 0"),
        (dict(learning_rate_final=-1e-4), r"learning_rate_final=-0.0001 must be None or a number >= 0"),
        (dict(learning_rate_fraction="x"), r"learning_rate_fraction='x' must be in \(0, 1\]"),
        (dict(learning_rate_final=float("inf")), r"learning_rate_final=inf must be"),
        (dict(learning_rate_fraction=0.0), r"learning_rate_fraction=0.0 must be in \(0, 1\]"),
        (
            dict(learning_rate=LinearSchedule(1e-3, 0.0, 1.0), learning_rate_final=1e-4),
            r"learning_rate_final=0.0001 needs a constant learning_rate",
        ),
        (
            dict(n_steps=3, replay_buffer_class=NStepReplayBuffer, replay_buffer_kwargs=dict(n_steps=2)),
            r"replay_buffer_kwargs has n_steps=2, which contradicts n_steps=3",
        ),
        (
            dict(
                gamma=0.9,
                n_steps=2,
                replay_buffer_class=NStepReplayBuffer,
                replay_buffer_kwargs=dict(n_steps=2, gamma=0.99),
            ),
            r"replay_buffer_kwargs has gamma=0.99, which contradicts gamma=0.9",
        ),
        (dict(compile="yes"), r"compile='yes' is not one of True, False"),
        (dict(autocast_dtype="float16"), r"autocast_dtype='float16' is not one of None, 'auto', 'bfloat16'"),
        (dict(cuda_graphs=None), r"cuda_graphs=None is not one of True, False"),
        (dict(buffer_device="cuda"), r"buffer_device='cuda' is not one of 'auto', 'cpu'"),
    ],
)
def test_bad_arguments(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**kwargs)


def test_a_policy_without_ensemble_is_refused() -> None:
    with pytest.raises(ValueError, match=r"policy=SACPolicy must be a subclass of REDQSACPolicy"):
        REDQSAC(SAC.policy_aliases["MlpPolicy"], "Pendulum-v1")


def test_arguments_written_by_load_are_checked(tmp_path: Any) -> None:
    make().save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"policy_delay=0 must be"):
        REDQSAC.load(tmp_path / "model", policy_delay=0)


def test_n_steps_with_a_buffer_that_has_none_is_said_to_be_ignored() -> None:
    with pytest.warns(
        UserWarning, match=r"`n_steps=3` is ignored because a custom `replay_buffer_class` \(`ReplayBuffer`\)"
    ):
        model = make(n_steps=3, replay_buffer_class=ReplayBuffer)
    assert type(model.replay_buffer) is ReplayBuffer


def test_discrete_actions_are_refused_with_the_error_of_sb3() -> None:
    with pytest.raises(AssertionError, match="action_space=Discrete"):
        REDQSAC("MlpPolicy", "CartPole-v1")


def test_dictionaries_of_the_caller_stay_as_they_were() -> None:
    policy_kwargs = dict(net_arch=[4], n_critics=2, optimizer_kwargs=dict(weight_decay=0.1))
    buffer_kwargs = dict(handle_timeout_termination=True)
    REDQSAC("MlpPolicy", "Pendulum-v1", n_steps=3, policy_kwargs=policy_kwargs, replay_buffer_kwargs=buffer_kwargs)
    assert policy_kwargs == dict(net_arch=[4], n_critics=2, optimizer_kwargs=dict(weight_decay=0.1))
    assert buffer_kwargs == dict(handle_timeout_termination=True)
