"""A SAC that has become a REDQSAC goes on as SAC does."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from sb3_contrib import TQC
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import FakeImageEnv, SimpleMultiObsEnv
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ext import REDQSAC
from sb3_ext.redq_sac import CnnPolicy, MlpPolicy, MultiInputPolicy, from_sac
from tests.redq_sac.test_equivalence import DoubleFlatten, DoubleLinear, ensemble, extractor_state, stacked
from tests.support.models import make
from tests.support.states import assert_close, assert_equal


@pytest.fixture
def float64() -> Iterator[None]:
    """Adam amplifies the rounding of float32."""
    th.set_default_dtype(th.float64)
    yield
    th.set_default_dtype(th.float32)


VARIANTS = [
    {},
    {"n_critics": 3, "gradient_steps": 2, "target_entropy": -0.5, "ent_coef": 0.2},
    {"n_steps": 3, "target_update_interval": 7, "ent_coef": "auto_0.3"},
    {"vec_normalize": True, "n_envs": 2, "gradient_steps": -1, "train_freq": 4},
    {"use_sde": True},
    {"policy_kwargs": {"features_extractor_class": DoubleLinear}},
    {"policy_kwargs": {"features_extractor_class": DoubleLinear, "share_features_extractor": True}},
]


def small(variant: dict[str, Any]) -> SAC:
    """A SAC with some updates behind it, in float64."""
    variant = dict(variant)
    env = make_vec_env("Pendulum-v1", n_envs=variant.pop("n_envs", 1), seed=3)
    networks = dict(net_arch=[7, 5], n_critics=variant.pop("n_critics", 2), features_extractor_class=DoubleFlatten)
    networks |= variant.pop("policy_kwargs", {})
    env = VecNormalize(env, gamma=0.99) if variant.pop("vec_normalize", False) else env
    settings = dict(seed=3, learning_starts=20, batch_size=8, buffer_size=100, device="cpu") | variant
    return SAC("MlpPolicy", env, policy_kwargs=networks, **settings).learn(50)


def optimizer_states(model: Any) -> dict[str, th.Tensor]:
    """Of actor and temperature, which SAC and REDQSAC have in the same layout."""
    optimizers = {"actor": model.actor.optimizer, "temperature": model.ent_coef_optimizer}
    return {
        f"{name}.{index}.{key}": th.as_tensor(value, dtype=th.float64)
        for name, optimizer in optimizers.items()
        if optimizer is not None
        for index, slots in optimizer.state_dict()["state"].items()
        for key, value in slots.items()
    }


def assert_same(model: REDQSAC, sac: SAC, tolerance: float) -> None:
    assert_close(dict(model.actor.state_dict()), dict(sac.actor.state_dict()), tolerance)
    for part in ("critic", "critic_target"):
        assert_close(ensemble(getattr(model, part)), stacked(getattr(sac, part)), tolerance)
    if extractor_state(sac.critic):
        assert_close(extractor_state(model.critic), extractor_state(sac.critic), tolerance)
        assert_close(extractor_state(model.critic_target), extractor_state(sac.critic_target), tolerance)
    assert_close(optimizer_states(model), optimizer_states(sac), tolerance)
    if sac.log_ent_coef is not None:
        assert model.log_ent_coef.item() == pytest.approx(sac.log_ent_coef.item(), abs=1e-10)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("variant", "through_a_file"),
    [(variant, False) for variant in VARIANTS] + [(VARIANTS[2], True)],
)
def test_it_goes_on_as_sac(variant: dict[str, Any], through_a_file: bool, tmp_path: Path) -> None:
    sac = small(variant)
    if through_a_file:
        buffer = sac.replay_buffer
        sac.save(tmp_path / "sac")
        sac = SAC.load(tmp_path / "sac", env=sac.env)
        sac.replay_buffer = buffer
    model = from_sac(sac)
    assert_same(model, sac, tolerance=0.0)
    for name in ("num_timesteps", "_n_updates", "_episode_num", "gradient_steps", "train_freq", "env", "replay_buffer"):
        assert getattr(model, name) == getattr(sac, name), name
    assert model.get_vec_normalize_env() is sac.get_vec_normalize_env()
    assert model.replay_buffer_class is sac.replay_buffer_class
    assert type(model) is REDQSAC and sac._n_updates > 10

    before = ensemble(model.critic)["0.weight"].clone()
    for agent in (model, sac):
        agent.set_logger(configure(None, []))
        for _ in range(4):
            np.random.seed(agent._n_updates)
            th.manual_seed(agent._n_updates)
            agent.train(max(sac.gradient_steps, 1), 8)
    assert not th.equal(ensemble(model.critic)["0.weight"], before)
    assert_same(model, sac, tolerance=1e-9)
    model.learn(8, reset_num_timesteps=False)
    assert model.num_timesteps >= 58


@pytest.mark.parametrize(
    ("policy", "env", "expected"),
    [
        ("MlpPolicy", "Pendulum-v1", MlpPolicy),
        ("CnnPolicy", lambda: FakeImageEnv(36, 36, discrete=False), CnnPolicy),
        ("MultiInputPolicy", lambda: SimpleMultiObsEnv(discrete_actions=False), MultiInputPolicy),
    ],
)
def test_policies_and_files_without_an_environment(policy: str, env: Any, expected: Any, tmp_path: Path) -> None:
    extractor: Any = {"CnnPolicy": dict(features_dim=4), "MultiInputPolicy": dict(cnn_output_dim=4)}.get(policy)
    policy_kwargs = dict(net_arch=[8], features_extractor_kwargs=extractor)
    settings: dict[str, Any] = dict(buffer_size=50, batch_size=4, policy_kwargs=policy_kwargs, seed=0, device="cpu")
    sac = SAC(policy, make_vec_env(env), **settings)
    sac.save(tmp_path / "sac")
    model = from_sac(SAC.load(tmp_path / "sac", device="cpu"))
    assert type(model.policy) is expected and model.env is None
    assert_equal(dict(model.actor.state_dict()), dict(sac.actor.state_dict()))
    observation = sac.env.reset()
    actions = [agent.predict(observation, deterministic=True)[0] for agent in (model, sac)]
    assert (actions[0] == actions[1]).all()
    # And on as REDQ
    model.save(tmp_path / "redq")
    arguments: dict[str, Any] = dict(target_backup="redq", actor_q="mean", learning_starts=5)
    if policy != "MultiInputPolicy":
        arguments["n_steps"] = 3
    redq = REDQSAC.load(tmp_path / "redq", env=sac.env, **arguments)
    assert redq.effective_n_steps == arguments.get("n_steps", 1)
    redq.learn(10)
    assert redq.critic.n_critics == 2 and redq._n_updates == 5


def test_a_file_of_sac_is_refused_with_the_way_to_convert_it(tmp_path: Path) -> None:
    SAC("MlpPolicy", "Pendulum-v1", buffer_size=50, device="cpu").save(tmp_path / "sac")
    with pytest.raises(ValueError, match=r"policy=SACPolicy.*from_sac\(SAC\.load\(path\)\)"):
        REDQSAC.load(tmp_path / "sac")
    with pytest.raises(ValueError, match=r"policy=SACPolicy.*give 'MlpPolicy'"):
        REDQSAC(SAC.policy_aliases["MlpPolicy"], "Pendulum-v1")


class MySAC(SAC):
    pass


class MyPolicy(SAC.policy_aliases["MlpPolicy"]):  # type: ignore[misc]
    pass


@pytest.mark.parametrize(
    ("cls", "policy"), [(TQC, "MlpPolicy"), (MySAC, "MlpPolicy"), (SAC, MyPolicy), (REDQSAC, None)]
)
def test_other_models_are_refused(cls: Any, policy: Any) -> None:
    model = make() if cls is REDQSAC else cls(policy, "Pendulum-v1", buffer_size=50, device="cpu")
    with pytest.raises(ValueError, match=f"sac={cls.__name__} with the policy .*only SB3's own SAC"):
        from_sac(model)
