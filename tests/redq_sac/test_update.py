"""REDQSAC's update as one object: its modes, its delay, its settings, and how far it is from `train()` to a target."""

import io
import sys
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from torch import nn

from sb3_ext import IQN, REDQSAC, DoubleDQN, PrioritizedReplayBuffer, SoftDQN
from sb3_ext.functional.bellman import soft_td_target
from sb3_ext.nets import EnsembleCritic
from sb3_ext.redq_sac.policies import MlpPolicy
from sb3_ext.redq_sac.update import Plan

SMALL: dict[str, Any] = dict(learning_starts=20, batch_size=8, buffer_size=500, seed=0, device="cpu")


def make(policy: Any = "MlpPolicy", env: Any = "Pendulum-v1", **kwargs: Any) -> REDQSAC:
    policy_kwargs = dict(net_arch=[8], n_critics=3) | kwargs.pop("policy_kwargs", {})
    return REDQSAC(policy, env, policy_kwargs=policy_kwargs, **(SMALL | kwargs))


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
    model = make(BatchNormPolicy, gradient_steps=4).learn(40)
    online, target = model.critic.ensemble.norm, model.critic_target.ensemble.norm
    assert online.num_batches_tracked > 10 and online.running_mean.abs().max() > 1e-3
    assert th.equal(target.running_mean, online.running_mean) and th.equal(target.running_var, online.running_var)
    kept = target.running_mean.clone()
    model.target_update_interval = 10**6
    model.train(4, 8)
    assert th.equal(target.running_mean, kept) and not th.equal(online.running_mean, kept)


def test_dropout_beside_a_batch_normalization_stays_active_in_the_targets() -> None:
    modes: list[tuple[bool, ...]] = []
    model = make(BatchNormPolicy, policy_kwargs=dict(dropout=0.5))
    ensemble = model.critic_target.ensemble
    dropouts = [module for module in ensemble.modules() if isinstance(module, nn.Dropout)]
    ensemble.register_forward_hook(lambda *_: modes.append((ensemble.norm.training, *(d.training for d in dropouts))))
    model.learn(30)
    assert len(dropouts) == 1 and set(modes) == {(False, True)}
    assert not any(module.training for module in ensemble.modules())  # after `train()`


# -- The delay of the policy -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "n_envs", "delay"),
    [
        ({}, 1, 20),
        (dict(gradient_steps=1), 1, 1),
        (dict(gradient_steps=7), 1, 7),
        (dict(gradient_steps=7, train_freq=2), 1, 4),  # 3.5
        (dict(gradient_steps=20), 8, 2),  # 2.5, which Python rounds to the even number
        (dict(gradient_steps=1, train_freq=64), 4, 1),
        (dict(gradient_steps=-1), 3, 1),
        (dict(gradient_steps=50, train_freq=(1, "episode")), 1, 1),
        (dict(gradient_steps=7, policy_delay=3), 1, 3),
    ],
)
def test_the_actor_is_updated_once_per_environment_step(settings: dict[str, Any], n_envs: int, delay: int) -> None:
    model = make(env=make_vec_env("Pendulum-v1", n_envs=n_envs), **settings)
    assert model.effective_policy_delay == delay
    assert model.policy_delay == settings.get("policy_delay")


def test_fewer_updates_do_not_starve_the_actor() -> None:
    steps: list[int] = []
    model = make(gradient_steps=2)
    step = model.actor.optimizer.step
    model.actor.optimizer.step = lambda *args, **kwargs: (steps.append(1), step(*args, **kwargs))[1]
    model.learn(40)
    assert model._n_updates == 40 and len(steps) == 20
    changed = REDQSAC.load(_saved(model), env=model.env, gradient_steps=5)
    assert changed.policy_delay is None and changed.effective_policy_delay == 5


def _saved(model: REDQSAC) -> Any:
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    return file


# -- How far it is from `train()` to a target --------------------------------------------------------------------------


def frames_to_the_target(model: Any) -> int:
    """The most frames from `train()` to the function that computes a TD target, both included."""
    depths: list[int] = []

    def trace(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code is soft_td_target.__code__:
            depth, outer = 1, frame.f_back
            while outer is not None and outer.f_code.co_name != "train":
                depth, outer = depth + 1, outer.f_back
            assert outer is not None
            depths.append(depth + 1)

    sys.setprofile(trace)
    try:
        model.train(4, 8)
    finally:
        sys.setprofile(None)
    assert depths
    return max(depths)


@pytest.mark.parametrize(
    "settings",
    [{}, dict(actor_gradient="reinforce", n_actor_samples=2), dict(replay_buffer_class=PrioritizedReplayBuffer)],
    ids=str,
)
def test_at_most_four_frames_to_redqs_target(settings: dict[str, Any]) -> None:
    assert frames_to_the_target(make(**settings).learn(25)) <= 4


@pytest.mark.parametrize("cls", [DoubleDQN, SoftDQN, IQN])
def test_at_most_four_frames_to_a_value_based_target(cls: Any) -> None:
    model = cls("MlpPolicy", "CartPole-v1", policy_kwargs=dict(net_arch=[8]), **SMALL).learn(25)
    assert frames_to_the_target(model) <= 4


# -- Settings ----------------------------------------------------------------------------------------------------------


def test_settings_are_read_anew_at_each_training() -> None:
    model = make().learn(25)
    before = model.update.settings
    model.train(1, 8)
    assert model.update.settings == before and hash(model.update.settings) == hash(before)
    model.tau, model.actor_q = 0.5, "min"
    model.train(1, 8)
    assert (model.update.settings.tau, model.update.settings.actor_q) == (0.5, "min")
    with pytest.raises(AttributeError):
        model.update.settings.tau = 0.1  # type: ignore[misc]


def test_a_block_returns_what_it_says() -> None:
    model = make(replay_buffer_class=PrioritizedReplayBuffer).learn(25)
    samples = model.replay_buffer.sample_prioritized(3 * 8)
    model.policy.set_training_mode(True)
    result = model.update.run(Plan(moves_targets=(True, False, True), updates_actor=True), samples)
    assert {name: len(values) for name, values in result.metrics.items()} == dict(
        ent_coef=1, critic_loss=3, actor_loss=1, ent_coef_loss=1
    )
    assert result.errors.shape == (3, 8) and np.isfinite(result.errors.numpy()).all()
    without_actor = model.update.run(Plan(moves_targets=(False,), updates_actor=False), samples)
    assert set(without_actor.metrics) == {"ent_coef", "critic_loss"}
