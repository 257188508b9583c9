"""
Special cases of REDQ-SAC that must be another algorithm, update for update.

In float64, because Adam amplifies the rounding of float32, and from the same seed: the ensemble is initialised as SB3's
critics are, and the random numbers are drawn in SB3's order.
"""

from typing import Any

import gymnasium as gym
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from stable_baselines3.common.utils import get_parameters_by_name
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from sb3_ext import REDQSAC
from tests.support.states import assert_close, assert_equal

SAC_SETTINGS: dict[str, Any] = dict(gradient_steps=1, policy_delay=1, target_backup="min", actor_q="min")


class DoubleFlatten(FlattenExtractor):
    def forward(self, observations: th.Tensor) -> th.Tensor:
        return super().forward(observations).double()


class DoubleLinear(BaseFeaturesExtractor):
    """An extractor with parameters and batch statistics, as a CNN with batch normalisation has."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, features_dim=5)
        self.net = nn.Sequential(nn.Linear(observation_space.shape[0], 5), nn.BatchNorm1d(5), nn.Tanh())

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.net(observations.double())


def trained(cls: type[SAC], n_critics: int, policy_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> SAC:
    vec_normalize = kwargs.pop("vec_normalize", False)
    # Short episodes: several end by time
    short = dict(max_episode_steps=45)
    env = make_vec_env("Pendulum-v1", n_envs=kwargs.pop("n_envs", 1), seed=3, env_kwargs=short)
    policy_kwargs = dict(net_arch=[16, 17], features_extractor_class=DoubleFlatten) | (policy_kwargs or {})
    settings = dict(seed=3, learning_starts=50, batch_size=32, device="cpu") | kwargs
    model = cls(
        "MlpPolicy",
        VecNormalize(env, gamma=0.99) if vec_normalize else env,
        policy_kwargs=policy_kwargs | {"n_critics": n_critics},
        **settings,
    )
    model.policy.double()
    # `double()` makes new buffers, and stock SAC would go on with the old ones
    model.batch_norm_stats = get_parameters_by_name(model.critic, ["running_"])
    model.batch_norm_stats_target = get_parameters_by_name(model.critic_target, ["running_"])
    if model.log_ent_coef is not None:
        model.log_ent_coef = model.log_ent_coef.detach().double().requires_grad_(True)
        model.ent_coef_optimizer = th.optim.Adam([model.log_ent_coef], lr=model.lr_schedule(1))
    return model.learn(120)


def stacked(critic: nn.Module) -> dict[str, th.Tensor]:
    """SB3's critics in the layout of the ensemble."""
    networks = [[layer for layer in network if isinstance(layer, nn.Linear)] for network in critic.q_networks]
    result = {}
    for index, layers in enumerate(zip(*networks, strict=True)):
        result[f"{index}.weight"] = th.stack([layer.weight.detach().T for layer in layers])
        result[f"{index}.bias"] = th.stack([layer.bias.detach() for layer in layers]).unsqueeze(1)
    return result


def ensemble(critic: nn.Module) -> dict[str, th.Tensor]:
    layers = [layer for layer in critic.ensemble.layers if hasattr(layer, "weight")]
    return {f"{i}.{name}": p.detach() for i, layer in enumerate(layers) for name, p in layer.named_parameters()}


def extractor_state(critic: nn.Module) -> dict[str, th.Tensor]:
    return critic.features_extractor.state_dict()


@pytest.mark.parametrize(
    "variant",
    [
        {},
        {"ent_coef": 0.2},
        {"n_steps": 3},
        {"n_envs": 3, "gradient_steps": -1},
        {"vec_normalize": True, "target_entropy": -0.5},
        {"use_sde": True, "sde_sample_freq": 4},
        {"tau": 1.0},
        {"policy_kwargs": {"features_extractor_class": DoubleLinear}},
        {"policy_kwargs": {"features_extractor_class": DoubleLinear, "share_features_extractor": True}},
    ],
    ids=lambda variant: ",".join(f"{k}={v}" for k, v in variant.items()) or "defaults",
)
def test_clipped_double_q_with_two_critics_is_sac(variant: dict[str, Any]) -> None:
    settings = SAC_SETTINGS | variant
    reference = trained(
        SAC, 2, gradient_steps=settings["gradient_steps"], **{k: v for k, v in variant.items() if k != "gradient_steps"}
    )
    model = trained(REDQSAC, 2, **settings)

    assert model._n_updates == reference._n_updates > 40
    assert_close(dict(model.actor.state_dict()), dict(reference.actor.state_dict()), tolerance=1e-9)
    assert_close(ensemble(model.critic), stacked(reference.critic), tolerance=1e-9)
    assert_close(ensemble(model.critic_target), stacked(reference.critic_target), tolerance=1e-9)
    if "policy_kwargs" in variant:
        assert_close(extractor_state(model.critic), extractor_state(reference.critic), tolerance=1e-9)
        assert_close(extractor_state(model.critic_target), extractor_state(reference.critic_target), tolerance=1e-9)
    if model.log_ent_coef is not None:
        th.testing.assert_close(model.log_ent_coef, reference.log_ent_coef, rtol=1e-10, atol=1e-10)
    for name in ("critic_loss", "actor_loss", "ent_coef"):
        assert model.logger.name_to_value[f"train/{name}"] == pytest.approx(
            reference.logger.name_to_value[f"train/{name}"]
        )


@pytest.mark.parametrize("n_critics", [1, 3])
def test_redq_with_the_whole_ensemble_is_min(n_critics: int) -> None:
    settings = dict(gradient_steps=3, policy_delay=2)
    redq = trained(REDQSAC, n_critics, target_backup="redq", subset_size=n_critics, **settings)
    minimum = trained(REDQSAC, n_critics, target_backup="min", **settings)
    assert_equal(dict(redq.policy.state_dict()), dict(minimum.policy.state_dict()))


@pytest.mark.parametrize("backup", ["redq", "min", "mean", "rem"])
def test_with_one_critic_every_backup_is_vanilla(backup: str) -> None:
    settings = dict(gradient_steps=3, policy_delay=2)
    model = trained(REDQSAC, 1, target_backup=backup, **settings)
    vanilla = trained(REDQSAC, 1, target_backup="vanilla", **settings)
    if backup == "rem":  # draws random numbers, though the only convex combination of one value is that value
        assert not th.equal(model.actor.mu.weight, vanilla.actor.mu.weight)
        return
    assert_equal(dict(model.policy.state_dict()), dict(vanilla.policy.state_dict()))


def test_the_random_subset_matters() -> None:
    """The equivalences above would hold trivially if the subset were never used."""
    redq = trained(REDQSAC, 3, target_backup="redq", subset_size=1, gradient_steps=3, policy_delay=2)
    minimum = trained(REDQSAC, 3, target_backup="min", gradient_steps=3, policy_delay=2)
    assert not th.equal(redq.actor.mu.weight, minimum.actor.mu.weight)


def test_blocks_of_updates_use_fresh_minibatches_and_move_the_target_each_time() -> None:
    """
    The block of 20 updates against the same updates written out, one by one, with SB3-style modules.
    """
    n_updates, batch_size, tau, gamma = 20, 8, 0.05, 0.9
    env = gym.make("Pendulum-v1")
    model = REDQSAC(
        "MlpPolicy",
        env,
        seed=0,
        learning_starts=500,
        tau=tau,
        gamma=gamma,
        ent_coef=0.3,
        target_backup="mean",
        policy_kwargs=dict(
            net_arch=[9], n_critics=3, features_extractor_class=DoubleFlatten, optimizer_class=th.optim.SGD
        ),
        learning_rate=0.01,
    )
    model.policy.double()
    model.learn(300)
    online = {k: v.clone() for k, v in model.critic.ensemble.state_dict().items()}
    target = {k: v.clone() for k, v in model.critic_target.ensemble.state_dict().items()}

    # What the block will draw: rows of the buffer, then the noise of the actor's sample, then that of the next actions
    recorded: dict[str, Any] = {}
    sample, draw_next_actions = model.replay_buffer.sample, model.updater.next_actions

    def recording_sample(*args: Any, **kwargs: Any) -> Any:
        recorded["samples"] = sample(*args, **kwargs)
        return recorded["samples"]

    def recording_policy(obs: th.Tensor) -> Any:
        recorded["next"] = draw_next_actions(obs)
        return recorded["next"]

    model.replay_buffer.sample = recording_sample  # type: ignore[method-assign]
    model.updater.next_actions = recording_policy  # type: ignore[method-assign]
    model.train(n_updates, batch_size)

    samples, (next_actions, next_log_prob) = recorded["samples"], recorded["next"]
    assert samples.rewards.shape == (n_updates * batch_size, 1)
    for update in range(n_updates):
        rows = list(range(update, n_updates * batch_size, n_updates))
        gradients = {name: th.zeros_like(value) for name, value in online.items()}
        for row in rows:
            next_input = th.cat([samples.next_observations[row].double(), next_actions[row]])
            next_q = [_q(target, i, next_input) for i in range(3)]
            y = samples.rewards[row] + gamma * (1 - samples.dones[row]) * (sum(next_q) / 3 - 0.3 * next_log_prob[row])
            for i in range(3):
                parameters = {k: v.clone().requires_grad_() for k, v in online.items()}
                q = _q(parameters, i, th.cat([samples.observations[row].double(), samples.actions[row].double()]))
                (0.5 * (q - y.detach()) ** 2 / batch_size).backward()
                for name, p in parameters.items():
                    gradients[name] += p.grad
        online = {name: value - 0.01 * gradients[name] for name, value in online.items()}
        target = {name: (1 - tau) * value + tau * online[name] for name, value in target.items()}
    for name, value in model.critic.ensemble.state_dict().items():
        th.testing.assert_close(value, online[name], rtol=1e-9, atol=1e-9)
    for name, value in model.critic_target.ensemble.state_dict().items():
        th.testing.assert_close(value, target[name], rtol=1e-9, atol=1e-9)


def _q(parameters: dict[str, th.Tensor], member: int, x: th.Tensor) -> th.Tensor:
    hidden = th.relu(x @ parameters["layers.0.weight"][member] + parameters["layers.0.bias"][member, 0])
    return hidden @ parameters["layers.2.weight"][member] + parameters["layers.2.bias"][member, 0]
