"""Unknown keyword arguments: an error that names the class that was called, and what was probably meant."""

import difflib
import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

_Function = TypeVar("_Function", bound=Callable[..., Any])

# Their constructors hand `**kwargs` on to the next one. Those of others may consume what they like
_PASS_ON = ("sb3_ext", "stable_baselines3", "sb3_contrib", "torch")
_LONGEST_VALUE = 60
# Similarity from which a name counts as misspelled, as `difflib` measures it
_NEAR = 0.8

#: What arguments are called elsewhere, with their names here. Text with ``{}`` is what to write instead of an argument
#: of that value. From SBX and JaxRL, CleanRL, Tianshou, Dopamine, Spinning Up, SB2, sb3-contrib and rl_zoo3
OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("lr", "policy_lr", "pi_lr", "actor_lr"), ("learning_rate",)),
    **dict.fromkeys(("critic_lr", "q_lr"), ("qf_learning_rate", "learning_rate")),
    "discount": ("gamma",),
    "discount_factor": ("gamma",),
    "polyak": ("tau=1 - {}",),
    "n_step": ("n_steps",),
    "estimation_step": ("n_steps",),
    "capacity": ("buffer_size",),
    "memory_size": ("buffer_size",),
    "replay_size": ("buffer_size",),
    "replay_buffer_size": ("buffer_size",),
    "warmup_steps": ("learning_starts",),
    "start_steps": ("learning_starts",),
    "update_after": ("learning_starts",),
    "update_every": ("train_freq",),
    "utd": ("train_freq=1, gradient_steps={}",),
    "utd_ratio": ("train_freq=1, gradient_steps={}",),
    "env_fns": ("env_id",),
    "frame_stack": ("env=VecFrameStack(..., {})",),
    "normalize": ("env=VecNormalize(...)",),
    "env_wrapper": ("env=make_vec_env(..., wrapper_class=...)",),
    "wrapper_class": ("env=make_vec_env(..., wrapper_class={})",),
    "num_envs": ("env=make_vec_env(..., n_envs={})",),
    "n_envs": ("env=make_vec_env(..., n_envs={})",),
    "n_timesteps": ("total_timesteps",),
    "target_update_freq": ("target_update_interval",),
    "target_network_frequency": ("target_update_interval",),
    "target_network_update_freq": ("target_update_interval",),
    "grad_clip": ("max_grad_norm",),
    "epsilon": ("exploration_final_eps",),
    "start_e": ("exploration_initial_eps",),
    "end_e": ("exploration_final_eps",),
    "double": ("double_q",),
    "is_double": ("double_q",),
    "munchausen": ("munchausen_coef=0.9",),
    "per": ("replay_buffer_class=PrioritizedReplayBuffer",),
    "prioritized": ("replay_buffer_class=PrioritizedReplayBuffer",),
    "prioritized_replay": ("replay_buffer_class=PrioritizedReplayBuffer",),
    "prioritized_replay_alpha": ("alpha",),
    "prioritized_replay_beta0": ("beta",),
    "prioritized_replay_eps": ("eps",),
    "alpha": ("ent_coef", "temperature_initial"),
    "temperature": ("ent_coef", "temperature_initial"),
    "ent_coef": ("temperature_initial",),
    "init_temperature": ("temperature_initial", "ent_coef='auto_{}'"),
    "initial_temperature": ("temperature_initial", "ent_coef='auto_{}'"),
    "autotune": ("ent_coef='auto'", "auto_temperature"),
    "actor_delay": ("policy_delay",),
    "policy_frequency": ("policy_delay",),
    "ensemble_size": ("n_critics",),
    "num_critics": ("n_critics",),
    "num_qs": ("n_critics",),
    "num_min_qs": ("subset_size",),
    "dropout_rate": ("dropout",),
    "hidden_sizes": ("net_arch",),
    "hidden_dims": ("net_arch",),
    "layers": ("net_arch",),
    "n_quantiles": ("n_quantile_samples",),
    "num_tau_samples": ("n_quantile_samples",),
    "num_tau_prime_samples": ("n_target_quantile_samples",),
    "num_quantile_samples": ("n_action_quantile_samples",),
    "quantile_embedding_dim": ("n_cosines",),
}


class Place(NamedTuple):
    """
    Where a keyword argument can be given.

    :param names: names of the arguments there
    :param form: how to write one there; ``{}`` stands for name and value
    """

    names: Iterable[str]
    form: str = "{}"


#: Makes the error from a function, the object it was called on, its unknown arguments and the known ones
Explanation = Callable[[Callable[..., Any], Any, Mapping[str, Any], Mapping[str, Any]], TypeError]


def accepted_names(target: Any, beyond: Callable[..., Any] | None = None) -> list[str] | None:
    """
    Return the names of the keyword arguments that a class or function takes.

    :param beyond: a constructor of the class or of a base: those before it in the method resolution order do not count
    :return: ``None`` if only a call can tell, because somebody else's ``**kwargs`` are among the arguments
    """
    try:
        return _names_of_constructors(target, beyond) if isinstance(target, type) else _names_of_function(target)
    except (TypeError, ValueError):  # not callable, or written in C without a signature
        return None


def _names_of_function(function: Any) -> list[str] | None:
    return None if _takes_any(function) else _keywords_of(function)


def _constructors(cls: type) -> list[tuple[type, Callable[..., Any]]]:
    """Return the bases of a class that have a constructor of their own, with it, in the method resolution order."""
    return [(base, vars(base)["__init__"]) for base in cls.__mro__ if "__init__" in vars(base) and base is not object]


def declared_names(cls: type) -> set[str]:
    """Return the names of all arguments in the constructors of a class and its bases, ``self`` included."""
    return {name for _, constructor in _constructors(cls) for name in _parameters_of(constructor)}


def _names_of_constructors(target: type, beyond: Callable[..., Any] | None) -> list[str] | None:
    constructors = _constructors(target)
    if beyond is not None:
        own = [constructor for _, constructor in constructors]
        constructors = constructors[own.index(beyond) :] if beyond in own else []
    if not constructors:
        return None  # wrapped by somebody else, or a class that takes its arguments by `__new__`
    names: dict[str, None] = {}
    for base, constructor in constructors:
        names.update(dict.fromkeys(_keywords_of(constructor)[1:]))
        if not _takes_any(constructor):
            break
        if not _is_known(base):
            return None
    return list(names)


def nearest_names(cls: type) -> list[str]:
    """Return the names that a class takes; where only a call can tell, its own and those of the nearest known base."""
    own: dict[str, None] = {}
    for base in cls.__mro__:
        names = accepted_names(base)
        if names is not None:
            return list(own | dict.fromkeys(names))
        if "__init__" in vars(base) and base is not object:
            own |= dict.fromkeys(_keywords_of(vars(base)["__init__"])[1:])
    return []


@functools.lru_cache(maxsize=512)
def _parameters_of(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters


def _keywords_of(function: Callable[..., Any]) -> list[str]:
    """Return the names of arguments that may be given by keyword, ``self`` included."""
    parameters = _parameters_of(function).values()
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def _takes_any(function: Callable[..., Any]) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in _parameters_of(function).values())


def default_of(cls: type, name: str) -> Any:
    """
    Return the default of an argument of a class, from the first of its constructors that has it; else ``None``.

    Somebody else's constructor that does not have it may pass on another value, so the search ends there.
    """
    for base, constructor in _constructors(cls):
        parameter = _parameters_of(constructor).get(name)
        if parameter is not None:
            return None if parameter.default is parameter.empty else parameter.default
        if not _is_known(base):
            return None
    return None


def default_extractor(policy_class: type, policy_kwargs: Mapping[str, Any]) -> Any:
    """Return the default features extractor of a policy, which may depend on its other arguments."""
    default, choose = default_of(policy_class, "features_extractor_class"), getattr(policy_class, "with_network", None)
    return default if default is None or choose is None else choose(policy_kwargs)["features_extractor_class"]


def known_base(cls: type) -> type:
    """Return the class itself, or the nearest base that does not belong to somebody else."""
    return next((base for base in cls.__mro__ if _is_known(base)), cls)


def _is_known(cls: type) -> bool:
    return cls.__module__.partition(".")[0] in _PASS_ON


def public_classes(base: type) -> list[type]:
    """Return the public classes of this package that extend a class."""
    # Looked up instead of imported: this module is below all others
    public = vars(sys.modules[__name__.split(".")[0]]).values()
    return [cls for cls in public if isinstance(cls, type) and issubclass(cls, base)]


def show(value: Any) -> str:
    """Return a value as one would write it, shortened if it is long."""
    text = value.__name__ if isinstance(value, type) else " ".join(repr(value).split())
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."


def hint(name: str, value: Any, places: Sequence[Place], others: Sequence[Place] = ()) -> str:
    """
    Say what was probably meant by an unknown argument.

    :param places: where it may have been meant for. The first is where it was given, the most likely is next
    :param others: where it may have been meant for only if it is known there
    """
    meant = [*_known(name, value, places), *_renamed(name, value, places)]
    elsewhere = [] if meant else _known(name, value, others) or _renamed(name, value, others)
    if elsewhere:
        return f": it belongs elsewhere, as in {' or '.join(elsewhere[:2])}"
    if not meant:
        # A name that is not quite so near may still belong to another place
        own, everywhere = list(places[0].names), [known for place in places for known in place.names]
        near = difflib.get_close_matches(name, own, n=1, cutoff=_NEAR) or difflib.get_close_matches(
            name, everywhere, n=1
        )
        meant = [text for known in near for text in _known(known, value, places)]
    if meant:
        return f": did you mean {' or '.join(list(dict.fromkeys(meant))[:2])}?"
    allowed = ", ".join(name for name in places[0].names if not name.startswith("_"))
    return f", allowed are {allowed}" if allowed else ", there are none that may be given"


def _known(name: str, value: Any, places: Sequence[Place]) -> list[str]:
    return [place.form.format(f"{name}={show(value)}") for place in places if name in place.names]


def _renamed(name: str, value: Any, places: Sequence[Place]) -> list[str]:
    """Return where the argument is known by another name."""
    found = []
    for other in OTHER_NAMES.get(name, ()):
        here, is_text, _ = other.partition("=")
        if is_text:
            found += [p.form.format(other.format(show(value))) for p in places if here in p.names]
        else:
            found += _known(other, value, places)[:1]
    return found


def unknown_keywords(
    complaint: str, unknown: Mapping[str, Any], places: Sequence[Place], others: Sequence[Place] = ()
) -> TypeError:
    """
    Make the error for unknown arguments.

    :param complaint: what is wrong; ``{}`` stands for name and value
    :param unknown: names and values
    :param places: where they may have been meant for; the first is where they were given
    :param others: where they may have been meant for only if they are known there
    """
    sentences = [
        complaint.format(f"{name}={show(value)}") + hint(str(name), value, places, others)
        for name, value in unknown.items()
    ]
    return TypeError("\n".join(sentences))


def among(base: type) -> Explanation:
    """Look for what was meant in the called class, then in the public classes of this package that extend ``base``."""

    def explain(
        function: Callable[..., Any], called: Any, unknown: Mapping[str, Any], known: Mapping[str, Any]
    ) -> TypeError:
        cls = type(called)
        own = Place(nearest_names(cls))
        others = [Place(accepted_names(other) or [], f"{other.__name__}(..., {{}})") for other in public_classes(base)]
        return unknown_keywords(f"{cls.__name__} has no argument {{}}", unknown, [own], others)

    return explain


def checks_keywords(explain: Explanation) -> Callable[[_Function], _Function]:
    """
    Decorate a constructor or method: an unknown keyword argument raises a TypeError that says what was meant.

    Only arguments are refused that Python would refuse, so subclasses may have others, or ``**kwargs``.
    """

    def decorate(function: _Function) -> _Function:
        own_names, is_constructor = frozenset(_keywords_of(function)), function.__name__ == "__init__"

        @functools.wraps(function)
        def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
            if not own_names.issuperset(kwargs):
                names = accepted_names(type(self), beyond=checked) if is_constructor else own_names
                unknown = {} if names is None else {name: kwargs[name] for name in kwargs if name not in names}
                if unknown:
                    known = {name: value for name, value in kwargs.items() if name not in unknown}
                    positional = dict(zip(_keywords_of(function)[1:], args, strict=False))
                    raise explain(checked, self, unknown, positional | known)
            return function(self, *args, **kwargs)

        return checked  # type: ignore[return-value]

    return decorate
