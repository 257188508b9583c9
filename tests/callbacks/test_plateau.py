"""The learning rate falls when evaluations stop improving, and a file goes on with the lower one."""

from pathlib import Path
from typing import Any

import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import CallbackList, EvalCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_ext import REDQSAC, DoubleDQN
from sb3_ext.callbacks import ReduceLearningRateOnPlateau
from sb3_ext.schedules import Scaled
from tests.support.models import make


class Fixed(EvalCallback):
    """Evaluations whose results are written down here."""

    def __init__(self, results: list[float], eval_freq: int) -> None:
        super().__init__(make_vec_env("CartPole-v1", 1), eval_freq=eval_freq, n_eval_episodes=1, verbose=0)
        self.results = results

    def _on_step(self) -> bool:
        if self.n_calls % self.eval_freq == 0:
            self.last_mean_reward = self.results[self.n_calls // self.eval_freq - 1]
        return True


def rates(results: list[float], model: Any, total: int = 100, first: bool = False, **kwargs: Any) -> list[float]:
    """The learning rate of the model after each evaluation."""
    evaluation, plateau = Fixed(results, 10), ReduceLearningRateOnPlateau(**kwargs)
    seen: list[float] = []

    class Notes(ReduceLearningRateOnPlateau):
        def _on_training_start(self) -> None:
            pass

        def _on_step(self) -> bool:
            if evaluation.n_calls % 10 == 2 and evaluation.n_calls > 10:
                seen.append(self.model.lr_schedule(1.0))
            return True

    callbacks = [plateau, evaluation] if first else [evaluation, plateau]
    model.learn(total, callback=CallbackList([*callbacks, Notes()]))
    return seen


@pytest.mark.parametrize("first", [False, True])
def test_it_falls_after_evaluations_without_a_new_best(first: bool) -> None:
    # The best is 5. Two evaluations without a better one halve the rate: after the 4th and, as 6 comes, the 8th
    results = [1.0, 5.0, 4.0, 5.0, 6.0, 2.0, 3.0, 1.0, 1.0, 9.0]
    found = rates(results, make(DoubleDQN, learning_rate=0.8), first=first, patience=2)
    assert found == pytest.approx([0.8, 0.8, 0.8, 0.4, 0.4, 0.4, 0.2, 0.2, 0.1])


def test_small_gains_may_not_count_and_the_factor_has_a_floor() -> None:
    found = rates(
        [1.0, 1.5, 1.9, 3.0, 1, 1, 1, 1, 1, 1],
        make(DoubleDQN, learning_rate=1.0),
        patience=1,
        min_delta=1.0,
        min_factor=0.3,
    )
    assert found == pytest.approx([1.0, 0.5, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3])


@pytest.mark.parametrize("cls", [REDQSAC, DoubleDQN])
def test_a_file_goes_on_with_the_lower_rate(cls: Any, tmp_path: Path) -> None:
    model = make(cls, learning_rate="lin_1e-3")
    rates([2.0] + [1.0] * 9, model, patience=3)
    assert model.learning_rate == Scaled(model.learning_rate.schedule, 0.125)
    model.save(tmp_path / "model")
    loaded = cls.load(tmp_path / "model")
    assert loaded.lr_schedule(0.5) == pytest.approx(0.5e-3 / 8)


def test_stock_algorithms_take_it() -> None:
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=20, batch_size=20, learning_rate=1e-3)
    rates([3.0] + [1.0] * 9, model, patience=4)
    assert model.lr_schedule(1.0) == pytest.approx(0.25e-3)
    model.learn(40)
    assert model.policy.optimizer.param_groups[0]["lr"] == pytest.approx(0.25e-3)


def test_what_is_refused() -> None:
    for arguments, message in (
        (dict(factor=1.0), r"factor=1.0 must be in \(0, 1\)"),
        (dict(patience=0), "patience=0 must be an integer of at least 1"),
        (dict(min_delta=-1.0), "min_delta=-1.0 must be a number >= 0"),
        (dict(min_factor=1.5), r"min_factor=1.5 must be in \[0, 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            ReduceLearningRateOnPlateau(**arguments)
    with pytest.raises(ValueError, match="needs an EvalCallback in the same list"):
        make(DoubleDQN).learn(30, callback=ReduceLearningRateOnPlateau())
    with pytest.raises(ValueError, match="with learning_rate_final=1e-05: both lower the learning rate"):
        rates([1.0] * 10, make(DoubleDQN, learning_rate_final=1e-5))


def test_the_critics_own_rate_falls_too() -> None:
    model = make(REDQSAC, learning_rate=0.8e-3, qf_learning_rate=0.4e-3, env="Pendulum-v1")
    rates([1.0, 0.0, 0.0, 0.0], model, total=40, patience=1, min_factor=0.25)
    assert model.lr_schedule(1.0) == pytest.approx(0.2e-3) and model.qf_lr_schedule(1.0) == pytest.approx(0.1e-3)
    model.train(1, 8)
    actor, critic = (each.optimizer.param_groups[0]["lr"] for each in (model.actor, model.critic))
    assert (actor, critic) == pytest.approx((0.2e-3, 0.1e-3))
