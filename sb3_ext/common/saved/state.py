"""
The state of a model besides its networks: what goes with the parameters, and what an argument of ``load()`` replaces.

SB3's ``load()`` writes the given arguments into the model, and the saved state over what was made from them. Here the
model is first loaded as it was saved. Then the arguments that something learned or scheduled starts from are compared
with those of the file. Where they differ, that quantity starts from the given argument.

The parameters keep SB3's names. A learned variable lies in the entry of its optimizer, and the counters in the entry of
the first optimizer. So dictionaries and files without them stay valid, and so do these for SB3.
"""

import copy
import io
import pathlib
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.save_util import load_from_zip_file, recursive_getattr

from sb3_ext.common.arguments.types import prepared
from sb3_ext.keywords import declared_names

if TYPE_CHECKING:
    from sb3_ext.common.saved.model import SavedModel

Parameters = dict[str, dict[str, Any]]
Path = str | pathlib.Path | io.BufferedIOBase
Model = TypeVar("Model", bound="SavedModel")

#: What determines the next update and the present policy, besides tensors. The count of time steps is not among them:
#: it belongs to a run, and ``learn()`` ends by it
_COUNTERS = ("_n_updates", "_n_calls", "_current_progress_remaining", "exploration_rate")
# Arguments that determine which networks there are. Only `custom_objects` may replace `policy_kwargs`
_NETWORK_ARGUMENTS = ("policy", "policy_kwargs", "use_sde")
# Arguments of `load()` itself
_NOT_SAVED = {"self", "env", "device", "_init_setup_model"}


def with_learned_values(model: "SavedModel", params: Parameters) -> Parameters:
    """Add learned variables and counters to the parameters that SB3 collects."""
    for optimizer, variable in model._learned_variables().items():
        params[optimizer][variable] = getattr(model, variable).detach()
    main = _main_optimizer(params)
    if main is not None:
        # As Python's numbers, because no others may be read from a file
        params[main]["counters"] = {name: _plain(vars(model)[name]) for name in _COUNTERS if name in vars(model)}
        params[main]["plain_state"] = model._plain_state()
    return params


def _plain(number: Any) -> Any:
    return number.item() if isinstance(number, (np.generic, th.Tensor)) else number


def restore_parameters(
    model: "SavedModel",
    set_parameters: Callable[..., None],
    source: str | pathlib.Path | dict[str, Any],
    exact_match: bool,
    device: th.device | str,
) -> None:
    """
    Set parameters with the learned variables and counters that go with them. A refusal leaves the model unchanged.

    :param set_parameters: SB3's method
    :param source: a dictionary from ``get_parameters()``, or the file of a saved model
    :raises ValueError: if the names do not fit the model
    """
    params = source if isinstance(source, dict) else _read_parameters(model, source, device)
    # Optimizers keep the tensors that they are given, which are those of the model that the dictionary comes from
    params = {name: copy.deepcopy(entry) if name.endswith("optimizer") else entry for name, entry in params.items()}
    before = copy.deepcopy(model.get_parameters())
    try:
        for name in params:
            if recursive_getattr(model, name, name) is None:
                raise ValueError(
                    f"the parameters have {name!r}, which learns what is fixed in this model: leave that entry out, or "
                    f"make the {type(model).__name__} with the arguments of the model that they come from"
                )
        set_parameters(params, exact_match, device)
        _restore_learned_values(model, params)
    except BaseException:
        set_parameters(before, True, device)
        _restore_learned_values(model, before)
        raise


def _main_optimizer(params: Mapping[str, Any]) -> str | None:
    return next((name for name in params if name.endswith(".optimizer")), None)


def _read_parameters(model: "SavedModel", path: Any, device: th.device | str) -> Parameters:
    contents: Any = load_from_zip_file(path, device=device, load_data=False)
    _, params, variables = contents
    # Files of earlier versions have learned variables in this place only
    for optimizer, variable in model._learned_variables().items():
        if optimizer in params and (variables or {}).get(variable) is not None:
            params[optimizer].setdefault(variable, variables[variable])
    return params


def _restore_learned_values(model: "SavedModel", params: Mapping[str, Any]) -> None:
    for optimizer, variable in model._learned_variables().items():
        value = params.get(optimizer, {}).get(variable)
        if value is not None:
            with th.no_grad():
                # In place, because the optimizer and recordings refer to the tensor
                getattr(model, variable).copy_(value)
    main = params.get(_main_optimizer(params) or "", {})
    model._set_plain_state(main.get("plain_state", {}))
    counters = main.get("counters", {})
    for name in _COUNTERS:
        if name in counters and name in vars(model):
            setattr(model, name, counters[name])
    model._after_parameters(params)


def load_with_arguments(
    cls: type[Model],
    load: Callable[..., Model],
    path: Path,
    custom_objects: dict[str, Any] | None,
    kwargs: dict[str, Any],
) -> Model:
    """
    Load a model so that the given arguments hold, or raise an error.

    :param load: SB3's ``load``, to be called with the path, ``custom_objects`` and keyword arguments
    :param kwargs: the arguments given to ``load()`` by name
    :raises ValueError: if an argument cannot hold because the saved networks are others
    """
    custom = dict(custom_objects or {})
    if "policy_kwargs" in custom:
        custom["policy_kwargs"] = dict(custom["policy_kwargs"] or {})  # SB3 changes it, and it belongs to the caller
    # SB3 ignores custom objects that the file lacks
    names = declared_names(cls) - _NOT_SAVED - {"policy_kwargs"}
    given = {name: value for name, value in custom.items() if name in names} | kwargs
    given = {name: prepared(name, value) for name, value in given.items()}
    held_back = {
        name: given.pop(name)
        for name in (*cls._starting_arguments, *_NETWORK_ARGUMENTS, "stats_window_size")
        if name in given
    }
    for name in (*cls._starting_arguments, "use_sde"):
        custom.pop(name, None)  # the saved value is needed, to compare
    if given.get("replay_buffer_class") is not None:
        given["_chose_buffer_class"] = False
    restarts_optimizers = "policy_kwargs" in custom and _has_other_optimizer(path, custom)

    starting = {name: held_back[name] for name in cls._starting_arguments if name in held_back}
    model, changed = _load_as_saved(load, path, custom, given, starting)
    check_saved_networks(model, held_back)
    if model.replay_buffer is not None and model.replay_buffer.size() > 0:  # saved with the model, or given
        model.replay_buffer = model.replay_buffer  # which passes `gamma` and `n_steps` on
        check_saved_buffer(model, given)
    if "stats_window_size" in held_back:
        _set_window(model, held_back["stats_window_size"])
    vars(model).update(starting)
    has_other_code = isinstance(held_back.get("policy"), type) and held_back["policy"] is not model.policy_class
    if has_other_code:  # of a script, as a file contains it
        model.policy_class = held_back["policy"]
    if changed or has_other_code or "policy_kwargs" in custom:
        _start_again(model, changed, "policy_kwargs" in custom, restarts_optimizers)
    replaced = custom | given
    for name in _COUNTERS:
        if name in replaced:
            setattr(model, name, replaced[name])
    return model


def _load_as_saved(
    load: Callable[..., Model], path: Path, custom: dict[str, Any], given: dict[str, Any], starting: dict[str, Any]
) -> tuple[Model, set[str]]:
    """
    Load a model without the arguments that something learned or scheduled starts from.

    :param starting: these arguments
    :return: the model, and the names of those that differ from the saved ones
    """
    try:
        model = _load_with_reason(load, path, custom, given)
    except ValueError as refused:
        if not starting:
            raise
        # An earlier version may have saved what is refused by now, such as an epsilon that rises
        try:
            return _load_with_reason(load, path, custom, given | starting), set(starting)
        except ValueError:
            raise refused from None
    return model, {name for name, value in starting.items() if not model._continues_from(name, value)}


def _load_with_reason(load: Callable[..., Model], path: Path, custom: dict[str, Any], given: dict[str, Any]) -> Model:
    try:
        return load(path, custom_objects=custom or None, **given)
    except KeyError as error:
        # Where parameters do not fit, SB3 looks for those of an old DQN, and fails on others with a KeyError
        if isinstance(error.__context__, ValueError):
            raise error.__context__ from None
        raise


def check_saved_networks(model: "SavedModel", given: Mapping[str, Any]) -> None:
    """
    Check that arguments which determine the networks are those of a loaded model.

    :param given: of these, ``policy``, ``policy_kwargs`` and ``use_sde`` are checked
    :raises ValueError: if one differs
    """
    remedy = "networks cannot be changed when a model is loaded"
    if "policy" in given:
        policy = given["policy"]
        allowed = [policy]
        if isinstance(policy, str):  # also as the parent from SB3 means it, whose files may be loaded
            aliases = [vars(base).get("policy_aliases", {}) for base in type(model).__mro__]
            allowed = [names[policy] for names in aliases if policy in names]
        if not any(_is_same(model.policy_class, policy_class) for policy_class in allowed):
            raise ValueError(f"policy={policy!r} is not the saved one, {model.policy_class.__name__}: {remedy}")
    if "use_sde" in given and bool(given["use_sde"]) != model.use_sde:
        raise ValueError(f"use_sde={given['use_sde']!r} is not the saved one, {model.use_sde}: {remedy}")
    if "policy_kwargs" in given:
        # SB3 adds `use_sde`
        saved, wanted = (
            {name: value for name, value in (kwargs or {}).items() if name not in ("use_sde", "device")}
            for kwargs in (model.policy_kwargs, given["policy_kwargs"])
        )
        if not _is_same(saved, wanted):
            raise ValueError(
                f"policy_kwargs={wanted!r} are not the saved ones, {saved!r}: {remedy}. What does not change the shape "
                "of the networks, such as optimizer_kwargs, can be replaced by custom_objects={'policy_kwargs': ...}"
            )


def _is_same(saved: Any, given: Any) -> bool:
    """Compare arguments, classes in them by name: a file contains the classes of a script with their code."""
    if isinstance(saved, type) and isinstance(given, type):
        return (saved.__module__, saved.__qualname__) == (given.__module__, given.__qualname__)
    if isinstance(saved, dict) and isinstance(given, dict):
        return saved.keys() == given.keys() and all(_is_same(saved[name], given[name]) for name in saved)
    return bool(saved == given)


def check_saved_buffer(model: "SavedModel", given: Mapping[str, Any]) -> None:
    """
    Check that a loaded replay buffer is the one that arguments ask for.

    :param given: of these, ``buffer_size``, ``n_steps`` and the arguments that begin with ``replay_buffer`` are checked
    :raises ValueError: if the buffer differs
    """
    replay_buffer = model.replay_buffer
    remedy = "repeat the saved value, or continue without the saved replay buffer"
    buffer_class = given.get("replay_buffer_class")
    if buffer_class is not None and type(replay_buffer) is not buffer_class:
        saved = type(replay_buffer).__name__
        raise ValueError(f"replay_buffer_class={buffer_class.__name__} is not the saved one, {saved}: {remedy}")
    if given.get("n_steps", 1) > 1 and not hasattr(replay_buffer, "n_steps"):
        name = type(replay_buffer).__name__
        raise ValueError(f"n_steps={given['n_steps']!r}: the saved {name} has no n-step returns: {remedy}")
    wanted = dict(given.get("replay_buffer_kwargs") or {})
    if "buffer_size" in given:
        wanted["buffer_size"] = max(given["buffer_size"] // model.n_envs, 1)  # SB3 counts per environment
    for name, value in wanted.items():
        found = getattr(replay_buffer, name, value)
        if isinstance(found, (bool, int, float)) and found != value:
            raise ValueError(f"the saved replay buffer has {name}={found!r}, not {value!r} as given: {remedy}")


def _set_window(model: "SavedModel", size: int) -> None:
    model._stats_window_size = size
    for name in ("ep_info_buffer", "ep_success_buffer"):
        if getattr(model, name, None) is not None:
            setattr(model, name, deque(getattr(model, name), maxlen=size))


def _has_other_optimizer(path: Path, custom: dict[str, Any]) -> bool:
    """Tell whether the given ``policy_kwargs`` name another optimizer class than the saved ones."""
    position = path.tell() if isinstance(path, io.IOBase) else 0
    others = {name: value for name, value in custom.items() if name != "policy_kwargs"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # custom objects are given for what cannot be read
        data, _, _ = load_from_zip_file(path, device="cpu", custom_objects=others)
    if isinstance(path, io.IOBase):
        path.seek(position)
    saved = (data or {}).get("policy_kwargs")
    if saved is None:
        return False
    classes = [kwargs.get("optimizer_class", th.optim.Adam) for kwargs in (saved, custom["policy_kwargs"])]
    return classes[0] is not classes[1]


def _start_again(
    model: "SavedModel",
    changed: set[str],
    has_other_policy_kwargs: bool,
    restarts_optimizers: bool,
) -> None:
    """Set a loaded model up from its arguments, and put the state back that does not contradict them."""
    state = model.get_parameters()
    model._setup_model()
    state = model._state_for_arguments(state, changed)
    if has_other_policy_kwargs:
        for name in [name for name in state if name.endswith(".optimizer")]:
            fresh = recursive_getattr(model, name).state_dict()
            # The optimizer's options are in its groups
            state[name]["param_groups"] = fresh["param_groups"]
            if restarts_optimizers:
                state[name]["state"] = fresh["state"]
    model.set_parameters(state, exact_match=False)
    if model.use_sde:
        model.policy.reset_noise()  # type: ignore[operator]
