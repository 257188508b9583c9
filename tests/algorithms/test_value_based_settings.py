"""DoubleDQN, SoftDQN and IQN: every setting does what it says, bad ones are refused, and saving loses nothing."""

import copy
import inspect
import math
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import FakeImageEnv, SimpleMultiObsEnv
from stable_baselines3.common.logger import configure
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from sb3_ext import (
    IQN,
    DoubleDQN,
    FrameDedupReplayBuffer,
    PrioritizedFrameDedupReplayBuffer,
    PrioritizedReplayBuffer,
    SoftDQN,
)
from sb3_ext.iqn.policies import MlpPolicy as IQNPolicy
from sb3_ext.soft_dqn.policies import MlpPolicy as SoftDQNPolicy
from sb3_ext.speed import precision
from sb3_ext.speed.compilation import compiled_or_plain
from sb3_ext.speed.evaluation import NetworkEvaluator

CLASSES: list[Any] = [DoubleDQN, SoftDQN, IQN]
each_class = pytest.mark.parametrize("cls", CLASSES)
SMALL: dict[Any, dict[str, Any]] = {
    DoubleDQN: {},
    SoftDQN: {},
    IQN: dict(n_quantile_samples=3, n_target_quantile_samples=4, n_action_quantile_samples=5),
}


def make(cls: Any, env: Any = "CartPole-v1", **kwargs: Any) -> Any:
    policy = kwargs.pop("policy", "MlpPolicy")
    policy_kwargs = dict(net_arch=[8]) | kwargs.pop("policy_kwargs", {})
    settings = dict(
        learning_rate=1e-3,
        learning_starts=20,
        batch_size=16,
        train_freq=2,
        buffer_size=500,
        target_update_interval=20,
        device="cpu",
        seed=1,
    )
    return cls(policy, env, policy_kwargs=policy_kwargs, **(settings | SMALL[cls] | kwargs))


def state(model: Any) -> dict[str, th.Tensor]:
    """Every number that training changes."""
    tensors = dict(model.policy.state_dict())
    optimizers = {"policy": model.policy.optimizer}
    if getattr(model, "log_temperature", None) is not None:
        optimizers["temperature"] = model.temperature_optimizer
        tensors["log_temperature"] = model.log_temperature.detach()
    for name, optimizer in optimizers.items():
        for index, slots in optimizer.state_dict()["state"].items():
            tensors |= {f"{name}.{index}.{slot}": th.as_tensor(value) for slot, value in slots.items()}
    return {name: tensor.clone() for name, tensor in tensors.items()}


def assert_equal(actual: dict[str, th.Tensor], expected: dict[str, th.Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert th.equal(actual[name], value), name


# -- Bad arguments -----------------------------------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")
PER: dict[str, Any] = dict(replay_buffer_class=PrioritizedReplayBuffer)
BAD_FOR_ALL: list[tuple[dict[str, Any], str]] = [
    (dict(target_clip=0.0), r"target_clip=0.0 must be None or a number > 0"),
    (dict(target_clip=-1), r"target_clip=-1 must be None or a number > 0"),
    (dict(target_clip=NAN), r"target_clip=nan must be"),
    (dict(target_clip=INF), r"target_clip=inf must be"),
    (dict(target_clip="1"), r"target_clip='1' must be"),
    (dict(autocast_dtype="float64"), r"autocast_dtype='float64' is not one of None, 'auto', 'bfloat16'"),
    (dict(autocast_dtype=th.bfloat16), r"autocast_dtype=torch.bfloat16 is not one of"),
    (dict(tau=1.5), r"tau=1.5 must be in \[0, 1\]"),
    (dict(tau=-0.1), r"tau=-0.1 must be in \[0, 1\]"),
    (dict(tau=NAN), r"tau=nan must be in \[0, 1\]"),
    (dict(gamma=1.01), r"gamma=1.01 must be in \[0, 1\]"),
    (dict(n_steps=0), r"n_steps=0 must be an integer of at least 1"),
    (dict(double_q="False"), r"double_q='False' is not one of True, False"),
    (dict(compile="no"), r"compile='no' is not one of True, False"),
    (dict(replay_buffer_kwargs=dict(alpha=0.6)), r"alpha=0.6, which needs a prioritised replay_buffer_class"),
    (dict(target_update_interval=-1), r"target_update_interval=-1 must be a number >= 0"),
    (dict(target_update_interval=NAN), r"target_update_interval=nan must be a number >= 0"),
    (dict(exploration_initial_eps=1.1), r"exploration_initial_eps=1.1 must be in \[0, 1\]"),
    (dict(exploration_final_eps=-0.1), r"exploration_final_eps=-0.1 must be in \[0, 1\]"),
    (dict(learning_rate_final=-1e-4), r"learning_rate_final=-0.0001 must be None or a number >= 0"),
    (dict(learning_rate_fraction=0.0), r"learning_rate_fraction=0.0 must be in \(0, 1\]"),
    (
        dict(learning_rate=LinearSchedule(1e-3, 0.0, 1.0), learning_rate_final=1e-4),
        r"learning_rate_final=0.0001 needs a constant learning_rate",
    ),
    (dict(batch_size=0), r"batch_size=0 must be an integer of at least 1"),
    (dict(gradient_steps=-2), r"gradient_steps=-2 must be an integer of at least -1"),
    (dict(buffer_size=0), r"buffer_size=0 must be an integer of at least 1"),
    (PER | dict(replay_buffer_kwargs=dict(alpha=-0.1)), r"alpha=-0.1 must be a number >= 0"),
    (PER | dict(replay_buffer_kwargs=dict(beta=1.1)), r"beta=1.1 must be in \[0, 1\]"),
    (PER | dict(replay_buffer_kwargs=dict(eps=0.0)), r"eps=0.0 must be a number > 0"),
    (PER | dict(n_steps=3, replay_buffer_kwargs=dict(n_steps=2)), r"has n_steps=2, which contradicts n_steps=3"),
    (PER | dict(gamma=0.9, replay_buffer_kwargs=dict(gamma=0.95)), r"has gamma=0.95, which contradicts gamma=0.9"),
]
# What SB3's DQN takes without a word, and which can only be a mistake
BAD_AND_NOT_CHECKED_BY_SB3: list[tuple[dict[str, Any], str]] = [
    # clip_grad_norm_ multiplies the gradient by a negative number: the network climbs the loss
    (dict(max_grad_norm=-1.0), r"max_grad_norm=-1.0 must be"),
    (dict(max_grad_norm=NAN), r"max_grad_norm=nan must be"),
    (dict(exploration_fraction=-0.1), r"exploration_fraction=-0.1 must be"),
    (dict(exploration_fraction=NAN), r"exploration_fraction=nan must be"),
]
MUNCHAUSEN: dict[str, Any] = dict(munchausen_coef=0.9, double_q=False)
BAD_FOR_SOFT_DQN: list[tuple[dict[str, Any], str]] = [
    (dict(target_backup="mean"), r"target_backup='mean' is not one of 'soft', 'boltzmann', 'mellowmax', 'max'"),
    (dict(temperature_initial=0.0), r"temperature_initial=0.0 must be a number >= 1e-08"),
    (dict(temperature_initial=INF), r"temperature_initial=inf must be a number >= 1e-08"),
    (dict(temperature_final=0.0), r"temperature_final=0.0 must be a number >= 1e-08"),
    (dict(temperature_final=-1.0), r"temperature_final=-1.0 must be a number >= 1e-08"),
    (dict(temperature_final=NAN), r"temperature_final=nan must be a number >= 1e-08"),
    (dict(temperature_fraction=0.0), r"temperature_fraction=0.0 must be in \(0, 1\]"),
    (dict(temperature_fraction=1.5), r"temperature_fraction=1.5 must be in \(0, 1\]"),
    (dict(target_entropy_fraction=-0.1), r"target_entropy_fraction=-0.1 must be in \[0, 1\)"),
    (dict(target_entropy_fraction=1.0), r"target_entropy_fraction=1.0 must be in \[0, 1\)"),
    (dict(munchausen_coef=1.1), r"munchausen_coef=1.1 must be in \[0, 1\]"),
    (dict(munchausen_coef=-0.9), r"munchausen_coef=-0.9 must be in \[0, 1\]"),
    (dict(munchausen_clip=0.1), r"munchausen_clip=0.1 must be a number <= 0"),
    (dict(munchausen_clip=-INF), r"munchausen_clip=-inf must be a number <= 0"),
    *(
        (
            MUNCHAUSEN | dict(target_backup=backup),
            rf"munchausen_coef=0.9 with target_backup='{backup}': only target_backup='soft' is allowed",
        )
        for backup in ("boltzmann", "mellowmax", "max")
    ),
    (MUNCHAUSEN | dict(double_q=True), r"munchausen_coef=0.9 with double_q=True: only double_q=False is allowed"),
    (MUNCHAUSEN | dict(n_steps=3), r"munchausen_coef=0.9 with n_steps=3: only n_steps=1 is allowed"),
    (
        MUNCHAUSEN | PER | dict(replay_buffer_kwargs=dict(n_steps=3)),
        r"replay_buffer_kwargs has n_steps=3, which contradicts n_steps=1 of the algorithm",
    ),
]
BAD_FOR_IQN: list[tuple[dict[str, Any], str]] = [
    *(
        ({name: value}, rf"{name}={value} must be an integer of at least 1")
        for name in ("n_quantile_samples", "n_target_quantile_samples", "n_action_quantile_samples")
        for value in (0, 2.5)
    ),
    (dict(kappa=0.0), r"kappa=0.0 must be a number > 0"),
    (dict(kappa=NAN), r"kappa=nan must be a number > 0"),
    (dict(risk_measure="var"), r"risk_measure='var' is not one of 'neutral', 'cvar', 'wang', 'cpw', 'pow'"),
    *(
        (dict(risk_measure=measure, risk_eta=eta), rf"risk_eta={eta} must be in \(0, 1\] with risk_measure='{measure}'")
        for measure in ("cvar", "cpw")
        for eta in (0.0, -0.5, 1.5, NAN)
    ),
    *(
        (dict(risk_measure=measure, risk_eta=eta), rf"risk_eta={eta!r} must be a number between .* with .*'{measure}'")
        for measure in ("neutral", "wang", "pow")
        for eta in (INF, NAN, "1")
    ),
    # The default of eta is no level of the worst returns
    (dict(risk_measure="cvar"), r"risk_eta=0.0 must be in \(0, 1\]"),
]
BAD = [
    *((cls, *case) for cls in CLASSES for case in BAD_FOR_ALL + BAD_AND_NOT_CHECKED_BY_SB3),
    *((SoftDQN, *case) for case in BAD_FOR_SOFT_DQN),
    *((IQN, *case) for case in BAD_FOR_IQN),
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Path]:
    """A saved model of each algorithm."""
    folder = tmp_path_factory.mktemp("saved")
    for cls in CLASSES:
        make(cls).save(folder / cls.__name__)
    return {cls: folder / cls.__name__ for cls in CLASSES}


@pytest.mark.parametrize(("cls", "kwargs", "message"), BAD)
def test_bad_arguments(cls: Any, kwargs: dict[str, Any], message: str, saved: dict[Any, Path]) -> None:
    with pytest.raises(ValueError, match=message):
        make(cls, **kwargs)
    # `load` writes arguments past the constructor
    with pytest.raises(ValueError, match=message):
        cls.load(saved[cls], **kwargs)


@pytest.mark.parametrize(
    ("cls", "policy", "message"),
    [
        (SoftDQN, DQN.policy_aliases["MlpPolicy"], r"policy=DQNPolicy must be a subclass of SoftDQNPolicy"),
        (SoftDQN, DoubleDQN.policy_aliases["MlpPolicy"], r"policy=MlpPolicy must be a subclass of SoftDQNPolicy"),
        (SoftDQN, IQNPolicy, r"policy=IQNPolicy must be a subclass of SoftDQNPolicy"),
        (IQN, DQN.policy_aliases["MlpPolicy"], r"policy=DQNPolicy must be a subclass of IQNPolicy"),
        (IQN, SoftDQNPolicy, r"policy=SoftDQNPolicy must be a subclass of IQNPolicy"),
        # These two would train, but explore by the rules of the other algorithm
        (DoubleDQN, SoftDQNPolicy, r"policy=SoftDQNPolicy must be"),
        (DoubleDQN, IQNPolicy, r"policy=IQNPolicy must be"),
        (DoubleDQN, SAC.policy_aliases["MlpPolicy"], r"policy=SACPolicy must be"),
    ],
)
def test_policies_of_other_algorithms(cls: Any, policy: Any, message: str, saved: dict[Any, Path]) -> None:
    with pytest.raises(ValueError, match=message):
        cls(policy, "CartPole-v1")
    with pytest.raises(ValueError, match=message):
        cls.load(saved[cls], policy_class=policy)


def test_double_dqn_takes_a_policy_written_for_dqn() -> None:
    model = make(DoubleDQN, policy=DQN.policy_aliases["MlpPolicy"])
    model.learn(60)
    assert type(model.policy) is DQN.policy_aliases["MlpPolicy"] and model._n_updates == 20


@each_class
def test_continuous_actions_fail_as_in_sb3(cls: Any) -> None:
    with pytest.raises(AssertionError, match="action spaces"):
        cls("MlpPolicy", "Pendulum-v1")


@each_class
def test_dictionaries_of_the_caller_stay_as_they_were(cls: Any, tmp_path: Path) -> None:
    policy_kwargs = dict(net_arch=[8, 7], dueling=True, optimizer_kwargs=dict(weight_decay=0.1))
    buffer_kwargs = dict(alpha=0.5, handle_timeout_termination=True)
    before = copy.deepcopy((policy_kwargs, buffer_kwargs))
    arguments: dict[str, Any] = dict(PER, n_steps=3, policy_kwargs=policy_kwargs, replay_buffer_kwargs=buffer_kwargs)
    model = cls("MlpPolicy", "CartPole-v1", buffer_size=100, learning_starts=20, **SMALL[cls], **arguments).learn(30)
    assert (policy_kwargs, buffer_kwargs) == before
    # And what is saved is what was asked for
    model.save(tmp_path / "model")
    loaded = cls.load(tmp_path / "model", policy_kwargs=policy_kwargs, replay_buffer_kwargs=buffer_kwargs)
    assert (policy_kwargs, buffer_kwargs) == before == (loaded.policy_kwargs, loaded.replay_buffer_kwargs)
    assert loaded.replay_buffer.n_steps == 3


# -- The arguments of SB3's DQN ----------------------------------------------------------------------------------------

DQN_PARAMETERS = {
    name: parameter
    for name, parameter in inspect.signature(DQN.__init__).parameters.items()
    if name not in ("self", "policy", "env", "_init_setup_model")
}
#: Others than the defaults, but for those of which one other would rule out another
OTHER_VALUES: dict[str, Any] = dict(
    learning_rate=3e-4,
    buffer_size=123,
    learning_starts=17,
    batch_size=11,
    tau=0.5,
    gamma=0.9,
    train_freq=3,
    gradient_steps=2,
    replay_buffer_class=ReplayBuffer,
    replay_buffer_kwargs=dict(handle_timeout_termination=False),
    optimize_memory_usage=False,
    n_steps=1,
    target_update_interval=77,
    exploration_fraction=0.3,
    exploration_initial_eps=0.8,
    exploration_final_eps=0.1,
    max_grad_norm=2.5,
    stats_window_size=13,
    tensorboard_log="somewhere",
    policy_kwargs=dict(net_arch=[5]),
    verbose=0,
    seed=4,
    device="cpu",
)
#: SoftDQN explores by its temperature
OTHER_DEFAULTS = {SoftDQN: dict(exploration_initial_eps=0.0, exploration_final_eps=0.0)}


def arguments_of(model: Any) -> dict[str, Any]:
    names = {"stats_window_size": "_stats_window_size"}
    return {name: getattr(model, names.get(name, name)) for name in DQN_PARAMETERS}


def test_arguments_have_the_names_and_types_of_sb3() -> None:
    expected = {name: parameter.annotation for name, parameter in DQN_PARAMETERS.items()}
    defaults = {name: parameter.default for name, parameter in DQN_PARAMETERS.items()}
    for cls in CLASSES:
        parameters = inspect.signature(cls.__init__).parameters
        # In SB3's order, which positional arguments rely on; what is added comes by keyword only
        positional = {n: p for n, p in parameters.items() if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD}
        assert list(positional) == ["self", "policy", "env", *expected, "_init_setup_model"], cls
        assert {name: positional[name].annotation for name in expected} == expected, cls
        assert {n: positional[n].default for n in defaults} == defaults | OTHER_DEFAULTS.get(cls, {}), cls
        assert not {p.kind for p in parameters.values()} - {
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            inspect.Parameter.KEYWORD_ONLY,
        }, cls
        # And every argument is explained
        explained = set(re.findall(r":param (\w+):", cls.__doc__))
        assert explained == set(parameters) - {"self"}, cls


@each_class
def test_defaults_are_those_of_sb3(cls: Any) -> None:
    expected = arguments_of(DQN("MlpPolicy", "CartPole-v1", buffer_size=10)) | OTHER_DEFAULTS.get(cls, {})
    assert arguments_of(cls("MlpPolicy", "CartPole-v1", buffer_size=10)) == expected
    assert cls("MlpPolicy", "CartPole-v1").buffer_size == DQN_PARAMETERS["buffer_size"].default


@each_class
def test_arguments_of_sb3_by_keyword(cls: Any) -> None:
    assert OTHER_VALUES.keys() == DQN_PARAMETERS.keys()
    expected = arguments_of(DQN("MlpPolicy", "CartPole-v1", **OTHER_VALUES))
    model = cls("MlpPolicy", "CartPole-v1", **OTHER_VALUES)
    assert arguments_of(model) == expected
    changed = {name for name, value in expected.items() if value != DQN_PARAMETERS[name].default}
    assert len(changed) >= len(DQN_PARAMETERS) - 4


@each_class
@pytest.mark.parametrize("n_positional", [1, 14, 15, len(DQN_PARAMETERS)])
def test_arguments_of_sb3_by_position(cls: Any, n_positional: int) -> None:
    values = {name: OTHER_VALUES[name] for name in list(DQN_PARAMETERS)[:n_positional]}
    expected = arguments_of(DQN("MlpPolicy", "CartPole-v1", *values.values()))
    given_elsewhere = {k: v for k, v in OTHER_DEFAULTS.get(cls, {}).items() if k not in values}
    assert arguments_of(cls("MlpPolicy", "CartPole-v1", *values.values())) == expected | given_elsewhere


@each_class
def test_runs_are_logged_under_the_name_of_the_class(cls: Any, tmp_path: Path) -> None:
    model = make(cls, tensorboard_log=str(tmp_path))
    model.learn(5)
    model.learn(5, tb_log_name="mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([f"{cls.__name__}_1", "mine_1"])


# -- Exploration -------------------------------------------------------------------------------------------------------


class Vectors(gym.Env):
    """The reward is fixed by the action; each episode is one step long."""

    def __init__(self, n_actions: int = 3, n_inputs: int = 4, as_dict: bool = False) -> None:
        box = spaces.Box(-1.0, 1.0, (n_inputs,), np.float32)
        self.observation_space = spaces.Dict({"a": box, "b": box}) if as_dict else box
        self.action_space = spaces.Discrete(n_actions)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: int) -> Any:
        return self.observation_space.sample(), 0.1 * float(action), True, False, {}


RANDOM = -1  # no action of the space, so that a random one can be told from a greedy one


@pytest.mark.parametrize("as_dict", [False, True])
@each_class
def test_each_environment_tosses_its_own_coin(cls: Any, as_dict: bool) -> None:
    n_envs, n_calls, rate = 8, 400, 0.5
    settings = dict(temperature_initial=1e-6) if cls is SoftDQN else {}
    env = Vectors(as_dict=as_dict)
    model = make(cls, env, policy="MultiInputPolicy" if as_dict else "MlpPolicy", **settings)
    th.manual_seed(2)
    for parameter in model.policy.parameters():
        # Without biases, so that the action depends on the observation
        parameter.data = th.randn_like(parameter) * (parameter.ndim > 1)
    env.observation_space.seed(0)
    rows = [env.observation_space.sample() for _ in range(n_envs)]
    observations = {k: np.stack([row[k] for row in rows]) for k in rows[0]} if as_dict else np.stack(rows)
    greedy, _ = model.predict(observations, deterministic=True)
    assert len(set(greedy.tolist())) > 1
    model.action_space.sample = lambda *_, **__: RANDOM
    model.exploration_rate = rate
    actions = np.stack([model.predict(observations)[0] for _ in range(n_calls)])
    assert actions.shape == (n_calls, n_envs)
    explored = actions == RANDOM
    if cls is not IQN:  # which chooses by random quantile levels
        # Whoever does not explore gets the action for its own observation
        assert (actions == greedy)[~explored].all()
    # Four standard deviations of a fair coin, in each environment and for each pair of them
    assert np.abs(explored.mean(axis=0) - rate).max() < 4 * 0.5 / math.sqrt(n_calls)
    correlations = np.corrcoef(explored.T.astype(float)) - np.eye(n_envs)
    assert np.abs(correlations).max() < 4 / math.sqrt(n_calls)


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("vectorized", [True, False])
@each_class
def test_one_environment_explores_as_sb3_does(cls: Any, vectorized: bool, rate: float) -> None:
    """The same random numbers in the same order; for SoftDQN and IQN as far as the coin and the random actions go."""
    reference = DQN("MlpPolicy", "CartPole-v1", buffer_size=10, policy_kwargs=dict(net_arch=[8]), seed=1, device="cpu")
    model = make(cls, **(dict(temperature_initial=1e-6) if cls is SoftDQN else {}))
    if cls is DoubleDQN:
        model.policy.load_state_dict(reference.policy.state_dict())
    observation_space = reference.observation_space
    observation_space.seed(0)
    observations = np.stack([np.clip(observation_space.sample(), -1, 1) for _ in range(100)])
    results = []
    for agent in (reference, model):
        agent.exploration_rate = rate
        agent.action_space.seed(5)
        np.random.seed(5)
        predictions = [agent.predict(obs[None] if vectorized else obs)[0] for obs in observations]
        assert all(action.shape == ((1,) if vectorized else ()) for action in predictions)
        results.append((np.array(predictions).flatten(), np.random.get_state()[1], agent.action_space.sample()))
    (expected, numbers, next_action), (actual, our_numbers, our_next_action) = results
    assert (our_numbers == numbers).all() and our_next_action == next_action
    if cls is DoubleDQN or rate == 1.0:
        assert (actual == expected).all() and len(set(expected)) == 2


@each_class
def test_predict_is_reproducible_without_exploration(cls: Any) -> None:
    model = make(cls).learn(60)
    model.exploration_rate = 1.0
    observations = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    actions, _ = model.predict(observations, deterministic=True)
    assert all((model.predict(observations, deterministic=True)[0] == actions).all() for _ in range(20))
    assert (actions == model.q_net(th.as_tensor(observations)).argmax(dim=1).numpy()).all()
    for observation, action in zip(observations, actions, strict=True):
        alone, _ = model.predict(observation, deterministic=True)
        assert alone.shape == () and alone == action


@pytest.mark.parametrize("temperature", [0.3, 2.0, 1e6, 1e-6, 1e-8])
def test_actions_have_the_frequencies_of_the_boltzmann_policy(temperature: float) -> None:
    n_actions, n_samples = 4, 20_000
    model = make(SoftDQN, Vectors(n_actions), temperature_initial=temperature)
    with th.no_grad():
        model.q_net.q_net[-1].bias.copy_(th.tensor([0.0, 1.0, 0.5, -0.7]))
    observation = np.full(4, 0.1, np.float32)
    q_values = model.q_net(th.as_tensor(observation[None]))[0].tolist()
    weights = [math.exp((q - max(q_values)) / temperature) for q in q_values]
    probabilities = np.array(weights) / sum(weights)
    actions, _ = model.predict(np.tile(observation, (n_samples, 1)))
    counts, expected = np.bincount(actions, minlength=n_actions), n_samples * probabilities
    possible = expected > 5
    assert counts[~possible].sum() <= 5 * (~possible).sum()
    # Chi-square with 3 degrees of freedom: above 21.1 once in 10,000 runs
    assert ((counts - expected)[possible] ** 2 / expected[possible]).sum() < 21.1
    assert (len(np.unique(actions)) == 1) == (temperature < 1e-3)
    assert (model.predict(np.tile(observation, (9, 1)), deterministic=True)[0] == np.argmax(q_values)).all()


# -- The temperature of SoftDQN ----------------------------------------------------------------------------------------


class RecordingSoftDQN(SoftDQN):
    """Keeps the temperature after each step, of both networks."""

    def _on_step(self) -> None:
        super()._on_step()
        self.recorded = [*getattr(self, "recorded", []), (self.num_timesteps, self.temperature)]
        assert th.equal(self.q_net.temperature, self.q_net_target.temperature)


SMALL[RecordingSoftDQN] = {}


def test_the_temperature_goes_down_linearly_and_goes_on_after_loading(tmp_path: Path) -> None:
    schedule: dict[str, Any] = dict(temperature_initial=2.0, temperature_final=0.5, temperature_fraction=0.4)
    model = make(RecordingSoftDQN, **schedule)
    assert model.temperature == 2.0
    model.learn(100)
    assert len(model.recorded) == 100
    for step, temperature in model.recorded:
        assert temperature == pytest.approx(max(2.0 - 1.5 * step / 100 / 0.4, 0.5), abs=1e-6)

    interrupted = make(RecordingSoftDQN, **schedule)
    interrupted.learn(100, callback=StopAt(20))
    before = interrupted.temperature
    assert before == pytest.approx(2.0 - 1.5 * 0.19 / 0.4)  # the step that is interrupted does not count
    interrupted.save(tmp_path / "model")
    loaded = RecordingSoftDQN.load(tmp_path / "model", env=interrupted.env)
    assert loaded.temperature == before
    loaded.recorded = []
    loaded.learn(180, reset_num_timesteps=False)
    # The line over now 200 steps, from where it is
    for step, temperature in loaded.recorded:
        assert temperature == pytest.approx(max(2.0 - 1.5 * step / 200 / 0.4, 0.5), abs=1e-6)
    assert loaded.recorded[0][0] == 21 and loaded.recorded[-1][0] == 200
    # It can be changed at loading
    changed = RecordingSoftDQN.load(tmp_path / "model", env=interrupted.env, temperature_final=1.5)
    changed.recorded = []
    changed.learn(10)
    assert changed.recorded[-1][1] == pytest.approx(1.5)


class StopAt(BaseCallback):
    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def _on_step(self) -> bool:
        return self.num_timesteps < self.step


@pytest.mark.parametrize(("initial", "fraction"), [(5.0, 0.5), (0.02, 0.5), (5.0, 0.1)])
def test_auto_temperature_moves_the_entropy_to_its_target(initial: float, fraction: float) -> None:
    n_actions = 4
    model = make(
        SoftDQN,
        Vectors(n_actions),
        learning_rate=2e-2,
        temperature_initial=initial,
        auto_temperature=True,
        target_entropy_fraction=fraction,
        gamma=0.0,
        train_freq=8,
        gradient_steps=8,
    )
    model.set_logger(configure(None, []))
    model.learn(40, log_interval=10**6)
    target, first = fraction * math.log(n_actions), model.logger.name_to_value["train/entropy"]
    model.learn(560, log_interval=10**6, reset_num_timesteps=False)
    last = model.logger.name_to_value["train/entropy"]
    assert abs(first - target) > 0.3
    assert abs(last - target) < 0.1
    assert model.temperature == pytest.approx(model.log_temperature.exp().item())
    assert th.equal(model.q_net.temperature, model.q_net_target.temperature)


def test_learned_temperature_is_saved_and_loaded(tmp_path: Path) -> None:
    model = make(SoftDQN, auto_temperature=True, temperature_initial=0.5).learn(60)
    assert model.temperature != pytest.approx(0.5, abs=1e-4)
    model.save(tmp_path / "model")
    loaded = SoftDQN.load(tmp_path / "model", env=model.env)
    assert_equal(state(loaded), state(model))
    assert {"log_temperature", "temperature.0.exp_avg"} <= state(loaded).keys()
    assert loaded.temperature == model.temperature
    # And the optimiser moves the tensor that the algorithm looks at
    loaded.learn(20, reset_num_timesteps=False)
    assert loaded.temperature != model.temperature
    assert loaded.temperature_optimizer.param_groups[0]["params"][0] is loaded.log_temperature


@pytest.mark.parametrize("auto_temperature", [False, True])
def test_auto_temperature_can_be_switched_at_loading(auto_temperature: bool, tmp_path: Path) -> None:
    model = make(SoftDQN, auto_temperature=auto_temperature, temperature_initial=0.5).learn(60)
    model.save(tmp_path / "model")
    loaded = SoftDQN.load(tmp_path / "model", env=model.env, auto_temperature=not auto_temperature)
    loaded.learn(60)
    assert (loaded.temperature == pytest.approx(0.05)) == auto_temperature  # arrived at the schedule's end
    assert math.isfinite(loaded.temperature)


def test_a_temperature_that_is_learned_stays_above_zero() -> None:
    """Where the entropy cannot fall, as with equal values, log alpha goes on falling."""
    model = make(SoftDQN, auto_temperature=True).learn(30)
    with th.no_grad():
        model.log_temperature.fill_(-150.0)
    model.train(1, batch_size=16)
    model.train(1, batch_size=16)
    assert model.temperature > 0
    assert all(th.isfinite(value).all() for value in model.policy.state_dict().values())


# -- Divergence --------------------------------------------------------------------------------------------------------


class Exploding(gym.Env):
    """Rewards that grow tenfold with each step."""

    observation_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self) -> None:
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return np.zeros(3, np.float32), {}

    def step(self, action: int) -> Any:
        self.steps += 1
        return np.zeros(3, np.float32), min(10.0**self.steps, 3e38), False, False, {}


@pytest.mark.parametrize("buffer", [{}, PER | dict(replay_buffer_kwargs=dict(alpha=0.1))], ids=["uniform", "PER"])
@pytest.mark.parametrize(
    ("env", "settings"), [(Exploding, dict(gradient_steps=3)), ("CartPole-v1", dict(learning_rate=1e30))]
)
@each_class
def test_divergence_stops_the_training(
    cls: Any, env: Any, settings: dict[str, Any], buffer: dict[str, Any], tmp_path: Path
) -> None:
    model = make(cls, env() if callable(env) else env, **settings, **buffer)
    # Before the first update at the least
    checkpoints = CheckpointCallback(10, str(tmp_path))
    with pytest.raises(ValueError, match="the training has diverged") as caught:
        model.learn(400, callback=checkpoints)
    message = str(caught.value)
    number = r"\d[\d.]*(e[+-]\d+)?"
    pattern = (
        rf"loss=(inf|nan|{number}), gradient norm=(inf|nan|{number}) at time step {model.num_timesteps}, about update "
        rf"{model._n_updates}; the last finite loss was {number}, with a gradient norm of {number}"
    )
    assert caught.match(pattern), message
    assert any(word in message.partition(" at ")[0] for word in ("inf", "nan"))
    assert all(th.isfinite(value).all() for value in model.policy.state_dict().values())
    loaded = cls.load(tmp_path / "rl_model_20_steps")
    assert loaded.num_timesteps == 20
    assert all(th.isfinite(value).all() for value in loaded.policy.state_dict().values())
    model.save(tmp_path / "afterwards")
    assert_equal(state(cls.load(tmp_path / "afterwards")), state(model))


def test_divergence_at_the_first_update_has_no_last_loss() -> None:
    model = make(DoubleDQN, learning_starts=10**6).learn(40)
    model.replay_buffer.rewards[:] = np.inf
    with pytest.raises(ValueError, match=r"loss=inf, .* at time step 40, about update 0; none before it was finite"):
        model.train(1, batch_size=8)
    assert model._n_updates == 0


# -- Compilation and precision -----------------------------------------------------------------------------------------


def losses_of(model: Any, reference: Any) -> tuple[Any, Any]:
    """Of both models for one batch and the same networks and quantile levels."""
    model.policy.load_state_dict(reference.policy.state_dict())
    batch = reference.replay_buffer.sample(16)
    terms = []
    for agent in (reference, model):
        th.manual_seed(3)
        terms.append(agent.compute_loss(batch, 0.9))
    return terms[0], terms[1]


def gradients_of(model: Any, losses: th.Tensor) -> th.Tensor:
    model.policy.optimizer.zero_grad()
    losses.mean().backward()
    return th.cat([parameter.grad.flatten() for parameter in model.q_net.parameters()])


@pytest.mark.parametrize("double_q", [False, True])
@each_class
def test_lower_precision_is_close(cls: Any, double_q: bool) -> None:
    reference, model = make(cls, double_q=double_q).learn(60), make(cls, double_q=double_q, autocast_dtype="bfloat16")
    expected, actual = losses_of(model, reference)
    # bfloat16 has 8 bits: close, but not the same
    assert actual.losses.dtype == actual.errors.dtype == th.float32
    assert not th.equal(actual.losses, expected.losses)
    th.testing.assert_close(actual.losses, expected.losses, rtol=0.1, atol=0.02)
    gradient = gradients_of(reference, expected.losses)
    assert (gradients_of(model, actual.losses) - gradient).norm() < 0.05 * gradient.norm()
    model.learn(60)
    assert all(value.dtype in (th.float32, th.int64) for value in model.policy.state_dict().values())


@pytest.mark.parametrize("dueling", [False, True])
@each_class
def test_values_keep_their_digits_in_lower_precision(cls: Any, dueling: bool) -> None:
    """bfloat16 knows 1000 and 1004, and nothing between them."""
    model = make(cls, autocast_dtype="bfloat16", policy_kwargs=dict(net_arch=[64], dueling=dueling))
    network = model.q_net
    head = network.f if cls is IQN else network.q_net
    if dueling:
        head = (head if cls is IQN else head[0]).value
    with th.no_grad():
        head[-1].bias += 1001.5
        obs = th.rand(256, 4)
        exact, lower = network(obs), model.evaluate(network, obs)
    assert lower.dtype == th.float32 and not th.equal(lower, exact)
    assert (lower - exact).abs().max() < 0.05
    assert (exact.bfloat16().float() - exact).abs().min() > 0.5


@each_class
def test_auto_is_what_the_processor_computes_in(cls: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for has_bfloat16, same in ((True, "bfloat16"), (False, None)):
        monkeypatch.setattr(precision, "cpu_computes_in_bfloat16", lambda value=has_bfloat16: value)
        automatic, named = make(cls, autocast_dtype="auto").learn(40), make(cls, autocast_dtype=same).learn(40)
        for name, value in named.policy.state_dict().items():
            assert th.equal(automatic.policy.state_dict()[name], value), name
        automatic.save(tmp_path / "model")
        assert cls.load(tmp_path / "model").autocast_dtype == copy.deepcopy(automatic).autocast_dtype == "auto"


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """As in a new process: PyTorch stops compiling a function that was compiled too often."""
    th.compiler.reset()
    yield
    th.compiler.reset()


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler")
@each_class
def test_compiled_losses_are_the_plain_ones(cls: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As on a GPU: also where gradients are asked for
    monkeypatch.setattr(NetworkEvaluator, "is_compiled", lambda self, differentiable: self.compile)
    reference, model = make(cls).learn(60), make(cls, compile=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="compile=True has no effect")
        expected, actual = losses_of(model, reference)
    th.testing.assert_close(actual.losses, expected.losses, rtol=1e-4, atol=1e-5)
    gradient = gradients_of(reference, expected.losses)
    th.testing.assert_close(gradients_of(model, actual.losses), gradient, rtol=1e-3, atol=1e-5)

    model.learn(60)
    assert model._n_updates == 20
    assert model.policy.state_dict().keys() == reference.policy.state_dict().keys()
    model.save(tmp_path / "model")
    loaded = cls.load(tmp_path / "model", env=model.env)
    assert loaded.compile
    assert_equal(state(loaded), state(model))
    observations = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    assert (
        loaded.predict(observations, deterministic=True)[0] == model.predict(observations, deterministic=True)[0]
    ).all()
    assert not cls.load(tmp_path / "model", compile=False).compile


@pytest.mark.usefixtures("fresh_compiler")
@each_class
def test_every_model_of_a_process_is_compiled(cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search for hyperparameters makes many models, of different sizes, one after another."""
    runs: list[int] = []
    compile_really = th.compile

    def counting(graph: Any, inputs: Any) -> Callable[..., Any]:
        """A backend that counts how often a captured graph runs, and does not compile it."""
        return lambda *args: (runs.append(1), graph(*args))[1]

    monkeypatch.setattr(th, "compile", lambda function, **kwargs: compile_really(function, backend=counting, **kwargs))
    # As on a GPU: also where gradients are asked for
    monkeypatch.setattr(NetworkEvaluator, "is_compiled", lambda self, differentiable: self.compile)
    for n_models in range(1, 11):
        before = len(runs)
        model = make(cls, compile=True, policy_kwargs=dict(net_arch=[7 + n_models])).learn(30)
        # The online and the target network, at each update
        assert len(runs) - before >= 2 * model._n_updates, f"model {n_models} was not compiled"


def failing_at_call(function: Callable[..., th.Tensor], **kwargs: Any) -> Callable[..., th.Tensor]:
    def compiled(*args: Any) -> th.Tensor:
        raise RuntimeError("no C++ compiler\nand a long explanation")

    return compiled


def failing_at_once(function: Callable[..., th.Tensor], **kwargs: Any) -> Callable[..., th.Tensor]:
    # What torch.compile does on interpreters that it does not support
    raise RuntimeError("no C++ compiler\nand a long explanation")


def failing_at_second_call(function: Callable[..., th.Tensor], **kwargs: Any) -> Callable[..., th.Tensor]:
    # As where another shape of the arguments is compiled
    calls: list[int] = []

    def compiled(*args: Any) -> th.Tensor:
        calls.append(1)
        return function(*args) if len(calls) == 1 else failing_at_call(function)(*args)

    return compiled


def add_twice(x: th.Tensor, y: th.Tensor) -> th.Tensor:
    return x + 2 * y


@pytest.mark.parametrize("compiler", [failing_at_call, failing_at_once, failing_at_second_call])
def test_without_a_compiler_it_is_the_plain_function(compiler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(th, "compile", compiler)
    with pytest.warns(UserWarning) as caught:
        function = compiled_or_plain(add_twice, add_twice)
        results = [function(th.tensor(1.0), th.tensor(float(i))).item() for i in range(3)]
    assert results == [1.0, 3.0, 5.0]
    (message,) = [str(w.message) for w in caught]
    assert message == "compile=True has no effect from here on: torch.compile failed with RuntimeError: no C++ compiler"


def test_wrong_arguments_are_not_taken_for_a_missing_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(th, "compile", lambda function, **kwargs: function)
    function = compiled_or_plain(total := lambda x: x @ th.ones(3), total)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeError, match="size"):
            function(th.ones(2))
        assert function(th.ones(3)).item() == 3.0


@each_class
def test_training_without_a_compiler(cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(th, "compile", failing_at_call)
    with pytest.warns(UserWarning, match="compile=True has no effect"):
        model = make(cls, compile=True).learn(60)
    plain = make(cls).learn(60)
    assert_equal(state(model), state(plain))


# -- Saving ------------------------------------------------------------------------------------------------------------

VARIANTS = [
    (DoubleDQN, dict(learning_rate_final=1e-5, n_steps=3)),
    (DoubleDQN, dict(policy_kwargs=dict(dueling=True), tau=0.01, target_update_interval=1)),
    (SoftDQN, {}),
    (SoftDQN, dict(auto_temperature=True, target_backup="mellowmax")),
    (SoftDQN, dict(MUNCHAUSEN, policy_kwargs=dict(dueling=True))),
    (IQN, dict(double_q=True, n_steps=3)),
    (IQN, dict(risk_measure="cvar", risk_eta=0.5, policy_kwargs=dict(dueling=True, n_cosines=5, net_arch=[6, 7]))),
]


@pytest.mark.parametrize(("cls", "settings"), VARIANTS)
def test_train_after_load_is_train_without_saving(cls: Any, settings: dict[str, Any], tmp_path: Path) -> None:
    model = make(cls, **settings)
    model.learn(71)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = cls.load(tmp_path / "model")
    loaded.load_replay_buffer(tmp_path / "buffer")
    loaded.set_logger(model.logger)
    before = state(model)
    assert_equal(state(loaded), before)
    assert any(name.startswith("policy.") for name in before)
    for name in ("exploration_rate", "_n_updates", "_n_calls", "num_timesteps", "_current_progress_remaining"):
        assert getattr(loaded, name) == getattr(model, name), name
    for agent in (model, loaded):
        np.random.seed(7)
        th.manual_seed(7)
        agent.train(4, batch_size=16)
    assert_equal(state(loaded), state(model))
    assert any(not th.equal(value, before[name]) for name, value in state(model).items())


@pytest.mark.parametrize(("cls", "settings"), VARIANTS)
def test_schedules_go_on_after_loading(cls: Any, settings: dict[str, Any], tmp_path: Path) -> None:
    settings = dict(exploration_fraction=1.0, exploration_initial_eps=1.0, exploration_final_eps=0.0) | settings
    model = make(cls, **settings).learn(60)
    model.save(tmp_path / "model")
    loaded = cls.load(tmp_path / "model", env=model.env)
    loaded.learn(61, reset_num_timesteps=False, callback=StopAt(90))
    assert loaded.num_timesteps == 90
    assert loaded.exploration_rate == pytest.approx(1 - 89 / 121)
    final = settings.get("learning_rate_final", 1e-3)
    rate = loaded.policy.optimizer.param_groups[0]["lr"]
    assert rate == pytest.approx(1e-3 + (final - 1e-3) * 88 / 121, rel=1e-4)


@pytest.mark.parametrize(("cls", "settings"), VARIANTS)
def test_a_policy_saved_alone_acts_as_before(cls: Any, settings: dict[str, Any], tmp_path: Path) -> None:
    model = make(cls, **settings).learn(60)
    model.policy.save(tmp_path / "policy")
    policy = type(model.policy).load(tmp_path / "policy", device="cpu")
    assert_equal(dict(policy.state_dict()), dict(model.policy.state_dict()))
    observations = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    assert th.equal(policy.q_net(th.as_tensor(observations)), model.q_net(th.as_tensor(observations)))
    for deterministic in (True, False):
        actions = []
        for each in (model.policy, policy):
            th.manual_seed(2)
            actions.append(each.predict(observations, deterministic=deterministic)[0])
        assert (actions[0] == actions[1]).all()
    if cls is IQN:
        for network in (policy.q_net, policy.q_net_target):
            for name in ("n_action_quantile_samples", "risk_measure", "risk_eta", "n_cosines", "dueling"):
                assert getattr(network, name) == getattr(model.q_net, name), name


def test_settings_of_iqn_can_be_changed_at_loading(saved: dict[Any, Path]) -> None:
    loaded = IQN.load(saved[IQN], risk_measure="cvar", risk_eta=0.25, n_action_quantile_samples=6)
    for network in (loaded.q_net, loaded.q_net_target):
        assert (network.risk_measure, network.risk_eta, network.n_action_quantile_samples) == ("cvar", 0.25, 6)
    assert loaded.q_net.action_taus(2, deterministic=True).max().item() == pytest.approx(0.25 * 5.5 / 6)


@pytest.mark.parametrize(
    "policy_kwargs", [dict(risk_measure="cvar", risk_eta=0.5), dict(n_action_quantile_samples=9)], ids=str
)
def test_settings_of_iqn_in_policy_kwargs_are_refused(policy_kwargs: dict[str, Any]) -> None:
    """IQN sets them itself: an option that does nothing is the worst of both."""
    with pytest.raises(ValueError, match=f"policy_kwargs has {next(iter(policy_kwargs))}="):
        IQN("MlpPolicy", "CartPole-v1", buffer_size=10, policy_kwargs=policy_kwargs)


@each_class
def test_a_word_is_no_choice_of_architecture(cls: Any) -> None:
    with pytest.raises(ValueError, match="dueling='no' is not one of True, False"):
        make(cls, policy_kwargs=dict(dueling="no"))


@pytest.mark.parametrize("autocast_dtype", [None, "bfloat16"])
@each_class
def test_a_copy_trains_its_own_networks(cls: Any, autocast_dtype: str | None) -> None:
    model = make(cls, autocast_dtype=autocast_dtype).learn(60)
    kept = {name: value.clone() for name, value in model.policy.state_dict().items()}
    twin = copy.deepcopy(model)
    twin.train(5, 32)
    assert any(not th.equal(value, kept[name]) for name, value in twin.policy.state_dict().items())
    assert all(th.equal(value, kept[name]) for name, value in model.policy.state_dict().items())


@pytest.mark.parametrize(("cls", "settings"), VARIANTS)
def test_same_seed_same_parameters(cls: Any, settings: dict[str, Any]) -> None:
    first, second, other = (make(cls, **settings, seed=seed).learn(60) for seed in (1, 1, 2))
    assert first._n_updates == 20
    assert_equal(state(second), state(first))
    assert any(not th.equal(value, state(other)[name]) for name, value in state(first).items())


# -- Replay buffers and environments -----------------------------------------------------------------------------------


def learn_and_check(cls: Any, env: Any, total_timesteps: int = 200, **kwargs: Any) -> Any:
    model = make(cls, env, **kwargs)
    initial = {name: value.clone() for name, value in model.policy.state_dict().items()}
    model.learn(total_timesteps)
    assert model._n_updates >= 10
    state_dict = model.policy.state_dict()
    for part in ("q_net.", "q_net_target."):
        changed = {n for n, v in state_dict.items() if n.startswith(part) and not th.equal(v, initial[n])}
        assert changed - {"q_net.temperature", "q_net_target.temperature"}, f"{part} did not learn"
    assert all(th.isfinite(value).all() for value in state_dict.values())
    return model


@pytest.mark.filterwarnings("ignore:Observations of shape")
@pytest.mark.parametrize(
    ("buffer_class", "n_steps"),
    [
        (PrioritizedReplayBuffer, 3),
        (FrameDedupReplayBuffer, 1),
        (PrioritizedFrameDedupReplayBuffer, 3),
        (NStepReplayBuffer, 3),
    ],
)
@each_class
def test_replay_buffers(cls: Any, n_steps: int, buffer_class: type[ReplayBuffer]) -> None:
    model = learn_and_check(cls, "CartPole-v1", replay_buffer_class=buffer_class, n_steps=n_steps)
    buffer = model.replay_buffer
    assert type(buffer) is buffer_class and buffer.n_steps == n_steps
    if "Prioritized" in buffer_class.__name__:
        assert len(np.unique(buffer._tree.leaves[: buffer.size()])) > 10
        buffer.check_valid()


@each_class
def test_stacked_images_of_several_environments(cls: Any) -> None:
    def make_env() -> FakeImageEnv:
        return FakeImageEnv(action_dim=2, screen_height=36, screen_width=36, n_channels=1)

    env = VecFrameStack(make_vec_env(make_env, n_envs=2, seed=0), n_stack=3)
    model = learn_and_check(
        cls,
        env,
        total_timesteps=80,
        policy="CnnPolicy",
        policy_kwargs=dict(net_arch=[6], dueling=True, features_extractor_kwargs=dict(features_dim=8)),
        batch_size=4,
        replay_buffer_class=PrioritizedFrameDedupReplayBuffer,
        n_steps=3,
    )
    assert model.replay_buffer.n_envs == 2 and model.replay_buffer.n_steps == 3


@pytest.mark.parametrize("buffer", [{}, PER], ids=["uniform", "PER"])
@each_class
def test_dictionary_observations(cls: Any, buffer: dict[str, Any]) -> None:
    learn_and_check(
        cls,
        make_vec_env(SimpleMultiObsEnv, n_envs=2),
        total_timesteps=80,
        policy="MultiInputPolicy",
        policy_kwargs=dict(net_arch=[6], features_extractor_kwargs=dict(cnn_output_dim=8)),
        batch_size=4,
        **buffer,
    )


@each_class
def test_normalized_and_discrete_observations(cls: Any) -> None:
    learn_and_check(cls, VecNormalize(make_vec_env("CartPole-v1", n_envs=3, seed=0)))
    learn_and_check(cls, "FrozenLake-v1")


@each_class
def test_nan_from_the_environment_is_refused(cls: Any) -> None:
    class Broken(Vectors):
        def step(self, action: int) -> Any:
            observation, _, *rest = super().step(action)
            return observation, np.nan, *rest

    with pytest.raises(ValueError, match=r"reward is nan at index \[0\]"):
        make(cls, DummyVecEnv([Broken])).learn(5)


@each_class
def test_policies_have_sb3s_names(cls: Any) -> None:
    assert cls.policy_aliases.keys() == DQN.policy_aliases.keys()
    assert all(issubclass(policy, BasePolicy) for policy in cls.policy_aliases.values())
