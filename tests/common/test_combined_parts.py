"""Parts of the presets together, on small images: shifts, resets, Impala, priorities, noise, C51, Munchausen."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.envs import FakeImageEnv

from sb3_ext import IQN, DoubleDQN, SoftDQN
from sb3_ext.common.resets import encoder_parameters
from sb3_ext.nets import ImpalaConvolutions, NatureConvolutions, NoisyLinear
from tests.support.models import make
from tests.support.states import assert_trained_alike, reloaded, state

NATURE: dict[str, Any] = dict(
    features_extractor_class=NatureConvolutions, features_extractor_kwargs=dict(features_dim=6, normalization="layer")
)
IMPALA: dict[str, Any] = dict(
    features_extractor_class=ImpalaConvolutions,
    features_extractor_kwargs=dict(width=1, pool_size=1, normalization="layer"),
)
NO_EPSILON: dict[str, Any] = dict(exploration_initial_eps=0.0, exploration_final_eps=0.0)
C51: dict[str, Any] = dict(head="categorical", head_kwargs=dict(n_bins=7, bound=5), dueling=True, noisy=True)
#: The class, its arguments, and those of its policy
PARTS: list[tuple[Any, dict[str, Any], dict[str, Any]]] = [
    (DoubleDQN, NO_EPSILON | dict(n_steps=3), C51),
    (DoubleDQN, NO_EPSILON | dict(n_steps=3, n_step_correction="cut"), C51),
    (DoubleDQN, dict(n_steps=3, n_step_correction="tree_backup"), dict(normalization="layer")),
    (SoftDQN, dict(munchausen_coef=0.9, double_q=False, n_steps=3), dict(noisy="with_epsilon", dueling=True)),
    (
        IQN,
        NO_EPSILON | dict(munchausen_coef=0.9, priority_error="absolute", n_steps=4, n_steps_final=2),
        dict(noisy=True, normalization="layer"),
    ),
    (IQN, dict(double_q=True, n_steps=3, n_step_correction="cut"), dict(dueling=True)),
]
IDS = ["c51", "c51-cut", "tree_backup", "munchausen", "munchausen-iqn", "iqn-cut"]


def images() -> FakeImageEnv:
    env = FakeImageEnv(screen_height=36, screen_width=36, n_channels=2, discrete=True, channel_first=True)
    env.observation_space.seed(0)
    env.action_space.seed(0)
    return env


@pytest.mark.parametrize("extractor", [NATURE, IMPALA], ids=["nature", "impala"])
@pytest.mark.parametrize(("cls", "settings", "policy_kwargs"), PARTS, ids=IDS)
def test_they_learn_and_go_on(
    cls: Any, settings: dict[str, Any], policy_kwargs: dict[str, Any], extractor: dict[str, Any], tmp_path: Path
) -> None:
    model = make(
        cls,
        images(),
        "CnnPolicy",
        policy_kwargs | extractor,
        replay_buffer_class="PrioritizedReplayBuffer",
        augmentation="shift",
        reset_interval=3,
        reset_shrink=0.0,
        batch_size=4,
        buffer_size=60,
        **settings,
    )
    model.learn(32)
    assert model._n_updates == 6
    before, priorities = state(model), model.replay_buffer.priorities.copy()
    assert len(set(priorities)) > 3 and all(th.isfinite(value).all() for value in before.values())
    model._current_progress_remaining = 1.0  # of a training that has resets before it
    loaded = reloaded(model, tmp_path)
    np.random.seed(7)
    th.manual_seed(7)
    assert_trained_alike(model, loaded, 4)
    assert np.array_equal(loaded.replay_buffer.priorities, model.replay_buffer.priorities)
    assert not np.array_equal(priorities, model.replay_buffer.priorities)
    after = state(model)
    assert all(th.isfinite(value).all() for value in after.values())
    # The reset after the third of these updates has replaced what follows the convolutions, the target network's too
    names = {name for name, _ in model.q_net.named_parameters()} - encoder_parameters(model.q_net)
    # (New standard deviations of noise are nearly the old ones)
    matrices = [name for name in names if after[f"q_net.{name}"].ndim == 2 and "_std" not in name]
    assert len(matrices) >= 2
    for network in ("q_net", "q_net_target"):
        for name in matrices:
            moved = (after[f"{network}.{name}"] - before[f"{network}.{name}"]).abs().mean()
            assert moved > 0.03, f"{network}.{name}"
    is_noisy = any(isinstance(module, NoisyLinear) for module in model.q_net.modules())
    assert is_noisy == bool(policy_kwargs.get("noisy"))


@pytest.mark.parametrize(("cls", "settings", "policy_kwargs"), PARTS, ids=IDS)
def test_a_shift_leaves_weights_indices_and_rewards(
    cls: Any, settings: dict[str, Any], policy_kwargs: dict[str, Any]
) -> None:
    arguments: dict[str, Any] = dict(replay_buffer_class="PrioritizedReplayBuffer", augmentation="shift", **settings)
    model = make(cls, images(), "CnnPolicy", policy_kwargs | NATURE, **arguments).learn(30)
    samples = []
    for augmentation in ("shift", None):
        model.augmentation = augmentation
        np.random.seed(3)
        samples.append(model.sample_transitions(8))
        np.random.seed(3)
        samples.append(model.sample_minibatch(8))
    plain, moved, _, unmoved = samples
    for name in ("weights", "indices", "actions"):
        assert th.equal(getattr(moved, name), getattr(unmoved, name)), name
    assert moved.observations.shape == unmoved.observations.shape == (8, 2, 36, 36)
    assert moved.observations.dtype == unmoved.observations.dtype == th.uint8
    assert not th.equal(moved.observations, unmoved.observations)
    if settings.get("n_step_correction", "none") == "none":
        assert th.equal(unmoved.observations, plain.observations)
        assert th.equal(moved.rewards, plain.rewards) and th.equal(moved.dones, plain.dones)
