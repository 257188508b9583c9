"""
An argument given to ``load()`` holds whatever was saved, or is refused.

The constructor is the oracle: an untrained file that is loaded with an argument becomes the model that is made with it.
"""

import inspect
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.utils import LinearSchedule

from sb3_ext import IQN, REDQSAC, PrioritizedReplayBuffer
from tests.support.models import CLASSES, make
from tests.support.states import assert_equal, state

# Another value than the saved one for each argument of a constructor
VALUES: dict[str, Any] = dict(
    learning_rate=LinearSchedule(3e-3, 1e-3, 1.0),
    buffer_size=9,
    learning_starts=6,
    batch_size=5,
    tau=0.3,
    gamma=0.8,
    train_freq=(3, "step"),
    gradient_steps=3,
    action_noise=NormalActionNoise(np.zeros(1), np.full(1, 0.2)),
    replay_buffer_class=PrioritizedReplayBuffer,
    replay_buffer_kwargs=dict(handle_timeout_termination=False),
    n_steps=2,
    ent_coef="auto_0.5",
    target_update_interval=3,
    target_entropy=-3.0,
    sde_sample_freq=2,
    use_sde_at_warmup=True,
    stats_window_size=5,
    tensorboard_log="somewhere",
    verbose=2,
    seed=5,
    subset_size=1.5,
    policy_delay=2,
    actor_gradient="reinforce",
    n_actor_samples=2,
    actor_q="min",
    backup_entropy=False,
    random_steps=3,
    learning_rate_final=1e-5,
    compile=True,
    autocast_dtype="bfloat16",
    float32_matmul_precision="medium",
    cuda_graphs=True,
    buffer_device="auto",
    noise_repeat=4,
    normalize_returns=True,
    qf_learning_rate=1e-5,
    exploration_fraction=1.0,
    exploration_initial_eps=0.7,
    exploration_final_eps=0.3,
    max_grad_norm=0.1,
    target_clip=0.2,
    temperature_initial=0.4,
    temperature_final=0.3,
    temperature_fraction=1.0,
    auto_temperature=True,
    n_quantile_samples=6,
    n_target_quantile_samples=6,
    n_action_quantile_samples=6,
    kappa=0.5,
    # With what gives them an effect
    reinforce_baseline=dict(reinforce_baseline="none", actor_gradient="reinforce"),
    normalize_advantage=dict(normalize_advantage=True, actor_gradient="reinforce"),
    learning_rate_fraction=dict(learning_rate_fraction=0.5, learning_rate_final=1e-5),
    n_steps_final=dict(n_steps_final=2, n_steps=3),
    n_steps_fraction=dict(n_steps_fraction=0.5, n_steps_final=2, n_steps=3),
    exploration_decay=dict(exploration_decay="exponential", exploration_initial_eps=0.9, exploration_final_eps=0.1),
    loss="mse",
    huber_delta=0.5,
    n_step_correction=dict(n_step_correction="retrace", n_steps=3),
    trace_lambda=dict(trace_lambda=0.5, n_step_correction="retrace", n_steps=3),
    reset_interval=3,
    reset_shrink=dict(reset_shrink=0.2, reset_interval=3),
    reset_fraction=dict(reset_fraction=0.9, reset_interval=3),
    priority_error=dict(priority_error="absolute", replay_buffer_class="PrioritizedReplayBuffer"),
    target_entropy_fraction=dict(target_entropy_fraction=0.3, auto_temperature=True),
    munchausen_coef=dict(munchausen_coef=0.9, double_q=False),
    munchausen_temperature=dict(munchausen_temperature=0.5, munchausen_coef=0.9),
    munchausen_clip=dict(munchausen_clip=-0.5, munchausen_coef=0.9, double_q=False),
    risk_measure=dict(risk_measure="cvar", risk_eta=0.5),
    optimize_memory_usage=dict(optimize_memory_usage=True, replay_buffer_kwargs=dict(handle_timeout_termination=False)),
    risk_eta=dict(risk_eta=0.5, risk_measure="cvar"),
)
# Arguments of `load()` itself, and those that decide on the networks
OTHERS = {"self", "policy", "env", "device", "policy_kwargs", "use_sde", "_init_setup_model"}
# These need critics with batch normalization: tests/redq_sac/test_normalized_arguments.py
OTHERS |= {"target_network", "joint_gradient"}
# It needs images: tests/common/test_augmentation.py
OTHERS |= {"augmentation"}
SMALL: dict[str, Any] = dict(learning_starts=8, buffer_size=100, seed=0)


def settings_of(cls: Any) -> dict[str, Any]:
    return SMALL | (dict(gradient_steps=2) if cls is REDQSAC else dict(train_freq=2, target_update_interval=4))


def walk() -> list[Any]:
    """Every argument of every class, and whether to train: once for what value-based classes have in common."""
    cases, trained = [], set()
    for cls in CLASSES:
        for name in inspect.signature(cls.__init__).parameters:
            key = cls is REDQSAC, name
            if name not in OTHERS:
                # Compilation takes long
                trains = key not in trained and name != "compile"
                cases.append(pytest.param(cls, name, trains, id=f"{cls.__name__}-{name}"))
                trained.add(key)
    return cases


def given(cls: Any, name: str) -> dict[str, Any]:
    if name == "target_backup":
        value = "mean" if cls is REDQSAC else "boltzmann"
    elif name == "double_q":
        value = not inspect.signature(cls.__init__).parameters[name].default
    elif name == "n_step_correction" and cls is IQN:
        value = dict(n_step_correction="cut", n_steps=3)
    else:
        value = VALUES[name]
    return value if isinstance(value, dict) and name in value else {name: value}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Path]:
    folder = tmp_path_factory.mktemp("untrained")
    for cls in CLASSES:
        make(cls, **settings_of(cls)).save(folder / cls.__name__)
    return {cls: folder / cls.__name__ for cls in CLASSES}


def plain(values: Any) -> dict[str, Any]:
    """The attributes that are numbers, texts and the like."""
    types = (int, float, str, tuple, type, type(None))
    return {name: value for name, value in vars(values).items() if isinstance(value, types)}


def begin(model: Any) -> Any:
    np.random.seed(7)
    th.manual_seed(7)
    model.env.seed(7)
    model.action_space.seed(7)
    return model


@pytest.mark.parametrize(("cls", "name", "trains"), walk())
def test_loading_with_an_argument_is_making_with_it(
    cls: Any, name: str, trains: bool, files: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)  # of the folder for tensorboard
    arguments = given(cls, name)
    made = make(cls, **(settings_of(cls) | arguments))
    if name == "seed":
        made.set_parameters(files[cls])
    env = gym.make(made.env.envs[0].spec.id)
    way: Any = arguments if trains else dict(custom_objects=arguments)
    loaded = cls.load(files[cls], env=env, device="cpu", **way)
    assert plain(loaded) == plain(made)
    assert plain(loaded.replay_buffer) == plain(made.replay_buffer)
    assert_equal(state(loaded), state(made))
    if trains:
        for model in (made, loaded):
            begin(model).learn(11, log_interval=1000)
        assert made._n_updates > 0
        assert_equal(state(loaded), state(made))
        assert loaded.ep_info_buffer.maxlen == made.ep_info_buffer.maxlen
