"""DoubleDQN with distributions (C51), against plain loops over what its networks return."""

import math
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch as th

from sb3_ext import DoubleDQN, PrioritizedReplayBuffer
from sb3_ext.common.value_policies import ValueNetwork
from sb3_ext.double_dqn.policies import MlpPolicy
from sb3_ext.functional.categorical import categorical_cross_entropy
from tests.support.masked import Pile, mask_of, masked_policy
from tests.support.models import make
from tests.support.states import assert_trained_alike, reloaded
from tests.support.value_losses import (
    A,
    B,
    assert_gradient_is_that_of,
    discount_of,
    discounts_given,
    double_q_given,
    loss_of,
    make_batch,
    unlike_networks,
)
from tests.support.value_policies import IMAGES, N_INPUTS, make_policy

K, BOUND = 9, 4.0
CATEGORICAL: dict[str, Any] = dict(head="categorical", head_kwargs=dict(n_bins=K, bound=BOUND))
ATOMS = [-BOUND + 2 * BOUND * k / (K - 1) for k in range(K)]


def softmax(logits: list[float]) -> list[float]:
    best = max(logits)
    powers = [math.exp(x - best) for x in logits]
    return [power / sum(powers) for power in powers]


def distributions(network: Any, observation: th.Tensor) -> list[list[float]]:
    with th.no_grad():
        return [softmax(row) for row in network.outputs(observation.unsqueeze(0))[0].tolist()]


def mean(probabilities: list[float]) -> float:
    return sum(p * z for p, z in zip(probabilities, ATOMS, strict=True))


def project(probabilities: list[float], reward: float, discount: float) -> list[float]:
    """Algorithm 1 of the paper."""
    projected, width = [0.0] * K, 2 * BOUND / (K - 1)
    for p, z in zip(probabilities, ATOMS, strict=True):
        position = (min(max(reward + discount * z, -BOUND), BOUND) + BOUND) / width
        lower, upper = math.floor(position), math.ceil(position)
        if lower == upper:
            projected[lower] += p
        else:
            projected[lower] += p * (upper - position)
            projected[upper] += p * (position - lower)
    return projected


@discounts_given
@double_q_given
@pytest.mark.parametrize("dueling", [False, True])
def test_losses_and_gradients(double_q: bool, discounts: Any, dueling: bool) -> None:
    policy_kwargs = CATEGORICAL | dict(dueling=dueling)
    model, batch = unlike_networks(DoubleDQN, policy_kwargs, double_q=double_q, seed=3), make_batch()
    losses, errors, chosen, greedy = [], [], [], []
    for b in range(B):
        target = distributions(model.q_net_target, batch.next_observations[b])
        chooser = distributions(model.q_net, batch.next_observations[b]) if double_q else target
        chosen.append(max(range(A), key=lambda a, c=chooser: mean(c[a])))
        greedy.append(max(range(A), key=lambda a, t=target: mean(t[a])))
        discount = discount_of(discounts, b) * (1 - batch.dones[b].item())
        projected = project(target[chosen[b]], batch.rewards[b].item(), discount)
        assert sum(projected) == pytest.approx(1.0)
        log_p = model.q_net.outputs(batch.observations[b : b + 1])[0, int(batch.actions[b])].log_softmax(0)
        losses.append(-sum(p * log_p[k] for k, p in enumerate(projected)))
        # The divergence from the target, which is 0 for a perfect prediction
        errors.append(losses[-1].item() + sum(p * math.log(p) for p in projected if p > 0))
    assert (chosen != greedy) == double_q
    terms = loss_of(model, batch, discounts)
    assert terms.errors.tolist() == pytest.approx(errors, rel=1e-3, abs=1e-5)
    q_values = [mean(distributions(model.q_net, batch.observations[b])[int(batch.actions[b])]) for b in range(B)]
    assert terms.metrics["q_value"].item() == pytest.approx(sum(q_values) / B, abs=1e-5)
    assert_gradient_is_that_of(model, terms.losses, th.stack(losses))


def test_a_dueling_network_is_one_for_each_atom() -> None:
    policy = make_policy(DoubleDQN.policy_aliases["MlpPolicy"], net_arch=[6], dueling=True, **CATEGORICAL)
    (network,), observations = policy.q_net.q_net, th.randn(B, N_INPUTS)
    logits, value, advantages = policy.q_net.outputs(observations), network.value(observations), None
    advantages = network.advantage(observations).reshape(B, -1, K)
    n_actions = advantages.shape[1]
    assert logits.shape == (B, n_actions, K)
    for b in range(B):
        for k in range(K):
            column = [advantages[b, a, k].item() for a in range(n_actions)]
            for a in range(n_actions):
                expected = value[b, k].item() + column[a] - sum(column) / n_actions
                assert logits[b, a, k].item() == pytest.approx(expected, abs=1e-5)


def test_values_are_the_means() -> None:
    policy = make_policy(DoubleDQN.policy_aliases["MlpPolicy"], net_arch=[6], **CATEGORICAL)
    observations = th.randn(B, N_INPUTS)
    for row, observation in zip(policy.q_net(observations).tolist(), observations, strict=True):
        assert row == pytest.approx([mean(p) for p in distributions(policy.q_net, observation)], abs=1e-5)


def test_cross_entropy_by_hand() -> None:
    logits, targets = th.tensor([[0.0, math.log(3)]]), th.tensor([[0.5, 0.5]])
    expected = -0.5 * math.log(1 / 4) - 0.5 * math.log(3 / 4)
    assert categorical_cross_entropy(logits, targets).tolist() == pytest.approx([expected])


@pytest.mark.parametrize("options", [{}, dict(noisy="with_epsilon", normalization="layer", dueling=True)], ids=str)
@pytest.mark.parametrize("buffer_class", [None, PrioritizedReplayBuffer])
def test_training_continues_from_a_file_as_without_one(options: Any, buffer_class: Any, tmp_path: Any) -> None:
    policy_kwargs = dict(net_arch=[8]) | CATEGORICAL | options
    settings = dict(n_steps=4, n_steps_final=2, replay_buffer_class=buffer_class)
    model = make(DoubleDQN, policy_kwargs=policy_kwargs, **settings).learn(61)
    loaded = reloaded(model, tmp_path)
    assert loaded.q_net.n_outputs == K and loaded.q_net.head.bound == BOUND
    assert_trained_alike(model, loaded, 3)


def test_images() -> None:
    policy = make_policy(DoubleDQN.policy_aliases["CnnPolicy"], IMAGES, dueling=True, **CATEGORICAL)
    observations = th.randint(256, (B, *IMAGES.shape), dtype=th.uint8)
    assert policy.q_net.outputs(observations).shape == (B, *policy.q_net(observations).shape[1:], K)


@pytest.mark.parametrize(
    ("options", "settings", "message"),
    [
        (dict(head="quantile"), {}, "head='quantile' is not one of None, 'scalar', 'categorical'"),
        (
            dict(head="categorical", head_kwargs=dict(n_bins=1, bound=10)),
            {},
            "n_bins=1 must be an integer of at least 2",
        ),
        (dict(head="categorical", head_kwargs=dict(bound=0.0)), {}, "bound=0.0 must be a number from 1e-15 to 1e15"),
        (dict(head="categorical"), {}, r"head_kwargs=None: it needs head_kwargs=dict\(bound=...\), at least"),
        (dict(head="categorical", head_kwargs=dict(n_bins=5)), {}, r"head_kwargs=\{'n_bins': 5\}: it needs"),
        (dict(head_kwargs=dict(n_bins=5)), {}, r"head_kwargs=\{'n_bins': 5\} has no effect with head=None"),
        (CATEGORICAL, dict(target_clip=1.0), "target_clip=1.0 is not defined for head='categorical'"),
        (CATEGORICAL, dict(loss="mse"), "loss='mse' is not defined for head='categorical'"),
        (CATEGORICAL, dict(huber_delta=2.0), "huber_delta=2.0 is not defined for head='categorical'"),
    ],
)
def test_what_is_refused(options: dict[str, Any], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(DoubleDQN, policy_kwargs=dict(net_arch=[8]) | options, **settings)


@pytest.mark.parametrize("double_q", [False, True])
@pytest.mark.parametrize("how", ["hook", "-inf"])
def test_impossible_actions_are_in_no_target_and_teach_nothing(how: str, double_q: bool) -> None:
    policy = masked_policy(DoubleDQN, how, False, "categorical")
    settings = dict(exploration_initial_eps=1.0, exploration_final_eps=1.0, double_q=double_q)
    model = make(DoubleDQN, Pile(is_strict=False), policy, dict(net_arch=[8]) | CATEGORICAL, **settings).learn(60)
    model.policy._predict = None  # nothing acts any more
    batch = model.replay_buffer.sample(200)
    allowed = mask_of(batch.observations).gather(1, batch.actions).squeeze(1)
    # Impossible actions have the best distribution by far, if nothing masks them
    last = model.q_net_target.q_net[-2]
    last.bias.data[-K:] = th.linspace(-30, 30, K)
    next_probabilities = model._next_probabilities(batch)
    possible = mask_of(batch.next_observations)[:, -1]
    best = next_probabilities[:, -1] > 0.99
    assert not best[~possible].any() and (double_q or best[possible].all())
    assert possible.any() and not possible.all()
    terms = model.compute_loss(batch, 0.9)
    if how == "-inf":
        assert not allowed.all()
        assert (terms.losses[~allowed] == 0).all() and (terms.errors[~allowed] == 0).all()
    assert (terms.losses[allowed] > 0).all() and terms.metrics["q_value"].isfinite()


def test_a_compiled_network_stays_categorical() -> None:
    model = make(DoubleDQN, policy_kwargs=dict(net_arch=[8]) | CATEGORICAL, double_q=False).learn(40)
    batch = model.replay_buffer.sample(16)
    expected = model.compute_loss(batch, 0.9)
    model.q_net = th.compile(model.q_net)
    with th.compiler.set_stance("force_eager"):
        actual = model.compute_loss(batch, 0.9)
    assert th.equal(actual.losses, expected.losses) and th.equal(actual.errors, expected.errors)


def test_a_network_of_another_kind_is_refused() -> None:
    class Own(ValueNetwork):
        pass

    class OwnPolicy(MlpPolicy):
        network_class = Own

    with pytest.raises(ValueError, match="network_class=Own of OwnPolicy with head='categorical' must be a subclass"):
        make(DoubleDQN, policy=OwnPolicy, policy_kwargs=dict(net_arch=[8]) | CATEGORICAL)


class Rewards(gym.RewardWrapper):
    def reward(self, reward: Any) -> float:
        return 4.0 * float(reward)


@pytest.mark.parametrize(("bound", "warns"), [(10.0, True), (400.0, False)])
def test_returns_beyond_the_bins_are_said_once(bound: float, warns: bool, tmp_path: Path) -> None:
    kwargs = dict(policy_kwargs=dict(head="categorical", head_kwargs=dict(bound=bound)), gamma=0.99)
    model = make(DoubleDQN, Rewards(gym.make("CartPole-v1")), **kwargs)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.learn(60)
        model.learn(60, reset_num_timesteps=False)
    said = [str(each.message) for each in caught if "beyond bound" in str(each.message)]
    # 4 (1 + 0.99 + 0.99^2) = 11.9 is the first return beyond 10
    assert len(said) == warns
    assert all("return of 11.9 after 3 steps is beyond bound=10" in text for text in said)
    assert all("give a larger bound in policy_kwargs" in text for text in said)
    model.save(tmp_path / "model")
    assert DoubleDQN.load(tmp_path / "model", env=model.env)._return_scale is None
