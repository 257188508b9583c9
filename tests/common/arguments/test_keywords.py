"""An unknown keyword argument is refused by the name of the class, with what was meant and where it belongs."""

import copy
import inspect
import io
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN, SAC, HerReplayBuffer
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.sac.policies import SACPolicy

from sb3_ext import (
    IQN,
    REDQSAC,
    DeviceReplayBuffer,
    DiagnosisCallback,
    DoubleDQN,
    Float32ReplayBuffer,
    FrameDedupReplayBuffer,
    PrioritizedFrameDedupReplayBuffer,
    PrioritizedReplayBuffer,
    estimate_memory,
)
from sb3_ext.buffers import ArrayReplayBuffer
from sb3_ext.common.value_policies import ValueNetwork
from sb3_ext.double_dqn import MlpPolicy
from sb3_ext.keywords import public_classes
from sb3_ext.nets import ScalarHead
from sb3_ext.redq_sac.policies import REDQSACPolicy
from tests.support.models import CLASSES, make

BUFFERS: list[Any] = [
    *(DeviceReplayBuffer, Float32ReplayBuffer, ArrayReplayBuffer, FrameDedupReplayBuffer),
    *(PrioritizedReplayBuffer, PrioritizedFrameDedupReplayBuffer, HerReplayBuffer),
]
POLICIES: list[Any] = [(cls, policy) for cls in CLASSES for policy in cls.policy_aliases.values()]
BOX, DISCRETE = spaces.Box(-1.0, 1.0, (2,), np.float32), spaces.Discrete(2)
#: What SB3 passes to every buffer
FROM_SB3 = {"buffer_size", "observation_space", "action_space", "device", "n_envs", "optimize_memory_usage", "env"}
each_class = pytest.mark.parametrize("cls", CLASSES)


def message(function: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    with pytest.raises(TypeError) as caught:
        function(*args, **kwargs)
    return str(caught.value)


def arguments_of(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters) - {"self", "args", "kwargs"}


def documented(cls: type) -> set[str]:
    """The arguments that the docstrings of a class and its bases in this package name."""
    docs = [base.__doc__ or "" for base in cls.__mro__ if base.__module__.startswith("sb3_ext")]
    return set(re.findall(r":param (\w+):", " ".join(docs))) - {"args"}


def arguments_of_policy(policy: type) -> set[str]:
    own = documented(policy) | arguments_of(SACPolicy if issubclass(policy, SACPolicy) else DQNPolicy)
    own |= {"dueling"} if not issubclass(policy, SACPolicy) else set()
    return own - {"observation_space", "action_space", "lr_schedule"}


def arguments_of_buffer(buffer: type) -> set[str]:
    return arguments_of(buffer) | documented(buffer)


def misspelled(name: str) -> Iterator[str]:
    """The name with one letter changed: the first, one in the middle, the last."""
    for place in sorted({0, len(name) // 2, len(name) - 1}):
        wrong = "q" if name[place] == "j" else "j"
        yield f"{name[:place]}{wrong}{name[place + 1 :]}"


def environment_of(cls: Any) -> str:
    return "Pendulum-v1" if issubclass(cls, REDQSAC) else "CartPole-v1"


@each_class
def test_a_misspelled_argument_of_an_algorithm(cls: Any) -> None:
    for name in arguments_of(cls) - {"_init_setup_model"}:
        for typo in misspelled(name):
            expected = f"{cls.__name__} has no argument {typo}=5: did you mean {name}=5?"
            assert message(cls, "MlpPolicy", environment_of(cls), **{typo: 5}) == expected


@each_class
def test_an_argument_of_the_policy_given_to_the_algorithm(cls: Any) -> None:
    for name in arguments_of_policy(cls.policy_aliases["MlpPolicy"]) - arguments_of(cls):
        expected = f"{cls.__name__} has no argument {name}=5: did you mean policy_kwargs=dict({name}=5)?"
        assert message(cls, "MlpPolicy", environment_of(cls), **{name: 5}) == expected
        assert message(cls, policy=cls.policy_aliases["MlpPolicy"], env=None, **{name: 5}) == expected


@each_class
@pytest.mark.parametrize("buffer", BUFFERS)
def test_an_argument_of_the_buffer_given_to_the_algorithm(cls: Any, buffer: Any) -> None:
    for name in arguments_of_buffer(buffer) - arguments_of(cls) - FROM_SB3:
        told = message(cls, "MlpPolicy", environment_of(cls), replay_buffer_class=buffer, **{name: 5})
        assert f"did you mean replay_buffer_kwargs=dict({name}=5)" in told
        if name not in arguments_of(ReplayBuffer) | {"alpha", "eps"}:
            told = message(cls, "MlpPolicy", environment_of(cls), **{name: 5})
            assert re.search(rf"replay_buffer_class=\w+, replay_buffer_kwargs=dict\({name}=5\)", told)


@each_class
def test_an_argument_of_another_algorithm(cls: Any) -> None:
    for other in CLASSES:
        mine = arguments_of(cls) | arguments_of_policy(cls.policy_aliases["MlpPolicy"])
        for name in arguments_of(other) - mine - {"ent_coef"}:
            told = message(cls, "MlpPolicy", environment_of(cls), **{name: 5})
            assert ": it belongs elsewhere, as in " in told
            owners = [owner for owner in public_classes(OffPolicyAlgorithm) if name in arguments_of(owner)]
            assert any(f"{owner.__name__}(..., {name}=5)" in told for owner in owners)


@each_class
@pytest.mark.parametrize("dictionary", ["policy_kwargs", "replay_buffer_kwargs"])
def test_an_argument_of_the_algorithm_in_a_dictionary(cls: Any, dictionary: str) -> None:
    for name in arguments_of(cls) - arguments_of_policy(cls.policy_aliases["MlpPolicy"]) - {"n_steps", "gamma"}:
        told = message(cls, "MlpPolicy", environment_of(cls), **{dictionary: {name: 5}})
        assert told.startswith(f"{dictionary} has {name}=5, which ")
        assert told.endswith(f": did you mean {cls.__name__}(..., {name}=5)?")


@pytest.mark.parametrize(("cls", "policy"), POLICIES)
def test_a_misspelled_argument_of_a_policy(cls: Any, policy: Any) -> None:
    action_space = BOX if cls is REDQSAC else DISCRETE
    for name in arguments_of_policy(policy):
        for typo in misspelled(name):
            told = message(policy, BOX, action_space, lambda _: 1e-3, **{typo: 5})
            assert told == f"{policy.__name__} has no argument {typo}=5: did you mean {name}=5?"
    # In a model the dictionary is checked before the environment's spaces meet the networks
    told = message(make, cls, policy=policy, policy_kwargs=dict(net_arhc=[8]))
    assert told == (
        f"policy_kwargs has net_arhc=[8], which is no argument of {policy.__name__}: "
        "did you mean policy_kwargs=dict(net_arch=[8])?"
    )


@pytest.mark.parametrize("buffer", [buffer for buffer in BUFFERS if buffer is not HerReplayBuffer])
def test_a_misspelled_argument_of_a_buffer(buffer: Any) -> None:
    for name in arguments_of_buffer(buffer):
        for typo in misspelled(name):
            expected = f"{buffer.__name__} has no argument {typo}=5: did you mean {name}=5?"
            assert message(buffer, 10, BOX, BOX, **{typo: 5}) == expected
    expected = f"{buffer.__name__} has no argument handle_timeouts=5: did you mean handle_timeout_termination=5?"
    if buffer not in (DeviceReplayBuffer, Float32ReplayBuffer):
        assert message(estimate_memory, buffer, 10, BOX, BOX, handle_timeouts=5) == expected


class Extractor(BaseFeaturesExtractor):
    def __init__(self, observation_space: Any, width: int = 4) -> None:
        super().__init__(observation_space, width)


class ConfiguredHead(ScalarHead):
    def __init__(self, n_bins: int = 1) -> None:
        super().__init__()


class ConfiguredPolicy(REDQSACPolicy):
    head_class = ConfiguredHead


DICTIONARIES: list[tuple[Any, dict[str, Any], str]] = [
    *((cls, dict(policy_kwargs=dict(optimizer_kwargs=dict(weight_decya=5))), "Adam") for cls in CLASSES),
    (DoubleDQN, dict(policy_kwargs=dict(optimizer_class=th.optim.SGD, optimizer_kwargs=dict(nestervo=5))), "SGD"),
    *(
        (
            cls,
            dict(policy_kwargs=dict(features_extractor_class=kind, features_extractor_kwargs={typo: 5})),
            kind.__name__,
        )
        for cls in CLASSES
        for kind, typo in ((Extractor, "widht"), (NatureCNN, "normalized_imag"))
    ),
    (DoubleDQN, dict(policy_kwargs=dict(network_kwargs=dict(duelling=5))), "ValueNetwork"),
    (IQN, dict(policy_kwargs=dict(network_kwargs=dict(n_cosine=5))), "ImplicitQuantileNetwork"),
    (REDQSAC, dict(policy=ConfiguredPolicy, policy_kwargs=dict(head_kwargs=dict(n_bin=5))), "ConfiguredHead"),
    *((cls, dict(replay_buffer_kwargs=dict(handle_timeout=5)), "ReplayBuffer") for cls in CLASSES),
    *(
        (cls, dict(replay_buffer_class=buffer, replay_buffer_kwargs=dict(handle_timeout=5)), buffer.__name__)
        for cls in CLASSES
        for buffer in BUFFERS
    ),
]


@pytest.mark.parametrize(("cls", "kwargs", "owner"), DICTIONARIES)
def test_a_misspelled_argument_in_a_dictionary(cls: Any, kwargs: dict[str, Any], owner: str) -> None:
    told = message(make, cls, **kwargs)
    match = re.fullmatch(rf"(\w+) has (\w+)=5, which is no argument of {owner}: did you mean (.*)\?", told)
    assert match is not None, told
    dictionary, typo, meant = match.groups()
    assert f"'{dictionary}': {{'{typo}': 5}}" in str(kwargs)
    # What was meant has the misspelled name corrected, in the same dictionary or in the policy's
    right = re.search(r"(\w+)=5", meant)
    assert right is not None and right[1].startswith(typo[:3])


@pytest.mark.parametrize(
    ("kwargs", "receives", "meant"),
    [
        (dict(policy_kwargs=dict(optimizer_kwargs=dict(lr=5))), "Adam receives", "DoubleDQN(..., learning_rate=5)"),
        (
            dict(policy_kwargs=dict(network_kwargs=dict(net_arch=5))),
            "ValueNetwork receives",
            "policy_kwargs=dict(net_arch=5)",
        ),
        (dict(replay_buffer_kwargs=dict(device=5)), "ReplayBuffer receives", "DoubleDQN(..., device=5)"),
    ],
)
def test_what_a_part_receives_anyway_is_no_argument_of_its_dictionary(
    kwargs: dict[str, Any], receives: str, meant: str
) -> None:
    told = message(make, DoubleDQN, **kwargs)
    assert f", which {receives} from DoubleDQN: did you mean {meant}?" in told


def test_a_network_of_iqn_takes_arguments_of_its_own_but_not_those_of_iqn() -> None:
    assert make(IQN, policy_kwargs=dict(network_kwargs=dict(n_cosines=7))).q_net.n_cosines == 7
    told = message(make, IQN, policy_kwargs=dict(network_kwargs=dict(risk_eta=5)))
    assert told.endswith("ImplicitQuantileNetwork receives from IQN: did you mean IQN(..., risk_eta=5)?")


@each_class
def test_arguments_of_learn(cls: Any) -> None:
    model = make(cls)
    told = message(model.learn, 10, log_intervla=5)
    assert told == f"{cls.__name__}.learn() has no argument log_intervla=5: did you mean log_interval=5?"
    assert message(model.learn, 10, batch_size=5).endswith(f"did you mean {cls.__name__}(..., batch_size=5)?")
    assert message(cls, "MlpPolicy", None, total_timesteps=5).endswith("did you mean learn(total_timesteps=5)?")


def test_a_misspelled_argument_of_the_callback() -> None:
    for name in arguments_of(DiagnosisCallback):
        for typo in misspelled(name):
            expected = f"DiagnosisCallback has no argument {typo}=5: did you mean {name}=5?"
            assert message(DiagnosisCallback, **{typo: 5}) == expected


@each_class
def test_names_given_to_load(cls: Any, tmp_path: Path) -> None:
    model = make(cls)
    file, buffer = tmp_path / "model", io.BytesIO()
    model.save(file)
    model.save(buffer)
    buffer.seek(0)
    for name in arguments_of(cls) - {"_init_setup_model", "policy", "env", "device"}:
        expected = f"{cls.__name__}.load() has no argument {name[:-1]}j=5: did you mean {name}=5?"
        assert message(cls.load, file, **{f"{name[:-1]}j": 5}) == expected
    assert "has no argument typo=5, allowed are " in message(cls.load, buffer, typo=5)
    with pytest.raises(ValueError, match="is not the saved one"):
        cls.load(file, policy="CnnPolicy")
    # What rl_zoo3 gives, an attribute in the file, and a file that is not at its beginning
    loaded = cls.load(
        buffer, seed=3, buffer_size=1, num_timesteps=7, learning_rate_final=0.1, custom_objects=dict(clip_range=0.1)
    )
    assert (loaded.seed, loaded.buffer_size, loaded.num_timesteps) == (3, 1, 7)
    with pytest.raises(FileNotFoundError):
        cls.load(tmp_path / "nothing", typo=5)


class PassesOn(DoubleDQN):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.mine = kwargs.pop("mine", None)
        super().__init__(*args, **kwargs)

    @classmethod
    def small(cls, **kwargs: Any) -> Any:
        return cls(kwargs.pop("policy", "MlpPolicy"), "CartPole-v1", buffer_size=10, **kwargs)


class OwnPolicy(MlpPolicy):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        mine = kwargs.pop("mine", None)
        super().__init__(*args, **kwargs)
        self.mine = mine


class OwnNetwork(ValueNetwork):
    def __init__(self, *args: Any, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seed = seed


class OwnNetworkPolicy(MlpPolicy):
    network_class = OwnNetwork


class OwnBuffer(PrioritizedReplayBuffer):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.mine = kwargs.pop("mine", None)
        super().__init__(*args, **kwargs)


class OwnExtractor(Extractor):
    def __init__(self, observation_space: Any, **kwargs: Any) -> None:
        mine = kwargs.pop("mine", None)
        super().__init__(observation_space, **kwargs)
        self.mine = mine


def test_classes_of_users_may_have_other_arguments() -> None:
    extractor: dict[str, Any] = dict(
        features_extractor_class=OwnExtractor, features_extractor_kwargs=dict(mine=6, width=3)
    )
    buffer: dict[str, Any] = dict(replay_buffer_class=OwnBuffer, replay_buffer_kwargs=dict(mine=4, alpha=0.5))
    model = PassesOn.small(mine=3, policy=OwnPolicy, policy_kwargs=dict(mine=5, dueling=True, **extractor), **buffer)
    assert (model.mine, model.policy.mine, model.replay_buffer.mine, model.replay_buffer.alpha) == (3, 5, 4, 0.5)
    assert model.q_net.features_extractor.mine == 6 and model.q_net.dueling
    copies = copy.deepcopy(model.replay_buffer), pickle.loads(pickle.dumps(model.replay_buffer))
    assert all(type(one) is OwnBuffer and one.mine == 4 for one in copies)
    # A network's argument may be called like one of the algorithm
    model = PassesOn.small(policy=OwnNetworkPolicy, policy_kwargs=dict(network_kwargs=dict(seed=8)))
    assert model.q_net.seed == 8 and model.seed is None
    # What they pass on is still looked at, and what they do not take themselves
    assert message(PassesOn.small, mine=3, dueling=True).startswith("PassesOn has no argument dueling=True: did you ")
    for kwargs, expected in (
        (dict(policy=OwnPolicy, policy_kwargs=dict(net_arhc=5)), "OwnPolicy has no argument net_arhc=5: did you mean"),
        (buffer | dict(replay_buffer_kwargs=dict(alhpa=5)), "OwnBuffer has no argument alhpa=5: did you mean alpha=5?"),
        (dict(policy_kwargs=dict(optimizer_kwargs=dict(epsi=5))), "did you mean policy_kwargs=dict(optimizer_kwargs="),
    ):
        assert expected in message(PassesOn.small, **kwargs)


@each_class
def test_signatures_are_those_of_the_constructors(cls: Any) -> None:
    parameters = inspect.signature(cls).parameters
    stock = inspect.signature(SAC if cls is REDQSAC else DQN).parameters
    assert list(parameters)[: len(stock)] == list(stock)
    assert not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    assert list(inspect.signature(cls.load).parameters) == list(inspect.signature(DQN.load).parameters)
