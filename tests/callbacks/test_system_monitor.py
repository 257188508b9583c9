"""Where the time of a training goes, by a clock that only the test moves."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import pytest
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv, VecNormalize

from sb3_ext import BC, DoubleDQN
from sb3_ext.callbacks import SystemMonitorCallback, system_monitor
from tests.support.models import make


class Clock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Slow(gym.Wrapper):
    """A step takes some seconds."""

    def __init__(self, env: gym.Env, clock: Clock, seconds: float) -> None:
        super().__init__(env)
        self.clock, self.seconds = clock, seconds

    def step(self, action: Any) -> Any:
        self.clock.now += self.seconds
        return self.env.step(action)


class Records(BaseCallback):
    """Keeps what is logged, and takes one second a step."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.seen: list[dict[str, float]] = []

    def _on_step(self) -> bool:
        values = {k.removeprefix("system/"): v for k, v in self.logger.name_to_value.items() if "system" in k}
        if values:
            self.seen.append(values)
            for name in values:
                del self.logger.name_to_value[f"system/{name}"]
        self.clock.now += 1.0
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr(system_monitor, "time", SimpleNamespace(perf_counter=fake))
    return fake


def slow(clock: Clock, seconds: float) -> gym.Env:
    return Slow(gym.wrappers.TimeLimit(gym.make("CartPole-v1").unwrapped, 4), clock, seconds)


def test_shares_of_an_off_policy_training(clock: Clock) -> None:
    """10 steps of 3 s, 10 updates of 2 s, an evaluation of 4 steps of 5 s, and 10 s of another callback."""
    model = DQN("MlpPolicy", slow(clock, 3.0), learning_starts=0, train_freq=1)
    train = type(model).train

    def slow_train(*args: Any, **kwargs: Any) -> None:
        clock.now += 2.0
        train(model, *args, **kwargs)

    model.train = slow_train
    evaluation = EvalCallback(slow(clock, 5.0), eval_freq=10, n_eval_episodes=1, verbose=0)
    records = Records(clock)
    monitor = SystemMonitorCallback(log_freq=10)
    model.learn(31, callback=[evaluation, monitor, records])
    assert len(records.seen) == 3
    for values in records.seen:
        for name, seconds in dict(environment=30.0, update=20.0, evaluation=20.0, other=10.0).items():
            assert values[name] == pytest.approx(seconds / 80.0), name
        assert values["memory_gb"] > 0.05


def test_shares_of_an_on_policy_training(clock: Clock) -> None:
    model = PPO("MlpPolicy", slow(clock, 3.0), n_steps=8, batch_size=8)
    train = type(model).train

    def slow_train() -> None:
        clock.now += 40.0
        train(model)

    model.train = slow_train
    records = Records(clock)
    model.learn(32, callback=[SystemMonitorCallback(log_freq=5), records])
    assert len(records.seen) == 3
    for values in records.seen:
        assert values["update"] == pytest.approx(40.0 / (40.0 + 8 * 3.0 + 8))
        assert sum(values[name] for name in ("environment", "update", "evaluation", "other")) == pytest.approx(1.0)


def test_processor_seconds_of_all_processes(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process 1 uses 0.5 s in each second, 2 has just been started and used 3 s, 3 has ended."""
    readings = iter([{1: 10.0, 3: 50.0}, {1: 12.0, 2: 3.0}, {1: 12.0}])
    monkeypatch.setattr(system_monitor, "_cpu_seconds", lambda: next(readings))
    records = Records(clock)
    PPO("MlpPolicy", slow(clock, 0.5), n_steps=2, batch_size=2).learn(4, callback=[SystemMonitorCallback(2), records])
    (values,) = records.seen
    assert values["cpu_cores"] == pytest.approx((2.0 + 3.0) / (2 * 0.5 + 2 * 1.0))


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    env = VecNormalize(make_vec_env("CartPole-v1", 1))
    evaluation = EvalCallback(VecNormalize(make_vec_env("CartPole-v1", 1), training=False), eval_freq=10, verbose=0)
    model = DQN("MlpPolicy", env, learning_starts=0)
    saving = CheckpointCallback(5, str(tmp_path), save_vecnormalize=True)

    class Interrupts(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == 15:
                raise KeyboardInterrupt
            return True

    monitor = SystemMonitorCallback(log_freq=5)
    with pytest.raises(KeyboardInterrupt):
        model.learn(30, callback=[evaluation, monitor, saving, Interrupts()])
    env.save(str(tmp_path / "statistics.pkl"))
    model.save(tmp_path / "model")
    model.learn(10, callback=[evaluation, monitor, saving])
    assert not {"step", "step_wait"} & {*vars(env), *vars(env.unwrapped)} and "on_step" not in vars(evaluation)


def test_an_algorithm_without_rollouts_is_refused() -> None:
    model = BC("MlpPolicy", "CartPole-v1", expert=PPO("MlpPolicy", "CartPole-v1"), n_demonstrations=20)
    with pytest.raises(ValueError, match="needs an algorithm that collects rollouts, which BC does not"):
        model.learn(5, callback=SystemMonitorCallback())


def test_subprocesses_count() -> None:
    env = make_vec_env("CartPole-v1", 2, vec_env_cls=SubprocVecEnv)
    records = Records(Clock())
    PPO("MlpPolicy", env, n_steps=8, batch_size=8).learn(32, callback=[SystemMonitorCallback(8), records])
    env.close()
    assert records.seen[0]["memory_gb"] > 1.2 * system_monitor.psutil.Process().memory_info().rss / 1e9


def test_log_freq_is_checked() -> None:
    with pytest.raises(ValueError, match="log_freq=0"):
        SystemMonitorCallback(log_freq=0)


class Copies(BaseCallback):
    """Copies the model in the middle of the training."""

    duplicate: Any = None

    def _on_step(self) -> bool:
        if self.num_timesteps == 20:
            self.duplicate = copy.deepcopy(self.model)
        return True


def test_a_copy_of_the_model_has_its_own_environment() -> None:
    copies = Copies()
    model = make(DoubleDQN).learn(40, callback=[SystemMonitorCallback(), copies])
    env = copies.duplicate.get_env()
    assert env is not model.get_env()
    before = copy.deepcopy(model.get_env().envs[0].unwrapped.state)
    there = copy.deepcopy(env.envs[0].unwrapped.state)
    env.step([0])
    assert (model.get_env().envs[0].unwrapped.state == before).all()
    assert (env.envs[0].unwrapped.state != there).any()
