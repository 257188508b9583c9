"""REDQSAC with normalized networks: every setting learns, and acts by statistics that only training moves."""

import copy
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import SimpleMultiObsEnv
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_ext import REDQSAC, PrioritizedReplayBuffer
from sb3_ext.functional.ensemble import TARGET_BACKUPS
from sb3_ext.nets.layers import EnsembleLinear, OutputLinear
from sb3_ext.nets.normalization import EnsembleBatchNorm, EnsembleRMSNorm
from tests.support.models import make, make_normalized
from tests.support.states import assert_equal, state

BY_BATCH = ("batch", "batch_renorm")


def learn_and_check(total_timesteps: int = 30, **kwargs: Any) -> REDQSAC:
    """A model of which every parameter and every statistic has moved, to a finite number."""
    model = make_normalized(**kwargs)
    before = copy.deepcopy(model.policy.state_dict())
    model.learn(total_timesteps)
    assert model._n_updates >= 20
    moved = {name for name, value in model.policy.state_dict().items() if not th.equal(value, before[name])}
    still = before.keys() - moved
    if model.policy.critic_body.normalization != "batch_renorm":  # which alone counts its updates
        still = {name for name in still if not name.endswith("n_batches")}
    assert not still and any(name.startswith("critic_target.") for name in moved)
    for name, value in model.policy.state_dict().items():
        assert th.isfinite(value).all(), name
    return model


@pytest.mark.parametrize("n_blocks", [0, 1])
@pytest.mark.parametrize("head", ["scalar", "categorical"])
@pytest.mark.parametrize("normalization", [None, "layer", "rms", *BY_BATCH])
def test_every_network_learns(normalization: str | None, head: str, n_blocks: int) -> None:
    learn_and_check(policy_kwargs=dict(normalization=normalization, head=head, n_blocks=n_blocks))


@pytest.mark.parametrize("joint_gradient", ["half", "full"])
@pytest.mark.parametrize("target_network", ["ema", "none"])
@pytest.mark.parametrize("policy_kwargs", [dict(n_blocks=0, normalization="batch_renorm", head="scalar"), {}], ids=str)
def test_every_source_of_next_values_learns(
    policy_kwargs: dict[str, Any], target_network: str, joint_gradient: str
) -> None:
    learn_and_check(target_network=target_network, joint_gradient=joint_gradient, policy_kwargs=policy_kwargs)


@pytest.mark.parametrize("target_network", ["ema", "none"])
@pytest.mark.parametrize("target_backup", TARGET_BACKUPS)
def test_every_backup_learns(target_backup: str, target_network: str) -> None:
    model = learn_and_check(target_backup=target_backup, target_network=target_network, policy_kwargs=dict(n_critics=3))
    assert model.critic.n_critics == 3 and model.critic.head.n_outputs == 101


@pytest.mark.parametrize("n_critics", [1, 2, 5])
def test_every_size_of_the_ensemble_learns(n_critics: int) -> None:
    learn_and_check(target_network="none", policy_kwargs=dict(n_critics=n_critics))


@pytest.mark.parametrize(
    "settings",
    [
        dict(actor_gradient="reinforce"),
        dict(actor_gradient="reinforce", n_actor_samples=3),
        dict(actor_q="min", n_actor_samples=2),
        dict(env=dict(n_envs=2), gradient_steps=4),
        dict(replay_buffer_class=PrioritizedReplayBuffer),
        dict(n_steps=3, target_network="none"),
        dict(n_steps=3, replay_buffer_class=PrioritizedReplayBuffer, target_network="none"),
        dict(backup_entropy=False, ent_coef=0.1),
        dict(subset_size=1.5, policy_kwargs=dict(n_critics=3), target_network="none"),
        dict(policy_kwargs=dict(activation_fn=th.nn.Tanh, actor_expansion=3)),
        dict(policy_kwargs=dict(head_kwargs=dict(n_bins=7, bound=50.0), weight_projection=False)),
        dict(gradient_steps=5, policy_delay=3, target_update_interval=2),
    ],
    ids=str,
)
def test_settings(settings: dict[str, Any]) -> None:
    settings = dict(settings)
    if "env" in settings:
        settings["env"] = make_vec_env("Pendulum-v1", **settings["env"])
    learn_and_check(**settings)


@pytest.mark.parametrize("target_network", ["ema", "none"])
def test_dictionary_observations(target_network: str) -> None:
    learn_and_check(
        env=SimpleMultiObsEnv(discrete_actions=False),
        policy="NormalizedMultiInputPolicy",
        target_network=target_network,
        policy_kwargs=dict(features_extractor_kwargs=dict(cnn_output_dim=4)),
    )


@pytest.mark.parametrize(
    ("policy_kwargs", "n_expected"), [({}, 15), (dict(n_blocks=0, normalization="rms", head="scalar"), 6)], ids=str
)
def test_weights_have_their_norms_after_training(policy_kwargs: dict[str, Any], n_expected: int) -> None:
    """Biases of linear layers stay as they are, and so do the target critics, which are averages."""
    model = make_normalized(policy_kwargs=policy_kwargs).learn(30)
    n_layers = 0
    for module in (*model.actor.modules(), *model.critic.modules()):
        if isinstance(module, EnsembleLinear) and module.weight.shape[-1] == 1:
            continue  # values of critics, which a norm would limit
        if isinstance(module, (EnsembleLinear, OutputLinear)):
            inputs = 1 if isinstance(module, OutputLinear) else -2
            norms = module.weight.norm(dim=inputs)
            th.testing.assert_close(norms, th.ones_like(norms))
        elif isinstance(module, (EnsembleBatchNorm, EnsembleRMSNorm)):
            squares = module.weight.square().sum(dim=-1)
            squares += 0 if module.bias is None else module.bias.square().sum(dim=-1)
            th.testing.assert_close(squares, th.full_like(squares, module.n_features))
        else:
            continue
        n_layers += 1
    assert n_layers == n_expected
    free = make_normalized(policy_kwargs=dict(**policy_kwargs, weight_projection=False)).learn(30)
    assert not th.allclose(free.actor.mu.weight.norm(dim=1), th.ones(1))


def test_frozen_weights_keep_their_norm() -> None:
    model = make_normalized().learn(24)
    weight = model.critic.ensemble.layers[-1].weight.requires_grad_(False)
    with th.no_grad():
        weight.mul_(2)
    before = weight.clone()
    model.learn(4, reset_num_timesteps=False)
    assert th.equal(weight, before)


def statistics(network: Any) -> dict[str, th.Tensor]:
    return {name: buffer.clone() for name, buffer in network.named_buffers() if "running_" in name}


@pytest.mark.parametrize("normalization", BY_BATCH)
def test_only_training_moves_statistics(normalization: str) -> None:
    model = make_normalized(policy_kwargs=dict(normalization=normalization), policy_delay=2).learn(24)
    env = model.get_env()
    before = {name: statistics(network) for name, network in (("actor", model.actor), ("critic", model.critic))}
    assert len(before["actor"]) == len(before["critic"]) == 6
    obs = env.observation_space.sample()
    for mode in (True, False):
        model.policy.set_training_mode(mode)
        model.predict(obs)
        with th.no_grad():
            model.critic(th.zeros(5, 3), th.zeros(5, 1))
            model.actor.action_log_prob(th.zeros(5, 3))
    evaluate_policy(model, env, n_eval_episodes=1)
    model.learning_starts = 1000
    model.learn(10, reset_num_timesteps=False)  # collects only
    assert_equal(statistics(model.actor), before["actor"])
    assert_equal(statistics(model.critic), before["critic"])
    model.train(1, 16)  # one update of the critics, none of the actor
    assert_equal(statistics(model.actor), before["actor"])
    assert all(not th.equal(value, before["critic"][name]) for name, value in statistics(model.critic).items())
    assert_equal(statistics(model.critic_target), statistics(model.critic))
    model.train(1, 16)
    assert all(not th.equal(value, before["actor"][name]) for name, value in statistics(model.actor).items())


def test_statistics_of_a_replaced_layer_move() -> None:
    model = make_normalized().learn(24)
    for network, layers in (
        (model.critic, model.critic.ensemble.layers),
        (model.actor, model.actor.latent_pi.network.layers),
    ):
        layers[2][1] = copy.deepcopy(layers[2][1])
        network.optimizer = th.optim.Adam(network.parameters(), lr=1e-3)
    before = [statistics(network) for network in (model.actor, model.critic)]
    model.train(2, 16)
    for network, old in zip((model.actor, model.critic), before, strict=True):
        assert all(not th.equal(value, old[name]) for name, value in statistics(network).items())


def test_target_critics_count_as_the_critics_do() -> None:
    """Batch renormalization begins after a number of updates, in the target critics, too."""
    model = make_normalized(policy_kwargs=dict(normalization="batch_renorm")).learn(30)
    counts = [
        [int(buffer) for name, buffer in network.named_buffers() if name.endswith("n_batches")]
        for network in (model.critic, model.critic_target)
    ]
    assert counts[0] == counts[1] == [model._n_updates] * 2


def test_an_action_does_not_depend_on_the_other_observations() -> None:
    model = make_normalized().learn(40)
    observations = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    together, _ = model.predict(observations, deterministic=True)
    alone = np.stack([model.predict(row, deterministic=True)[0] for row in observations])
    assert len(np.unique(together)) == 9
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-6)


def test_the_standard_deviation_of_the_actor() -> None:
    actor, obs = make_normalized().actor, th.randn(5, 3)
    with th.no_grad():
        actor.log_std.bias.fill_(100.0)
        th.testing.assert_close(actor.get_action_dist_params(obs)[1], th.full((5, 1), 2.0))
        actor.log_std.bias.fill_(-100.0)
        th.testing.assert_close(actor.get_action_dist_params(obs)[1], th.full((5, 1), -10.0))
        actor.log_std.weight.zero_()
        actor.log_std.bias.fill_(0.5)
        th.testing.assert_close(actor.get_action_dist_params(obs)[1], th.full((5, 1), -4 + 6 * float(np.tanh(0.5))))


def reseed() -> None:
    np.random.seed(7)
    th.manual_seed(7)


def test_without_normalization_the_training_is_that_of_the_plain_policy() -> None:
    """With the same actor, since that of a normalized policy bounds its standard deviation in another way."""
    settings: dict[str, Any] = dict(batch_size=16, gradient_steps=4, policy_delay=2)
    plain = make(**settings)
    off = dict(normalization=None, weight_projection=False, n_blocks=0, head="scalar", n_critics=3)
    model = make_normalized(policy_kwargs=off, normalize_returns=False, **settings)
    model.critic.load_state_dict(plain.critic.state_dict())
    model.critic_target.load_state_dict(plain.critic_target.state_dict())
    model.actor = model.policy.actor = copy.deepcopy(plain.actor)
    for each in (plain, model):
        reseed()
        each.learn(40)
    assert plain._n_updates == 80
    assert_equal(state(model), state(plain))


@pytest.mark.parametrize("target_network", ["ema", "none"])
def test_the_loss_by_networks_of_torch(target_network: str) -> None:
    """Next values come from a pass of all rows: of the critics themselves, or of the target critics."""
    model = make_normalized(
        target_network=target_network,
        target_backup="mean",
        ent_coef=0.3,
        policy_kwargs=dict(head="scalar"),
    ).learn(30)
    for parameter in model.critic_target.parameters():
        parameter.data += 0.05
    minibatch = model.replay_buffer.sample(16)
    next_actions, bonus = th.rand(16, 1) * 2 - 1, th.rand(16)
    rows = (
        th.cat([minibatch.observations, minibatch.actions], 1),
        th.cat([minibatch.next_observations, next_actions], 1),
    )

    def values(critic: Any) -> th.Tensor:
        members = [critic.ensemble.member(index).train() for index in range(2)]
        return th.cat([member(th.cat(rows)) for member in members], dim=1).T.detach()

    online, target = values(model.critic), values(model.critic_target)
    assert not th.allclose(online, target, atol=1e-3)
    next_values = (online if target_network == "none" else target)[:, 16:].mean(dim=0) + bonus
    targets = minibatch.rewards[:, 0] + 0.99 * (1 - minibatch.dones[:, 0]) * next_values
    expected = 0.5 * ((online[:, :16] - targets) ** 2).mean(dim=1).sum()
    model.policy.set_training_mode(True)
    loss = model.updater.step_critics_with_targets(minibatch, next_actions, bonus, None, None)[0]
    th.testing.assert_close(loss, expected)
