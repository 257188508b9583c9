"""Networks that mask impossible actions: exploration, training, targets, the diagnosis."""

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_ext import IQN, DoubleDQN, SoftDQN
from sb3_ext.buffers import PrioritizedReplayBuffer
from sb3_ext.diagnosis import DiagnosisCallback
from sb3_ext.functional.soft_value import SOFT_BACKUPS
from tests.support.masked import LARGEST, NETWORKS, A, Pile, mask_of, masked_policy
from tests.support.models import each_value_based, make

LOWEST = str(th.finfo(th.float32).min)
mask_given = pytest.mark.parametrize("how", ["hook", "-inf", LOWEST, "-1e8"])

#: Each value-based algorithm, and SoftDQN in all of its variants
VARIANTS: list[tuple[Any, dict[str, Any]]] = [
    *[(cls, dict(double_q=double_q)) for cls in (DoubleDQN, IQN) for double_q in (False, True)],
    *[
        (SoftDQN, dict(target_backup=backup, double_q=double_q))
        for backup in SOFT_BACKUPS
        for double_q in (False, True)
    ],
    (SoftDQN, dict(auto_temperature=True)),
    (SoftDQN, dict(double_q=False, munchausen_coef=0.9)),
    (IQN, dict(risk_measure="cvar", risk_eta=0.3)),
    (IQN, dict(munchausen_coef=0.9)),
    (IQN, dict(priority_error="absolute", replay_buffer_class=PrioritizedReplayBuffer)),
    (DoubleDQN, dict(policy_kwargs=dict(dueling=True))),
    (DoubleDQN, dict(policy_kwargs=dict(head="categorical", head_kwargs=dict(bound=10)))),
    (DoubleDQN, dict(policy_kwargs=dict(head="categorical", head_kwargs=dict(bound=10)), double_q=False)),
    (DoubleDQN, dict(replay_buffer_class=PrioritizedReplayBuffer)),
    (SoftDQN, dict(n_steps=3, target_clip=2.0)),
    *[(SoftDQN, dict(n_steps=3, n_step_correction=name)) for name in ("tree_backup", "retrace", "importance")],
    (DoubleDQN, dict(n_steps=3, n_step_correction="retrace")),
]


def name_of(value: Any) -> str:
    return " ".join(map(str, value.values())) if isinstance(value, dict) else value.__name__


each_variant = pytest.mark.parametrize(("cls", "kwargs"), VARIANTS, ids=name_of)


def make_masked(cls: Any, how: str = "hook", n_envs: int = 1, is_strict: bool = True, **kwargs: Any) -> Any:
    as_dict = kwargs.pop("as_dict", False)
    env = DummyVecEnv([lambda: Pile(as_dict, is_strict) for _ in range(n_envs)])
    head = kwargs.get("policy_kwargs", {}).get("head")
    model = make(cls, env, masked_policy(cls, how, as_dict, head), **kwargs)
    model.set_logger(configure(None, []))
    return model


def check_learned(model: Any) -> None:
    assert model._n_updates > 0
    assert all(th.isfinite(value).all() for value in model.policy.state_dict().values())
    names = [name for name in model.logger.name_to_value if name.startswith("train/")]
    assert {"train/loss", "train/q_value", "train/grad_norm"} <= set(names)
    # No mask in the averages
    assert all(abs(model.logger.name_to_value[name]) < 100 for name in names if name != "train/n_updates")


@each_variant
def test_training_with_the_hook_takes_only_possible_actions(cls: Any, kwargs: dict[str, Any]) -> None:
    model = make_masked(cls, n_envs=2, **kwargs)
    model.learn(80, log_interval=10**6)  # an impossible action would raise
    check_learned(model)


@each_value_based
@pytest.mark.parametrize("n_envs", [1, 3])
def test_random_actions_are_possible(cls: Any, n_envs: int) -> None:
    model = make_masked(cls, n_envs=n_envs, as_dict=True, learning_starts=20)
    model.exploration_schedule = lambda _: 1.0
    model.learn(60, log_interval=10**6)
    observations = {
        "size": np.full((300, 1), 2 / LARGEST, np.float32),
        "mask": np.tile(np.array([[1, 1, 0, 0]], np.int8), (300, 1)),
    }
    model.exploration_rate = 1.0
    counts = np.bincount(model.predict(observations)[0], minlength=A)
    assert counts[2:].sum() == 0 and counts[:2].min() > 100
    one = {name: value[0] for name, value in observations.items()}
    assert {int(model.predict(one)[0]) for _ in range(30)} == {0, 1}


@each_value_based
@mask_given
def test_networks_that_mask_by_hand(cls: Any, how: str) -> None:
    """Random exploration then takes impossible actions, from which nothing is learned."""
    model = make_masked(cls, how, is_strict=False, exploration_initial_eps=1.0, exploration_final_eps=0.5)
    model.learn(100, log_interval=10**6)
    if how != "hook":
        assert model.env.get_attr("n_impossible")[0] > 5
    check_learned(model)
    observations = np.stack([env_observation(size) for size in range(1, LARGEST + 1)] * 20)
    for deterministic in (False, True):
        actions, _ = model.policy.predict(observations, deterministic=deterministic)
        assert mask_of(th.as_tensor(observations))[np.arange(len(actions)), actions].all()


def env_observation(size: int) -> np.ndarray:
    env = Pile()
    env.size = size
    return env.observe()


# A dueling network subtracts the mean over all advantages, those of masked actions included
UNIFORM = [variant for variant in VARIANTS if not {"policy_kwargs", "replay_buffer_class"} & set(variant[1])]


@pytest.mark.parametrize(("cls", "kwargs"), UNIFORM, ids=name_of)
def test_a_masked_action_is_as_absent(cls: Any, kwargs: dict[str, Any]) -> None:
    """The losses are those of a network whose output layer lacks the action."""
    masked = make_masked(cls, seed=3, **kwargs).learn(60, log_interval=10**6)
    batch, fewer = masked.replay_buffer.sample(16), A - 1
    allowed = th.arange(A) < fewer
    masked.q_net.allowed_actions = masked.q_net_target.allowed_actions = lambda obs: allowed.expand(len(obs), -1)
    small = small_model(cls, masked, fewer, kwargs)
    batch = batch._replace(actions=batch.actions.clamp(max=fewer - 1))
    results = []
    for model in (masked, small):
        th.manual_seed(5)
        results.append(model.compute_loss(batch, 0.9))
    th.testing.assert_close(results[0].losses, results[1].losses, rtol=1e-4, atol=1e-5)
    th.testing.assert_close(results[0].errors, results[1].errors, rtol=1e-4, atol=1e-5)
    for name, value in results[1].metrics.items():
        th.testing.assert_close(results[0].metrics[name], value, rtol=1e-4, atol=1e-5)


def small_model(cls: Any, model: Any, n_actions: int, kwargs: dict[str, Any]) -> Any:
    """The same networks without the outputs of the last actions."""

    class FewerActions(Pile):
        action_space = type(Pile.action_space)(n_actions)

    small = make(cls, FewerActions(), **kwargs)
    small.set_logger(configure(None, []))
    weights = small.policy.state_dict()
    small.policy.load_state_dict(
        {
            name: value[: len(weights[name])] if value.ndim else value
            for name, value in model.policy.state_dict().items()
        }
    )
    return small


def test_automatic_temperature_counts_the_possible_actions() -> None:
    model = make_masked(SoftDQN, auto_temperature=True, target_entropy_fraction=0.5)
    model.learn(60, log_interval=10**6)
    batch = model.replay_buffer.sample(16)
    counts = mask_of(batch.observations).sum(dim=1).tolist()
    assert len(set(counts)) > 1
    expected = sum(0.5 * math.log(count) for count in counts) / len(counts)
    assert model.compute_loss(batch, 0.9).metrics["target_entropy"].item() == pytest.approx(expected, rel=1e-5)


def test_the_diagnosis_counts_the_entropy_of_mellowmax() -> None:
    """Relative to a uniform policy over the possible actions: at a high temperature nothing is left."""
    model = make_masked(SoftDQN, target_backup="mellowmax", temperature_initial=1e4)
    observations = th.as_tensor(np.stack([env_observation(size) for size in range(1, LARGEST + 1)]))
    with th.no_grad():
        step = model.make_probe().step(observations)
    assert step.entropy_bonuses.abs().max() < 0.1
    assert mask_of(observations)[range(LARGEST), step.actions].all()


@each_value_based
def test_a_state_without_actions_that_is_not_terminal_stops_the_training(cls: Any) -> None:
    class NeverOver(Pile):
        def step(self, action: int) -> Any:
            observation, reward, is_over, _, info = super().step(action)
            return observation, reward, False, is_over, info

    model = make(cls, NeverOver(), masked_policy(cls, "hook"))
    with pytest.raises(ValueError, match="loss=inf"):
        model.learn(100)


@each_value_based
def test_masks_compile_into_one_graph(cls: Any) -> None:
    network = make_masked(cls).q_net
    observations = th.as_tensor(np.stack([env_observation(size) for size in range(1, LARGEST + 1)]))
    compiled = th.compile(network, fullgraph=True, backend="aot_eager")
    with th.no_grad():
        th.testing.assert_close(compiled(observations), network(observations))


@each_value_based
@pytest.mark.parametrize("wrong", ["dtype", "shape"])
def test_what_the_hook_returns_is_checked(cls: Any, wrong: str) -> None:
    class Wrong(NETWORKS[cls]):
        def allowed_actions(self, obs: Any) -> th.Tensor:
            return obs[:, -A:] if wrong == "dtype" else mask_of(obs)[:, 1:]

    policy = type("Wrong", (masked_policy(cls, "hook"),), {"network_class": Wrong})
    model = make(cls, Pile(), policy)
    with pytest.raises(ValueError, match=r"allowed_actions\(\) of Wrong .* must return booleans of shape \(B, A\)"):
        model.learn(100)


@each_variant
def test_diagnosis_of_a_masked_network(cls: Any, kwargs: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "diagnosis.csv"
    callback = DiagnosisCallback(eval_freq=40, n_episodes=3, csv_path=path, env=Pile(), seed=0, batch_size=32)
    make_masked(cls, **kwargs).learn(80, callback=callback)
    row = list(csv.DictReader(path.open()))[-1]
    for name in ("normalized_bias_mean", "q_mean", "mc_return_mean", "dead_units", "feature_rank"):
        assert abs(float(row[name])) < 100, name
    if cls is SoftDQN and kwargs.get("target_backup") != "max":
        assert 0 < float(row["policy_entropy"]) < math.log(A)
