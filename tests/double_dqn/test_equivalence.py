"""DoubleDQN with nothing switched on is SB3's DQN to the bit, so these tests compare with ``torch.equal``."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import FakeImageEnv, SimpleMultiObsEnv
from stable_baselines3.common.logger import configure
from stable_baselines3.common.utils import LinearSchedule, set_random_seed
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ext import DoubleDQN
from tests.support.states import assert_equal, state

STEPS = 240
SEED = 3
# oneDNN's products may differ from the default's in the last digit
NOTHING_ON: dict[str, Any] = dict(double_q=False, float32_matmul_precision=None)


class Images(FakeImageEnv):
    """SB3's, which has no rewards and no true ends, with both."""

    def __init__(self) -> None:
        super().__init__(action_dim=3, screen_height=36, screen_width=36)

    def step(self, action: Any) -> Any:
        observation, _, _, truncated, info = super().step(action)
        return observation, float(action) - observation.mean() / 128, self.current_step == 7, truncated, info


class LastLoss(BaseCallback):
    """The loss that is in the log at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float | None] = []

    def _on_step(self) -> bool:
        self.losses.append(self.logger.name_to_value.get("train/loss"))
        return True


def trained(cls: type[DQN], make_env: Callable[[], gym.Env], policy: str, **kwargs: Any) -> tuple[DQN, list[Any]]:
    total_timesteps, normalizes = kwargs.pop("total_timesteps", STEPS), kwargs.pop("normalizes", False)
    # Some of SB3's environments draw from NumPy's global generator when they are made
    set_random_seed(SEED)
    env = make_vec_env(make_env, n_envs=1, seed=SEED)
    env.observation_space.seed(SEED)
    env.envs[0].unwrapped.observation_space.seed(SEED)
    settings = dict(
        learning_rate=1e-3,
        learning_starts=40,
        train_freq=2,
        target_update_interval=50,
        buffer_size=150,
        exploration_fraction=0.5,
        exploration_final_eps=0.2,
    )
    model = cls(
        policy, VecNormalize(env, gamma=0.99) if normalizes else env, seed=SEED, device="cpu", **(settings | kwargs)
    )
    model.set_logger(configure(None, []))
    callback = LastLoss()
    model.learn(total_timesteps, callback, log_interval=10**6)
    return model, [*callback.losses, model.logger.name_to_value["train/loss"]]


def numbers(model: DQN) -> dict[str, th.Tensor]:
    """Both networks, the whole state of the optimiser, the transitions and the state of the random generators."""
    tensors = state(model)
    for name in ("actions", "rewards", "dones"):
        tensors[name] = th.as_tensor(getattr(model.replay_buffer, name))
    tensors["torch"] = th.get_rng_state()
    tensors["numpy"] = th.as_tensor(np.random.get_state()[1].astype(np.int64))
    return {name: tensor.clone() for name, tensor in tensors.items()}


def assert_is_dqn(make_env: Callable[[], gym.Env], policy: str, **kwargs: Any) -> DoubleDQN:
    reference, expected_losses = trained(DQN, make_env, policy, **kwargs)
    expected = numbers(reference)
    model, losses = trained(DoubleDQN, make_env, policy, **NOTHING_ON, **kwargs)
    actual = numbers(model)

    assert model._n_updates == reference._n_updates >= 20
    assert_equal(actual, expected)
    assert model.policy.optimizer.param_groups[0].keys() == reference.policy.optimizer.param_groups[0].keys()
    assert losses == expected_losses and len({loss for loss in losses if loss is not None}) >= 20
    # The target network has moved, and is not the online network
    initial = parameters_at_the_start(make_env, policy, kwargs)
    for part in ("q_net.", "q_net_target."):
        assert any(not th.equal(actual[name], v) for name, v in initial.items() if name.startswith(part)), part
    assert any(
        not th.equal(actual[name], actual[name.replace("q_net.", "q_net_target.", 1)])
        for name in initial
        if name.startswith("q_net.")
    )
    assert isinstance(model, DoubleDQN)
    return model


def parameters_at_the_start(
    make_env: Callable[[], gym.Env], policy: str, kwargs: dict[str, Any]
) -> dict[str, th.Tensor]:
    policy_kwargs = kwargs.get("policy_kwargs")
    set_random_seed(SEED)
    model = DQN(policy, make_env(), seed=SEED, device="cpu", buffer_size=1, policy_kwargs=policy_kwargs)
    return dict(model.policy.state_dict())


def cart_pole() -> gym.Env:
    return gym.make("CartPole-v1")


MLP = dict(policy_kwargs=dict(net_arch=[16, 17]))
CNN = dict(policy_kwargs=dict(net_arch=[9], features_extractor_kwargs=dict(features_dim=8)), total_timesteps=100)


@pytest.mark.parametrize("batch_size", [32, 24])
@pytest.mark.parametrize("n_steps", [1, 3])
def test_without_double_q_it_is_dqn(n_steps: int, batch_size: int) -> None:
    assert_is_dqn(cart_pole, "MlpPolicy", n_steps=n_steps, batch_size=batch_size, **MLP)


@pytest.mark.parametrize(
    "variant",
    [
        dict(normalizes=True),
        dict(normalizes=True, n_steps=3),
        dict(tau=0.01, target_update_interval=1),
        dict(learning_rate=LinearSchedule(1e-3, 1e-5, 0.8)),
        dict(train_freq=(1, "episode"), gradient_steps=1, total_timesteps=700),
        dict(optimize_memory_usage=True, replay_buffer_kwargs=dict(handle_timeout_termination=False)),
        dict(policy_kwargs=dict(net_arch=[16], optimizer_class=th.optim.SGD, optimizer_kwargs=dict(momentum=0.9))),
        dict(policy_kwargs=dict(net_arch=[])),
    ],
    ids=str,
)
def test_variants_are_dqn(variant: dict[str, Any]) -> None:
    assert_is_dqn(cart_pole, "MlpPolicy", **(MLP | variant))


def test_several_updates_in_a_row_are_dqn() -> None:
    assert_is_dqn(cart_pole, "MlpPolicy", gradient_steps=3, **MLP)


def test_clipped_gradients_are_dqn() -> None:
    model = assert_is_dqn(cart_pole, "MlpPolicy", max_grad_norm=0.05, **MLP)
    assert model.logger.name_to_value["train/grad_norm"] > 0.05


@pytest.mark.parametrize("n_steps", [1, 3])
def test_images_are_dqn(n_steps: int) -> None:
    assert_is_dqn(Images, "CnnPolicy", n_steps=n_steps, batch_size=8, **CNN)


def test_dictionaries_are_dqn() -> None:
    kwargs = dict(net_arch=[9], features_extractor_kwargs=dict(cnn_output_dim=8))
    assert_is_dqn(SimpleMultiObsEnv, "MultiInputPolicy", batch_size=8, policy_kwargs=kwargs, total_timesteps=100)


@pytest.mark.parametrize(
    "setting", [dict(double_q=True), dict(target_clip=0.1), dict(policy_kwargs=dict(net_arch=[16, 17], dueling=True))]
)
def test_what_is_switched_on_matters(setting: dict[str, Any]) -> None:
    """The equivalences above would hold trivially if the settings did nothing."""
    # So fast that the two networks soon differ in the action they find best
    kwargs = MLP | dict(learning_rate=1e-2)
    _, expected = trained(DQN, cart_pole, "MlpPolicy", **kwargs)
    _, losses = trained(DoubleDQN, cart_pole, "MlpPolicy", **(NOTHING_ON | kwargs | setting))
    assert len(losses) == len(expected) and losses != expected
