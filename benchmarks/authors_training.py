"""
The training of REDQ's authors (github.com/watchernyu/REDQ): their loop, agent, replay buffer and seeds, unchanged.

Their script is ``experiments/train_redq_sac.py``. It imports gym as it was before 0.26; here gymnasium stands in. Its
logger and its own evaluation do nothing.
"""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import gymnasium
import numpy as np

STEPS_PER_EPOCH = 1000  # after which they seed all random numbers anew


class OldActionSpace:
    """
    An action space that is seeded as in old versions, ``space.np_random.seed(...)``.

    :param space: gymnasium's
    """

    def __init__(self, space: gymnasium.spaces.Box) -> None:
        self.shape, self.high, self.sample, self.seed = space.shape, space.high, space.sample, space.seed

    @property
    def np_random(self) -> "OldActionSpace":
        return self


class OldEnv:
    """
    An environment with gym's old interface: no ``info`` from ``reset``, one ``done`` from ``step``, and ``seed``.

    :param name: of an environment of gymnasium with a time limit
    """

    def __init__(self, name: str) -> None:
        self._env = gymnasium.make(name)
        assert isinstance(self._env.action_space, gymnasium.spaces.Box) and self._env.spec is not None
        self.observation_space = self._env.observation_space
        self.action_space = OldActionSpace(self._env.action_space)
        self._max_episode_steps = self._env.spec.max_episode_steps
        self._seed: int | None = None

    def seed(self, seed: int) -> None:
        """MuJoCo's environments draw in ``reset`` only, so it is early enough to seed there."""
        self._seed = seed

    def reset(self) -> np.ndarray:
        obs, _ = self._env.reset(seed=self._seed)
        self._seed = None
        return obs

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, dict[str, Any]]:
        """The loop tells a time limit from a terminal state by the length of the episode."""
        obs, reward, terminated, truncated, info = self._env.step(action)
        return obs, float(reward), terminated or truncated, info


class _NoLogger:
    """Stands in for their logger, which needs joblib and writes a folder."""

    def __init__(self, **arguments: Any) -> None:
        pass

    def store(self, *args: Any, **figures: Any) -> None:
        pass

    save_config = log_tabular = dump_tabular = store


def has_training(folder: Path) -> bool:
    """
    :param folder: of a checkout
    :return: whether the script is there
    """
    return (folder / "experiments" / "train_redq_sac.py").is_file()


def _load(folder: Path) -> ModuleType:
    """Import their script, with stand-ins for what it imports and we replace."""
    gym, logx = ModuleType("gym"), ModuleType("redq.utils.logx")
    gym.make, logx.EpochLogger = OldEnv, _NoLogger  # type: ignore[attr-defined]
    spec = importlib.util.spec_from_file_location("train_redq_sac", folder / "experiments" / "train_redq_sac.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with patch.dict(sys.modules, {"gym": gym, "redq.utils.logx": logx}), patch.object(sys, "path", [*sys.path]):
        sys.path.insert(0, str(folder))
        spec.loader.exec_module(module)
    return module


def train_authors(
    folder: Path, env: str, seed: int, n_steps: int, after_step: Callable[[int, Any], None], **arguments: Any
) -> None:
    """
    :param folder: of the checkout
    :param env: name of the environment
    :param seed: of the run
    :param n_steps: environment steps. They take one more than the next multiple of 1000
    :param after_step: called with the number of steps so far and their agent, after the updates of each step
    :param arguments: of their ``redq_sac``, by their names
    """
    module = _load(folder)

    class Watched(module.REDQSACAgent):  # type: ignore[name-defined, misc]
        n_steps = 0

        def train(self, logger: Any) -> None:
            super().train(logger)
            self.n_steps += 1
            after_step(self.n_steps, self)

    module.REDQSACAgent, module.test_agent = Watched, lambda *args: None  # type: ignore[attr-defined]
    n_epochs = -(-n_steps // STEPS_PER_EPOCH)
    module.redq_sac(env, seed=seed, epochs=n_epochs, steps_per_epoch=STEPS_PER_EPOCH, evaluate_bias=False, **arguments)
