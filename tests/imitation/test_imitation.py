"""Behavioural cloning and DAgger: losses against loops, what is collected, models that go on, and what they learn."""

import math
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from sb3_contrib import RecurrentPPO
from stable_baselines3 import DQN, PPO, SAC, HerReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EvalCallback, ProgressBarCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import (
    BitFlippingEnv,
    IdentityEnvBox,
    IdentityEnvMultiBinary,
    IdentityEnvMultiDiscrete,
)
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from stable_baselines3.sac.policies import SACPolicy

from sb3_ext import BC, REDQSAC, DAgger
from sb3_ext.callbacks import ReduceLearningRateOnPlateau
from sb3_ext.callbacks.nested import all_callbacks
from sb3_ext.imitation.demonstrations import Pairs
from sb3_ext.imitation.expert import algorithms
from sb3_ext.imitation.likelihood import log_likelihood
from sb3_ext.zoo import ZOO_ALGORITHMS
from tests.support.environments import StopAt, Vectors
from tests.support.samplers import NO_HER, DrawnTrial, sample, study_of
from tests.support.states import assert_equal

SMALL: dict[str, Any] = dict(seed=0, device="cpu", policy_kwargs=dict(net_arch=[16]))
ITERATIONS: dict[str, Any] = dict(train_freq=40, gradient_steps=30)


class Steers(BasePolicy):
    """Keeps the pole up by pushing towards where it falls, which takes some hundred steps to forget."""

    def __init__(self, env: Any) -> None:
        super().__init__(env.observation_space, env.action_space)

    def _predict(self, observation: Any, deterministic: bool = False) -> th.Tensor:
        return (observation[:, 2] + 0.5 * observation[:, 3] > 0).long()


class Doubles(BasePolicy):
    """A continuous expert: half of the first number, in the units of the action space."""

    def _predict(self, observation: Any, deterministic: bool = False) -> th.Tensor:
        low, high = (th.as_tensor(bound) for bound in (self.action_space.low, self.action_space.high))
        return low + (high - low) * (0.25 + 0.5 * (observation[:, :1] > 0).float())


@pytest.fixture(scope="module")
def cartpole() -> Any:
    return make_vec_env("CartPole-v1", 1)


@pytest.fixture(scope="module")
def expert(cartpole: Any) -> BasePolicy:
    return Steers(cartpole)


def parameters(model: Any) -> dict[str, th.Tensor]:
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


# What they learn


def test_cloning_makes_a_policy_as_good_as_the_expert(cartpole: Any, expert: BasePolicy) -> None:
    model = BC("MlpPolicy", cartpole, expert=expert, n_demonstrations=600, learning_rate=5e-3, seed=0)
    before, _ = evaluate_policy(model, cartpole, 3)
    mean, _ = evaluate_policy(model.learn(600), cartpole, 3)
    assert before < 400 and mean >= 475
    assert len(model.data) == 600


def test_dagger_learns_from_the_states_of_the_policy(cartpole: Any, expert: BasePolicy) -> None:
    model = DAgger("MlpPolicy", cartpole, expert=expert, learning_rate=5e-3, seed=0, train_freq=200, gradient_steps=200)
    model.learn(1000)
    mean, _ = evaluate_policy(model, cartpole, 3)
    assert mean >= 475 and len(model.data) == 1000
    pairs = model.data.pairs
    labels = expert.predict(pairs.observations, deterministic=True)[0]
    assert np.array_equal(pairs.actions, labels)  # of every state, whoever acted there


@pytest.mark.parametrize("policy", [SACPolicy, "MlpPolicy"])
def test_continuous_actions(policy: Any) -> None:
    env = make_vec_env("Pendulum-v1", 1)
    expert = Doubles(env.observation_space, env.action_space)
    model = BC(policy, env, expert=expert, n_demonstrations=500, learning_rate=5e-3, seed=0)
    obs = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    expected = expert.predict(obs)[0]
    assert set(expected.ravel()) == {-1.0, 1.0}
    before = np.abs(model.predict(obs, deterministic=True)[0] - expected).mean()
    after = np.abs(model.learn(600).predict(obs, deterministic=True)[0] - expected).mean()
    assert after < 0.6 * before


# The loss


def categorical_log_prob(logits: list[float], action: int) -> float:
    return logits[action] - math.log(sum(math.exp(value) for value in logits))


@pytest.mark.parametrize(("ent_coef", "l2_coef"), [(0.0, 0.0), (0.3, 0.0), (0.3, 0.01)])
def test_the_loss_against_loops(cartpole: Any, expert: BasePolicy, ent_coef: float, l2_coef: float) -> None:
    model = BC("MlpPolicy", cartpole, expert=expert, ent_coef=ent_coef, l2_coef=l2_coef, **SMALL)
    model.learn(1)
    samples = model.sample_minibatch(8)
    losses = model.compute_loss(samples, 1.0).losses
    # The weights that act: no biases, and not those of the value
    names = ("mlp_extractor.policy_net.0.weight", "action_net.weight")
    weights = dict(model.policy.named_parameters())
    penalty = sum(0.5 * float(weights[name].detach().double().square().sum()) for name in names)
    with th.no_grad():
        logits = model.policy.get_distribution(samples.observations).distribution.logits.double().tolist()
    for row, action in enumerate(samples.actions.tolist()):
        log_probs = [categorical_log_prob(logits[row], each) for each in range(2)]
        entropy = -sum(math.exp(value) * value for value in log_probs)
        expected = -log_probs[action] - ent_coef * entropy + l2_coef * penalty
        assert losses[row].item() == pytest.approx(expected, rel=1e-5)


def test_the_likelihood_of_a_gaussian_and_of_sacs_policy() -> None:
    env = make_vec_env("Pendulum-v1", 1)
    obs, actions = th.randn(6, 3), th.empty(6, 1).uniform_(-1.9, 1.9)
    gaussian = PPO("MlpPolicy", env, seed=0).policy
    found, entropy = log_likelihood(gaussian, obs, actions)
    _, expected, expected_entropy = gaussian.evaluate_actions(obs, actions)
    th.testing.assert_close(found, expected)
    th.testing.assert_close(entropy, expected_entropy)
    squashed = SAC("MlpPolicy", env, seed=0).policy
    found, entropy = log_likelihood(squashed, obs, actions)
    mean, log_std, _ = squashed.actor.get_action_dist_params(obs)
    for row in range(6):
        a = actions[row].item() / 2.0  # torques go from -2 to 2
        u, m, s = math.atanh(a), mean[row].item(), math.exp(log_std[row].item())
        log_normal = -0.5 * ((u - m) / s) ** 2 - math.log(s) - 0.5 * math.log(2 * math.pi)
        assert found[row].item() == pytest.approx(log_normal - math.log(1 - a**2 + 1e-6), rel=1e-3)
    assert entropy.shape == (6,) and th.isfinite(entropy).all()


# What is collected


def test_who_acts_follows_beta(cartpole: Any, expert: BasePolicy) -> None:
    class Counts(BaseCallback):
        def __init__(self) -> None:
            super().__init__()
            self.shares: list[float] = []

        def _on_step(self) -> bool:
            taken, label = self.locals["actions"], self.model.data._lots[-1].actions[-1:]
            self.shares.append(float((taken == label).mean()))
            return True

    def shares(**kwargs: Any) -> np.ndarray:
        counts = Counts()
        model = DAgger("MlpPolicy", cartpole, expert=expert, learning_rate=0.0, **SMALL, **ITERATIONS, **kwargs)
        model.learn(160, callback=counts)
        return np.array(counts.shares).reshape(4, 40).mean(axis=1)

    # An untrained policy agrees with the expert half of the time
    first_only = shares()
    assert first_only[0] == 1.0 and (first_only[1:] < 0.85).all()
    assert (shares(beta=1.0) == 1.0).all()
    assert (shares(beta=0.0) < 0.85).all()
    assert np.array_equal(shares(beta="piecewise_1_0.5_0") >= 1.0, [True, True, False, False])
    falling = shares(beta=LinearSchedule(1.0, 0.0, 0.5))
    assert falling[0] > falling[-1] and falling[0] > 0.8 and falling[-1] < 0.85


def test_epochs_go_through_all_pairs(cartpole: Any, expert: BasePolicy) -> None:
    model = DAgger("MlpPolicy", cartpole, expert=expert, n_epochs=3, batch_size=16, train_freq=40, **SMALL)
    model.learn(40)
    drawn: list[np.ndarray] = []
    original = model.data.pairs.at
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pairs, "at", lambda pairs, rows: drawn.append(rows) or original(rows))
        before = model._n_updates
        model.train(1, 16)
    rows = model.data.training_rows
    n_minibatches = math.ceil(len(rows) / 16)
    assert model._n_updates - before == 3 * n_minibatches
    epochs = [np.concatenate(drawn[i * n_minibatches : (i + 1) * n_minibatches]) for i in range(3)]
    assert all(sorted(epoch) == list(rows) for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])
    assert {len(part) for part in drawn[: 3 * n_minibatches]} <= {len(rows) // n_minibatches + i for i in (0, 1)}


def test_demonstrations_are_learned_from_before_the_first_step(
    cartpole: Any, expert: BasePolicy, tmp_path: Path
) -> None:
    BC("MlpPolicy", cartpole, expert=expert, n_demonstrations=300, **SMALL).learn(1).save_demonstrations(
        tmp_path / "pairs"
    )
    n_updates: list[int] = []

    class Look(BaseCallback):
        def _on_step(self) -> bool:
            n_updates.append(self.model._n_updates)
            return True

    settings: dict[str, Any] = dict(demonstrations=tmp_path / "pairs.npz", train_freq=40, **SMALL)
    model = DAgger("MlpPolicy", cartpole, expert=expert, gradient_steps=30, **settings)
    model.learn(80, callback=Look())
    assert n_updates == [30] * 40 + [60] * 40
    model.learn(40, callback=Look(), reset_num_timesteps=False)
    assert n_updates[80:] == [90] * 40
    assert DAgger("MlpPolicy", cartpole, expert=expert, gradient_steps=-1, **settings).learn(1)._n_updates >= 300


def test_a_loaded_model_says_that_its_pairs_are_missing(cartpole: Any, expert: BasePolicy, tmp_path: Path) -> None:
    model = DAgger("MlpPolicy", cartpole, expert=expert, **ITERATIONS, **SMALL).learn(40)
    model.save(tmp_path / "model")
    model.save_demonstrations(tmp_path / "pairs")
    loaded = DAgger.load(tmp_path / "model", env=cartpole, expert=expert)
    with pytest.warns(UserWarning, match="none of its pairs"):
        loaded.learn(40, reset_num_timesteps=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DAgger.load(tmp_path / "model", env=cartpole, expert=expert, demonstrations=tmp_path / "pairs.npz").learn(
            40, reset_num_timesteps=False
        )


@pytest.mark.parametrize("cls", [BC, DAgger])
def test_original_observations_are_kept_and_normalized_for_the_policy(cls: Any, expert: BasePolicy) -> None:
    env = VecNormalize(make_vec_env("CartPole-v1", 2), norm_reward=False)
    settings = dict(n_demonstrations=100) if cls is BC else ITERATIONS
    model = cls("MlpPolicy", env, expert=expert, **settings, **SMALL).learn(100)
    pairs = model.data.pairs
    assert np.array_equal(pairs.actions, expert.predict(pairs.observations, deterministic=True)[0])
    samples = model._as_samples(pairs)
    np.testing.assert_allclose(samples.observations, env.normalize_obs(pairs.observations), rtol=1e-6)
    assert not np.allclose(samples.observations, pairs.observations)


def test_demonstrations_give_a_fresh_normalization_its_statistics(expert: BasePolicy, tmp_path: Path) -> None:
    played = BC("MlpPolicy", make_vec_env("CartPole-v1", 1), expert=expert, n_demonstrations=2000, **SMALL).learn(1)
    played.save_demonstrations(tmp_path / "pairs")
    env = VecNormalize(make_vec_env("CartPole-v1", 1), norm_reward=False)
    model = BC("MlpPolicy", env, demonstrations=tmp_path / "pairs.npz", **SMALL).learn(2)
    observations = played.data.pairs.observations
    # One more comes from the reset
    np.testing.assert_allclose(env.obs_rms.mean, observations.mean(axis=0), atol=0.01)
    np.testing.assert_allclose(env.obs_rms.var, observations.var(axis=0), rtol=0.1)
    before = env.obs_rms.count
    model.learn(10, reset_num_timesteps=False)  # is not fed again
    assert env.obs_rms.count <= before + 1


def test_an_expert_with_its_own_normalization(tmp_path: Path) -> None:
    env = VecNormalize(make_vec_env("CartPole-v1", 1), norm_reward=False)
    ppo = PPO("MlpPolicy", env, n_steps=64, batch_size=64, seed=0).learn(256)
    folder = tmp_path / "ppo" / "CartPole-v1_1"
    (folder / "CartPole-v1").mkdir(parents=True)
    ppo.save(folder / "best_model.zip")
    env.save(str(folder / "CartPole-v1" / "vecnormalize.pkl"))
    obs = 3 * np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    expected = ppo.predict(env.normalize_obs(obs), deterministic=True)[0]
    assert not np.array_equal(expected, ppo.predict(obs, deterministic=True)[0])
    for source in (ppo, str(folder / "best_model.zip"), f"ppo:{folder / 'best_model.zip'}"):
        model = BC("MlpPolicy", "CartPole-v1", expert=source, n_demonstrations=20, **SMALL)
        assert np.array_equal(model.expert.actions(obs), expected)


def test_some_pairs_are_held_out(cartpole: Any, expert: BasePolicy) -> None:
    model = BC("MlpPolicy", cartpole, expert=expert, n_demonstrations=1000, validation_fraction=0.2, **SMALL)
    model.learn(100)
    pairs = model.data.pairs
    assert len(pairs) == 1000 and 150 < len(model.data.validation_rows) < 250
    assert not set(model.data.validation_rows) & set(model.data.training_rows)
    drawn = model.data.sample(3000).observations
    held_out = pairs.observations[model.data.validation_rows]
    assert not (drawn[:, None] == held_out[None]).all(axis=2).any()
    assert (
        BC("MlpPolicy", cartpole, expert=expert, validation_fraction=0.0, **SMALL).learn(3).data.validation(9) is None
    )


# Files, callbacks, continuing


@pytest.mark.parametrize("cls", [BC, DAgger])
def test_saved_models_go_on(cls: Any, cartpole: Any, expert: BasePolicy, tmp_path: Path) -> None:
    settings = dict(n_demonstrations=100) if cls is BC else ITERATIONS
    model = cls("MlpPolicy", cartpole, expert=expert, **settings, **SMALL).learn(80)
    model.save(tmp_path / "model")
    model.save_demonstrations(tmp_path / "pairs.npz")
    given = dict(demonstrations=tmp_path / "pairs.npz") | ({} if cls is BC else dict(expert=expert))
    if cls is BC:
        given |= dict(n_demonstrations=None)
    loaded = cls.load(tmp_path / "model", env=cartpole, **given)
    assert loaded.expert is None or cls is DAgger
    assert len(loaded.data) == len(model.data)
    assert_equal(parameters(loaded), parameters(model))
    loaded.data.training_rows, loaded.data._held_out = model.data.training_rows, model.data._held_out
    for each in (model, loaded):
        each.set_logger(model.logger)
        np.random.seed(3)
        each.train(7, 16)
    assert loaded._n_updates == model._n_updates
    assert_equal(parameters(loaded), parameters(model))


def test_a_saved_model_plays_without_an_expert_and_does_not_learn(
    cartpole: Any, expert: BasePolicy, tmp_path: Path
) -> None:
    for cls in (BC, DAgger):
        cls("MlpPolicy", cartpole, expert=expert, **SMALL).save(tmp_path / cls.__name__)
        loaded = cls.load(tmp_path / cls.__name__, env=cartpole)
        assert loaded.predict(np.zeros((1, 4), np.float32))[0].shape == (1,)
        with pytest.raises(ValueError, match=f"{cls.__name__} has no expert, which a saved model does not contain"):
            loaded.learn(50)


@pytest.mark.parametrize("cls", [BC, DAgger])
def test_the_same_seed_makes_the_same_policy(cls: Any, expert: BasePolicy) -> None:
    settings = dict(n_demonstrations=100) if cls is BC else ITERATIONS
    first, second = (
        parameters(cls("MlpPolicy", "CartPole-v1", expert=expert, **settings, **SMALL).learn(80)) for _ in range(2)
    )
    assert_equal(first, second)


def test_callbacks_count_gradient_steps(cartpole: Any, expert: BasePolicy, tmp_path: Path) -> None:
    evaluation = EvalCallback(make_vec_env("CartPole-v1", 1), eval_freq=50, log_path=str(tmp_path), verbose=0)
    model = BC("MlpPolicy", cartpole, expert=expert, n_demonstrations=100, **SMALL)
    model.learn(200, callback=evaluation)
    assert evaluation.evaluations_timesteps == [50, 100, 150, 200] and model._n_updates == 200
    model.learn(200, callback=StopAt(30))
    assert model.num_timesteps == 30


def test_other_algorithms_go_on_from_the_policy(cartpole: Any, expert: BasePolicy) -> None:
    model = BC("MlpPolicy", cartpole, expert=expert, n_demonstrations=300, learning_rate=5e-3, seed=0).learn(300)
    ppo = PPO("MlpPolicy", cartpole, n_steps=128, seed=0)
    ppo.policy.load_state_dict(model.policy.state_dict())
    assert evaluate_policy(ppo, cartpole, 2)[0] > 400
    ppo.learn(256)

    env = make_vec_env("Pendulum-v1", 1)
    teacher = Doubles(env.observation_space, env.action_space)
    for cls in (SAC, REDQSAC):
        other = cls("MlpPolicy", env, seed=0, learning_starts=10, gradient_steps=1)
        cloned = BC(type(other.policy), env, expert=teacher, n_demonstrations=100, seed=0).learn(50)
        other.policy.load_state_dict(cloned.policy.state_dict())
        obs = env.observation_space.sample()
        assert np.array_equal(*(each.predict(obs, deterministic=True)[0] for each in (other, cloned)))
        other.learn(20)


@pytest.mark.parametrize(
    ("policy", "policy_kwargs"),
    [
        ("MlpPolicy", dict(actor_average=0.01)),
        ("NormalizedMlpPolicy", dict(n_blocks=1, width=16, actor_width=16)),
        ("NormalizedMlpPolicy", dict(n_blocks=1, width=16, actor_width=16, actor_average=0.01)),
    ],
)
def test_redqsac_s_averages_norms_and_statistics_follow(policy: str, policy_kwargs: dict[str, Any]) -> None:
    env = make_vec_env("Pendulum-v1", 1)
    teacher = Doubles(env.observation_space, env.action_space)
    frozen: dict[str, Any] = dict(learning_rate=1e-8, learning_starts=10, gradient_steps=1)
    other = REDQSAC(policy, env, seed=0, policy_kwargs=policy_kwargs, **frozen)
    settings: dict[str, Any] = dict(learning_rate=3e-3, max_grad_norm=1.0, seed=0, policy_kwargs=policy_kwargs)
    cloned = BC(type(other.policy), env, expert=teacher, n_demonstrations=500, **settings).learn(600)
    observations = cloned.data.pairs.observations

    def error(model: Any) -> float:
        return float(np.abs(model.predict(observations, deterministic=True)[0] - cloned.data.pairs.actions).mean())

    assert error(cloned) < 0.8 * error(other)
    actor: Any = cloned.policy.actor
    if "actor_average" in policy_kwargs:
        for one, average in zip(actor.parameters(), cloned.policy.averaged_actor.parameters(), strict=True):
            assert th.allclose(one, average, rtol=1e-5, atol=1e-6)
    if policy == "NormalizedMlpPolicy":
        for layer in (actor.mu, actor.log_std):
            assert layer.weight.norm(dim=1).tolist() == pytest.approx([1.0], rel=1e-5)
        layers = actor.batch_norm_layers
        assert layers and all((layer.running_var - 1).abs().max() > 0.01 for layer in layers)
    other.policy.load_state_dict(cloned.policy.state_dict())
    assert error(other) == error(cloned)
    other.learn(20)  # with next to no learning rate, so that only norms and statistics could change it
    assert other._n_updates > 0 and error(other) == pytest.approx(error(cloned), abs=0.1)


@pytest.mark.parametrize("net_arch", [dict(pi=[16], vf=[8]), dict(vf=[8]), [dict(pi=[16], vf=[8])], [16]])
def test_networks_of_ppo(cartpole: Any, expert: BasePolicy, net_arch: Any) -> None:
    settings: dict[str, Any] = dict(policy_kwargs=dict(net_arch=net_arch), seed=0)
    model = BC("MlpPolicy", cartpole, expert=expert, n_demonstrations=20, **settings).learn(2)
    PPO("MlpPolicy", cartpole, **settings).policy.load_state_dict(model.policy.state_dict())
    with pytest.raises(ValueError, match=r"net_arch={'pi': \[16\], 'qf': \[16\]} must be a list"):
        BC("MlpPolicy", cartpole, expert=expert, policy_kwargs=dict(net_arch=dict(pi=[16], qf=[16])))


# Spaces


@pytest.mark.parametrize(
    "env",
    [IdentityEnvBox(), IdentityEnvMultiDiscrete(dim=3), IdentityEnvMultiBinary(dim=3), Vectors(as_dict=True)],
    ids=str,
)
@pytest.mark.parametrize("cls", [BC, DAgger])
def test_every_space(cls: Any, env: Any) -> None:
    policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
    teacher = PPO(policy, DummyVecEnv([lambda: env]), n_steps=8, batch_size=8, seed=0)
    settings = dict(n_demonstrations=40) if cls is BC else ITERATIONS
    model = cls(policy, DummyVecEnv([lambda: env]), expert=teacher, **settings, **SMALL).learn(80)
    assert model._n_updates > 0 and np.isfinite(model.predict(model.env.reset())[0]).all()


# Bad input

PAIRS = dict(observations=np.zeros((5, 4), np.float32), actions=np.zeros(5, np.int64))
BAD_FILES: list[tuple[dict[str, Any], str]] = [
    (dict(actions=PAIRS["actions"]), "has the arrays actions: it needs observations"),
    (PAIRS | dict(observations=np.zeros((5, 3), np.float32)), r"observations have shape \(5, 3\) and dtype float32"),
    (PAIRS | dict(observations=np.zeros((4, 4), np.float32)), r"observations have shape \(4, 4\)"),
    (
        PAIRS | dict(observations=np.full((5, 4), np.nan, np.float32)),
        r"observations\[0\]=.*is not finite",
    ),
    (PAIRS | dict(actions=np.array([0, 1, 2, 1, 0])), r"actions\[2\]=2 lies outside of Discrete\(2\)"),
    (PAIRS | dict(actions=np.zeros((5, 2), np.int64)), r"actions have shape \(5, 2\) and dtype int64"),
    (dict(actions=np.zeros(0), observations=np.zeros((0, 4))), "has no actions"),
    ({"observations/a": np.zeros((5, 4)), "actions": PAIRS["actions"]}, "observations are a dictionary, but"),
]


@pytest.mark.parametrize(("arrays", "message"), BAD_FILES)
def test_bad_demonstrations(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "pairs.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        BC("MlpPolicy", "CartPole-v1", demonstrations=tmp_path / "pairs.npz")


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        BC("MlpPolicy", "CartPole-v1", demonstrations=tmp_path / "missing.npz")
    (tmp_path / "pairs.txt").write_text("1")
    with pytest.raises(ValueError, match=r"pairs.txt' must be a replay buffer or the .pkl file of one, an .npz file"):
        BC("MlpPolicy", "CartPole-v1", demonstrations=tmp_path / "pairs.txt")
    with pytest.raises(ValueError, match="demonstrations=5 must be a replay buffer"):
        BC("MlpPolicy", "CartPole-v1", demonstrations=5)
    with pytest.raises(FileNotFoundError, match=r"there is no file .*missing.zip"):
        BC("MlpPolicy", "CartPole-v1", expert=str(tmp_path / "missing.zip"))
    (tmp_path / "model.zip").write_text("1")
    with pytest.raises(ValueError, match="does not say which algorithm made it"):
        BC("MlpPolicy", "CartPole-v1", expert=str(tmp_path / "model.zip"))


WRONG: list[tuple[Any, dict[str, Any], str]] = [
    (BC, {}, "expert=None and demonstrations=None: one of them is needed"),
    (DAgger, {}, "expert=None: DAgger asks an expert in every state"),
    (DAgger, dict(demonstrations="pairs.npz"), "expert=None: DAgger asks an expert in every state"),
    (BC, dict(expert="x", demonstrations="y"), "there is no file x"),
    (BC, dict(expert=3), "expert=3 must be a policy or a model of Stable-Baselines3, or the file of a model"),
]


@pytest.mark.parametrize(("cls", "arguments", "message"), WRONG)
def test_sources_that_are_refused(cls: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        cls("MlpPolicy", "CartPole-v1", **arguments)


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (BC, dict(ent_coef=-1.0), "ent_coef=-1.0 must be a number >= 0"),
        (BC, dict(l2_coef=float("nan")), "l2_coef=nan must be a number >= 0"),
        (BC, dict(validation_fraction=1.0), r"validation_fraction=1.0 must be in \[0, 0.9\]"),
        (BC, dict(n_demonstrations=1), "n_demonstrations=1 must be an integer of at least 2"),
        (BC, dict(max_grad_norm=0.0), "max_grad_norm=0.0 must be a number > 0"),
        (DAgger, dict(beta=lambda progress: 2.0), r"beta\(1.0\)=2.0 must be in \[0, 1\] for every"),
        (DAgger, dict(beta="lin_2"), r"beta='lin_2' must stay in \[0, 1\]"),
        (DAgger, dict(beta=1.5), r"beta=1.5 must be None, a number in \[0, 1\], a function"),
        (DAgger, dict(n_epochs=2, gradient_steps=7), "gradient_steps=7 has no effect here: it needs n_epochs=None"),
        (DAgger, dict(n_epochs=0), "n_epochs=0 must be an integer of at least 1"),
        (BC, dict(policy=DQN.policy_aliases["MlpPolicy"]), "policy=DQNPolicy must be 'MlpPolicy', 'CnnPolicy' or"),
    ],
)
def test_arguments_that_are_refused(cls: Any, arguments: dict[str, Any], message: str, expert: BasePolicy) -> None:
    with pytest.raises(ValueError, match=message):
        cls(**dict(policy="MlpPolicy", env="CartPole-v1", expert=expert) | arguments)


def test_an_expert_for_another_space(expert: BasePolicy) -> None:
    with pytest.raises(ValueError, match=r"expert has observation_space=Box.*, but the environment has observation_sp"):
        BC("MlpPolicy", "Acrobot-v1", expert=expert)
    env = make_vec_env("Pendulum-v1", 1)
    other = Doubles(env.observation_space, spaces.Box(-1.0, 1.0, (2,), np.float32))
    with pytest.raises(ValueError, match=r"expert has action_space=Box\(-1.0, 1.0, \(2,\), float32\), but"):
        DAgger("MlpPolicy", env, expert=other)


def test_experts_that_cannot_act_alone() -> None:
    recurrent = RecurrentPPO("MlpLstmPolicy", "CartPole-v1", n_steps=8)
    with pytest.raises(ValueError, match=r"expert=.* is recurrent, and nobody keeps its state here"):
        BC("MlpPolicy", "CartPole-v1", expert=recurrent)
    env = gym.make("Pendulum-v1")
    other = Doubles(env.observation_space, spaces.Box(-1.0, 1.0, (1,), np.float32))
    with pytest.raises(ValueError, match=r"expert has action_space=Box\(-1.0, 1.0, \(1,\), float32\), but"):
        BC("MlpPolicy", env, expert=other)
    with pytest.raises(ValueError, match="use_sde=True: gSDE is not defined here"):
        BC(SACPolicy, env, expert=Doubles(env.observation_space, env.action_space), policy_kwargs=dict(use_sde=True))


@pytest.mark.parametrize("cls", [SAC, REDQSAC])
def test_an_expert_that_replayed_in_hindsight(cls: Any, tmp_path: Path) -> None:
    env = BitFlippingEnv(4, continuous=True)
    model = cls("MultiInputPolicy", env, replay_buffer_class=HerReplayBuffer, buffer_size=100, device="cpu")
    model.save(tmp_path / "expert")
    algo = "sac" if cls is SAC else "redq_sac"
    imitated = BC("MultiInputPolicy", env, expert=f"{algo}:{tmp_path / 'expert.zip'}", n_demonstrations=10)
    assert imitated.learn(2).num_timesteps == 2


@pytest.mark.parametrize("as_list", [False, True])
def test_callbacks_find_each_other(cartpole: Any, expert: BasePolicy, as_list: bool) -> None:
    callbacks: list[BaseCallback] = [
        ReduceLearningRateOnPlateau(patience=1),
        EvalCallback(cartpole, eval_freq=2, n_eval_episodes=1),
    ]
    model = BC("MlpPolicy", cartpole, expert=expert, n_demonstrations=20, **SMALL)
    assert model.learn(4, callbacks if as_list else CallbackList(callbacks)).num_timesteps == 4


def test_there_is_nothing_to_save_before_the_expert_has_played(
    cartpole: Any, expert: BasePolicy, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="no demonstrations to save: the expert plays when learn"):
        BC("MlpPolicy", cartpole, expert=expert).save_demonstrations(tmp_path / "pairs")


def test_every_id_of_the_zoo_may_be_an_expert() -> None:
    assert set(ZOO_ALGORITHMS) <= set(algorithms())


def test_a_penalty_leaves_the_values_as_they_are(cartpole: Any, expert: BasePolicy) -> None:
    model = BC("MlpPolicy", cartpole, expert=expert, l2_coef=1e-2, learning_rate=5e-3, n_demonstrations=100, seed=0)
    before = parameters(model)
    after = parameters(model.learn(100))
    for name, value in before.items():
        assert th.equal(value, after[name]) == ("value" in name), name


@pytest.mark.parametrize("n_envs", [1, 4])
def test_callbacks_count_alike_with_several_environments(n_envs: int, expert: BasePolicy) -> None:
    env = make_vec_env("CartPole-v1", n_envs)
    evaluation = EvalCallback(make_vec_env("CartPole-v1", 1), eval_freq=40 // n_envs, verbose=0)
    model = BC("MlpPolicy", env, expert=expert, n_demonstrations=50, **SMALL).learn(80, callback=evaluation)
    assert model._n_updates == model.num_timesteps == 80 and evaluation.n_calls == 80 // n_envs


# Search spaces


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_every_draw_constructs(data: st.DataObject) -> None:
    env = make_vec_env("CartPole-v1", 1)
    for algo in ("bc", "dagger"):
        trial = DrawnTrial(data)
        arguments = sample(algo, trial, NO_HER)
        assert trial.user_attrs == {"batch_size": arguments["batch_size"]}
        model = ZOO_ALGORITHMS[algo].algorithm_class("MlpPolicy", env, expert=Steers(env), device="cpu", **arguments)
        assert model.batch_size == arguments["batch_size"] and model.l2_coef == arguments["l2_coef"]


def test_draws_meet_no_contradiction_in_the_yaml_file(cartpole: Any, expert: BasePolicy) -> None:
    arguments = sample("dagger", study_of(policy="MlpPolicy", n_epochs=3).ask(), NO_HER)
    model = DAgger("MlpPolicy", cartpole, expert=expert, **{"n_epochs": 3, **arguments})
    assert model.n_epochs is None and model.gradient_steps == arguments["gradient_steps"]
    assert sample("bc", study_of(policy="CnnPolicy").ask(), NO_HER)["policy_kwargs"] == {}


def test_an_interruption_closes_the_progress_bar(cartpole: Any, expert: BasePolicy) -> None:
    model = BC("MlpPolicy", cartpole, expert=expert, n_demonstrations=20, **SMALL)
    bars: list[Any] = []

    class Look(BaseCallback):
        def _on_step(self) -> bool:
            (bar,) = (each for each in all_callbacks(model._callback()) if isinstance(each, ProgressBarCallback))
            bars.append(bar.pbar)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.learn(20, callback=Look(), progress_bar=True)
    assert bars[0].disable and model._callback is None
