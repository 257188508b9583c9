"""Keyword arguments of a model: of its algorithm, and in dictionaries of its policy and its replay buffer."""

import inspect
import io
import json
import pathlib
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.save_util import open_path

from sb3_ext.common.arguments.derived import DERIVED
from sb3_ext.keywords import (
    Place,
    accepted_names,
    default_extractor,
    default_of,
    known_base,
    nearest_names,
    public_classes,
    show,
    unknown_keywords,
)
from sb3_ext.nets.heads import HEADS

# What a policy gives to its parts itself, and SB3 to policy and replay buffer
_OF_POLICY = ("observation_space", "action_space", "lr_schedule")
_OF_BUFFER = ("buffer_size", "observation_space", "action_space", "device", "n_envs", "optimize_memory_usage")
_OF_NETWORK = (
    *("observation_space", "action_space", "features_extractor", "features_dim"),
    *("net_arch", "activation_fn", "normalize_images"),
)
# The algorithm passes them on to whatever buffer accepts them, see `OffPolicyExtension._buffer_kwargs_with_returns`
RETURN_SETTINGS = ("n_steps", "gamma")


class Part(NamedTuple):
    """
    A dictionary of keyword arguments and what is made with them.

    :param name: of the dictionary, such as ``policy_kwargs``
    :param kwargs: the dictionary; anything else than a mapping is somebody else's mistake to report
    :param target: the class that is called with it
    :param taken: arguments of the class that are passed by whoever calls it
    :param form: how to write an argument in the dictionary; ``{}`` stands for name and value
    """

    name: str
    kwargs: Any
    target: Any
    taken: tuple[str, ...]
    form: str

    @property
    def place(self) -> Place:
        names = accepted_names(self.target) or []
        return Place([name for name in names if name not in self.taken], self.form)


def policy_parts(policy_class: type, policy_kwargs: Mapping[str, Any], form: str = "{}") -> Iterator[Part]:
    """
    Iterate over the dictionaries among the arguments of a policy.

    :param form: how to write an argument of the policy
    """

    def part(name: str, target: Any, taken: tuple[str, ...]) -> Part:
        return Part(name, policy_kwargs.get(name), target, taken, form.format(f"{name}=dict({{}})"))

    extractor = policy_kwargs.get("features_extractor_class") or default_extractor(policy_class, policy_kwargs)
    yield part("features_extractor_kwargs", extractor, ("observation_space",))
    optimizer = policy_kwargs.get("optimizer_class") or default_of(policy_class, "optimizer_class")
    yield part("optimizer_kwargs", optimizer, ("params", "lr"))
    network_class, head_class = getattr(policy_class, "network_class", None), _head_class(policy_class, policy_kwargs)
    if network_class is not None:
        yield part("network_kwargs", network_class, _OF_NETWORK)
    if head_class is not None:
        yield part("head_kwargs", head_class, ())


def _head_class(policy_class: type, policy_kwargs: Mapping[str, Any]) -> type | None:
    """Return the class of a policy's heads, ``None`` where it has none or only a constructor of somebody else knows."""
    policy: Any = policy_class
    base: Any = known_base(policy_class)
    if "head" not in policy_kwargs and policy.__init__ is not base.__init__:
        return None
    name = policy_kwargs.get("head", default_of(base, "head"))
    return getattr(policy, "head_class", None) if name is None else HEADS.get(str(name))


def model_parts(algorithm: type, arguments: Mapping[str, Any]) -> Iterator[Part]:
    """
    Iterate over the dictionaries among the arguments of an algorithm.

    :param arguments: those that were given
    """
    policy: Any = arguments.get("policy")
    if policy is None or isinstance(policy, str):
        aliases = getattr(algorithm, "policy_aliases", {})
        policy = aliases.get(policy, aliases.get("MlpPolicy"))
    kwargs, form = arguments.get("policy_kwargs"), "policy_kwargs=dict({})"
    if isinstance(policy, type):
        yield Part("policy_kwargs", kwargs, policy, _OF_POLICY, form)
    buffer = arguments.get("replay_buffer_class") or ReplayBuffer
    buffer_kwargs = arguments.get("replay_buffer_kwargs")
    yield Part("replay_buffer_kwargs", buffer_kwargs, buffer, _OF_BUFFER, "replay_buffer_kwargs=dict({})")
    if isinstance(policy, type):
        yield from policy_parts(policy, kwargs if isinstance(kwargs, Mapping) else {}, form)


def check_model_kwargs(model: OffPolicyAlgorithm) -> None:
    """
    Check the dictionaries among the arguments of a model, before anything is made with them.

    :raises TypeError: if one has an argument that does not exist, or that is passed by the model itself
    """
    buffer_class = model.replay_buffer_class
    if buffer_class is None:
        is_dict = isinstance(model.observation_space, spaces.Dict)
        buffer_class = DictReplayBuffer if is_dict else NStepReplayBuffer if model.n_steps > 1 else ReplayBuffer
    algorithm = type(model)
    arguments = {**vars(model), "policy": model.policy_class, "replay_buffer_class": buffer_class}
    # The algorithm sets these in policy and network, at any time
    of_both = set(nearest_names(algorithm)) & set(nearest_names(model.policy_class))
    for part in model_parts(algorithm, arguments):
        own = of_both if part.name == "network_kwargs" else ()
        allowed = RETURN_SETTINGS if part.name == "replay_buffer_kwargs" else ()
        form = f"{algorithm.__name__}(..., {{}})"
        complete = part._replace(taken=(*part.taken, *own))
        _check_part(complete, algorithm, lambda: _places_of_model(algorithm, arguments, form), allowed)  # noqa: B023


def check_policy_kwargs(policy_class: type, kwargs: Mapping[str, Any]) -> None:
    """
    Check the dictionaries among the arguments of a policy.

    :param kwargs: those that reach the constructors of this package, after those of a user
    :raises TypeError: if one has an argument that does not exist, or that is passed by the policy itself
    """
    defaults = {
        name: default_of(known_base(policy_class), name) for name in ("features_extractor_class", "optimizer_class")
    }
    for part in policy_parts(policy_class, defaults | dict(kwargs)):
        _check_part(part, policy_class, lambda: _places_of_policy(policy_class, kwargs))


def _check_part(
    part: Part, owner: type, places: Callable[[], tuple[list[Place], list[Place]]], allowed: tuple[str, ...] = ()
) -> None:
    """
    Raise a TypeError if there is an unknown argument in a dictionary, or one that its owner passes itself.

    :param owner: the class whose argument the dictionary is
    :param places: where else its arguments may belong
    :param allowed: what may be in it in any case
    """
    if not isinstance(part.kwargs, Mapping):
        return
    names = accepted_names(part.target)
    target = show(getattr(part.target, "func", part.target))  # or of a `functools.partial`
    given = {name: value for name, value in part.kwargs.items() if name not in allowed}
    wrong = {name: value for name, value in given.items() if name in part.taken}
    complaint = f"{part.name} has {{}}, which {target} receives from {owner.__name__}"
    if not wrong and names is not None:
        wrong = {name: value for name, value in given.items() if name not in names}
        complaint = f"{part.name} has {{}}, which is no argument of {target}"
    if wrong:
        here, elsewhere = places()
        # What the owner takes itself is given to the owner
        own = [name for name in part.place.names if name not in here[0].names]
        raise unknown_keywords(complaint, wrong, _distinct([part.place._replace(names=own), *here]), elsewhere)


def check_names_of_load(
    algorithm: type, path: str | pathlib.Path | io.BufferedIOBase, given: Mapping[str, Any]
) -> None:
    """
    Check the names of further arguments of ``load()``, which SB3 makes attributes of the model, whatever they are.

    :param path: the saved model
    :raises TypeError: if one is neither an argument of the constructor nor an attribute of the model
    :raises ValueError: if the set-up of the model would write over one
    """
    for name in given.keys() & DERIVED.keys():
        raise ValueError(
            f"{name}={given[name]!r} cannot be given to load(): it is derived from {DERIVED[name]}, so give that"
        )
    names = [name for name in nearest_names(algorithm) if name != "_init_setup_model"]
    names.append("replay_buffer")
    unknown = {name: value for name, value in given.items() if name not in names and not _is_setting(algorithm, name)}
    if unknown:
        saved = _saved_names(path)
        unknown = {name: value for name, value in unknown.items() if saved is not None and name not in saved}
    if unknown:
        raise unknown_keywords(f"{algorithm.__name__}.load() has no argument {{}}", unknown, [Place(names)])


def _is_setting(algorithm: type, name: str) -> bool:
    """Tell whether a class has an attribute that an object may have another value of."""
    value = inspect.getattr_static(algorithm, name, property())
    return not callable(value) and not isinstance(value, (property, classmethod, staticmethod))


def _saved_names(path: str | pathlib.Path | io.BufferedIOBase) -> set[str] | None:
    """Return the names of the attributes in the file of a model, or ``None`` if SB3 cannot read it either."""
    position = path.tell() if isinstance(path, io.IOBase) else 0
    try:
        file = open_path(path, "r", verbose=0, suffix="zip")
        with nullcontext() if file is path else file, zipfile.ZipFile(file) as archive:
            return set(json.loads(archive.read("data")))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    finally:
        if isinstance(path, io.IOBase):
            path.seek(position)


def explain_model_keywords(
    function: Callable[..., Any], called: Any, unknown: Mapping[str, Any], known: Mapping[str, Any]
) -> TypeError:
    """Make the error for unknown arguments of an algorithm's constructor, or of another of its methods."""
    algorithm, method = type(called), function.__name__
    attributes = vars(called)
    arguments = {**attributes, "policy": attributes.get("policy_class"), **known}
    if method == "__init__":
        places, others = _places_of_model(algorithm, arguments, "{}")
        return unknown_keywords(f"{algorithm.__name__} has no argument {{}}", unknown, places, others)
    places, others = _places_of_model(algorithm, arguments, f"{algorithm.__name__}(..., {{}})")
    places = _distinct([Place(_names_of_method(function)), *places])
    return unknown_keywords(f"{algorithm.__name__}.{method}() has no argument {{}}", unknown, places, others)


def explain_policy_keywords(
    function: Callable[..., Any], called: Any, unknown: Mapping[str, Any], known: Mapping[str, Any]
) -> TypeError:
    """Make the error for unknown arguments of a policy."""
    cls = type(called)
    places, others = _places_of_policy(cls, known)
    return unknown_keywords(f"{cls.__name__} has no argument {{}}", unknown, places, others)


def _places_of_model(algorithm: type, arguments: Mapping[str, Any], form: str) -> tuple[list[Place], list[Place]]:
    """
    Return where an argument of a model can be given, and which other classes could take it.

    :param arguments: those that were given
    :param form: how to write an argument of the algorithm
    """
    parts = [part.place for part in model_parts(algorithm, arguments)]
    learn = Place(_names_of_method(getattr(algorithm, "learn", None)), "learn({})")
    buffers = sorted([HerReplayBuffer, *public_classes(ReplayBuffer)], key=lambda buffer: len(buffer.__name__))
    others = [
        Part(
            "", None, buffer, _OF_BUFFER, f"replay_buffer_class={buffer.__name__}, replay_buffer_kwargs=dict({{}})"
        ).place
        for buffer in buffers
    ]
    algorithms = [other for other in public_classes(OffPolicyAlgorithm) if not issubclass(algorithm, other)]
    of_others = [list(_places_at(other)) for other in algorithms]
    # An argument of another algorithm is nearer than one of its policy
    others += [places[0] for places in of_others]
    others += [place for places in of_others for place in places[1:]]
    return _distinct([Place(nearest_names(algorithm), form), *parts, learn]), _distinct(others)


def _names_of_method(method: Any) -> list[str]:
    return (accepted_names(method) or [])[1:]


def _places_of_policy(policy_class: type, arguments: Mapping[str, Any]) -> tuple[list[Place], list[Place]]:
    """Return where an argument of a policy can be given, and which algorithms and other policies could take it."""

    def is_for_another(algorithm: Any) -> bool:
        return not any(issubclass(policy_class, policy) for policy in algorithm.policy_aliases.values())

    algorithms = sorted(public_classes(OffPolicyAlgorithm), key=is_for_another)
    others = [place for algorithm in algorithms for place in _places_at(algorithm)]
    parts = [part.place for part in policy_parts(policy_class, arguments)]
    return _distinct([Place(nearest_names(policy_class)), *parts]), _distinct(others)


def _places_at(algorithm: Any) -> Iterator[Place]:
    """Iterate over the places for arguments of an algorithm, seen from another."""
    name = algorithm.__name__
    yield Place(nearest_names(algorithm), f"{name}(..., {{}})")
    for policy in algorithm.policy_aliases.values():
        yield Part("", None, policy, _OF_POLICY, f"{name}(..., policy_kwargs=dict({{}}))").place


def _distinct(places: Iterable[Place]) -> list[Place]:
    """Return the places without the names that an earlier one has."""
    seen: set[str] = set()
    distinct = []
    for place in places:
        distinct.append(place._replace(names=[name for name in place.names if name not in seen]))
        seen.update(place.names)
    return distinct
