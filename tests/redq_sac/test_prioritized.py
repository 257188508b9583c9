"""REDQSAC with prioritised replay: what it does with the weights and what it writes back."""

from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.logger import configure

from sb3_ext import REDQSAC, PrioritizedFrameDedupReplayBuffer, PrioritizedReplayBuffer

ALPHA, BETA, EPS = 0.7, 0.3, 1e-3


def model_that_stands_still(**kwargs: Any) -> REDQSAC:
    """
    With gamma=0 the target of a transition is its reward, and nothing moves: errors can be computed afterwards.
    """
    settings = dict(
        learning_rate=0.0,
        tau=0.0,
        gamma=0.0,
        ent_coef=0.0,
        target_backup="min",
        policy_kwargs=dict(n_critics=3, net_arch=[8]),
        replay_buffer_class=PrioritizedReplayBuffer,
        replay_buffer_kwargs=dict(alpha=ALPHA, beta=BETA, eps=EPS),
        buffer_size=100,
        learning_starts=10_000,
        device="cpu",
        seed=0,
    )
    model = REDQSAC("MlpPolicy", "Pendulum-v1", **{**settings, **kwargs})
    model.learn(60)
    model.set_logger(configure(None, []))
    return model


def errors_of(model: REDQSAC, samples: Any) -> th.Tensor:
    with th.no_grad():
        q_values = th.stack(model.critic(samples.observations, samples.actions))
    return (q_values - samples.rewards).squeeze(-1)  # (N, B)


def test_what_is_written_back_is_the_mean_error_over_the_critics() -> None:
    model = model_that_stands_still()
    buffer = model.replay_buffer
    fresh = buffer.priorities.copy()
    np.random.seed(3)
    # One block of four minibatches
    samples = buffer.sample_prioritized(4 * 5, progress_remaining=1.0)
    np.random.seed(3)
    model.train(gradient_steps=4, batch_size=5)
    expected = fresh.copy()
    errors = errors_of(model, samples).abs().mean(dim=0)
    for index, error in zip(samples.indices.tolist(), errors.tolist(), strict=True):
        expected[index] = (error + EPS) ** ALPHA
    np.testing.assert_allclose(buffer.priorities, expected, rtol=1e-5)
    assert (buffer.priorities != fresh).sum() == len(set(samples.indices.tolist()))
    buffer.check_valid()


@pytest.mark.parametrize("progress_remaining", [1.0, 0.25, 0.0])
def test_the_loss_is_weighted_minibatch_by_minibatch(progress_remaining: float) -> None:
    model = model_that_stands_still()
    model._current_progress_remaining = progress_remaining
    buffer = model.replay_buffer
    buffer.update_priorities(np.arange(60), np.random.default_rng(0).exponential(size=60))
    np.random.seed(4)
    samples = buffer.sample_prioritized(3 * 7)
    errors = errors_of(model, samples)
    np.random.seed(4)
    priorities = buffer.priorities[samples.indices.numpy()]
    model.train(gradient_steps=3, batch_size=7)
    beta = BETA + (1 - BETA) * (1 - progress_remaining)
    losses = []
    for minibatch in range(3):
        rows = range(minibatch, 21, 3)
        # (n P)^-beta, without the constants: the weights are divided by their maximum
        weights = [priorities[row] ** -beta for row in rows]
        terms = [
            weight / max(weights) * errors[critic, row].item() ** 2
            for critic in range(3)
            for row, weight in zip(rows, weights, strict=True)
        ]
        losses.append(0.5 * sum(terms) / 7)
    assert model.logger.name_to_value["train/critic_loss"] == pytest.approx(np.mean(losses), rel=1e-4)


@pytest.mark.parametrize("n_envs_steps", [(1, 1), (2, 3)])
def test_images_environments_and_n_steps(n_envs_steps: tuple[int, int]) -> None:
    n_envs, n_steps = n_envs_steps

    def make() -> FakeImageEnv:
        return FakeImageEnv(action_dim=2, screen_height=40, screen_width=40, n_channels=4, discrete=False)

    # Random images are no stacks; n_steps is passed on to the buffer
    with pytest.warns(UserWarning, match="are no stacks of frames"):
        model = REDQSAC(
            "CnnPolicy",
            make_vec_env(make, n_envs),
            n_steps=n_steps,
            replay_buffer_class=PrioritizedFrameDedupReplayBuffer,
            policy_kwargs=dict(n_critics=2, net_arch=[8], features_extractor_kwargs=dict(features_dim=8)),
            buffer_size=60,
            learning_starts=20,
            batch_size=4,
            gradient_steps=2,
            train_freq=8,
            device="cpu",
            seed=1,
        )
        model.learn(60)
    buffer = model.replay_buffer
    assert buffer.n_steps == n_steps
    assert len(np.unique(buffer.priorities)) > 1
    buffer.check_valid()


def test_saved_and_continued_with_its_priorities(tmp_path: Any) -> None:
    model = model_that_stands_still()
    model.train(gradient_steps=4, batch_size=5)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = REDQSAC.load(tmp_path / "model", env=model.get_env())
    loaded.load_replay_buffer(tmp_path / "buffer")
    assert (loaded.replay_buffer.priorities == model.replay_buffer.priorities).all()
    assert loaded.replay_buffer_kwargs == dict(alpha=ALPHA, beta=BETA, eps=EPS)
    loaded.learn(30, reset_num_timesteps=False)
    assert loaded.replay_buffer.size() == 90
