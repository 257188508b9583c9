"""REDQSAC recorded, as on a GPU: the same training as the plain one."""

import copy
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.envs import SimpleMultiObsEnv

from sb3_ext import REDQSAC, PrioritizedReplayBuffer
from sb3_ext.redq_sac.update import REDQUpdate
from sb3_ext.speed import recording
from tests.support import models
from tests.support.environments import images
from tests.support.recording import Recorded, Tape
from tests.support.states import assert_same_training

make = partial(models.make, cuda_graphs=True)

VARIANTS: list[dict[str, Any]] = [
    {},
    dict(ent_coef=0.2, backup_entropy=False),
    dict(gradient_steps=7, policy_delay=3, target_update_interval=2),
    dict(learning_rate_final=1e-5, learning_rate=1e-3),
    dict(actor_gradient="reinforce", n_actor_samples=3),
    dict(target_backup="rem"),
    dict(policy_kwargs=dict(dropout=0.2, layer_norm=True, n_critics=2)),
    dict(replay_buffer_class=PrioritizedReplayBuffer),
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_recorded_updates_are_the_plain_ones(variant: dict[str, Any]) -> None:
    plain, recorded = make(**variant).learn(40), make(Recorded, **variant).learn(40)
    # A recorded learning rate is a float32 tensor, so that it can change: rounding, for Adam's many updates
    assert_same_training(recorded, plain)
    tape = recorded.tape
    assert tape.replays > 0 and tape.records <= recording._MAX_RECORDINGS
    n_blocks = 20 if "gradient_steps" not in variant else None
    if n_blocks is not None:
        assert (tape.warm_ups, tape.records, tape.replays) == (3, 1, n_blocks - 3)
    names = set(plain.logger.name_to_value)
    assert names == set(recorded.logger.name_to_value)
    for name in names:
        if name.startswith("train/"):
            values = [model.logger.name_to_value[name] for model in (plain, recorded)]
            assert values[1] == pytest.approx(values[0], rel=1e-3, abs=1e-4), name


def test_recorded_images_and_dictionaries() -> None:
    kwargs = dict(policy_kwargs=dict(features_extractor_kwargs=dict(features_dim=8)))
    # The blocks of a GPU are longer than a CPU's for large observations, but not with 8 images of 40 x 40
    plain, recorded = (
        make(cls, images(), "CnnPolicy", gradient_steps=3, policy_delay=3, **kwargs).learn(30)
        for cls in (REDQSAC, Recorded)
    )
    assert_same_training(recorded, plain)
    assert recorded.tape.replays > 0
    dictionaries = SimpleMultiObsEnv(discrete_actions=False)
    plain, recorded = (
        make(cls, copy.deepcopy(dictionaries), "MultiInputPolicy", gradient_steps=2, policy_delay=2).learn(30)
        for cls in (REDQSAC, Recorded)
    )
    assert_same_training(recorded, plain)
    assert recorded.tape.replays > 0


def test_recordings_end_with_what_they_were_made_of(tmp_path: Path) -> None:
    """Loading, other parameters, another batch size, another tau, a copy: all train as a model without recordings."""
    models = [make(cls).learn(40) for cls in (REDQSAC, Recorded)]
    for model in models:
        model.save(tmp_path / type(model).__name__)
    loaded = [
        cls.load(tmp_path / cls.__name__, env=model.env) for cls, model in zip((REDQSAC, Recorded), models, strict=True)
    ]
    for model, again in zip(models, loaded, strict=True):
        again.replay_buffer = copy.deepcopy(model.replay_buffer)
        again.set_logger(model.logger)
    stages: list[Callable[[REDQSAC], Any]] = [
        lambda model: model.set_parameters(tmp_path / type(model).__name__),
        lambda model: setattr(model, "batch_size", 5),
        lambda model: setattr(model, "tau", 0.5),
        lambda model: setattr(model, "gamma", 0.5),
    ]
    for pair in (loaded, models):
        for stage in stages:
            for model in pair:
                stage(model)
                th.manual_seed(1)
                np.random.seed(1)
                for _ in range(6):
                    model.train(20, model.batch_size)
            assert_same_training(pair[1], pair[0], tolerance=1e-4)
    assert isinstance(loaded[1], Recorded) and loaded[1].tape.replays > 0
    assert models[1].tape.records >= 4


def test_recordings_go_on_until_an_address_changes() -> None:
    plain, recorded = make(gradient_steps=5, policy_delay=5), make(Recorded, gradient_steps=5, policy_delay=5)
    tape = recorded.tape

    def both(stage: Callable[[REDQSAC], Any]) -> tuple[int, int]:
        before = tape.records, tape.replays
        for model in (plain, recorded):
            th.manual_seed(1)
            np.random.seed(1)
            stage(model)
        assert_same_training(recorded, plain, tolerance=1e-4)
        return tape.records - before[0], tape.replays - before[1]

    def train(model: REDQSAC) -> None:
        for _ in range(6):
            model.train(5, 8)

    def with_a_new_optimizer(model: REDQSAC) -> None:
        model.critic.optimizer = th.optim.Adam(model.critic.parameters(), lr=1e-2)
        train(model)

    def with_other_momentum(model: REDQSAC) -> None:
        model.actor.optimizer.param_groups[0]["betas"] = (0.5, 0.9)
        train(model)

    def with_another_temperature(model: REDQSAC) -> None:
        model.log_ent_coef = th.zeros(1, requires_grad=True)
        model.ent_coef_optimizer = th.optim.Adam([model.log_ent_coef], lr=3e-4)
        train(model)

    assert both(lambda model: model.learn(40)) == (1, 17)
    # The same model goes on: in `learn()` and in `train()`
    assert both(lambda model: model.learn(10, reset_num_timesteps=False)) == (0, 10)
    assert both(train) == (0, 6)
    for stage in (with_a_new_optimizer, with_other_momentum, with_another_temperature):
        assert both(stage) == (1, 3), stage.__name__
        assert both(train) == (0, 6)
    recorded.actor_q = plain.actor_q = "min"
    assert both(train) == (1, 3)


def test_a_copy_of_a_model_trains_itself() -> None:
    model = make(Recorded).learn(40)
    before = copy.deepcopy(model.policy.state_dict())
    duplicate = copy.deepcopy(model)
    for _ in range(5):
        duplicate.train(20, 8)
    assert all(th.equal(value, before[name]) for name, value in model.policy.state_dict().items())
    assert not th.equal(duplicate.critic.ensemble.layers[0].weight, before["critic.ensemble.layers.0.weight"])


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (dict(use_sde=True), "use_sde=True"),
        (dict(subset_size=1.5), "subset_size=1.5: the number of critics varies"),
        (dict(policy_kwargs=dict(optimizer_class=th.optim.SGD)), "optimizer_class=SGD"),
    ],
    ids=str,
)
def test_what_cannot_be_recorded_is_said_once(settings: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=f"training goes on without CUDA graphs, because of {reason}") as caught:
        model = make(Recorded, **settings).learn(30)
    assert len([w for w in caught if "CUDA graphs" in str(w.message)]) == 1
    assert model.tape.warm_ups == 0 and model._n_updates > 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(Recorded, **{**settings, "cuda_graphs": False})
        make(REDQSAC, **settings)


def test_a_recording_that_fails_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: Tape, work: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(Tape, "record", failing)
    with pytest.warns(UserWarning, match="without CUDA graphs, which failed: operation not permitted") as caught:
        recorded = make(Recorded).learn(40)
    assert len(caught) == 1
    assert_same_training(recorded, make().learn(40))


def test_errors_of_the_work_itself_are_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(Recorded)

    def broken(*args: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(REDQUpdate, "step_critics", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        model.learn(30)


def test_only_so_many_recordings_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "_MAX_RECORDINGS", 2)
    settings = dict(gradient_steps=7, policy_delay=20)
    plain, recorded = make(**settings).learn(90), make(Recorded, **settings).learn(90)
    assert_same_training(recorded, plain)
    assert recorded.tape.records == 2
