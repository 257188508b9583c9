"""REDQSAC compiled: the same training as the plain one."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.envs import SimpleMultiObsEnv
from stable_baselines3.common.torch_layers import FlattenExtractor

from sb3_ext import REDQSAC, PrioritizedReplayBuffer
from sb3_ext.nets import ChannelsLastCNN
from sb3_ext.speed.evaluation import NetworkEvaluator
from tests.support.environments import images
from tests.support.models import make
from tests.support.recording import Recorded
from tests.support.states import assert_same_training


@pytest.mark.usefixtures("fresh_compiler", "no_excuses")
@pytest.mark.parametrize("variant", [{}, dict(actor_gradient="reinforce", n_actor_samples=2)], ids=str)
def test_compiled_updates_are_the_plain_ones(variant: dict[str, Any], tmp_path: Path) -> None:
    compiled = make(compile=True, **variant).learn(24)
    assert_same_training(compiled, make(**variant).learn(24), tolerance=1e-4)
    compiled.save(tmp_path / "model")
    assert REDQSAC.load(tmp_path / "model").compile


class BatchNormExtractor(FlattenExtractor):
    """Has buffers that its forward pass changes."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space)
        self.normalize = th.nn.BatchNorm1d(self.features_dim)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.normalize(super().forward(observations))


IMAGES = dict(policy="CnnPolicy", env="images", gradient_steps=2, policy_delay=2)
SMALL_CNN: dict[str, Any] = dict(features_extractor_kwargs=dict(features_dim=8))


@pytest.mark.usefixtures("traced_only", "no_excuses")
@pytest.mark.parametrize(
    "variant",
    [
        dict(replay_buffer_class=PrioritizedReplayBuffer),
        dict(**IMAGES, policy_kwargs=SMALL_CNN),
        dict(policy="MultiInputPolicy", env="dictionaries"),
        dict(use_sde=True, gradient_steps=2),
        *(
            pytest.param(variant, marks=pytest.mark.slow)
            for variant in (
                dict(target_backup="rem"),
                dict(target_backup="doubleq", n_steps=3),
                dict(**IMAGES, policy_kwargs=dict(**SMALL_CNN, share_features_extractor=True)),
                dict(**IMAGES, policy_kwargs=dict(**SMALL_CNN, features_extractor_class=ChannelsLastCNN)),
                dict(subset_size=1.5),
                dict(policy_kwargs=dict(optimizer_class=th.optim.AdamW)),
            )
        ),
    ],
    ids=str,
)
def test_traced_updates_are_the_plain_ones(variant: dict[str, Any]) -> None:
    envs = {"images": images(), "dictionaries": SimpleMultiObsEnv(discrete_actions=False), "Pendulum-v1": "Pendulum-v1"}
    env = envs[variant.get("env", "Pendulum-v1")]
    plain, compiled = (make(**{**variant, "env": copy.deepcopy(env)}, compile=c).learn(24) for c in (False, True))
    assert_same_training(compiled, plain, tolerance=1e-4)
    assert compiled.logger.name_to_value["train/critic_loss"] == pytest.approx(
        plain.logger.name_to_value["train/critic_loss"], rel=1e-3
    )


def test_batch_normalization_is_not_compiled() -> None:
    kwargs = dict(policy_kwargs=dict(features_extractor_class=BatchNormExtractor))
    with pytest.warns(UserWarning, match="compile=True has no effect on networks with torch's batch normalization"):
        model = make(compile=True, **kwargs).learn(24)
    assert_same_training(model, make(**kwargs).learn(24), tolerance=0.0)


@pytest.mark.usefixtures("traced_only", "no_excuses")
def test_compiled_updates_leave_frozen_layers_alone() -> None:
    models = []
    for is_compiled in (False, True):
        models.append(make(compile=is_compiled).learn(24))
        weight = models[-1].critic.ensemble.layers[0].weight.requires_grad_(False)
        before = weight.clone()
        models[-1].learn(4, reset_num_timesteps=False)
        assert th.equal(weight, before)
    assert_same_training(*models, tolerance=1e-4)


@pytest.mark.usefixtures("fresh_compiler", "no_excuses")
def test_blocks_of_all_sizes_share_one_compiled_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    compile_really = th.compile

    def counting(function: Callable[..., Any], **kwargs: Any) -> Callable[..., Any]:
        def backend(graph: Callable[..., Any], inputs: Any) -> Callable[..., Any]:
            compiled.append(function.__name__)
            return graph

        return compile_really(function, backend=backend, **kwargs)

    monkeypatch.setattr(th, "compile", counting)
    settings = dict(gradient_steps=7, policy_delay=3)  # blocks of 3, 3, 1, 2, ... minibatches
    model = make(compile=True, **settings).learn(40)
    # One loss of the critics and one of the actor
    assert compiled.count("functional") == 2 and model._n_updates == 140
    assert_same_training(model, make(**settings).learn(40), tolerance=1e-4)


@pytest.mark.usefixtures("traced_only", "no_excuses")
def test_compiled_updates_are_recorded() -> None:
    plain, recorded = make().learn(40), make(Recorded, compile=True, cuda_graphs=True).learn(40)
    assert_same_training(recorded, plain, tolerance=1e-4)
    assert recorded.tape.replays == 17


@pytest.mark.usefixtures("traced_only", "no_excuses")
def test_compiled_dropout_drops() -> None:
    model = make(compile=True, policy_kwargs=dict(dropout=0.5, n_critics=2)).learn(24)
    assert model._n_updates == 80
    minibatch, targets = model.replay_buffer.sample(8), th.zeros(2, 8)
    model.policy.set_training_mode(True)
    state = copy.deepcopy(model.critic.state_dict())
    losses = []
    for _ in range(2):
        model.critic.load_state_dict(state)
        losses.append(model.updater.step_critics(minibatch, targets)[0])
    assert losses[0] != losses[1]


@pytest.mark.usefixtures("traced_only", "no_excuses")
def test_compiled_lower_precision_is_the_plain_one() -> None:
    plain, compiled = (make(autocast_dtype="bfloat16", compile=c).learn(24) for c in (False, True))
    assert_same_training(compiled, plain, tolerance=1e-3)
    assert all(parameter.grad.dtype == th.float32 for parameter in compiled.critic.parameters())


@pytest.mark.usefixtures("traced_only", "no_excuses")
def test_networks_are_compiled_with_their_gradient_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """There a CPU's objection does not hold."""
    plain = make().learn(24)
    monkeypatch.setattr(NetworkEvaluator, "is_compiled", lambda self, differentiable: self.compile)
    assert_same_training(make(compile=True).learn(24), plain, tolerance=1e-4)


@pytest.mark.usefixtures("traced_only", "no_excuses")
def test_compiling_can_begin_at_any_time(tmp_path: Path) -> None:
    """In a model that has learned without, in a copy of it, in a loaded one."""
    model = make().learn(24)
    model.save(tmp_path / "model")
    loaded = REDQSAC.load(tmp_path / "model", env=model.env, compile=True)
    loaded.replay_buffer = copy.deepcopy(model.replay_buffer)
    loaded.set_logger(model.logger)
    duplicate = copy.deepcopy(model)
    duplicate.compile = True
    for each in (model, duplicate, loaded):
        th.manual_seed(1)
        np.random.seed(1)
        each.train(40, 8)
    assert_same_training(duplicate, model, tolerance=1e-4)
    assert_same_training(loaded, model, tolerance=1e-4)


def test_updates_without_a_compiler_are_the_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(function: Callable[..., Any], **kwargs: Any) -> Callable[..., Any]:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(th, "compile", failing)
    with pytest.warns(UserWarning, match="compile=True has no effect from here on: .* no C\\+\\+ compiler"):
        model = make(compile=True).learn(24)
    assert_same_training(model, make().learn(24), tolerance=0.0)
