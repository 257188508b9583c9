"""Actor, temperature and target critics are updated when the number of critic updates says so."""

import io
from typing import Any

import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env

from sb3_ext import REDQSAC
from tests.support.models import make


@pytest.mark.parametrize(("delay", "interval"), [(1, 1), (4, 1), (1, 7), (6, 4)])
def test_delays_count_over_the_whole_run(delay: int, interval: int) -> None:
    """Actor and target move at the updates whose number says so, however train() was called."""
    model = make(policy_delay=delay, target_update_interval=interval, tau=1.0, gradient_steps=3)
    model.learn(21)
    for calls in (1, 2, 3, 1, 5, 2, 9, 1):
        for _ in range(calls):
            actor = model.actor.mu.weight.detach().clone()
            target = model.critic_target.ensemble.layers[0].weight.detach().clone()
            model.train(1, batch_size=16)
            assert th.equal(actor, model.actor.mu.weight) == (model._n_updates % delay != 0)
            moved = not th.equal(target, model.critic_target.ensemble.layers[0].weight)
            assert moved == (model._n_updates % interval == 0)


def test_the_actor_is_updated_within_a_long_call() -> None:
    """20 updates at a delay of 8, from update 3 on: the actor moves after updates 8 and 16, the temperature with it."""
    model = make(policy_delay=8, gradient_steps=3)
    model.learn(21)
    assert model._n_updates == 3
    steps_before = model.actor.optimizer.state_dict()["state"]
    assert steps_before == {}
    model.train(20, batch_size=16)
    assert {int(slots["step"]) for slots in model.actor.optimizer.state_dict()["state"].values()} == {2}
    assert {int(slots["step"]) for slots in model.ent_coef_optimizer.state_dict()["state"].values()} == {2}
    assert {int(slots["step"]) for slots in model.critic.optimizer.state_dict()["state"].values()} == {23}


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
    changed = REDQSAC.load(saved_file(model), env=model.env, gradient_steps=5)
    assert changed.policy_delay is None and changed.effective_policy_delay == 5


def saved_file(model: REDQSAC) -> Any:
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    return file
