"""After loading, the state of a model that has learned agrees with the arguments that were given."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.common.torch_layers import FlattenExtractor

from sb3_ext import REDQSAC, DeviceReplayBuffer, DoubleDQN, PrioritizedReplayBuffer, SoftDQN
from sb3_ext.redq_sac import MlpPolicy
from tests.support.models import CLASSES, VALUE_BASED, make
from tests.support.states import assert_equal, state

NETWORKS = dict(net_arch=[8], n_critics=3)
by_name_or_as_objects = pytest.mark.parametrize("as_objects", [False, True])


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function that returns a model that has learned, and its file."""
    models: dict[str, Any] = {}

    def get(cls: Any, **settings: Any) -> tuple[Any, Path]:
        key = f"{cls.__name__} {settings}"
        if key not in models:
            path = tmp_path_factory.mktemp("learned") / "model"
            models[key] = make(cls, gradient_steps=2, **settings).learn(30), path
            models[key][0].save(path)
        return models[key]

    return get


def load(cls: Any, path: Path, as_objects: bool, **arguments: Any) -> Any:
    model = cls.load(path, custom_objects=arguments) if as_objects else cls.load(path, **arguments)
    assert all(getattr(model, name) == value for name, value in arguments.items())
    return model


@by_name_or_as_objects
@pytest.mark.parametrize("ent_coef", [0.1, "0.02", "auto", "auto_1.0", "auto_0.5"])
@pytest.mark.parametrize("saved", [0.1, "auto"])
def test_the_given_ent_coef_holds(saved: Any, ent_coef: Any, as_objects: bool, learned: Any, tmp_path: Path) -> None:
    model, path = learned(REDQSAC, ent_coef=saved)
    loaded = load(REDQSAC, path, as_objects, ent_coef=ent_coef)
    made = make(REDQSAC, ent_coef=ent_coef)
    is_learned = str(ent_coef).startswith("auto")
    goes_on = (saved, ent_coef) in [("auto", "auto"), ("auto", "auto_1.0")]
    expected = model if goes_on else made
    assert loaded._temperature().ent_coef() == expected._temperature().ent_coef()
    assert (loaded.ent_coef_optimizer is not None) == is_learned
    assert ("ent_coef_tensor" in vars(loaded)) != is_learned
    if is_learned:
        optimizers = [each.ent_coef_optimizer.state_dict()["state"] for each in (loaded, expected)]
        assert str(optimizers[0]) == str(optimizers[1])
    assert_equal(dict(loaded.policy.state_dict()), dict(model.policy.state_dict()))
    if as_objects:
        return
    # What is trained with is what is saved again
    loaded.replay_buffer = model.replay_buffer
    loaded.set_logger(model.logger)
    loaded.train(2, batch_size=8)
    assert (loaded._temperature().ent_coef() == expected._temperature().ent_coef()) != is_learned
    loaded.save(tmp_path / "again")
    assert_equal(state(REDQSAC.load(tmp_path / "again")), state(loaded))


SCHEDULED, LEARNED = dict(auto_temperature=False), dict(auto_temperature=True)


@by_name_or_as_objects
@pytest.mark.parametrize(
    ("saved", "arguments", "temperature"),
    [
        (SCHEDULED, dict(temperature_initial=3.0, temperature_final=2.0), 2.0),
        (SCHEDULED, dict(auto_temperature=True), 1.0),
        (SCHEDULED, dict(auto_temperature=True, temperature_initial=0.3, target_entropy_fraction=0.5), 0.3),
        (LEARNED, dict(auto_temperature=False, temperature_final=0.2), 0.2),
        (LEARNED, dict(temperature_initial=0.3), 0.3),
        # What the file was made with goes on
        (SCHEDULED, dict(temperature_initial=1.0), None),
        (LEARNED, dict(auto_temperature=True, temperature_initial=1, target_entropy_fraction=0.5), None),
    ],
    ids=str,
)
def test_the_given_temperature_holds(
    saved: Any, arguments: Any, temperature: float | None, as_objects: bool, learned: Any
) -> None:
    model, path = learned(SoftDQN, **saved)
    loaded = load(SoftDQN, path, as_objects, **arguments)
    if temperature is None:
        assert_equal(state(loaded), state(model))
        return
    assert loaded.temperature == pytest.approx(temperature)
    assert th.equal(loaded.q_net.temperature, loaded.q_net_target.temperature)
    assert not loaded.temperature_optimizer.state
    if loaded.auto_temperature:
        loaded.replay_buffer = model.replay_buffer
        loaded.set_logger(model.logger)
        loaded.train(1, batch_size=8)
        # Adam's first step is the learning rate
        assert abs(np.log(loaded.temperature / temperature)) == pytest.approx(loaded.learning_rate, rel=1e-2)


@by_name_or_as_objects
@pytest.mark.parametrize("cls", VALUE_BASED)
def test_the_given_exploration_holds_at_once(cls: Any, as_objects: bool, learned: Any) -> None:
    model, path = learned(cls, exploration_initial_eps=0.9, exploration_final_eps=0.6)
    assert load(cls, path, as_objects, exploration_final_eps=0.6).exploration_rate == model.exploration_rate == 0.6
    assert load(cls, path, as_objects, exploration_final_eps=0.1).exploration_rate == pytest.approx(0.1)
    # SB3 takes any attribute
    assert load(cls, path, False, exploration_rate=0.7, exploration_final_eps=0.1).exploration_rate == 0.7


def test_a_file_of_sb3_takes_arguments_too(tmp_path: Path) -> None:
    DQN("MlpPolicy", "CartPole-v1", learning_starts=10, buffer_size=100, device="cpu").learn(30).save(tmp_path / "dqn")
    arguments: Any = dict(exploration_final_eps=0.4, double_q=False, policy="MlpPolicy", n_steps=3)
    loaded = DoubleDQN.load(tmp_path / "dqn", **arguments)
    assert (loaded.exploration_rate, loaded.double_q) == (0.4, False)
    assert type(loaded.replay_buffer) is NStepReplayBuffer and loaded.replay_buffer.n_steps == 3


@by_name_or_as_objects
def test_what_an_earlier_version_saved_can_be_replaced(as_objects: bool, tmp_path: Path) -> None:
    model = make(SoftDQN).learn(30)
    vars(model).update(exploration_initial_eps=0.0, exploration_final_eps=0.05)  # then the default
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match="epsilon would rise: give both arguments"):
        SoftDQN.load(tmp_path / "model")
    loaded = load(SoftDQN, tmp_path / "model", as_objects, exploration_initial_eps=0.3, exploration_final_eps=0.3)
    assert loaded.exploration_rate == 0.3
    assert_equal(state(loaded), state(model))


@pytest.mark.parametrize("cls", CLASSES)
def test_a_replay_buffer_in_the_file_follows_or_refuses(cls: Any, tmp_path: Path) -> None:
    for buffer_class in (None, PrioritizedReplayBuffer):
        make(cls, replay_buffer_class=buffer_class).learn(10).save(tmp_path / "model", include=["replay_buffer"])
        refused: list[dict[str, Any]] = [dict(buffer_size=50), dict(replay_buffer_class=DeviceReplayBuffer)]
        if buffer_class is None:
            refused.append(dict(n_steps=3))
        else:
            loaded = cls.load(tmp_path / "model", n_steps=3, gamma=0.5)
            assert (loaded.replay_buffer.n_steps, loaded.replay_buffer.gamma) == (3, 0.5)
            assert loaded.replay_buffer.size() == 10
        for arguments in refused:
            with pytest.raises(ValueError, match=f"(?s){next(iter(arguments))}.*saved"):
                cls.load(tmp_path / "model", **arguments)


def test_what_is_derived_cannot_be_given(learned: Any) -> None:
    _, path = learned(SoftDQN)
    for name, argument in (("lr_schedule", "learning_rate"), ("temperature_schedule", "temperature_initial")):
        with pytest.raises(ValueError, match=f"{name}=.* derived from {argument}"):
            SoftDQN.load(path, **{name: abs})
    # rl_zoo3 replaces it in every file, because an old Python may have pickled it
    assert SoftDQN.load(path, custom_objects=dict(lr_schedule=abs, learning_rate=0.1)).lr_schedule(1.0) == 0.1


@pytest.mark.parametrize("cls", [REDQSAC, SoftDQN])
def test_optimizers_follow_policy_kwargs(cls: Any, learned: Any) -> None:
    model, path = learned(cls)
    networks = NETWORKS if cls is REDQSAC else dict(net_arch=[8])
    options = dict(eps=1e-3, betas=(0.5, 0.6), weight_decay=0.1)
    changed = networks | dict(optimizer_kwargs=options)
    loaded = cls.load(path, custom_objects=dict(policy_kwargs=changed))
    assert changed == networks | dict(optimizer_kwargs=options)
    assert_equal(state(loaded), state(model))
    other = cls.load(path, custom_objects=dict(policy_kwargs=networks | dict(optimizer_class=th.optim.RMSprop)))
    names = [name for name in model.get_parameters() if name.endswith(".optimizer")]
    for name in names:
        (group,) = loaded.get_parameters()[name]["param_groups"]
        assert options.items() <= group.items()
        entry = other.get_parameters()[name]
        assert entry["param_groups"][0]["alpha"] == 0.99 and "betas" not in entry["param_groups"][0]
        assert entry["state"] == {}
    other.replay_buffer = model.replay_buffer
    other.set_logger(model.logger)
    other.train(2, batch_size=8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(use_sde=True), "use_sde=True is not the saved one, False"),
        (dict(policy="CnnPolicy"), "policy='CnnPolicy' is not the saved one, REDQSACPolicy"),
        (dict(policy_kwargs=dict(net_arch=[9])), r"policy_kwargs={'net_arch': \[9\]} are not the saved ones"),
        (dict(ent_coef="high"), "ent_coef='high' must be"),
    ],
)
def test_what_cannot_hold_is_refused(arguments: Any, message: str, learned: Any) -> None:
    _, path = learned(REDQSAC, ent_coef="auto")
    with pytest.raises(ValueError, match=message):
        REDQSAC.load(path, **arguments)
    if "policy_kwargs" not in arguments:  # which replaces the saved ones there
        with pytest.raises(ValueError, match=message):
            REDQSAC.load(path, custom_objects=arguments)


def test_saved_arguments_may_be_repeated(learned: Any) -> None:
    model, path = learned(REDQSAC, ent_coef="auto")
    loaded = REDQSAC.load(path, policy="MlpPolicy", policy_kwargs=NETWORKS, use_sde=False, replay_buffer_kwargs=None)
    assert_equal(state(loaded), state(model))
    assert loaded.replay_buffer_kwargs == {}
    assert REDQSAC.load(path, target_entropy="auto").target_entropy == model.target_entropy


def test_classes_of_a_script_may_be_repeated(tmp_path: Path) -> None:
    """A file contains them with their code, so that another run of the script has others of the same name."""

    def define() -> Any:
        return [type(base.__name__, (base,), {"__module__": "__main__"}) for base in (MlpPolicy, FlattenExtractor)]

    (policy, extractor), (policy_again, extractor_again) = define(), define()
    model = make(REDQSAC, policy=policy, policy_kwargs=dict(features_extractor_class=extractor))
    model.save(tmp_path / "model")
    kwargs = NETWORKS | dict(features_extractor_class=extractor_again)
    loaded = REDQSAC.load(tmp_path / "model", policy=policy_again, policy_kwargs=kwargs)
    assert type(loaded.policy) is policy_again is loaded.policy_class
    assert_equal(state(loaded), state(model))


@pytest.mark.parametrize("cls", CLASSES)
def test_counters_in_custom_objects_hold(cls: Any, learned: Any) -> None:
    _, path = learned(cls)
    assert cls.load(path, custom_objects=dict(_n_updates=7))._n_updates == 7
    if cls is not REDQSAC:
        assert cls.load(path, custom_objects=dict(exploration_rate=0.125)).exploration_rate == 0.125


@pytest.mark.parametrize("cls", CLASSES)
def test_the_window_is_checked(cls: Any, learned: Any) -> None:
    _, path = learned(cls)
    for wrong in (-1, "10"):
        with pytest.raises(ValueError, match=f"stats_window_size={wrong!r} must be an integer"):
            cls.load(path, stats_window_size=wrong)


def test_a_saved_buffer_is_compared_with_the_named_class(tmp_path: Path) -> None:
    make(DoubleDQN, replay_buffer_class=PrioritizedReplayBuffer).learn(30).save(
        tmp_path / "model", include=["replay_buffer"]
    )
    loaded = DoubleDQN.load(tmp_path / "model", replay_buffer_class="PrioritizedReplayBuffer")
    assert type(loaded.replay_buffer) is PrioritizedReplayBuffer and loaded.replay_buffer.size() == 30
    with pytest.raises(ValueError, match="replay_buffer_class=FrameDedupReplayBuffer is not the saved one"):
        DoubleDQN.load(tmp_path / "model", replay_buffer_class="FrameDedupReplayBuffer")
