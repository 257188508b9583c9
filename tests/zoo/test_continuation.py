"""``python -m rl_zoo3.train -i model.zip``: what the command line says holds, or is refused."""

import sys
from pathlib import Path
from typing import Any

import pytest
import rl_zoo3.train
import torch as th
import yaml

from sb3_ext import IQN, REDQSAC, PrioritizedReplayBuffer, SoftDQN
from sb3_ext.zoo import ZOO_ALGORITHMS, register
from tests.support.models import CLASSES, make

SMALL = ("learning_starts:5", "batch_size:4", "gradient_steps:1", "buffer_size:100")
SAME_POLICY = "policy_kwargs:dict(n_critics=3, net_arch=[8])"
OTHER_POLICY = "policy_kwargs:dict(n_critics=2, net_arch=[8])"


@pytest.fixture
def go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that saves a model, continues it by rl_zoo3's command line, and returns what that saves."""
    register()

    def run(model: Any, *params: str, options: tuple[str, ...] = ()) -> Any:
        model.save(tmp_path / "model.zip")
        algo = next(name for name, entry in ZOO_ALGORITHMS.items() if entry.algorithm_class is type(model))
        env = "Pendulum-v1" if algo == "redq_sac" else "CartPole-v1"
        names = ("--algo", algo, "--env", env, "-i", str(tmp_path / "model.zip"), "-f", str(tmp_path / "logs"))
        short = ("-n", "12", "--eval-freq", "-1", "--verbose", "0", "--device", "cpu", *options)
        monkeypatch.setattr(sys, "argv", ["train", *names, *short, "-params", *SMALL, *params])
        rl_zoo3.train.train()
        (result,) = (tmp_path / "logs" / algo).glob(f"{env}_*/{env}.zip")
        return type(model).load(result)

    return run


@pytest.mark.parametrize(
    ("saved", "given", "temperature"),
    [("auto", "0.02", 0.02), (0.1, "'auto_0.5'", 0.5)],
)
def test_the_given_ent_coef_holds(saved: Any, given: str, temperature: float, go_on: Any) -> None:
    model = make(REDQSAC, ent_coef=saved).learn(30)
    # Without a learning rate, what is learned stays where it started
    result = go_on(model, f"ent_coef:{given}", "learning_rate:0.0")
    assert result._n_updates > model._n_updates
    assert result._temperature().ent_coef().item() == pytest.approx(temperature)


def test_a_learned_ent_coef_goes_on_where_it_is_repeated(go_on: Any) -> None:
    model = make(REDQSAC, ent_coef="auto").learn(30)
    result = go_on(model, "ent_coef:'auto'", "learning_rate:0.0", SAME_POLICY)
    assert result._temperature().ent_coef() == model._temperature().ent_coef() != 1.0


def test_a_temperature_is_learned_from_the_given_one(go_on: Any) -> None:
    learned = (
        "auto_temperature:True",
        "temperature_initial:0.3",
        "temperature_final:None",
        "temperature_fraction:None",
    )
    result = go_on(make(SoftDQN).learn(30), *learned, "learning_rate:0.0")
    assert result.temperature == pytest.approx(0.3)


@pytest.mark.parametrize("cls", CLASSES)
def test_given_schedules_hold_and_the_rest_goes_on(cls: Any, go_on: Any) -> None:
    model = make(cls, learning_rate=1e-3).learn(30)
    given = ["learning_rate:0.0", "learning_rate_final:0.0"]
    if cls is not REDQSAC:
        given += ["exploration_initial_eps:0.5", "exploration_final_eps:0.25", "exploration_fraction:1e-9"]
    if cls is SoftDQN:
        given += ["temperature_initial:0.4", "temperature_final:0.2", "temperature_fraction:1e-9"]
    if cls is IQN:
        given += ["risk_measure:'cvar'", "risk_eta:0.25"]
    result = go_on(model, *given)
    assert result._n_updates > model._n_updates
    # With no learning rate the weights are those that were saved
    before_and_after = [getattr(m, "critic" if cls is REDQSAC else "q_net").parameters() for m in (model, result)]
    for before, after in zip(*before_and_after, strict=True):
        assert th.equal(before, after)
    assert result.lr_schedule(1.0) == result.lr_schedule(0.0) == 0.0
    if cls is not REDQSAC:
        assert result.exploration_rate == 0.25
    if cls is SoftDQN:
        assert result.temperature == pytest.approx(0.2)
    if cls is IQN:
        assert (result.q_net.risk_measure, result.q_net.risk_eta) == ("cvar", 0.25)


def test_other_networks_are_refused(go_on: Any, tmp_path: Path) -> None:
    model = make(REDQSAC)
    with pytest.raises(ValueError, match=r"policy_kwargs={'n_critics': 2, 'net_arch'.* are not the saved ones"):
        go_on(model, OTHER_POLICY)
    with pytest.raises(ValueError, match="policy='CnnPolicy' is not the saved one"):
        go_on(model, "policy:'CnnPolicy'")
    entry = dict(n_timesteps=12, policy="MlpPolicy", policy_kwargs="dict(n_critics=2, net_arch=[8])")
    (tmp_path / "own.yml").write_text(yaml.dump({"default": entry}))
    with pytest.raises(ValueError, match="are not the saved ones"):
        go_on(model, options=("--conf-file", str(tmp_path / "own.yml")))


def test_another_replay_buffer_is_refused(go_on: Any, tmp_path: Path) -> None:
    model = make(
        SoftDQN, buffer_size=100, replay_buffer_class=PrioritizedReplayBuffer, replay_buffer_kwargs=dict(alpha=0.6)
    )
    model.learn(10)
    model.save_replay_buffer(tmp_path / "replay_buffer.pkl")
    prioritized = "replay_buffer_class:'PrioritizedReplayBuffer'"
    with pytest.raises(ValueError, match="saved replay buffer has buffer_size=100, not 50 as given"):
        go_on(model, "buffer_size:50")
    with pytest.raises(ValueError, match=r"saved replay buffer has alpha=0.6, not 0.3 as given"):
        go_on(model, prioritized, "replay_buffer_kwargs:dict(alpha=0.3)")
    with pytest.raises(ValueError, match="replay_buffer_class=DeviceReplayBuffer is not the saved one, Prioritized"):
        go_on(model, "replay_buffer_class:'DeviceReplayBuffer'", "replay_buffer_kwargs:{}")
    assert go_on(model, prioritized, "train_freq:4", "replay_buffer_kwargs:dict(alpha=0.6)").num_timesteps == 12
