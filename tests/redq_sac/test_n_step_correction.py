"""`n_step_correction` of REDQSAC: targets of three critics against loops, densities of stored actions, refusals."""

import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import SimpleMultiObsEnv
from stable_baselines3.common.noise import NormalActionNoise

from sb3_ext import REDQSAC, PrioritizedReplayBuffer
from sb3_ext.buffers import ArrayReplayBuffer
from sb3_ext.buffers.samples import WindowSamples
from sb3_ext.redq_sac.window_targets import log_prob_of_actions
from tests.support.models import make, make_normalized
from tests.support.states import assert_close, assert_equal, assert_trained_alike, reloaded, state

GAMMA, LAMBDA, LENGTH, BATCH = 0.9, 0.8, 4, 16


def normal_log_density(u: float, mean: float, std: float) -> float:
    return -0.5 * ((u - mean) / std) ** 2 - math.log(std) - 0.5 * math.log(2 * math.pi)


def log_density(model: Any, obs: th.Tensor, action: np.ndarray) -> float:
    """Of an action in one state: the normal density over the slope of the tanh, with SB3's 1e-6."""
    with th.no_grad():
        mean, log_std, _ = model.actor.get_action_dist_params(obs.unsqueeze(0))
    total = 0.0
    for a, m, s in zip(action, mean[0].tolist(), log_std[0].tolist(), strict=True):
        u = math.atanh(min(max(float(a), -1 + 1e-6), 1 - 1e-6))
        total += normal_log_density(u, m, math.exp(s)) - math.log(1 - math.tanh(u) ** 2 + 1e-6)
    return total


def backed_up(values: list[float], backup: str, members: Any, mixture: Any, critic: int, row: int) -> float:
    """The value that critic number ``critic`` learns from; ``values`` are those of the critics that were evaluated."""
    if backup == "rem":
        return sum(mixture[i, row].item() * value for i, value in enumerate(values))
    if backup == "vanilla":
        return values[critic]
    if backup == "doubleq":
        return values[(critic + 1) % 3]
    return {"mean": np.mean, "min": min, "redq": min}[backup](values)


@pytest.mark.parametrize("correction", ["retrace", "importance"])
@pytest.mark.parametrize("backup", ["redq", "min", "mean", "vanilla", "doubleq", "rem"])
def test_targets_against_loops(backup: Any, correction: Any) -> None:
    trace_lambda = LAMBDA if correction == "retrace" else None
    arguments = dict(n_steps=LENGTH, n_step_correction=correction, trace_lambda=trace_lambda, target_backup=backup)
    env = gym.make("Pendulum-v1", max_episode_steps=8)
    # Fast enough for densities that differ from the stored ones
    model = make(REDQSAC, env, gamma=GAMMA, gradient_steps=2, learning_rate=0.01, **arguments).learn(60)
    update = model.updater
    windows = model.sample_transitions(BATCH)
    assert isinstance(windows, WindowSamples) and windows.valid[:, 1:].any() and not windows.valid.all()
    # Pendulum never terminates. Here half of the windows do with their last step
    last = windows.valid.sum(dim=1) - 1
    windows.dones[th.arange(0, BATCH, 2), last[::2]] = 1.0
    actions, log_prob = update.actions_after(windows)
    bonus = -0.3 * log_prob
    members, mixture = update.draw_critics(BATCH)
    with th.no_grad():
        found = update._window_targets.compute(windows, actions, bonus, members, mixture)
    assert found.shape == (3, BATCH)

    def values(obs: th.Tensor, action: th.Tensor) -> list[float]:
        with th.no_grad():
            outputs = model.critic_target.outputs(obs[None], action[None], members)
        return outputs[:, 0, 0].tolist()

    for critic in range(3):
        for row in range(BATCH):
            total, trace = 0.0, 1.0
            for k in range(int(windows.valid[row].sum())):
                obs, next_obs = windows.observations[row, k], windows.next_observations[row, k]
                next_value = backed_up(values(next_obs, actions[row, k]), backup, members, mixture, critic, row)
                goes_on = 1.0 - windows.dones[row, k].item()
                delta = windows.rewards[row, k].item() + GAMMA * goes_on * (next_value + bonus[row, k].item())
                if k > 0:
                    action = windows.actions[row, k]
                    ratio = math.exp(log_density(model, obs, action.numpy()) - windows.log_probs[row, k].item())
                    trace *= GAMMA * (LAMBDA * min(1.0, ratio) if correction == "retrace" else ratio)
                    delta -= backed_up(values(obs, action), backup, members, mixture, critic, row)
                total += trace * delta
            assert found[critic, row].item() == pytest.approx(total, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("n_envs", [1, 2])
def test_the_buffer_keeps_the_density_of_actions(n_envs: int) -> None:
    env = make_vec_env("Pendulum-v1", n_envs)
    arguments = dict(n_steps=3, n_step_correction="retrace", learning_rate=0.0, random_steps=30, gradient_steps=1)
    model = make(REDQSAC, env=env, **arguments).learn(60 * n_envs)
    buffer = model.replay_buffer
    for slot in range(buffer.size()):
        for place in range(n_envs):
            expected = -math.log(2)  # uniform over [-1, 1]
            if slot * n_envs >= 30:
                obs = th.tensor(buffer.observations[slot, place])
                expected = log_density(model, obs, buffer.actions[slot, place])
            assert buffer.log_probs[slot, place] == pytest.approx(expected, abs=1e-3)


def test_the_present_policy_has_ratios_of_1() -> None:
    arguments = dict(n_steps=3, n_step_correction="importance", learning_rate=0.0, gradient_steps=1)
    model = make(REDQSAC, **arguments).learn(60)
    windows = model.sample_transitions(200)
    after_warm_up = windows.log_probs != -math.log(2)
    obs, actions = windows.observations[after_warm_up], windows.actions[after_warm_up]
    with th.no_grad():
        log_policy = log_prob_of_actions(model.evaluator, model.actor, obs, actions)
    assert len(log_policy) > 100
    np.testing.assert_allclose(log_policy, windows.log_probs[after_warm_up], atol=1e-3)


@pytest.mark.parametrize("backup", ["redq", "rem"])
@pytest.mark.parametrize("correction", ["retrace", "importance"])
def test_one_step_needs_no_correction(correction: Any, backup: Any) -> None:
    states = []
    for chosen in ("none", correction):
        model = make(
            REDQSAC,
            n_step_correction=chosen,
            replay_buffer_class=ArrayReplayBuffer,
            target_backup=backup,
            gradient_steps=3,
            policy_delay=2,
        )
        states.append(state(model.learn(40)))
    assert_equal(*states)


@pytest.mark.parametrize("buffer_class", [None, PrioritizedReplayBuffer])
@pytest.mark.parametrize("gradient", ["reparam", "reinforce"])
def test_saved_models_continue(gradient: Any, buffer_class: Any, tmp_path: Path) -> None:
    arguments = dict(n_steps=3, n_step_correction="retrace", actor_gradient=gradient, replay_buffer_class=buffer_class)
    model = make(REDQSAC, gradient_steps=2, policy_delay=1, **arguments).learn(40)
    loaded = reloaded(model, tmp_path)
    assert np.array_equal(loaded.replay_buffer.log_probs, model.replay_buffer.log_probs)
    assert_trained_alike(model, loaded, 5)


def test_images_and_vectors_in_a_dictionary() -> None:
    env = SimpleMultiObsEnv(discrete_actions=False, random_start=True)
    arguments = dict(n_steps=3, n_step_correction="retrace", gradient_steps=2)
    model = make(REDQSAC, env=env, policy="MultiInputPolicy", **arguments).learn(30)
    assert model._n_updates > 0 and model.replay_buffer.log_probs[:30].all()


WRONG: list[tuple[Any, dict[str, Any], str]] = [
    (make, dict(n_step_correction="cut"), "n_step_correction='cut' is not one of 'none', 'retrace', 'importance'"),
    (make, dict(n_step_correction="tree_backup"), "'tree_backup' is not one of 'none', 'retrace', 'importance'"),
    (make, dict(n_step_correction="importance", trace_lambda=0.5), "trace_lambda=0.5 has no effect here"),
    (make, dict(n_step_correction="retrace", noise_repeat=4), "'retrace' with noise_repeat=4 is not defined"),
    (make, dict(n_step_correction="retrace", use_sde=True), "'retrace' with use_sde=True is not defined"),
    (
        make,
        dict(n_step_correction="retrace", action_noise=NormalActionNoise(np.zeros(1), np.ones(1))),
        "'retrace' with action_noise is not defined",
    ),
    (
        make,
        dict(n_step_correction="retrace", policy_kwargs=dict(head="categorical")),
        "'retrace' with head='categorical' is not defined",
    ),
    (
        make_normalized,
        dict(n_step_correction="retrace", policy_kwargs=dict(head="scalar")),
        "'retrace' with batch normalization is not defined",
    ),
]


@pytest.mark.parametrize(("maker", "arguments", "message"), WRONG)
def test_what_is_refused(maker: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        maker(REDQSAC, **arguments)


@pytest.mark.slow
def test_compiled_losses_learn_the_same() -> None:
    states = []
    for compiled in (False, True):
        model = make(REDQSAC, n_steps=3, n_step_correction="retrace", compile=compiled, gradient_steps=2)
        states.append(state(model.learn(40)))
    assert_close(states[0], states[1], 1e-3)


def test_settings_that_change_later_are_checked_when_training_begins() -> None:
    model = make(REDQSAC, n_steps=3, n_step_correction="retrace").learn(30)
    model.action_noise = NormalActionNoise(np.zeros(1), np.ones(1))
    with pytest.raises(ValueError, match="'retrace' with action_noise is not defined"):
        model.learn(30)
    model.action_noise = None
    # Without a correction the buffer goes on with what it stores
    model.n_step_correction = "none"
    model.learn(30)
    assert model.replay_buffer.log_probs[: model.replay_buffer.size()].all()
