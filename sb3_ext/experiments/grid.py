"""Experiment files: environments x variants x seeds, each cell of which is one run of rl_zoo3."""

import difflib
import importlib
import inspect
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import yaml

from sb3_ext.zoo import hyperparams_path, register

# rl_zoo3 reads these hyperparameters itself and does not pass them on to the algorithm.
_ZOO_HYPERPARAMS = {
    "callback",
    "env_wrapper",
    "frame_stack",
    "monitor_kwargs",
    "n_envs",
    "noise_std",
    "noise_type",
    "normalize",
    "vec_env_wrapper",
}
# These come from the command line, or have a place of their own in the experiment file.
_NOT_HYPERPARAMS = {"self", "env", "n_timesteps", "tensorboard_log", "verbose", "seed", "device", "_init_setup_model"}

_RUN_KEYS = {"n_timesteps", "eval_freq", "eval_episodes", "n_eval_envs", "hyperparams", "env_kwargs"}
_VARIANT_KEYS = _RUN_KEYS | {"algo", "base"}
_EXPERIMENT_KEYS = _VARIANT_KEYS | {"environments", "variants", "seeds", "gym_packages", "score_range"}
_COUNTS = ("n_timesteps", "eval_freq", "eval_episodes", "n_eval_envs")


class ExperimentError(ValueError):
    """An experiment file has a mistake. The message tells the key, what is wrong, and what is allowed."""

    def __init__(self, path: Path, key: str, problem: str) -> None:
        super().__init__(f"{path}: {key}: {problem}")


@dataclass(frozen=True)
class Run:
    """
    One training: a cell of the grid.

    :param variant: name of what is compared
    :param algo: id in rl_zoo3
    :param n_timesteps: environment steps
    :param eval_freq: environment steps from one evaluation to the next
    :param eval_episodes: episodes of an evaluation
    :param n_eval_envs: environments that share these episodes
    :param base: where hyperparameters come from that the experiment does not set: ``"zoo"``, the file of the algorithm;
        ``"none"``, the defaults of its class; or the absolute path of a YAML file like rl_zoo3's
    :param base_hyperparams: what this source says for the environment
    :param hyperparams: what the experiment sets; it takes precedence
    :param gym_packages: modules that register environments
    """

    variant: str
    env: str
    seed: int
    algo: str
    n_timesteps: int
    eval_freq: int
    eval_episodes: int
    n_eval_envs: int
    base: str
    base_hyperparams: dict[str, Any] = field(hash=False)
    hyperparams: dict[str, Any] = field(hash=False)
    env_kwargs: dict[str, Any] = field(hash=False)
    gym_packages: tuple[str, ...]

    @property
    def name(self) -> str:
        """A path below the folder of the experiment, unique within it."""
        return f"{self.variant}/{self.env.replace('/', '-')}/seed_{self.seed}"

    def as_dict(self) -> dict[str, Any]:
        """The run as plain values, for a JSON file."""
        # YAML has dates and sets, JSON has not.
        return json.loads(json.dumps(asdict(self), default=str))


@dataclass(frozen=True)
class Experiment:
    """
    What an experiment file describes.

    :param name: the name of the file without its ending
    :param runs: all runs, seed by seed, so that the first results compare all variants
    :param score_range: by environment the returns that count as 0 and as 1 when environments are put together
    """

    name: str
    runs: tuple[Run, ...]
    score_range: dict[str, tuple[float, float]]

    @property
    def environments(self) -> list[str]:
        """Environments in the order of the file."""
        return list(dict.fromkeys(run.env for run in self.runs))

    @property
    def variants(self) -> list[str]:
        """Variants in the order of the file."""
        return list(dict.fromkeys(run.variant for run in self.runs))

    def with_timesteps(self, n_timesteps: int) -> "Experiment":
        """Make the same experiment with runs of another length. The number of evaluations stays the same."""

        def changed(run: Run) -> Run:
            eval_freq = max(run.eval_freq * n_timesteps // run.n_timesteps, 1)
            return replace(run, n_timesteps=n_timesteps, eval_freq=eval_freq)

        return replace(self, runs=tuple(changed(run) for run in self.runs))


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Reads ``5e-4`` as a number, which PyYAML takes for text, and refuses a name that is there twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping, or raise a YAMLError if a name is there twice."""
        names = [name.value for name, _ in node.value if name.tag != "tag:yaml.org,2002:merge"]
        for name in names:
            if names.count(name) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{name!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {key: list(value) for key, value in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+"), list("-+0123456789")
)


class _Reader:
    """Reads an experiment file. If something is wrong, an ExperimentError says what and where."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
        except yaml.YAMLError as error:
            raise ExperimentError(path, "YAML", str(error).replace("\n", " ")) from error
        self.content = self.mapping(content, "the file")
        self.gym_packages: tuple[str, ...] = ()

    def error(self, key: str, problem: str) -> ExperimentError:
        return ExperimentError(self.path, key, problem)

    def mapping(self, value: Any, key: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise self.error(key, f"{value!r} must be a mapping of names to values")
        return {str(name): entry for name, entry in value.items()}

    def check_known(self, names: Iterable[str], allowed: Iterable[str], key: str, what: str) -> None:
        """Raise an ExperimentError for the first name that is not allowed, with the nearest that is."""
        allowed = sorted(allowed)
        for name in names:
            if name not in allowed:
                raise self.error(f"{key}.{name}" if key else name, f"{what} {_unknown_name(name, allowed)}")

    def named(self, key: str) -> dict[str, dict[str, Any]]:
        """Read settings by name, from a mapping of names to settings or from a list of names."""
        value = self.content.get(key)
        if isinstance(value, str) or not value:
            raise self.error(
                key, f"{value!r} must be a list, or a mapping of names to settings, with one entry at least"
            )
        if isinstance(value, list):
            if len(set(map(str, value))) < len(value):
                raise self.error(key, f"{value!r} has an entry twice")
            return {str(name): {} for name in value}
        return {name: self.mapping(entry or {}, f"{key}.{name}") for name, entry in self.mapping(value, key).items()}

    def seeds(self) -> list[int]:
        value: Any = self.content.get("seeds")
        is_list = isinstance(value, list) and value and all(type(seed) is int and seed >= 0 for seed in value)
        if not is_list or len(set(value)) < len(value):
            raise self.error("seeds", f"{value!r} must be a list of different integers, 0 or more")
        return value

    def import_packages(self) -> None:
        """Import the modules that register environments."""
        value = self.content.get("gym_packages", [])
        if not isinstance(value, list):
            raise self.error("gym_packages", f"{value!r} must be a list of modules")
        for package in value:
            try:
                importlib.import_module(str(package))
            except ImportError as error:
                raise self.error(f"gym_packages.{package}", f"cannot be imported: {error}") from error
        self.gym_packages = tuple(str(package) for package in value)

    def run(self, variant: str, env: str, seed: int, settings: list[tuple[str, dict[str, Any]]]) -> Run:
        """Make a run from pairs of a place in the file and its settings. Later pairs take precedence."""
        merged: dict[str, Any] = {"eval_episodes": 5, "n_eval_envs": 1, "base": "zoo"}
        hyperparams: dict[str, Any] = {}
        env_kwargs: dict[str, Any] = {}
        place: dict[str, str] = {}
        for key, entry in settings:
            prefix = f"{key}." if key else ""
            for name, values in (("hyperparams", hyperparams), ("env_kwargs", env_kwargs)):
                given = self.mapping(entry.get(name, {}), f"{prefix}{name}")
                values.update(given)
                place |= {f"{name}.{one}": f"{prefix}{name}" for one in given}
            for name in ("algo", "base", *_COUNTS):
                if name in entry:
                    merged[name], place[name] = entry[name], f"{prefix}{name}"
        for name in ("algo", "n_timesteps"):
            if name not in merged:
                raise self.error(f"variants.{variant}", f"has no {name}, nor have the environment and the experiment")
        self.check_counts(merged, place)
        self.check_names(merged["algo"], env, place)
        base_hyperparams = self.base_hyperparams(merged, env, place)
        for name in hyperparams:
            self.check_known(
                [name], _parameters(merged["algo"]), place[f"hyperparams.{name}"], f"{merged['algo']}'s parameter"
            )
        if merged["base"] == "none" and "policy" not in hyperparams:
            raise self.error(
                f"variants.{variant}.hyperparams", "policy is missing, which base: none leaves to the experiment"
            )
        # rl_zoo3 would not give those of the file to its evaluations.
        env_kwargs = {**base_hyperparams.get("env_kwargs", {}), **env_kwargs}
        return Run(
            variant=variant,
            env=env,
            seed=seed,
            base_hyperparams=base_hyperparams,
            hyperparams=hyperparams,
            env_kwargs=env_kwargs,
            gym_packages=self.gym_packages,
            **merged,
        )

    def check_counts(self, merged: dict[str, Any], place: dict[str, str]) -> None:
        """Check the numbers of steps and episodes, which may be written as ``3e5``."""
        for name in (name for name in _COUNTS if name in merged):
            if type(merged[name]) is float and merged[name].is_integer():
                merged[name] = int(merged[name])
            if type(merged[name]) is not int or merged[name] < 1:
                raise self.error(place.get(name, name), f"{merged[name]!r} must be an integer, 1 or more")
        merged.setdefault("eval_freq", max(merged["n_timesteps"] // 20, 1))
        if merged["eval_freq"] > merged["n_timesteps"]:
            raise self.error(
                place.get("eval_freq", "eval_freq"),
                f"{merged['eval_freq']} must be at most n_timesteps={merged['n_timesteps']}, else nothing is evaluated",
            )

    def check_names(self, algo: Any, env: str, place: dict[str, str]) -> None:
        """Check the names of the algorithm and the environment."""
        from rl_zoo3.utils import ALGOS

        if not isinstance(algo, str) or algo not in ALGOS:
            raise self.error(place["algo"], f"algorithm {_unknown_name(algo, ALGOS)}")
        if env not in gym.registry:
            otherwise = "is its package installed, or missing in gym_packages?"
            raise self.error(f"environments.{env}", f"environment {_unknown_name(env, gym.registry, otherwise)}")

    def base_hyperparams(self, merged: dict[str, Any], env: str, place: dict[str, str]) -> dict[str, Any]:
        """What rl_zoo3 would read for the environment."""
        if merged["base"] == "none":
            return {}
        where = place.get("base", "base")
        if merged["base"] == "zoo":
            path = _zoo_file(merged["algo"])
        else:
            path = (self.path.parent / str(merged["base"])).resolve()
            merged["base"] = str(path)
        if not path.is_file():
            raise self.error(where, f"there is no file {path}; allowed are zoo, none, and a YAML file")
        try:
            entries = self.mapping(yaml.safe_load(path.read_text(encoding="utf-8")), where)
        except yaml.YAMLError as error:
            raise self.error(where, f"{path} is no YAML file: {error!s}".replace("\n", " ")) from error
        # rl_zoo3 looks for it in the same order.
        name = env if env in entries else "atari" if _is_atari(env) else "default"
        if name not in entries:
            raise self.error(where, f"{path} has no hyperparameters for {env}; base: none needs none")
        entry = self.mapping(entries[name], where)
        if merged["base"] != "zoo":
            allowed = _parameters(merged["algo"]) | {"n_timesteps", "env_kwargs"}
            self.check_known(entry, allowed, f"{where} ({path}): {name}", f"{merged['algo']}'s parameter")
        return entry


def load_experiment(path: Path) -> Experiment:
    """
    Read and check an experiment file.

    :raises OSError: if the file cannot be read
    :raises ExperimentError: if an algorithm, an environment or a parameter is unknown, or a value is not allowed
    """
    register()
    reader = _Reader(path)
    reader.check_known(reader.content, _EXPERIMENT_KEYS, "", "key")
    variants, environments = reader.named("variants"), reader.named("environments")
    for name, entry in variants.items():
        reader.check_known(entry, _VARIANT_KEYS, f"variants.{name}", "key")
        if not re.fullmatch(r"[\w.+=-]+", name) or name.startswith("."):
            raise reader.error(f"variants.{name}", "names are made of letters, digits and _ - + = .")
    for name, entry in environments.items():
        reader.check_known(entry, _RUN_KEYS, f"environments.{name}", "key")
    reader.import_packages()
    runs = [
        reader.run(
            variant,
            env,
            seed,
            [("", reader.content), (f"environments.{env}", env_entry), (f"variants.{variant}", variant_entry)],
        )
        for seed in reader.seeds()
        for env, env_entry in environments.items()
        for variant, variant_entry in variants.items()
    ]
    return Experiment(path.stem, tuple(runs), _score_ranges(reader, environments))


def _score_ranges(reader: _Reader, environments: Iterable[str]) -> dict[str, tuple[float, float]]:
    ranges = reader.mapping(reader.content.get("score_range", {}), "score_range")
    reader.check_known(ranges, environments, "score_range", "environment")
    for env, value in ranges.items():
        is_pair = isinstance(value, list) and len(value) == 2 and all(type(v) in (int, float) for v in value)
        if not is_pair or not value[0] < value[1]:
            raise reader.error(f"score_range.{env}", f"{value!r} must be two returns, the lower one first")
    return {env: (float(low), float(high)) for env, (low, high) in ranges.items()}


def _unknown_name(name: Any, allowed: Iterable[str], otherwise: str | None = None) -> str:
    """Say that a name is unknown, and the nearest allowed one. Without one, say ``otherwise`` or what is allowed."""
    near = difflib.get_close_matches(str(name), allowed, n=1)
    hint = f"did you mean {near[0]!r}?" if near else otherwise or f"allowed are {', '.join(allowed)}"
    return f"{name!r} is not known: {hint}"


def _arguments(algorithm: type) -> set[str]:
    """The names of the constructor's arguments, and of those that it passes on to its parents."""
    names: set[str] = set()
    for base in algorithm.__mro__:
        if "__init__" in vars(base):
            parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
            names |= {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD}
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
                break
    return names - {"args"}


@lru_cache(maxsize=32)
def _parameters(algo: str) -> frozenset[str]:
    """The names that hyperparameters of an algorithm may have."""
    from rl_zoo3.utils import ALGOS

    return frozenset(_arguments(ALGOS[algo]) - _NOT_HYPERPARAMS | _ZOO_HYPERPARAMS)


def _zoo_file(algo: str) -> Path:
    import rl_zoo3

    own = hyperparams_path(algo)
    return own if own.is_file() else Path(rl_zoo3.__file__).parent / "hyperparams" / f"{algo}.yml"


def _is_atari(env: str) -> bool:
    from rl_zoo3.exp_manager import ExperimentManager

    return ExperimentManager.is_atari(env)
