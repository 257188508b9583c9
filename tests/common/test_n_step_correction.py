"""`n_step_correction` of the value-based algorithms: targets against loops, what is stored, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.common.env_util import make_vec_env

from sb3_ext import IQN, DoubleDQN, FrameDedupReplayBuffer, PrioritizedReplayBuffer, SoftDQN
from sb3_ext.buffers import ArrayReplayBuffer
from sb3_ext.buffers.samples import WindowSamples, transition_discounts
from sb3_ext.functional.traces import N_STEP_CORRECTIONS
from tests.support.environments import StopAt
from tests.support.models import each_value_based, make
from tests.support.states import assert_equal, assert_trained_alike, reloaded, state

GAMMA, LAMBDA = 0.9, 0.8
CATEGORICAL: dict[str, Any] = dict(policy_kwargs=dict(head="categorical", head_kwargs=dict(bound=30.0)))
EXPLORES: dict[str, Any] = dict(exploration_initial_eps=0.4, exploration_final_eps=0.4)


def explored(cls: Any, n_envs_steps: int = 150, **kwargs: Any) -> Any:
    """A model with untrained but unlike networks, and a buffer of its own actions."""
    model = make(cls, gamma=GAMMA, n_steps=4, **(EXPLORES | dict(learning_starts=30) | kwargs))
    model.learn(n_envs_steps)
    with th.no_grad():
        for parameter in model.q_net_target.parameters():
            parameter.add_(0.3 * th.randn_like(parameter))
    return model


def policy_of(model: Any, q_values: np.ndarray) -> np.ndarray:
    """The policy whose values are learned, in one state."""
    if not isinstance(model, SoftDQN) or model.target_backup == "max":
        return np.eye(len(q_values))[q_values.argmax()]
    logits = q_values / model.temperature
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def value_of(model: Any, q_values: np.ndarray, policy: np.ndarray) -> float:
    value = float((policy * q_values).sum())
    if isinstance(model, SoftDQN) and model.target_backup == "soft":
        value -= model.temperature * float((policy[policy > 0] * np.log(policy[policy > 0])).sum())
    return value


def target_by_loops(model: Any, windows: WindowSamples, row: int) -> float:
    def q(network: Any, obs: th.Tensor) -> np.ndarray:
        with th.no_grad():
            return network(obs.unsqueeze(0))[0].double().numpy()

    total, trace = 0.0, 1.0
    for k in range(int(windows.valid[row].sum())):
        obs, next_obs = windows.observations[row, k], windows.next_observations[row, k]
        action = int(windows.actions[row, k, 0])
        next_q = q(model.q_net_target, next_obs)
        policy = policy_of(model, q(model.q_net, next_obs) if model.double_q else next_q)
        goes_on = 1.0 - float(windows.dones[row, k])
        delta = float(windows.rewards[row, k]) + GAMMA * goes_on * value_of(model, next_q, policy)
        if k > 0:
            here = q(model.q_net_target, obs)
            judged = q(model.q_net, obs) if model.double_q else here
            pi = policy_of(model, judged)[action]
            mu = 1.0 if windows.log_probs is None else np.exp(float(windows.log_probs[row, k]))
            trace *= (
                GAMMA
                * {
                    "cut": float(judged.argmax() == action),
                    "tree_backup": LAMBDA * pi,
                    "retrace": LAMBDA * min(1.0, pi / mu),
                    "importance": pi / mu,
                }[model.n_step_correction]
            )
            delta -= here[action]
        total += trace * delta
    return total


VARIANTS = [
    (DoubleDQN, {}),
    (DoubleDQN, dict(double_q=False)),
    (SoftDQN, dict(temperature_initial=0.5)),
    (SoftDQN, dict(temperature_initial=0.5, double_q=False, target_backup="boltzmann")),
    (SoftDQN, dict(temperature_initial=0.5, target_backup="max")),
]


@pytest.mark.parametrize("correction", N_STEP_CORRECTIONS[1:])
@pytest.mark.parametrize(("cls", "arguments"), VARIANTS)
def test_targets_against_loops(cls: Any, arguments: dict[str, Any], correction: Any) -> None:
    trace_lambda = LAMBDA if correction in ("tree_backup", "retrace") else None
    model = explored(cls, n_step_correction=correction, trace_lambda=trace_lambda, **arguments)
    windows = model.sample_transitions(32)
    assert isinstance(windows, WindowSamples) and windows.valid[:, 1:].any()
    samples = model.corrected(windows)
    with th.no_grad():
        next_values = model.state_values(*model.next_q_values(samples))
        targets = model.td_targets(samples, GAMMA, next_values)
        q_values = model.q_net(windows.observations[:, 0]).gather(1, windows.actions[:, 0].long()).squeeze(1)
    expected = [target_by_loops(model, windows, row) for row in range(32)]
    np.testing.assert_allclose(targets, expected, rtol=1e-4, atol=1e-4)
    # They are what the loss learns from
    errors = model.compute_loss(samples, GAMMA).errors
    np.testing.assert_allclose(errors, np.abs(q_values.numpy() - expected), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("cls", "arguments"), [(IQN, {}), (IQN, dict(double_q=True)), (DoubleDQN, CATEGORICAL)])
def test_returns_end_before_an_action_that_is_not_the_best(cls: Any, arguments: dict[str, Any]) -> None:
    model = explored(cls, n_step_correction="cut", **arguments)
    th.manual_seed(0)
    windows = model.sample_transitions(64)
    best = model.best_actions(windows.observations[:, 1:].flatten(0, 1)).view(64, 3)
    # IQN chooses by random samples of quantiles, so it chooses the same again with the same random numbers
    model.best_actions = lambda obs: best.flatten()
    samples = model.corrected(windows)
    lengths = set()
    for row in range(64):
        n = 1
        while n < windows.valid[row].sum() and best[row, n - 1] == windows.actions[row, n, 0]:
            n += 1
        lengths.add(n)
        rewards = [GAMMA**k * float(windows.rewards[row, k]) for k in range(n)]
        assert samples.rewards[row].item() == pytest.approx(sum(rewards), rel=1e-6)
        assert samples.discounts[row].item() == pytest.approx(GAMMA**n, rel=1e-6)
        assert samples.dones[row].item() == windows.dones[row, n - 1].item()
        assert th.equal(samples.next_observations[row], windows.next_observations[row, n - 1])
        assert th.equal(samples.observations[row], windows.observations[row, 0])
        assert th.equal(samples.actions[row], windows.actions[row, 0])
    assert lengths == {1, 2, 3, 4}


def test_both_ways_to_cut_have_the_same_targets() -> None:
    model = explored(DoubleDQN, n_step_correction="cut")
    windows = model.sample_transitions(64)
    targets = []
    for learns_distributions in (False, True):
        model.learns_distributions = lambda value=learns_distributions: value
        samples = model.corrected(windows)
        with th.no_grad():
            next_values = model.state_values(*model.next_q_values(samples))
            discounts = transition_discounts(samples, GAMMA)
            targets.append(model.td_targets(samples, discounts, next_values))
    np.testing.assert_allclose(targets[0], targets[1], rtol=1e-5)


@pytest.mark.parametrize("correction", N_STEP_CORRECTIONS[1:])
@each_value_based
def test_one_step_needs_no_correction(cls: Any, correction: Any) -> None:
    if cls is IQN and correction != "cut":
        pytest.skip("not defined")
    states = []
    for chosen in ("none", correction):
        # Other random numbers draw the transitions of SB3's buffer of n-step returns
        model = make(cls, n_step_correction=chosen, replay_buffer_class=ArrayReplayBuffer, **EXPLORES)
        states.append(state(model.learn(60)))
    assert_equal(*states)


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("cls", [DoubleDQN, SoftDQN])
def test_the_buffer_keeps_how_likely_actions_were(cls: Any, n_envs: int) -> None:
    env = make_vec_env("CartPole-v1", n_envs)
    settings = dict(learning_rate=0.0) | EXPLORES | dict(exploration_final_eps=0.1, exploration_fraction=1.0)
    if cls is SoftDQN:
        settings |= dict(temperature_initial=0.3, temperature_final=0.3)
    model = make(cls, env=env, n_steps=3, n_step_correction="importance", **settings)
    total = 60 * n_envs
    model.learn(total)
    buffer = model.replay_buffer
    for slot in range(buffer.size()):
        for place in range(n_envs):
            taken = int(buffer.actions[slot, place, 0])
            done = slot * n_envs
            if done < model.learning_starts:
                expected = 0.5
            else:
                with th.no_grad():
                    q_values = model.q_net(th.tensor(buffer.observations[slot, place])[None])[0].numpy()
                policy = policy_of(model, q_values)
                # SB3 sets epsilon after a step, by the share of steps done
                epsilon = 0.4 + (0.1 - 0.4) * done / total
                expected = (1 - epsilon) * policy[taken] + epsilon / 2
            assert np.exp(buffer.log_probs[slot, place]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("buffer_class", [None, FrameDedupReplayBuffer, PrioritizedReplayBuffer])
@pytest.mark.parametrize("cls", [DoubleDQN, SoftDQN])
def test_saved_models_continue(cls: Any, buffer_class: Any, tmp_path: Path) -> None:
    arguments = dict(n_steps=3, n_step_correction="retrace", trace_lambda=0.9, replay_buffer_class=buffer_class)
    model = make(cls, **arguments, **EXPLORES).learn(60)
    loaded = reloaded(model, tmp_path)
    assert (loaded.n_step_correction, loaded.trace_lambda) == ("retrace", 0.9)
    assert np.array_equal(loaded.replay_buffer.log_probs, model.replay_buffer.log_probs)
    assert model.replay_buffer.log_probs[:60].any()
    assert_trained_alike(model, loaded, 5)


def test_windows_get_shorter_with_falling_n_steps() -> None:
    arguments = dict(n_steps=5, n_steps_final=2, n_step_correction="retrace")
    model = make(DoubleDQN, **arguments)
    lengths = []
    model.sample_transitions = lambda n_rows: lengths.append((windows := original(n_rows)).valid.shape[1]) or windows
    original = type(model).sample_transitions.__get__(model)
    model.learn(60)
    assert lengths[0] > lengths[-1] == 2


def test_it_stops_and_goes_on() -> None:
    model = make(SoftDQN, n_steps=3, n_step_correction="retrace")
    model.learn(60, callback=StopAt(35))
    model.learn(60, reset_num_timesteps=False)
    assert np.isfinite(model.replay_buffer.log_probs).all()


WRONG: list[tuple[Any, dict[str, Any], str]] = [
    (DoubleDQN, dict(n_step_correction="vtrace"), "n_step_correction='vtrace' is not one of 'none', 'cut'"),
    (DoubleDQN, dict(n_step_correction="retrace", trace_lambda=1.5), r"trace_lambda=1.5 must be in \[0, 1\]"),
    (
        DoubleDQN,
        dict(trace_lambda=0.5),
        "trace_lambda=0.5 has no effect here: it needs n_step_correction='tree_backup'",
    ),
    (SoftDQN, dict(n_step_correction="cut", trace_lambda=0.5), "trace_lambda=0.5 has no effect here"),
    (
        DoubleDQN,
        dict(n_step_correction="cut", replay_buffer_class=NStepReplayBuffer),
        "n_step_correction='cut' with replay_buffer_class=NStepReplayBuffer, which has no windows",
    ),
    (IQN, dict(n_step_correction="retrace"), "n_step_correction='retrace' is not one of 'none', 'cut'"),
    (DoubleDQN, dict(n_step_correction="retrace", **CATEGORICAL), "'retrace' is not defined for distributions"),
    (
        DoubleDQN,
        dict(n_step_correction="importance", policy_kwargs=dict(noisy="with_epsilon")),
        "'importance' with noisy layers, whose actions have no known probability",
    ),
    (
        SoftDQN,
        dict(n_step_correction="cut", munchausen_coef=0.9, double_q=False),
        "munchausen_coef=0.9 with n_step_correction='cut'",
    ),
    (IQN, dict(n_step_correction="cut", munchausen_coef=0.9), "munchausen_coef=0.9 with n_step_correction='cut'"),
]


@pytest.mark.parametrize(("cls", "arguments", "message"), WRONG)
def test_what_is_refused(cls: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(cls, **arguments)


def test_a_buffer_without_log_probs_is_refused(tmp_path: Path) -> None:
    model = make(DoubleDQN, n_steps=3, replay_buffer_class=ArrayReplayBuffer).learn(40)
    model.save_replay_buffer(tmp_path / "buffer")
    model.n_step_correction = "retrace"
    with pytest.raises(ValueError, match="'retrace' needs the log-probabilities of actions, which the replay buffer"):
        model.learn(40)
    other = make(DoubleDQN, n_steps=3, n_step_correction="retrace")
    other.load_replay_buffer(tmp_path / "buffer")
    with pytest.raises(ValueError, match="'retrace' needs the log-probabilities of actions"):
        other.learn(40)


def test_transitions_without_log_probs_are_refused() -> None:
    model = make(DoubleDQN, n_step_correction="retrace")
    obs = np.zeros((1, 4), np.float32)
    with pytest.raises(ValueError, match=r"infos\[0\] has no 'action_log_prob', which store_log_probs=True needs"):
        model.replay_buffer.add(obs, obs, np.zeros((1, 1)), np.zeros(1), np.zeros(1), [{}])
    assert model.replay_buffer.size() == 0
