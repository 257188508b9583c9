"""REDQSAC's update as one object: its modes, its parameters, its settings."""

from typing import Any

import numpy as np
import pytest
import torch as th
from torch import nn

from sb3_ext import PrioritizedReplayBuffer
from sb3_ext.nets import EnsembleCritic, ScalarHead
from sb3_ext.redq_sac.parameters import trained_parameters
from sb3_ext.redq_sac.plan import Plan
from sb3_ext.redq_sac.policies import MlpPolicy
from tests.support.environments import images
from tests.support.models import make


class BatchNormCritic(EnsembleCritic):
    """Batch normalization, whose statistics a forward pass in training mode moves, in front of the critics."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        norm = nn.BatchNorm1d(self.ensemble.layers[0].weight.shape[1], affine=False)
        self.ensemble.norm = norm
        self.ensemble.register_forward_pre_hook(lambda _, args: (norm(args[0]), *args[1:]))


class BatchNormPolicy(MlpPolicy):
    critic_class = BatchNormCritic


def test_a_batch_normalization_in_the_targets_moves_no_statistics() -> None:
    """They are the online critics', copied whenever the targets move, and nothing of what the targets have seen."""
    model = make(policy=BatchNormPolicy, gradient_steps=4).learn(40)
    online, target = model.critic.ensemble.norm, model.critic_target.ensemble.norm
    assert online.num_batches_tracked > 10 and online.running_mean.abs().max() > 1e-3
    assert th.equal(target.running_mean, online.running_mean) and th.equal(target.running_var, online.running_var)
    kept = target.running_mean.clone()
    model.target_update_interval = 1e6
    model.batch_norm_stats = []
    model.train(4, 8)
    assert model.batch_norm_stats[0] is online.running_mean and model.batch_norm_stats_target[0] is target.running_mean
    assert th.equal(target.running_mean, kept) and not th.equal(online.running_mean, kept)


def test_dropout_beside_a_batch_normalization_stays_active_in_the_targets() -> None:
    modes: list[tuple[bool, ...]] = []
    model = make(policy=BatchNormPolicy, policy_kwargs=dict(dropout=0.5))
    ensemble = model.critic_target.ensemble
    dropouts = [module for module in ensemble.modules() if isinstance(module, nn.Dropout)]
    ensemble.register_forward_hook(lambda *_: modes.append((ensemble.norm.training, *(d.training for d in dropouts))))
    model.learn(30)
    assert len(dropouts) == 1 and set(modes) == {(False, True)}
    assert not any(module.training for module in ensemble.modules())  # after `train()`


def test_the_loss_trains_what_the_optimizer_has() -> None:
    """A features extractor that the actor shares learns from the actor's loss alone."""
    for is_shared in (False, True):
        policy_kwargs = dict(features_extractor_kwargs=dict(features_dim=8), share_features_extractor=is_shared)
        model = make(env=images(), policy="CnnPolicy", policy_kwargs=policy_kwargs)
        trained = trained_parameters(model.actor, model.critic, model.critic_target).trained
        expected = {f"critic.{name}": p for name, p in model.critic.named_parameters()}
        if is_shared:
            expected = {name: p for name, p in expected.items() if "features_extractor" not in name}
        assert trained.keys() == expected.keys() and len(trained) > 0
        assert all(trained[name] is expected[name] for name in trained)


def test_settings_are_read_anew_at_each_training() -> None:
    model = make().learn(25)
    before = model.updater.settings
    model.train(1, 8)
    assert model.updater.settings == before and hash(model.updater.settings) == hash(before)
    model.tau, model.actor_q = 0.5, "min"
    model.train(1, 8)
    assert (model.updater.settings.tau, model.updater.settings.actor_q) == (0.5, "min")
    with pytest.raises(AttributeError):
        model.updater.settings.tau = 0.1  # type: ignore[misc]


def test_a_block_returns_what_it_says() -> None:
    model = make(replay_buffer_class=PrioritizedReplayBuffer).learn(25)
    samples = model.replay_buffer.sample_prioritized(3 * 8)
    model.policy.set_training_mode(True)
    result = model.updater.run(Plan(moves_targets=(True, False, True), updates_actor=True), samples)
    of_critics = {"critic_loss", "critic_grad_norm", "q_value", "target_value"}
    of_policy = {"ent_coef", "actor_loss", "ent_coef_loss", "actor_grad_norm", "entropy"}
    expected = dict.fromkeys(of_critics, 3) | dict.fromkeys(of_policy, 1)
    assert {name: len(values) for name, values in result.metrics.items()} == expected
    assert result.errors.shape == (3, 8) and np.isfinite(result.errors.numpy()).all()
    without_actor = model.updater.run(Plan(moves_targets=(False,), updates_actor=False), samples)
    assert set(without_actor.metrics) == {"ent_coef", *of_critics}


class ScaledHead(ScalarHead):
    """Targets with a parameter of the head, which is not to learn from them."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(th.full((), scale))
        self.needed_gradients: list[bool] = []

    def td_targets(self, *args: Any) -> th.Tensor:
        return self.scale * super().td_targets(*args)

    def loss(self, outputs: th.Tensor, targets: th.Tensor, weights: th.Tensor | None) -> th.Tensor:
        self.needed_gradients.append(targets.requires_grad)
        return super().loss(outputs, targets, weights)


class ScaledPolicy(MlpPolicy):
    head_class = ScaledHead


def test_targets_are_constants_of_the_target_head() -> None:
    model = make(policy=ScaledPolicy, policy_kwargs=dict(head_kwargs=dict(scale=0.5))).learn(25)
    head = model.critic.head
    assert head.needed_gradients and not any(head.needed_gradients)
    assert float(head.scale.detach()) == 0.5 and model.policy.head_kwargs == dict(scale=0.5)


def test_regularization_needs_hidden_layers() -> None:
    for regularization in (dict(layer_norm=True), dict(dropout=0.1)):
        with pytest.raises(ValueError, match="no effect on critics without hidden layers"):
            make(policy_kwargs=dict(net_arch=dict(pi=[4], qf=[]), **regularization))
