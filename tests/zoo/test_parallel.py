"""rl_zoo3's ``ParallelTrainCallback``: acting and training at the same time."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import rl_zoo3.callbacks
import torch as th
from rl_zoo3.callbacks import ParallelTrainCallback
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ext import REDQSAC
from sb3_ext.zoo import register
from sb3_ext.zoo.plugin import patch_module
from tests.support.models import VALUE_BASED, make, make_normalized
from tests.support.states import assert_equal, state


class MyREDQ(REDQSAC):
    pass


@pytest.fixture(autouse=True)
def registered() -> None:
    register()


class Wait(BaseCallback):
    """Let the updates of an episode end, so that their number does not depend on the machine."""

    def __init__(self, callback: ParallelTrainCallback) -> None:
        super().__init__()
        self.callback = callback

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        if getattr(self.callback, "process", None) is not None:
            self.callback.process.join()


def learn(cls: Any, folder: Path, n_episodes: int, **kwargs: Any) -> tuple[Any, ParallelTrainCallback]:
    """Train in Pendulum-v1, with six updates after each episode."""
    callback = ParallelTrainCallback(gradient_steps=6)
    checkpoints = CheckpointCallback(500, str(folder))
    if cls is SAC:
        model: Any = SAC(
            "MlpPolicy", "Pendulum-v1", train_freq=(1, "episode"), policy_kwargs=dict(net_arch=[8]), device="cpu"
        )
    else:
        model = make(cls, train_freq=(1, "episode"), **kwargs)
    return model.learn(200 * n_episodes, [callback, Wait(callback), checkpoints]), callback


def test_it_trains_a_model_of_the_class_that_it_was_given(tmp_path: Path) -> None:
    model, callback = learn(REDQSAC, tmp_path, 4, learning_rate=1e-3, learning_rate_final=0.0)
    trained = callback._model
    assert type(trained) is type(model) is REDQSAC
    assert trained._n_updates == 24 and trained.critic.n_critics == 3
    initial = dict(make(REDQSAC, train_freq=(1, "episode")).policy.state_dict())
    for part in ("actor.", "critic.ensemble", "critic_target.ensemble"):
        state_dict = {name: value for name, value in trained.policy.state_dict().items() if name.startswith(part)}
        assert any(not th.equal(value, initial[name]) for name, value in state_dict.items()), part
    # Schedules follow the run: it ended with the last update
    assert trained.actor.optimizer.param_groups[0]["lr"] == pytest.approx(0.0)
    for name, steps, n_updates in (("end", 800, 24), ("rl_model_500_steps", 500, 12)):
        if name == "end":
            model.save(tmp_path / name)
        loaded = REDQSAC.load(tmp_path / name, env=model.env)
        assert (loaded.num_timesteps, loaded._n_updates) == (steps, n_updates)
    loaded = REDQSAC.load(tmp_path / "end", env=model.env)
    assert_equal(state(loaded), state(trained))
    loaded.learn(200, reset_num_timesteps=False)  # one episode
    assert loaded.num_timesteps == 1000 and loaded._n_updates > 24


def test_a_subclass_is_trained_as_what_it_is(tmp_path: Path) -> None:
    assert type(learn(MyREDQ, tmp_path, 1)[1]._model) is MyREDQ


def test_it_trains_on_normalized_observations(tmp_path: Path) -> None:
    env = VecNormalize(make_vec_env("Pendulum-v1"))
    model, callback = learn(REDQSAC, tmp_path, 1, env=env)
    assert callback._model.get_vec_normalize_env() is model.get_vec_normalize_env() is env


def test_returns_are_scaled_and_noise_is_held_by_what_the_acting_model_saw(tmp_path: Path) -> None:
    callback = ParallelTrainCallback(gradient_steps=2)
    model = make_normalized(train_freq=(1, "episode"), noise_repeat=4)
    model.learn(400, [callback, Wait(callback)])
    assert callback._model.return_scale == model.return_scale > 2
    scale, noise = model._return_scale.state(), model._held_noise.state()
    assert scale["count"] == 400
    model.save(tmp_path / "end")
    loaded = REDQSAC.load(tmp_path / "end")
    assert loaded._return_scale.state() == scale
    assert loaded._held_noise.state() == noise


class Slower(BaseCallback):
    """Lower the learning rate at the end of the first episode."""

    def _on_step(self) -> bool:
        if self.num_timesteps == 200:
            self.model.learning_rate = 1e-5
        return True


def test_a_callback_may_change_the_learning_rate() -> None:
    callback = ParallelTrainCallback(gradient_steps=2)
    model = make(train_freq=(1, "episode"), learning_rate=1e-3)
    model.learn(400, [Slower(), callback, Wait(callback)])
    rates = {optimizer.param_groups[0]["lr"] for optimizer in callback._model.updater.optimizers()}
    assert rates == {1e-5}


def test_priorities_are_refused() -> None:
    with pytest.raises(ValueError, match="ParallelTrainCallback with replay_buffer_class=PrioritizedReplayBuffer"):
        make(replay_buffer_class="PrioritizedReplayBuffer").learn(10, ParallelTrainCallback())


def test_other_models_are_trained_as_ever(tmp_path: Path) -> None:
    model, callback = learn(SAC, tmp_path, 2)
    assert type(callback._model) is SAC and callback._model._n_updates == 12
    model.save(tmp_path / "end")
    data, _, _ = load_from_zip_file(tmp_path / "end")
    assert data is not None and data["num_timesteps"] == 0  # rl_zoo3's own


@pytest.mark.parametrize("cls", VALUE_BASED)
def test_value_based_algorithms_are_refused(cls: Any) -> None:
    with pytest.raises(ValueError, match=f"ParallelTrainCallback with a {cls.__name__}.*only REDQSAC"):
        make(cls).learn(10, ParallelTrainCallback())


def test_an_end_before_the_first_update_is_no_error(tmp_path: Path) -> None:
    callback = ParallelTrainCallback()
    model = make(learning_starts=300, train_freq=(1, "episode")).learn(200, callback)
    model.save(tmp_path / "model")
    assert REDQSAC.load(tmp_path / "model").num_timesteps == 200


def test_registering_again_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(vars(ParallelTrainCallback))
    register()
    assert dict(vars(ParallelTrainCallback)) == before
    monkeypatch.delattr(rl_zoo3.callbacks, "ParallelTrainCallback")  # as a later rl_zoo3 may
    patch_module(rl_zoo3.callbacks)


class HugeRewards(gym.RewardWrapper):
    def reward(self, reward: Any) -> float:
        return 1e20 * float(reward)


def test_a_divergence_ends_the_run(tmp_path: Path) -> None:
    env = make_vec_env("Pendulum-v1", wrapper_class=HugeRewards)
    with pytest.raises(ValueError, match="the training has diverged"):
        learn(REDQSAC, tmp_path, n_episodes=3, env=env)


def test_a_callback_trains_again_after_an_error(tmp_path: Path) -> None:
    callback = ParallelTrainCallback(gradient_steps=2)
    model = make(train_freq=(1, "episode"), env=make_vec_env("Pendulum-v1", wrapper_class=HugeRewards))
    with pytest.raises(ValueError, match="diverged"):
        model.learn(600, [callback, Wait(callback)])
    model = make(train_freq=(1, "episode"))
    model.learn(600, [callback, Wait(callback)])
    assert callback._model._n_updates > 0
