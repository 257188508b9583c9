"""Every setting trains on real environments and does what it says."""

from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.noise import NormalActionNoise

from sb3_ext import REDQSAC
from sb3_ext.nets import EnsembleCritic
from sb3_ext.redq_sac.update import REDQUpdate
from tests.support.models import check_redq


@pytest.mark.parametrize("backup", ["vanilla", "doubleq", "min", "mean", "redq", "rem"])
@pytest.mark.parametrize("actor", [{}, dict(actor_gradient="reinforce", n_actor_samples=2)])
def test_backups(backup: str, actor: dict[str, Any]) -> None:
    check_redq(target_backup=backup, **actor)


@pytest.mark.parametrize(
    "settings",
    [
        dict(subset_size=1.5),
        dict(ent_coef=0.1, backup_entropy=False),
        dict(ent_coef=0.0),
        dict(tau=1.0, target_update_interval=3),
        dict(actor_q="min"),
        dict(n_actor_samples=3),
        dict(actor_gradient="reinforce"),
        dict(actor_gradient="reinforce", reinforce_baseline="none"),
        dict(actor_gradient="reinforce", reinforce_baseline="mean_action", n_actor_samples=4),
        dict(n_steps=3),
        dict(use_sde=True, use_sde_at_warmup=True, sde_sample_freq=2),
        dict(action_noise=NormalActionNoise(np.zeros(1), 0.1 * np.ones(1))),
        dict(train_freq=(1, "episode"), gradient_steps=-1, learning_starts=10, total_timesteps=250),
        dict(policy_kwargs=dict(layer_norm=True, dropout=0.01, n_critics=2)),
        dict(policy_kwargs=dict(net_arch=dict(pi=[8], qf=[]))),
        dict(policy_kwargs=dict(optimizer_class=th.optim.SGD)),
        dict(policy_kwargs=dict(optimizer_kwargs=dict(foreach=True))),
    ],
    ids=str,
)
def test_settings(settings: dict[str, Any]) -> None:
    check_redq(**settings)


def test_only_the_subset_is_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated: list[int] = []
    outputs = EnsembleCritic.outputs

    def counting(self: Any, *args: Any, **kwargs: Any) -> th.Tensor:
        values = outputs(self, *args, **kwargs)
        if self is model_holder["model"].critic_target:
            evaluated.append(values.shape[0])
        return values

    model_holder: dict[str, REDQSAC] = {}
    model_holder["model"] = REDQSAC(
        "MlpPolicy", "Pendulum-v1", seed=0, learning_starts=10, policy_kwargs=dict(net_arch=[4], n_critics=5)
    )
    monkeypatch.setattr(EnsembleCritic, "outputs", counting)
    model_holder["model"].learn(12)
    assert evaluated == [2] * 40


def test_dropout_is_active_in_the_targets_and_off_in_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    differences: list[bool] = []
    update = REDQUpdate.step_critics

    def checking(self: REDQUpdate, minibatch: Any, *args: Any) -> Any:
        evaluations = [self.critic_target.stacked(minibatch.observations, minibatch.actions) for _ in range(2)]
        differences.append(not th.equal(*evaluations))
        return update(self, minibatch, *args)

    monkeypatch.setattr(REDQUpdate, "step_critics", checking)
    model = check_redq(policy_kwargs=dict(dropout=0.5))
    assert len(differences) == 120 and all(differences)
    model.policy.set_training_mode(False)
    obs, action = th.zeros(3, 3), th.zeros(3, 1)
    for critic in (model.critic, model.critic_target):
        assert th.equal(critic.stacked(obs, action), critic.stacked(obs, action))


def test_the_actor_update_leaves_no_gradient_in_the_critics() -> None:
    model = check_redq()
    model.critic.optimizer.zero_grad()
    obs = th.randn(5, 3)
    model.updater.step_actor(obs, model.updater.sample_policy(obs), th.tensor(0.1))
    assert all(p.grad is None for p in model.critic.parameters())


def test_backup_entropy_changes_the_targets() -> None:
    with_entropy = check_redq(ent_coef=0.5)
    without = check_redq(ent_coef=0.5, backup_entropy=False)
    assert not th.equal(with_entropy.critic.ensemble.layers[0].weight, without.critic.ensemble.layers[0].weight)


def test_device_and_defaults() -> None:
    model = REDQSAC("MlpPolicy", "Pendulum-v1", device=th.device("cpu"))
    assert model.critic.n_critics == 10 and model.gradient_steps == 20 and model.effective_policy_delay == 20
    assert model.updater.settings.subset_size == 2
    assert model.critic.optimizer.defaults["fused"] is True
    single = REDQSAC("MlpPolicy", "Pendulum-v1", policy_kwargs=dict(n_critics=1))
    assert single.updater.settings.subset_size == 1
