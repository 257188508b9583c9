"""
Add the algorithms of this package to rl_zoo3, in place.

:data:`ZOO_ALGORITHMS` is the whole table. One line in it, and a YAML file named after its id, make an algorithm known
to ``python -m rl_zoo3.train --algo ...``. The start-up shim calls :func:`patch_module` for each module of rl_zoo3
as it is imported. :func:`register` does the same in an interpreter without the shim.
"""

import functools
import importlib
import inspect
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.type_aliases import Schedule

import sb3_ext
from sb3_ext.checks import check_no_text
from sb3_ext.common.arguments.types import BUFFERS
from sb3_ext.common.saved.state import check_saved_buffer, check_saved_networks
from sb3_ext.schedules import named_schedule
from sb3_ext.zoo import critic_samplers, imitation_samplers, samplers, value_samplers
from sb3_ext.zoo.parallel import complete_parallel_training

#: Hyperparameters that may be schedules: those that rl_zoo3 knows, and one of this package
SCHEDULED = ("learning_rate", "clip_range", "clip_range_vf", "delta_std", "qf_learning_rate")


class ZooAlgorithm(NamedTuple):
    """
    What rl_zoo3 needs to know of an algorithm, besides its YAML file.

    :param sampler: draws a trial's hyperparameters, called like the functions in rl_zoo3's ``HYPERPARAMS_SAMPLER``
    :param converter: turns ``trial.params`` into constructor arguments, like those in ``HYPERPARAMS_CONVERTER``
    """

    algorithm_class: type[BaseAlgorithm]
    sampler: Callable[..., dict[str, Any]]
    converter: Callable[[dict[str, Any]], dict[str, Any]]


ZOO_ALGORITHMS: Mapping[str, ZooAlgorithm] = MappingProxyType(
    {
        "redq_sac": ZooAlgorithm(sb3_ext.REDQSAC, samplers.sample_redq_sac_params, samplers.convert_redq_sac_params),
        "double_dqn": ZooAlgorithm(
            sb3_ext.DoubleDQN, value_samplers.sample_double_dqn_params, value_samplers.convert_double_dqn_params
        ),
        "soft_dqn": ZooAlgorithm(
            sb3_ext.SoftDQN, value_samplers.sample_soft_dqn_params, value_samplers.convert_soft_dqn_params
        ),
        "iqn": ZooAlgorithm(sb3_ext.IQN, value_samplers.sample_iqn_params, value_samplers.convert_iqn_params),
        # Known settings of these classes, under the names that people look for
        "rainbow": ZooAlgorithm(
            sb3_ext.DoubleDQN, value_samplers.sample_rainbow_params, value_samplers.convert_rainbow_params
        ),
        "btr": ZooAlgorithm(sb3_ext.IQN, value_samplers.sample_btr_params, value_samplers.convert_btr_params),
        "cem_q": ZooAlgorithm(sb3_ext.CEMQ, critic_samplers.sample_cem_q_params, critic_samplers.convert_cem_q_params),
        "naf": ZooAlgorithm(sb3_ext.NAF, critic_samplers.sample_naf_params, critic_samplers.convert_naf_params),
        "bc": ZooAlgorithm(sb3_ext.BC, imitation_samplers.sample_bc_params, imitation_samplers.convert_bc_params),
        "dagger": ZooAlgorithm(
            sb3_ext.DAgger, imitation_samplers.sample_dagger_params, imitation_samplers.convert_dagger_params
        ),
    }
)


def hyperparams_path(algo: str) -> Path:
    """Find the YAML file of an algorithm, inside the installed package or, if that is editable, in the repository."""
    package_folder = Path(sb3_ext.__file__).resolve().parent
    installed = package_folder / "hyperparams" / f"{algo}.yml"
    return installed if installed.is_file() else package_folder.parent / "hyperparams" / f"{algo}.yml"


def _name_package(module: ModuleType) -> None:
    """Let a module evaluate expressions with ``sb3_ext``, such as ``sb3_ext.nets.ImpalaConvolutions``."""
    vars(module).setdefault("sb3_ext", sb3_ext)


def _patch_utils(module: ModuleType) -> None:
    _name_package(module)  # for `-params`
    # The dictionary is changed in place, because `train`, `enjoy` and others have imported it by name. If a later
    # rl_zoo3 has an algorithm of its own under one of our ids, that one stays.
    for algo, entry in ZOO_ALGORITHMS.items():
        module.ALGOS.setdefault(algo, entry.algorithm_class)


def _patch_hyperparams_opt(module: ModuleType) -> None:
    for algo, entry in ZOO_ALGORITHMS.items():
        module.HYPERPARAMS_SAMPLER.setdefault(algo, entry.sampler)
        module.HYPERPARAMS_CONVERTER.setdefault(algo, entry.converter)


def _patch_exp_manager(module: ModuleType) -> None:
    """Let ``ExperimentManager`` read our YAML files, as it reads those of rl_zoo3, and know our buffers and classes."""
    _name_package(module)  # for `policy_kwargs` in YAML files
    for name, buffer_class in BUFFERS.items():
        # The namespace in which it evaluates the strings given as `replay_buffer_class`
        vars(module).setdefault(name, buffer_class)
    manager_class = module.ExperimentManager
    original = manager_class.__init__
    if getattr(original, "_reads_sb3_ext_hyperparams", False):
        return
    signature = inspect.signature(original)

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            arguments = signature.bind(self, *args, **kwargs).arguments
        except TypeError:
            original(self, *args, **kwargs)  # its error says what is wrong with the arguments
            return
        algo = str(arguments.get("algo"))
        entry = ZOO_ALGORITHMS.get(algo)
        # A mistyped --conf-file must stay an error, so that the argument decides and not the existence of a file.
        if entry and module.ALGOS.get(algo) is entry.algorithm_class and not arguments.get("config"):
            arguments["config"] = str(hyperparams_path(algo))
            bound = inspect.BoundArguments(signature, arguments)
            args, kwargs = bound.args[1:], bound.kwargs
        original(self, *args, **kwargs)

    init._reads_sb3_ext_hyperparams = True  # type: ignore[attr-defined]
    manager_class.__init__ = init
    _patch_schedules(manager_class)
    _patch_continuation(module)


def _patch_schedules(manager_class: Any) -> None:
    """
    Let YAML files name the schedules of :mod:`sb3_ext.schedules`, for every algorithm.

    What rl_zoo3 reads itself, such as ``lin_1e-3``, is left to it. Of any other text it would make a line, too, or an
    error that does not name the argument: here that is a ValueError.
    """
    original = manager_class._preprocess_schedules

    @functools.wraps(original)
    def preprocess(hyperparams: dict[str, Any]) -> dict[str, Any]:
        texts = {name: hyperparams[name] for name in SCHEDULED if isinstance(hyperparams.get(name), str)}
        own = {name: _schedule(name, text) for name, text in texts.items() if not _is_read_by_rl_zoo3(name, text)}
        others = {name: value for name, value in hyperparams.items() if name not in own}
        result = original(others)
        # In place, as rl_zoo3 does it
        hyperparams.update(result | own)
        return hyperparams

    manager_class._preprocess_schedules = staticmethod(preprocess)


def _is_read_by_rl_zoo3(name: str, text: str) -> bool:
    return name != "qf_learning_rate" and text.startswith(("lin_", "linear_")) and text.count("_") == 1


def _schedule(name: str, text: str) -> Schedule:
    check_no_text(name, text)
    try:
        return named_schedule(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _patch_continuation(module: ModuleType) -> None:
    """
    Refuse what cannot hold at a continuation (``-i model.zip``), where rl_zoo3 lets saved objects prevail in silence.

    These are the networks, and the replay buffer where ``replay_buffer.pkl`` lies beside the model.
    Only what a user has written counts: ``-params``, or the file after ``--conf-file``. Our YAML file is a default.
    """
    manager_class = module.ExperimentManager
    original = manager_class._load_pretrained_agent

    @functools.wraps(original)
    def load_pretrained_agent(self: Any, hyperparams: dict[str, Any], env: Any) -> BaseAlgorithm:
        entry = ZOO_ALGORITHMS.get(self.algo)
        names: Collection[str] = ()
        if entry and module.ALGOS.get(self.algo) is entry.algorithm_class:
            is_default = self.config == str(hyperparams_path(self.algo))
            names = (self.custom_hyperparams or {}) if is_default else hyperparams
        given = {name: hyperparams[name] for name in names if name in hyperparams}
        model: Any = original(self, hyperparams, env)
        if given:
            check_saved_networks(model, given)
        if given and Path(self.trained_agent).with_name("replay_buffer.pkl").is_file():
            check_saved_buffer(model, given)
        return model

    manager_class._load_pretrained_agent = load_pretrained_agent


def _patch_callbacks(module: ModuleType) -> None:
    if hasattr(module, "ParallelTrainCallback"):
        complete_parallel_training(module.ParallelTrainCallback)


_PATCHES: Mapping[str, Callable[[ModuleType], None]] = MappingProxyType(
    {
        "rl_zoo3.utils": _patch_utils,
        "rl_zoo3.hyperparams_opt": _patch_hyperparams_opt,
        "rl_zoo3.exp_manager": _patch_exp_manager,
        "rl_zoo3.callbacks": _patch_callbacks,
    }
)


def patch_module(module: ModuleType) -> None:
    """
    Complete one module of rl_zoo3. It does no harm to do it again.

    :param module: one of ``PATCHED_MODULES`` of the start-up hook, already executed
    """
    _PATCHES[module.__name__](module)


def register() -> None:
    """
    Make the algorithms of this package known to rl_zoo3 in this process.

    An ordinary ``pip install`` does it by itself. The call is needed if Python reads no ``.pth`` files: ``python -S``,
    ``pip install --target``, a zipped application. It may be made any number of times, before or after the import of
    rl_zoo3.
    """
    for name in _PATCHES:
        patch_module(importlib.import_module(name))
