"""Small models of all algorithms."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch as th

from sb3_ext import IQN, REDQSAC, DoubleDQN, SoftDQN

VALUE_BASED: list[Any] = [DoubleDQN, SoftDQN, IQN]
CLASSES: list[Any] = [REDQSAC, *VALUE_BASED]
each_value_based = pytest.mark.parametrize("cls", VALUE_BASED)


def settings_of(cls: Any) -> dict[str, Any]:
    """Arguments with which a model is small, and learns from time step 20 on."""
    settings: dict[str, Any] = dict(learning_starts=20, buffer_size=500, device="cpu")
    if issubclass(cls, REDQSAC):
        return settings | dict(batch_size=8, seed=0)
    settings |= dict(learning_rate=1e-3, batch_size=16, train_freq=2, target_update_interval=20, seed=1)
    if issubclass(cls, IQN):
        settings |= dict(n_quantile_samples=3, n_target_quantile_samples=4, n_action_quantile_samples=5)
    return settings


def make(
    cls: Any = REDQSAC,
    env: Any = None,
    policy: Any = "MlpPolicy",
    policy_kwargs: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Any:
    """
    :param env: Pendulum or CartPole by default
    :param policy_kwargs: besides one small hidden layer and, of REDQSAC, three critics
    """
    networks: dict[str, Any] = dict(net_arch=[8])
    if issubclass(cls, REDQSAC):
        networks["n_critics"] = 3
    if env is None:
        env = "Pendulum-v1" if issubclass(cls, REDQSAC) else "CartPole-v1"
    return cls(policy, env, policy_kwargs=networks | (policy_kwargs or {}), **(settings_of(cls) | kwargs))


def make_normalized(
    cls: Any = REDQSAC,
    env: Any = None,
    policy: Any = "NormalizedMlpPolicy",
    policy_kwargs: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Any:
    """
    A REDQSAC whose networks are normalized and have one small block, or one small hidden layer with ``n_blocks=0``.

    It makes two updates of critics and actor after each step from time step 20 on. Rewards are scaled to the bins.

    :param env: Pendulum by default
    """
    networks: dict[str, Any] = dict(n_blocks=1) | (policy_kwargs or {})
    small = dict(net_arch=[8]) if networks["n_blocks"] == 0 else dict(width=8, expansion=2, actor_width=8)
    networks = small | networks
    settings = (
        settings_of(REDQSAC) | dict(batch_size=16, gradient_steps=2, policy_delay=1, normalize_returns=True) | kwargs
    )
    return cls(policy, "Pendulum-v1" if env is None else env, policy_kwargs=networks, **settings)


def learn_and_check(cls: Any = REDQSAC, env: Any = None, total_timesteps: int = 200, **kwargs: Any) -> Any:
    """A model all of whose networks have learned, to finite numbers."""
    model = make(cls, env, **kwargs)
    is_actor_critic = issubclass(cls, REDQSAC)
    parts = ("actor.", "critic.ensemble", "critic_target.ensemble") if is_actor_critic else ("q_net.", "q_net_target.")
    initial = {name: value.clone() for name, value in model.policy.state_dict().items()}
    model.learn(total_timesteps)
    assert model._n_updates >= 10
    state_dict = model.policy.state_dict()
    changed = {name for name, value in state_dict.items() if not th.equal(value, initial[name])}
    for part in parts:
        learned = {name for name in changed if name.startswith(part)}
        assert learned - {"q_net.temperature", "q_net_target.temperature"}, f"{part} did not learn"
    for name, value in state_dict.items():
        assert th.isfinite(value).all(), name
    return model


#: Of REDQSAC, after 30 random steps
check_redq = partial(
    learn_and_check,
    REDQSAC,
    total_timesteps=60,
    learning_starts=30,
    batch_size=16,
    gradient_steps=4,
    policy_delay=2,
)


def assert_refused(cls: Any, message: str, file: Path, **kwargs: Any) -> None:
    """
    :param file: a saved model, since `load` writes arguments past the constructor
    """
    with pytest.raises(ValueError, match=message):
        make(cls, **kwargs)
    with pytest.raises(ValueError, match=message):
        cls.load(file, **kwargs)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Path]:
    """A saved model of each value-based algorithm."""
    folder = tmp_path_factory.mktemp("saved")
    for cls in VALUE_BASED:
        make(cls).save(folder / cls.__name__)
    return {cls: folder / cls.__name__ for cls in VALUE_BASED}
