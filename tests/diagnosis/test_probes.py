"""What the probe of each algorithm says, where the values are known in closed form."""

import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch as th
from sb3_contrib import QRDQN, TQC, CrossQ
from stable_baselines3 import DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.dqn.policies import DQNPolicy
from torch import nn

from sb3_ext import CEMQ, IQN, NAF, REDQSAC, DoubleDQN, FrameDedupReplayBuffer, PrioritizedReplayBuffer, SoftDQN
from sb3_ext.common.probe import PolicyStep, Probe, learned_discount
from sb3_ext.diagnosis import DiagnosisCallback
from sb3_ext.diagnosis.callback import COLUMNS
from sb3_ext.diagnosis.probes import probe_for
from sb3_ext.nets.output_layers import output_layers
from tests.support.models import make

from .helpers import ACTOR_CRITIC, GAMMA, NO_ACTOR, VALUE, VALUE_BASED, make_model, measured, predict_value

# (SB3 asks every environment for frames, if there is no other way)
pytestmark = pytest.mark.filterwarnings("ignore:.*render_mode")


@pytest.mark.parametrize(
    ("cls", "factor"),
    [(DQN, 1.0), (QRDQN, 1.4), (DoubleDQN, 0.25), (IQN, 1.4), (TD3, -1.0), (CEMQ, 0.5), (NAF, 2.0)],
)
def test_bias_of_a_critic_that_says_c_times_the_value(cls: Any, factor: float, tmp_path: Path) -> None:
    model = make_model(cls, learning_rate=0.0)
    predict_value(model, factor * VALUE)
    row = measured(model, tmp_path, tail_tolerance=1e-3)
    assert row["normalized_bias_mean"] == pytest.approx(factor - 1, abs=2e-3)
    assert row["normalized_bias_std"] == pytest.approx(0, abs=1e-3)
    assert row["q_mean"] == pytest.approx(factor * VALUE, rel=1e-5)
    assert row["mc_return_mean"] == pytest.approx(VALUE, rel=1e-3)
    assert row["n_state_actions"] == 2 * 30
    assert row["timesteps"] == 40


LOG3 = math.log(3)


@pytest.mark.parametrize(
    ("settings", "reward", "bonus"),
    [
        # Equal values of three actions: the entropy is log 3
        (dict(target_backup="soft"), 1.0, 2 * LOG3),
        (dict(target_backup="boltzmann"), 1.0, 0.0),
        (dict(target_backup="mellowmax"), 1.0, 0.0),
        (dict(target_backup="max"), 1.0, 0.0),
        # The entropy enters where the critic bootstraps, at every third step
        (dict(target_backup="soft", n_steps=3), 1.0, None),
    ],
    ids=str,
)
def test_entropy_of_a_boltzmann_policy(
    settings: dict[str, Any], reward: float, bonus: float | None, tmp_path: Path
) -> None:
    model = make_model(SoftDQN, learning_rate=0.0, temperature_initial=2.0, temperature_final=2.0, **settings)
    if bonus is None:
        value = VALUE + GAMMA**3 / (1 - GAMMA**3) * 2 * LOG3
    else:
        value = (reward + GAMMA * bonus) / (1 - GAMMA)
    predict_value(model, 1.5 * value)
    row = measured(model, tmp_path, tail_tolerance=1e-3)
    assert row["mc_return_mean"] == pytest.approx(value, rel=2e-3)
    assert row["normalized_bias_mean"] == pytest.approx(0.5, abs=3e-3)
    assert row["policy_entropy"] == (None if settings["target_backup"] == "max" else pytest.approx(LOG3, rel=1e-5))


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize(
    ("cls", "settings"),
    [
        (IQN, dict(munchausen_temperature=2.0)),
        (SoftDQN, dict(target_backup="soft", double_q=False, temperature_initial=2.0, temperature_final=2.0)),
    ],
)
def test_entropy_and_bonus_of_munchausen_targets(
    cls: Any, settings: dict[str, Any], n_steps: int, tmp_path: Path
) -> None:
    model = make_model(cls, learning_rate=0.0, munchausen_coef=0.75, n_steps=n_steps, **settings)
    # clip(2 log(1/3), -1, 0) = -1: a bonus of -0.75 and an entropy, both once in n steps
    every = GAMMA**n_steps
    value = VALUE + (-0.75 + every * 2 * LOG3) / (1 - every)
    predict_value(model, 1.5 * value)
    row = measured(model, tmp_path, tail_tolerance=1e-3)
    assert row["mc_return_mean"] == pytest.approx(value, rel=2e-3)
    assert row["normalized_bias_mean"] == pytest.approx(0.5, abs=3e-3)
    assert row["policy_entropy"] == pytest.approx(LOG3, rel=1e-5)


def test_the_present_n_counts_while_it_falls(tmp_path: Path) -> None:
    settings: dict[str, Any] = dict(n_steps=10, n_steps_final=1, n_steps_fraction=1e-6, learning_rate=0.0)
    model = make_model(SoftDQN, temperature_initial=2.0, temperature_final=2.0, target_backup="soft", **settings)
    value = VALUE + GAMMA * 2 * LOG3 / (1 - GAMMA)  # of one step, which the first step of the training leads to
    predict_value(model, value)
    row = measured(model, tmp_path, tail_tolerance=1e-3)
    assert row["mc_return_mean"] == pytest.approx(value, rel=2e-3)


def squashed_entropy(std: float) -> float:
    """Of tanh(u), u ~ N(0, std^2), by summing over a grid: E[-log N(u)] + E[log(1 - tanh(u)^2)]."""
    total, step = 0.5 * math.log(2 * math.pi * math.e * std**2), std / 500
    for i in range(-5000, 5001):
        u = i * step
        density = math.exp(-0.5 * (u / std) ** 2) / (std * math.sqrt(2 * math.pi))
        total += density * step * math.log(1 - math.tanh(u) ** 2 + 1e-6)
    return total


# (REDQSAC alone can leave the entropy out of its targets)
@pytest.mark.parametrize(("cls", "counts"), [(SAC, True), (TQC, True), (REDQSAC, True), (REDQSAC, False)])
def test_entropy_of_a_gaussian_policy(cls: Any, counts: bool, tmp_path: Path) -> None:
    settings = {} if counts else {"backup_entropy": False}
    model = make_model(cls, learning_rate=0.0, ent_coef=2.0, **settings)
    for layer, bias in ((model.actor.mu, 0.0), (model.actor.log_std, math.log(0.5))):
        nn.init.zeros_(layer.weight)
        nn.init.constant_(layer.bias, bias)
    entropy = 2 * squashed_entropy(0.5)  # of two independent actions
    # With the entropy of the first action it would be 2 * entropy more
    value = VALUE + (GAMMA * 2 * entropy / (1 - GAMMA) if counts else 0.0)
    predict_value(model, value)
    row = measured(model, tmp_path, n_episodes=4, max_steps=400, batch_size=2000, tail_tolerance=1e-3)
    assert 2 * entropy > 0.05 * value
    assert row["mc_return_mean"] == pytest.approx(value, rel=0.02)
    assert row["normalized_bias_mean"] == pytest.approx(0, abs=0.02)
    assert row["policy_entropy"] == pytest.approx(entropy, rel=0.1)


@pytest.mark.parametrize(
    ("cls", "settings"),
    [
        pytest.param(SAC, {}, marks=pytest.mark.slow),
        pytest.param(SAC, dict(n_steps=3), marks=pytest.mark.slow),
        pytest.param(REDQSAC, dict(backup_entropy=False, gradient_steps=1), marks=pytest.mark.slow),
        pytest.param(SoftDQN, dict(n_steps=3), marks=pytest.mark.slow),
        (SoftDQN, dict(target_backup="soft", munchausen_coef=0.75, double_q=False)),
        pytest.param(SoftDQN, dict(target_backup="mellowmax"), marks=pytest.mark.slow),
        pytest.param(QRDQN, {}, marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_critic_that_has_converged_has_no_bias(cls: Any, settings: dict[str, Any], tmp_path: Path) -> None:
    """The returns are what the algorithm's own updates lead to: a wrong convention would be a bias of 5 % and more."""
    settings = dict(learning_rate=3e-3, gamma=0.8, batch_size=32, train_freq=1) | settings
    if cls in ACTOR_CRITIC:
        settings |= dict(ent_coef=2.0, tau=0.1)
    elif cls is SoftDQN:
        settings |= dict(temperature_initial=2.0, temperature_final=2.0, target_update_interval=10)
    else:
        settings |= dict(target_update_interval=10)
    model = make_model(cls, **settings)
    row = measured(model, tmp_path, 1000, n_episodes=8, max_steps=100, tail_tolerance=1e-3)
    assert row["normalized_bias_mean"] == pytest.approx(0, abs=0.03)


@pytest.mark.parametrize(
    ("cls", "observations", "n_envs"),
    [
        *((cls, "vector", 2) for cls in (*ACTOR_CRITIC, *VALUE_BASED, *NO_ACTOR)),
        *((cls, "image", 1) for cls in (SAC, TQC, REDQSAC, DQN, DoubleDQN, IQN, SoftDQN, CEMQ)),
        *((cls, "dict", 1) for cls in (TD3, REDQSAC, QRDQN, IQN, NAF)),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_every_algorithm_has_finite_values(cls: Any, observations: str, n_envs: int, tmp_path: Path) -> None:
    model = make_model(cls, observations=observations, n_envs=n_envs, train_freq=2 if cls is not CrossQ else 1)
    row = measured(model, tmp_path, max_steps=5, tail_tolerance=0.5)
    assert tuple(row) == COLUMNS
    missing = {name for name, value in row.items() if value is None}
    expected = set()
    if cls in VALUE_BASED:
        expected |= {"actor_grad_norm", "disagreement"}
    if cls in NO_ACTOR:
        expected |= {"actor_grad_norm"}
    if cls in (DDPG, NAF):
        expected |= {"disagreement"}
    if cls in (*VALUE_BASED, *NO_ACTOR, TD3, DDPG) and cls is not SoftDQN:
        expected |= {"policy_entropy"}
    assert missing == expected
    assert all(math.isfinite(value) for value in row.values() if value is not None)
    assert 0 <= row["dead_units"] <= row["dormant_units"] < 1
    assert 1 <= row["feature_rank"] <= 17
    assert row["critic_grad_norm"] > 0


@pytest.mark.parametrize("cls", NO_ACTOR)
def test_the_measured_policy_takes_the_best_action(cls: Any) -> None:
    model = make_model(cls)
    obs = th.rand(3, 5)
    with th.no_grad():
        step = probe_for(model).step(obs)
        scaled = th.as_tensor(step.actions) / 2  # the space is [-2, 2]
        assert np.allclose(step.actions, model.predict(obs.numpy(), deterministic=True)[0], atol=1e-6)
        assert th.allclose(step.q_values, model.critic_values(obs, scaled), atol=1e-6)
        drawn = th.stack([model.critic_values(obs, th.rand(3, 2) * 2 - 1).mean(dim=0) for _ in range(200)])
    # NAF's closed form is the maximum; a search may miss it by a little
    assert (step.q_values.mean(dim=0) >= drawn.amax(dim=0) - (1e-2 if cls is CEMQ else 1e-6)).all()


def test_disagreement_of_critics(tmp_path: Path) -> None:
    model = make_model(REDQSAC, learning_rate=0.0)
    last = model.critic.ensemble.layers[-1]
    with th.no_grad():
        last.weight.zero_()
        last.bias.copy_(th.tensor([1.0, 2.0, 6.0]).reshape(3, 1, 1))
    row = measured(model, tmp_path)
    # Mean 3, squares 4, 1, 9
    assert row["disagreement"] == pytest.approx(math.sqrt(14 / 3), rel=1e-5)
    assert row["q_mean"] == pytest.approx(3)


def test_algorithms_that_are_not_known(tmp_path: Path) -> None:
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, device="cpu")
    with pytest.raises(ValueError, match=r"does not know the critics of PPO.* a method make_probe\(\)"):
        model.learn(16, callback=DiagnosisCallback(csv_path=tmp_path / "d.csv"))


class TwoConstants(OffPolicyAlgorithm):
    """An algorithm of somebody else, with critics under names of its own: two numbers."""

    policy_aliases: ClassVar[dict[str, Any]] = {"MlpPolicy": DQNPolicy}

    def __init__(self, env: Any, **kwargs: Any) -> None:
        super().__init__("MlpPolicy", env, 1e-3, 100, 5, sde_support=False, device="cpu", **kwargs)
        self._setup_model()
        self.both = nn.Linear(1, 2)
        nn.init.constant_(self.both.weight, 0.0)
        self.both.bias.data = th.tensor([1.0, 2.0]) * VALUE
        self.optimizer_of_both = th.optim.SGD(self.both.parameters(), lr=0.0)

    def train(self, gradient_steps: int, batch_size: int) -> None:
        self.optimizer_of_both.zero_grad()
        (3 * self.both.bias).sum().backward()
        self.optimizer_of_both.step()

    def make_probe(self) -> Probe:
        return TwoConstantsProbe(
            network=self.both,
            heads=[output_layers(self.both)],
            optimizers={"critic": self.optimizer_of_both},
            discount=GAMMA,
            n_steps=1,
        )


class TwoConstantsProbe(Probe):
    """With a bonus of 0.25 for each action, and 0.5 for the uncertainty in each state."""

    def step(self, obs: PyTorchObs) -> PolicyStep:
        n_states = len(obs)
        actions = np.ones(n_states, dtype=np.int64)
        return PolicyStep(
            actions, self.q_values(obs, th.as_tensor(actions)), th.full((n_states,), 0.5), th.full((n_states,), 0.25)
        )

    def q_values(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        return self.network(th.zeros(len(obs), 1)).T

    def entropy(self, obs: PyTorchObs) -> th.Tensor | None:
        return th.full((len(obs),), 0.125)


def test_an_algorithm_that_supplies_a_probe_is_measured(tmp_path: Path) -> None:
    # (Its own gamma is another, which nobody asks for)
    model = TwoConstants(make_vec_env("EndlessReward-v0", env_kwargs=dict(actions="discrete")), gamma=0.5)
    row = measured(model, tmp_path, tail_tolerance=1e-3)
    assert row["q_mean"] == pytest.approx(1.5 * VALUE, rel=1e-5)
    assert row["mc_return_mean"] == pytest.approx((1.25 + GAMMA * 0.5) * VALUE, rel=1e-3)
    assert row["disagreement"] == pytest.approx(0.5 * VALUE, rel=1e-5)
    assert row["policy_entropy"] == 0.125
    # 3 for each of two numbers
    assert row["critic_grad_norm"] == pytest.approx(math.sqrt(18))
    assert row["actor_grad_norm"] is None


@pytest.mark.parametrize(
    ("cls", "settings", "discount", "n_steps"),
    [
        # The buffer's default of 0.99 discounts nothing where it makes no n-step returns
        (DQN, dict(replay_buffer_class=PrioritizedReplayBuffer), GAMMA, 1),
        # SB3 passes nothing on to a buffer that the user chose: it learns from this buffer's discount
        (
            DQN,
            dict(replay_buffer_class=FrameDedupReplayBuffer, replay_buffer_kwargs=dict(n_steps=3, gamma=0.8)),
            0.8,
            3,
        ),
        (DQN, dict(n_steps=3), GAMMA, 3),
        (SAC, dict(n_steps=2), GAMMA, 2),
        # The algorithms of this package pass both on
        (DoubleDQN, dict(n_steps=3, replay_buffer_class=PrioritizedReplayBuffer), GAMMA, 3),
        (DoubleDQN, dict(replay_buffer_class=PrioritizedReplayBuffer), GAMMA, 1),
        (REDQSAC, dict(n_steps=2, replay_buffer_class=PrioritizedReplayBuffer), GAMMA, 2),
        (IQN, dict(n_steps=2), GAMMA, 2),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_discount_and_steps_of_the_returns_that_are_learned_from(
    cls: Any, settings: dict[str, Any], discount: float, n_steps: int
) -> None:
    observations = "image" if settings.get("replay_buffer_class") is FrameDedupReplayBuffer else "vector"
    probe = probe_for(make_model(cls, observations=observations, **settings))
    assert (probe.discount, probe.n_steps) == (discount, n_steps)


@pytest.mark.parametrize("settings", [{}, dict(n_steps=3)], ids=str)
def test_an_algorithm_with_a_buffer_that_has_a_discount_is_measured_with_its_own(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    model = make_model(DoubleDQN, learning_rate=0.0, replay_buffer_class=PrioritizedReplayBuffer, **settings)
    predict_value(model, VALUE)
    row = measured(model, tmp_path, tail_tolerance=1e-3)
    assert row["mc_return_mean"] == pytest.approx(VALUE, rel=1e-3)
    assert row["normalized_bias_mean"] == pytest.approx(0, abs=2e-3)


def test_the_discount_of_a_stock_algorithm_is_that_of_its_n_step_buffer(tmp_path: Path) -> None:
    settings = dict(n_steps=2, gamma=0.5)
    model = make_model(
        DQN, observations="image", replay_buffer_class=FrameDedupReplayBuffer, replay_buffer_kwargs=settings
    )
    row = measured(model, tmp_path, tail_tolerance=1e-3)
    assert row["mc_return_mean"] == pytest.approx(2.0, rel=1e-3)


def test_every_algorithm_of_this_package_supplies_a_probe() -> None:
    assert all(isinstance(make_model(cls).make_probe(), Probe) for cls in (REDQSAC, DoubleDQN, SoftDQN, IQN, *NO_ACTOR))


@pytest.mark.parametrize(("correction", "n"), [("none", 5), ("retrace", 1)])
def test_entropy_counts_at_each_step_of_corrected_returns(correction: Any, n: int) -> None:
    model = make(REDQSAC, n_steps=5, n_step_correction=correction)
    assert learned_discount(model) == (0.99, n)
