"""Who is imitated: a policy of SB3, or the file of a trained model."""

import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.save_util import load_from_pkl, load_from_zip_file
from stable_baselines3.common.vec_env import VecNormalize

# Where algorithms are found, later ones first. This package is among them, so they are imported when they are needed
_PACKAGES = ("stable_baselines3", "sb3_contrib", "sb3_ext")
# Ids of rl_zoo3 that are not the name of the class in lower case
_IDS = {
    "cem_q": "CEMQ",
    "redq_sac": "REDQSAC",
    "double_dqn": "DoubleDQN",
    "rainbow": "DoubleDQN",
    "soft_dqn": "SoftDQN",
    "btr": "IQN",
    "iqn": "IQN",
}


# Policies of sb3-contrib that need more than an observation
_NOT_ALONE = {
    "RecurrentActorCriticPolicy": "is recurrent, and nobody keeps its state here",
    "MaskableActorCriticPolicy": "needs masks, which nobody gives it here",
}


class Expert:
    """
    Chooses actions without noise.

    :param policy: a policy or an algorithm of SB3
    :param normalization: with whose statistics observations are normalized for it
    """

    def __init__(self, policy: BasePolicy | BaseAlgorithm, normalization: VecNormalize | None = None) -> None:
        acting = getattr(policy, "policy", policy)
        for base in type(acting).__mro__:
            if base.__name__ in _NOT_ALONE:
                raise ValueError(f"expert={type(acting).__name__} {_NOT_ALONE[base.__name__]}: give another expert")
        self.policy, self.normalization = policy, normalization

    def actions(self, observations: Any) -> np.ndarray:
        """
        Return the expert's actions, as the environment takes them.

        :param observations: not normalized, of B states
        """
        if self.normalization is not None:
            observations = self.normalization.normalize_obs(observations)
        return self.policy.predict(observations, deterministic=True)[0]

    def check_spaces(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        """Raise a ValueError if the expert acts in other spaces."""
        pairs = (("observation_space", observation_space, _same_space), ("action_space", action_space, _same_actions))
        for name, space, is_same in pairs:
            found = getattr(self.policy, name)
            if not is_same(found, space):
                raise ValueError(f"expert has {name}={found}, but the environment has {name}={space}")


def _same_actions(found: spaces.Space, space: spaces.Space) -> bool:
    """Compare action spaces, their bounds included, since an expert scales its actions to them."""
    if isinstance(found, spaces.Box) and isinstance(space, spaces.Box) and found.shape == space.shape:
        return np.allclose(found.low, space.low) and np.allclose(found.high, space.high)
    return bool(found == space)


def _same_space(found: spaces.Space, space: spaces.Space) -> bool:
    """Compare spaces, but not the bounds of observations: versions of an environment differ in them."""
    if isinstance(found, spaces.Dict) and isinstance(space, spaces.Dict):
        return found.spaces.keys() == space.spaces.keys() and all(
            _same_space(found[key], space[key]) for key in found.spaces
        )
    if isinstance(found, spaces.Box) and isinstance(space, spaces.Box):
        return found.shape == space.shape
    return bool(found == space)


def algorithms() -> dict[str, type[BaseAlgorithm]]:
    """Return the algorithms of SB3, sb3-contrib and this package by the ids that rl_zoo3 gives them."""
    classes: dict[str, type[BaseAlgorithm]] = {}
    for package in map(importlib.import_module, _PACKAGES):
        members = vars(package).items()
        classes |= {
            name: value for name, value in members if isinstance(value, type) and issubclass(value, BaseAlgorithm)
        }
    plain = {name.lower(): value for name, value in classes.items() if name not in _IDS.values()}
    return plain | {id_: classes[name] for id_, name in _IDS.items()}


def as_expert(value: Any) -> Expert:
    """
    Return an expert from a policy, a model, or the file of one.

    A file is named as rl_zoo3 lays them out, ``<folder>/<algo>/<env>_<n>/<name>.zip``, or ``"<algo>:<file>"``.
    ``VecNormalize`` statistics in the same folder, or in ``<env>/`` where rl_zoo3 saves them, are loaded too.

    :raises ValueError: if it is none of these
    :raises OSError: if there is no such file
    """
    if isinstance(value, Expert):
        return value
    if isinstance(value, (BasePolicy, BaseAlgorithm)):
        normalization = value.get_vec_normalize_env() if isinstance(value, BaseAlgorithm) else None
        return Expert(value, normalization)
    if not isinstance(value, (str, os.PathLike)):
        raise ValueError(
            f"expert={value!r} must be a policy or a model of Stable-Baselines3, or the file of a model such as "
            "'logs/sac/Hopper-v4_1/best_model.zip' or 'sac:expert.zip'"
        )
    known = algorithms()
    name, _, rest = str(value).partition(":")
    algo, path = (name, Path(rest)) if rest and name in known else ("", Path(value))
    if not path.is_file():
        raise FileNotFoundError(f"expert={str(value)!r}: there is no file {path}")
    if not algo:
        algo = next((part.name for part in path.absolute().parents if part.name in known), "")
    if not algo:
        raise ValueError(
            f"expert={str(value)!r} does not say which algorithm made it: no folder of it is named after one. Write "
            f"'<algo>:{path}' with one of {', '.join(sorted(known))}"
        )
    algorithm = known[algo]
    # Nothing is trained, so no replay buffer is needed
    kwargs: dict[str, Any] = {"buffer_size": 1} if issubclass(algorithm, OffPolicyAlgorithm) else {}
    is_own = algorithm.__module__.startswith("sb3_ext.")  # where some arguments need the class of the buffer
    # Hindsight replay wants the environment
    if issubclass(algorithm, OffPolicyAlgorithm) and (not is_own or _replays_in_hindsight(path)):
        kwargs["custom_objects"] = {"replay_buffer_class": None, "replay_buffer_kwargs": {}}
    model = algorithm.load(path, device="cpu", **kwargs)
    env_name = path.absolute().parent.name.rpartition("_")[0]
    candidates = (path.parent / env_name / "vecnormalize.pkl", path.parent / "vecnormalize.pkl")
    statistics = next((each for each in candidates if each.is_file()), None)
    return Expert(model, None if statistics is None else load_from_pkl(statistics))


def _replays_in_hindsight(path: Path) -> bool:
    data, _, _ = load_from_zip_file(path, device="cpu")
    buffer_class = (data or {}).get("replay_buffer_class")
    return isinstance(buffer_class, type) and issubclass(buffer_class, HerReplayBuffer)
