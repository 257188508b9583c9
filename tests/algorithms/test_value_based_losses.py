"""
What the value-based algorithms make of a minibatch, against plain loops over what their networks return.

B transitions, A actions, T and T' quantile samples of the two networks, K at which actions are valued: all different.
"""

import math
from statistics import NormalDist
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.logger import configure
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from sb3_ext import IQN, DoubleDQN, PrioritizedReplayBuffer, SoftDQN
from sb3_ext.common.update_loop import TransitionLosses
from sb3_ext.common.value_based import ValueBasedAlgorithm

B, A, N_INPUTS, T, T_TARGET, K = 5, 3, 4, 7, 11, 13
GAMMA = 0.9
IQN_SIZES = dict(n_quantile_samples=T, n_target_quantile_samples=T_TARGET, n_action_quantile_samples=K)
ALGORITHMS = pytest.mark.parametrize(
    ("cls", "settings"),
    [(DoubleDQN, {}), (SoftDQN, dict(temperature_initial=0.7, temperature_final=0.7)), (IQN, IQN_SIZES)],
    ids=["DoubleDQN", "SoftDQN", "IQN"],
)


class Vectors(gym.Env):
    """Random observations and rewards; a true end every seventh step."""

    observation_space = spaces.Box(-np.inf, np.inf, (N_INPUTS,), np.float32)
    action_space = spaces.Discrete(A)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self.np_random.normal(size=N_INPUTS).astype(np.float32), {}

    def step(self, action: int) -> Any:
        self.steps += 1
        observation, reward = self.np_random.normal(size=N_INPUTS).astype(np.float32), float(self.np_random.normal())
        return observation, reward, self.steps == 7, False, {}


def make(cls: type[ValueBasedAlgorithm], **kwargs: Any) -> Any:
    """A model whose two networks have nothing in common."""
    policy_kwargs = dict(net_arch=[6, 8]) | kwargs.pop("policy_kwargs", {})
    settings = dict(policy_kwargs=policy_kwargs, buffer_size=100, gamma=GAMMA, device="cpu", seed=0) | kwargs
    model = cls("MlpPolicy", Vectors(), **settings)
    for parameter in model.policy.parameters():
        parameter.data = th.randn_like(parameter)
    model.set_logger(configure(None, []))
    return model


def make_batch() -> ReplayBufferSamples:
    generator = th.Generator().manual_seed(1)
    return ReplayBufferSamples(
        observations=th.randn(B, N_INPUTS, generator=generator),
        actions=th.tensor([[0], [2], [1], [2], [0]]),
        next_observations=th.randn(B, N_INPUTS, generator=generator),
        dones=th.tensor([[0.0], [1.0], [0.0], [0.0], [1.0]]),
        rewards=3 * th.randn(B, 1, generator=generator),
    )


#: What ``discounts`` may be: one for all transitions, or gamma^k with another number of steps for each of them
DISCOUNTS = [GAMMA, [GAMMA, GAMMA**3, GAMMA**2, GAMMA**3, GAMMA]]
discounts_given = pytest.mark.parametrize("discounts", DISCOUNTS, ids=["one discount", "discounts"])
double_q_given = pytest.mark.parametrize("double_q", [False, True], ids=["target", "double_q"])


def loss_of(model: Any, batch: ReplayBufferSamples, discounts: Any) -> TransitionLosses:
    return model.compute_loss(batch, th.tensor(discounts) if isinstance(discounts, list) else discounts)


def discount_of(discounts: Any, row: int) -> float:
    return discounts[row] if isinstance(discounts, list) else discounts


def rows_of(network: Any, observations: th.Tensor) -> list[list[float]]:
    with th.no_grad():
        return [network(observation.unsqueeze(0))[0].tolist() for observation in observations]


def huber(delta: th.Tensor, kappa: float = 1.0) -> th.Tensor:
    return 0.5 * delta**2 if abs(delta.item()) <= kappa else kappa * (delta.abs() - 0.5 * kappa)


def assert_gradient_is_that_of(model: Any, actual: th.Tensor, expected: th.Tensor) -> None:
    """
    :param actual: losses of the algorithm, shape (B,)
    :param expected: the same from the loops, differentiable too
    """
    assert actual.shape == expected.shape == (B,)
    th.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    parameters = list(model.q_net.parameters())
    gradients = th.autograd.grad(expected.mean(), parameters)
    model.policy.optimizer.zero_grad()
    actual.mean().backward()
    largest = max(gradient.abs().max().item() for gradient in gradients)
    assert largest > 1e-3
    for parameter, gradient in zip(parameters, gradients, strict=True):
        # Sums of hundreds of terms in float32, which partly cancel
        th.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-5 * largest)
    # Nothing flows into the network that makes the targets
    assert all(parameter.grad is None for parameter in model.q_net_target.parameters())


def check_scalar_values(model: Any, terms: TransitionLosses, batch: ReplayBufferSamples, targets: list[float]) -> None:
    """Losses, gradients and errors of an algorithm that learns one number for each action."""
    q_values = [model.q_net(batch.observations[b : b + 1])[0, int(batch.actions[b])] for b in range(B)]
    deltas = [q - y for q, y in zip(q_values, targets, strict=True)]
    assert {abs(delta.item()) <= 1 for delta in deltas} == {True, False}  # both branches of the Huber loss
    assert not terms.errors.requires_grad
    th.testing.assert_close(terms.errors, th.stack(deltas).detach().abs(), rtol=1e-5, atol=1e-5)
    assert terms.metrics["q_value"].item() == pytest.approx(sum(q.item() for q in q_values) / B, rel=1e-5)
    assert_gradient_is_that_of(model, terms.losses, th.stack([huber(delta) for delta in deltas]))


# -- DoubleDQN ---------------------------------------------------------------------------------------------------------


@discounts_given
@double_q_given
@pytest.mark.parametrize("target_clip", [None, 0.8])
def test_double_dqn(double_q: bool, discounts: Any, target_clip: float | None) -> None:
    model, batch = make(DoubleDQN, double_q=double_q, target_clip=target_clip), make_batch()
    values = rows_of(model.q_net_target, batch.next_observations)
    choosers = rows_of(model.q_net, batch.next_observations) if double_q else values
    targets = []
    for b in range(B):
        value = values[b][max(range(A), key=lambda a, b=b: choosers[b][a])]
        not_done = 1 - batch.dones[b].item()
        targets.append(batch.rewards[b].item() + discount_of(discounts, b) * not_done * value)
    assert any(v[c.index(max(c))] != max(v) for v, c in zip(values, choosers, strict=True)) == double_q
    if target_clip is not None:
        assert any(abs(target) > target_clip for target in targets) and any(abs(t) < target_clip for t in targets)
        targets = [min(max(target, -target_clip), target_clip) for target in targets]
    check_scalar_values(model, loss_of(model, batch, discounts), batch, targets)


# -- SoftDQN -----------------------------------------------------------------------------------------------------------


def softmax(values: list[float], temperature: float) -> list[float]:
    weights = [math.exp((value - max(values)) / temperature) for value in values]
    return [weight / sum(weights) for weight in weights]


def soft_value(backup: str, values: list[float], chooser: list[float], temperature: float) -> float:
    """Of one state: expected values under the policy of ``chooser``, plus what the backup makes of its entropy."""
    if backup == "max":
        return values[chooser.index(max(chooser))]
    policy = softmax(chooser, temperature)
    expected = sum(p * value for p, value in zip(policy, values, strict=True))
    entropy = -sum(p * math.log(p) for p in policy)
    bonus = {"boltzmann": 0.0, "soft": entropy, "mellowmax": entropy - math.log(A)}[backup]
    return expected + temperature * bonus


def soft_targets(model: Any, batch: ReplayBufferSamples, discounts: Any, temperature: float) -> list[float]:
    values = rows_of(model.q_net_target, batch.next_observations)
    choosers = rows_of(model.q_net, batch.next_observations) if model.double_q else values
    targets = []
    for b in range(B):
        value = soft_value(model.target_backup, values[b], choosers[b], temperature)
        not_done = 1 - batch.dones[b].item()
        targets.append(batch.rewards[b].item() + discount_of(discounts, b) * not_done * value)
    return targets


@discounts_given
@double_q_given
@pytest.mark.parametrize("backup", ["soft", "boltzmann", "mellowmax", "max"])
def test_soft_dqn(backup: str, double_q: bool, discounts: Any) -> None:
    temperature = 0.7
    model, batch = make(SoftDQN, target_backup=backup, double_q=double_q, temperature_initial=temperature), make_batch()
    terms = loss_of(model, batch, discounts)
    policies = [softmax(row, temperature) for row in rows_of(model.q_net, batch.observations)]
    entropy = sum(-p * math.log(p) for policy in policies for p in policy) / B
    assert terms.metrics["entropy"].item() == pytest.approx(entropy, rel=1e-4)
    assert terms.metrics["temperature"].item() == pytest.approx(temperature)
    check_scalar_values(model, terms, batch, soft_targets(model, batch, discounts, temperature))


def test_target_clip_of_soft_dqn() -> None:
    model, batch, temperature, clip = make(SoftDQN, temperature_initial=0.7, target_clip=0.8), make_batch(), 0.7, 0.8
    targets = soft_targets(model, batch, GAMMA, temperature)
    assert any(abs(target) > clip for target in targets) and any(abs(target) < clip for target in targets)
    clipped = [min(max(target, -clip), clip) for target in targets]
    check_scalar_values(model, loss_of(model, batch, GAMMA), batch, clipped)


@pytest.mark.parametrize("clip", [-1.0, -0.3])
def test_munchausen_adds_the_scaled_log_policy_of_the_target_network(clip: float) -> None:
    temperature, coef = 0.7, 0.9
    model = make(SoftDQN, double_q=False, temperature_initial=temperature, munchausen_coef=coef, munchausen_clip=clip)
    batch = make_batch()
    targets = soft_targets(model, batch, GAMMA, temperature)
    scaled = []
    for b, row in enumerate(rows_of(model.q_net_target, batch.observations)):
        # The clip is that of alpha log pi, not that of log pi
        scaled.append(temperature * math.log(softmax(row, temperature)[int(batch.actions[b])]))
        targets[b] += coef * min(max(scaled[b], clip), 0.0)
    assert any(value < clip for value in scaled) and any(value > clip for value in scaled)
    check_scalar_values(model, loss_of(model, batch, GAMMA), batch, targets)


# -- IQN ---------------------------------------------------------------------------------------------------------------


def distorted(tau: float, measure: str, eta: float) -> float:
    if measure == "cvar":
        return eta * tau
    if measure == "wang":
        return NormalDist().cdf(NormalDist().inv_cdf(tau) + eta)
    if measure == "cpw":
        return tau**eta / (tau**eta + (1 - tau) ** eta) ** (1 / eta)
    if measure == "pow":
        return tau ** (1 / (1 + abs(eta))) if eta >= 0 else 1 - (1 - tau) ** (1 / (1 + abs(eta)))
    return tau


def quantiles_of(network: Any, observation: th.Tensor, taus: list[float]) -> list[list[float]]:
    """One state, one level at a time: T lists of A quantiles."""
    with th.no_grad():
        return [network.quantiles(observation.unsqueeze(0), th.tensor([[tau]]))[0, 0].tolist() for tau in taus]


def best_action(network: Any, observation: th.Tensor, taus: list[float]) -> int:
    quantiles = quantiles_of(network, observation, taus)
    return max(range(A), key=lambda a: sum(row[a] for row in quantiles) / K)


def iqn_losses(model: IQN, batch: ReplayBufferSamples, discounts: Any, seed: int) -> tuple[th.Tensor, list[int]]:
    """
    :return: the loss of each transition, and the actions that the targets are made of
    """
    th.manual_seed(seed)
    taus, target_taus, action_taus = (th.rand(B, n).tolist() for n in (T, T_TARGET, K))
    losses, actions = [], []
    for b in range(B):
        levels = [distorted(tau, model.risk_measure, model.risk_eta) for tau in action_taus[b]]
        chooser = model.q_net if model.double_q else model.q_net_target
        actions.append(best_action(chooser, batch.next_observations[b], levels))
        # The levels of the targets, and below those of the loss, are not distorted
        targets = [
            batch.rewards[b].item() + discount_of(discounts, b) * (1 - batch.dones[b].item()) * row[actions[b]]
            for row in quantiles_of(model.q_net_target, batch.next_observations[b], target_taus[b])
        ]
        if model.target_clip is not None:
            targets = [min(max(target, -model.target_clip), model.target_clip) for target in targets]
        loss = th.zeros(())
        for tau in taus[b]:
            quantile = model.q_net.quantiles(batch.observations[b : b + 1], th.tensor([[tau]]))
            for target in targets:
                delta = target - quantile[0, 0, int(batch.actions[b])]
                indicator = 1.0 if delta.item() < 0 else 0.0
                # A sum over the online levels, a mean over those of the target
                loss = loss + abs(tau - indicator) * huber(delta, model.kappa) / model.kappa / T_TARGET
        losses.append(loss)
    return th.stack(losses), actions


def make_iqn(**settings: Any) -> IQN:
    """With networks in which double Q-learning and each measure of risk find other actions best in ``make_batch()``."""
    model = make(IQN, seed=235, **IQN_SIZES, **settings)
    for network in (model.q_net, model.q_net_target):
        # Without biases the quantiles depend on the levels the most
        th.nn.init.zeros_(network.phi.linear.bias)
        th.nn.init.zeros_(network.f[-1].bias)
    return model


RISKS = [
    dict(risk_measure="cvar", risk_eta=0.2),
    dict(risk_measure="wang", risk_eta=-1.5),
    dict(risk_measure="cpw", risk_eta=0.4),
    dict(risk_measure="pow", risk_eta=-3.0),
    dict(risk_measure="pow", risk_eta=4.0),
]


@discounts_given
@double_q_given
@pytest.mark.parametrize(
    "settings",
    [
        {},
        dict(kappa=0.3),
        dict(target_clip=1.5),
        *RISKS,
    ],
    ids=lambda settings: ",".join(str(value) for value in settings.values()) or "neutral",
)
def test_iqn(settings: dict[str, Any], double_q: bool, discounts: Any) -> None:
    model, batch = make_iqn(double_q=double_q, **settings), make_batch()
    expected, _ = iqn_losses(model, batch, discounts, seed=5)
    th.manual_seed(5)
    terms = loss_of(model, batch, discounts)
    assert not terms.errors.requires_grad
    th.testing.assert_close(terms.errors, expected.detach().sqrt(), rtol=1e-4, atol=1e-5)
    assert_gradient_is_that_of(model, terms.losses, expected)


@pytest.mark.parametrize("settings", [dict(double_q=True), *RISKS], ids=str)
def test_the_settings_of_iqn_matter_in_that_batch(settings: dict[str, Any]) -> None:
    """The comparisons above would be weak if the settings made no difference to the actions in the targets."""
    batch = make_batch()
    neutral, chosen = (iqn_losses(make_iqn(**s), batch, GAMMA, seed=5)[1] for s in ({}, settings))
    assert any(a != b for a, b, done in zip(neutral, chosen, batch.dones, strict=True) if not done)


# -- Training ----------------------------------------------------------------------------------------------------------

ALPHA, BETA, EPS = 0.7, 0.3, 1e-3
N_STORED = 60


def model_that_stands_still(cls: type[ValueBasedAlgorithm], **settings: Any) -> Any:
    """A learning rate of 0, so that what a training step saw can be computed before it; priorities of all sizes."""
    model = make(
        cls,
        learning_rate=0.0,
        learning_starts=10**6,
        replay_buffer_class=PrioritizedReplayBuffer,
        replay_buffer_kwargs=dict(alpha=ALPHA, beta=BETA, eps=EPS),
        **settings,
    )
    model.learn(N_STORED)
    model.set_logger(configure(None, []))
    model.replay_buffer.update_priorities(np.arange(N_STORED), np.random.default_rng(0).exponential(size=N_STORED))
    return model


@ALGORITHMS
@pytest.mark.parametrize("progress_remaining", [1.0, 0.25])
def test_weighted_losses_and_priorities(cls: Any, settings: dict[str, Any], progress_remaining: float) -> None:
    model = model_that_stands_still(cls, **settings)
    model._current_progress_remaining = progress_remaining
    buffer, n_updates = model.replay_buffer, 3
    before = buffer._tree.leaves[:N_STORED].copy()

    beta = BETA + (1 - BETA) * (1 - progress_remaining)
    np.random.seed(3)
    th.manual_seed(4)
    losses, unweighted = [], []
    for _ in range(n_updates):
        batch = buffer.sample_prioritized(B, progress_remaining=progress_remaining)
        terms = model.compute_loss(batch, GAMMA)
        # (n P)^-beta without the constants, since the largest is made 1
        weights = [buffer._tree.leaves[index] ** -beta for index in batch.indices.tolist()]
        pairs = zip(weights, terms.losses.tolist(), strict=True)
        losses.append(sum(weight / max(weights) * loss for weight, loss in pairs) / B)
        unweighted.append(terms.losses.mean().item())
        # The next minibatch is drawn by what this one writes back
        leaves = np.array([(error + EPS) ** ALPHA for error in terms.errors.tolist()])
        buffer._tree.update(batch.indices.numpy(), leaves)
    after = buffer._tree.leaves[:N_STORED].copy()
    assert (after != before).sum() > B

    buffer._tree.update(np.arange(N_STORED), before)
    np.random.seed(3)
    th.manual_seed(4)
    model.train(n_updates, batch_size=B)
    np.testing.assert_allclose(buffer._tree.leaves[:N_STORED], after, rtol=1e-4)
    assert model.logger.name_to_value["train/loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert np.mean(losses) != pytest.approx(np.mean(unweighted), rel=1e-2)
    assert model._n_updates == n_updates
    buffer.check_valid()


@ALGORITHMS
def test_discounts_of_the_transitions_reach_the_loss(cls: Any, settings: dict[str, Any]) -> None:
    model = make(cls, learning_rate=0.0, learning_starts=10**6, n_steps=3, **settings)
    model.learn(N_STORED)
    model.set_logger(configure(None, []))
    np.random.seed(3)
    batch = model.replay_buffer.sample(B * T)
    assert len(set(np.round(batch.discounts.flatten().tolist(), 6))) > 1
    th.manual_seed(4)
    expected = model.compute_loss(batch, batch.discounts.flatten()).losses.mean().item()
    th.manual_seed(4)
    assert model.compute_loss(batch, GAMMA).losses.mean().item() != pytest.approx(expected, rel=1e-3)
    np.random.seed(3)
    th.manual_seed(4)
    model.train(1, batch_size=B * T)
    assert model.logger.name_to_value["train/loss"] == pytest.approx(expected, rel=1e-5)


@ALGORITHMS
def test_the_norm_in_the_log_is_that_before_clipping(cls: Any, settings: dict[str, Any]) -> None:
    max_grad_norm = 0.01
    model = make(
        cls,
        learning_rate=1.0,
        learning_starts=10**6,
        max_grad_norm=max_grad_norm,
        policy_kwargs=dict(optimizer_class=th.optim.SGD),
        **settings,
    )
    model.learn(N_STORED)
    model.set_logger(configure(None, []))
    np.random.seed(3)
    batch = model.replay_buffer.sample(B)
    th.manual_seed(4)
    loss = model.compute_loss(batch, GAMMA).losses.mean()
    gradients = th.autograd.grad(loss, list(model.q_net.parameters()))
    norm = math.sqrt(sum(gradient.square().sum().item() for gradient in gradients))
    before = [parameter.detach().clone() for parameter in model.policy.parameters()]
    np.random.seed(3)
    th.manual_seed(4)
    model.train(1, batch_size=B)
    assert model.logger.name_to_value["train/grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert norm > 10 * max_grad_norm
    moved = [old - new.detach() for old, new in zip(before, model.policy.parameters(), strict=True)]
    assert math.sqrt(sum(step.square().sum().item() for step in moved)) == pytest.approx(max_grad_norm, rel=1e-2)


@ALGORITHMS
def test_the_log_is_the_mean_over_the_updates(cls: Any, settings: dict[str, Any]) -> None:
    model = make(cls, learning_rate=0.0, learning_starts=10**6, **settings)
    model.learn(N_STORED)
    model.set_logger(configure(None, []))
    np.random.seed(3)
    th.manual_seed(4)
    terms = [model.compute_loss(model.replay_buffer.sample(B), GAMMA) for _ in range(4)]
    np.random.seed(3)
    th.manual_seed(4)
    model.train(4, batch_size=B)
    logged = model.logger.name_to_value
    assert logged["train/loss"] == pytest.approx(np.mean([t.losses.mean().item() for t in terms]), rel=1e-5)
    for name in terms[0].metrics:
        assert logged[f"train/{name}"] == pytest.approx(np.mean([t.metrics[name].item() for t in terms]), rel=1e-4), (
            name
        )
