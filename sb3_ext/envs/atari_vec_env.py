"""
Atari games emulated by ALE's vector environment, in threads of C++, behind the interface of SB3's ``VecEnv``.

An agent sees what SB3's ``AtariWrapper`` in a ``DummyVecEnv`` would show it; ``docs/atari.md`` lists the differences.
"""

import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.atari_wrappers import (
    AtariWrapper,
    ClipRewardEnv,
    EpisodicLifeEnv,
    FireResetEnv,
    MaxAndSkipEnv,
    NoopResetEnv,
    WarpFrame,
)
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from sb3_ext.checks import check_integer, check_path
from sb3_ext.envs.atari_game import AtariGame
from sb3_ext.envs.atari_originals import Originals, make_originals
from sb3_ext.envs.atari_rules import make_rules
from sb3_ext.envs.atari_settings import AtariSettings, show_settings
from sb3_ext.keywords import among, checks_keywords


class AtariVecEnv(VecEnv):
    """
    Atari games, each emulated by ``ale_py.vector_env.AtariVectorEnv`` in a thread of its own. Preprocessing, rewards,
    terminal observations and episode statistics are those of SB3's ``Monitor`` and ``AtariWrapper``.

    Observations have shape (n_envs, screen_size, screen_size, 1). ``VecFrameStack`` and ``VecTransposeImage`` go on
    top, as usual.

    :param env_id: an id such as ``"ALE/Boxing-v5"`` or ``"BoxingNoFrameskip-v4"``, or the result of
        ``gymnasium.spec``. Its own number of skipped frames is replaced by ``frame_skip``. Or a list of functions that
        make SB3's environments, as ``make_atari_env(..., vec_env_cls=AtariVecEnv)`` hands it over. Their ids, seeds,
        monitor files and settings of ``AtariWrapper`` are used, and the environments closed.
    :param n_envs: number of environments; that of the functions if there are any
    :param seed: environment i gets ``seed + i``
    :param monitor_dir: folder for ``0.monitor.csv``, ``1.monitor.csv`` and so on, as ``make_vec_env`` writes them
    :param settings: how the games are played, see :class:`~sb3_ext.envs.AtariSettings`
    :raises ImportError: without ale-py
    :raises TypeError: if there is no argument of that name
    :raises ValueError: if an argument is out of its range, or if ALE's vector environment cannot play the environment
    """

    @checks_keywords(among(VecEnv))
    @show_settings
    def __init__(
        self,
        env_id: str | EnvSpec | Sequence[Callable[[], gym.Env]],
        n_envs: int = 1,
        *,
        seed: int | None = None,
        monitor_dir: str | Path | None = None,
        **settings: Any,
    ) -> None:
        with ExitStack() as stack:
            originals = None
            if not isinstance(env_id, (str, EnvSpec)):
                if monitor_dir is not None:
                    raise ValueError(
                        f"monitor_dir={monitor_dir!r} has no effect on functions in env_id: give it to make_vec_env"
                    )
                replaced, originals = make_originals(env_id, n_envs)
                stack.callback(replaced.close)
                env_id, n_envs, settings = originals.spec, replaced.num_envs, {**originals.settings, **settings}
            check_integer("n_envs", n_envs, 1)
            if monitor_dir is not None:
                check_path("monitor_dir", monitor_dir)
            #: How the games are played
            self.settings = AtariSettings(**settings)
            self._env_id = env_id
            self._rules = make_rules(env_id, self.settings)
            self._games = [AtariGame(self._rules) for _ in range(n_envs)]
            self._n_at_once = min(self.settings.num_threads, n_envs) or n_envs
            self._actions: list[int] | None = None
            size = self.settings.screen_size
            observation_space = spaces.Box(0, 255, (size, size, 1), np.uint8)
            super().__init__(n_envs, observation_space, spaces.Discrete(len(self._rules.action_meanings)))
            self.metadata = self._games[0].metadata
            if originals is not None:
                self.take_over(originals)
        if monitor_dir is not None:
            for index, game in enumerate(self._games):
                game.log.open_file(Path(monitor_dir) / str(index), self._rules.spec.id)
        if seed is not None:
            self.seed(seed)
            self.action_space.seed(seed)

    def another(self, n_envs: int) -> "AtariVecEnv":
        """Make new environments of the same game with the same settings, without a seed and monitor files."""
        return AtariVecEnv(self._env_id, n_envs, **asdict(self.settings))

    def take_over(self, originals: Originals) -> None:
        """Go on with seeds, action space and monitor files. The monitors lose their files, which stay open."""
        self._seeds = list(originals.seeds)
        if originals.action_space == self.action_space:
            self.action_space = deepcopy(originals.action_space)
        for game, monitor in zip(self._games, originals.monitors, strict=True):
            if monitor is not None:
                game.log.take_over(monitor)

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """
        Set the seeds of the next reset, and return them. Environment i gets ``seed + i``.

        :param seed: with ``None`` numpy draws the first one
        :raises ValueError: if it is not an integer of at least 0
        """
        if seed is not None:
            check_integer("seed", seed, 0)
        return super().seed(seed)

    def set_options(self, options: list[dict[str, Any]] | dict[str, Any] | None = None) -> None:
        """Accept options of the next reset, as SB3 does. A warning says that the games have none."""
        if any([options] if options is None or isinstance(options, dict) else options):
            warnings.warn(f"options={options!r} have no effect: resets of Atari games take no options", stacklevel=2)
        super().set_options(options)

    def reset(self) -> np.ndarray:
        """
        Begin new games. As with SB3's ``EpisodicLifeEnv``, a game in progress goes on if ``terminal_on_life_loss`` is
        set and there is no new seed.

        :return: observations, shape (n_envs, screen_size, screen_size, 1)
        """
        self._actions = None
        for index, game in enumerate(self._games):
            game.recover()
            self.reset_infos[index] = game.reset(self._seeds[index])
        self._reset_seeds()
        self._reset_options()
        return np.stack([game.observe() for game in self._games])

    def step_async(self, actions: np.ndarray) -> None:
        """
        Begin a step in as many games as ``num_threads`` allows; ``step_wait`` begins it in the others.

        :param actions: one for each environment, shape (n_envs,)
        :raises ValueError: if they are not as many integers, or if the game has no such action
        """
        array, n_actions = np.asarray(actions), len(self._rules.action_meanings)
        if array.dtype == object:
            array = np.array(array.tolist())
        if array.shape != (self.num_envs,) or not np.issubdtype(array.dtype, np.integer):
            raise ValueError(
                f"actions have shape {array.shape} and dtype {array.dtype}, they must be {self.num_envs} integers"
            )
        if array.min() < 0 or array.max() >= n_actions:
            raise ValueError(f"actions={array.tolist()} must be from 0 to {n_actions - 1}")
        for game in self._games:
            game.recover()
        self._actions = array.tolist()
        for game, action in zip(self._games[: self._n_at_once], self._actions, strict=False):
            game.send(action)

    def step_wait(self) -> VecEnvStepReturn:
        """
        Finish the step in all games. Each game that ends is reset.

        :return: observations of shape (n_envs, screen_size, screen_size, 1), rewards and dones of shape (n_envs,),
            infos
        :raises RuntimeError: if ``step_async`` has not begun a step
        """
        if self._actions is None:
            raise RuntimeError("step_async() comes before step_wait()")
        # The step counts as finished even if an error or Ctrl-C interrupts it
        actions, self._actions = self._actions, None
        rewards = np.zeros(self.num_envs, dtype=np.float32)
        dones = np.zeros(self.num_envs, dtype=bool)
        observations, infos = [], []
        for index, game in enumerate(self._games):
            rewards[index], terminated, truncated, info = game.receive()
            if index + self._n_at_once < self.num_envs:
                self._games[index + self._n_at_once].send(actions[index + self._n_at_once])
            dones[index] = terminated or truncated
            info["TimeLimit.truncated"] = truncated and not terminated
            observation = game.observe()
            if dones[index]:
                info["terminal_observation"] = observation
                self.reset_infos[index] = game.reset(None)
                observation = game.observe()
            observations.append(observation)
            infos.append(info)
        if self.settings.clip_reward:
            rewards = np.sign(rewards)
        return np.stack(observations), rewards, dones, infos

    def close(self) -> None:
        """End the emulators and close the monitor files."""
        for game in self._games:
            game.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Return the pictures that are observed, each of shape (height, width, 3)."""
        return [game.render() for game in self._games]

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """
        :param attr_name: ``render_mode``, ``spec``, ``metadata``, a space, or a name that ``set_attr`` was given
        :param indices: which environments; ``None`` means all
        :return: one value for each of them
        :raises AttributeError: for any other name, because there are no environments of Gymnasium
        """
        if attr_name in ("observation_space", "action_space"):
            return [getattr(self, attr_name) for _ in self._chosen_games(indices)]
        try:
            return [
                game.attributes[attr_name] if attr_name in game.attributes else getattr(game, attr_name)
                for game in self._chosen_games(indices)
            ]
        except AttributeError:
            raise AttributeError(
                f"attr_name={attr_name!r} is unknown: AtariVecEnv has render_mode, spec, metadata, both spaces, and "
                "what set_attr was given. How the games are played is in its attribute `settings`"
            ) from None

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """
        Store a value for ``get_attr``; nothing else reads it.

        :raises AttributeError: for a setting of the games, because they would go on with the old one
        """
        if attr_name in AtariSettings.names():
            raise AttributeError(
                f"attr_name={attr_name!r} cannot be set in running games: make another "
                f"AtariVecEnv(..., {attr_name}={value!r})"
            )
        for game in self._chosen_games(indices):
            game.attributes[attr_name] = value

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list:
        """
        Call a method of each environment.

        :param method_name: ``get_action_meanings`` or ``render``
        :param indices: which environments; ``None`` means all
        :raises AttributeError: for any other method, because it would change a game without this class noticing
        """
        if method_name not in ("get_action_meanings", "render"):
            raise AttributeError(f"method_name={method_name!r} is not one of 'get_action_meanings', 'render'")
        return [getattr(game, method_name)(*method_args, **method_kwargs) for game in self._chosen_games(indices)]

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """Tell whether this class does the same as the wrapper, such as ``Monitor`` for ``evaluate_policy``."""
        replaced: list[type[gym.Wrapper]] = [Monitor, AtariWrapper, WarpFrame]
        optional: dict[type[gym.Wrapper], bool] = {
            NoopResetEnv: self.settings.noop_max > 0,
            MaxAndSkipEnv: self.settings.frame_skip > 1,
            EpisodicLifeEnv: self.settings.terminal_on_life_loss,
            FireResetEnv: "FIRE" in self._rules.action_meanings,
            ClipRewardEnv: self.settings.clip_reward,
        }
        replaced += [wrapper for wrapper, is_used in optional.items() if is_used]
        return [any(issubclass(wrapper, wrapper_class) for wrapper in replaced) for _ in self._chosen_games(indices)]

    def _chosen_games(self, indices: VecEnvIndices) -> list[AtariGame]:
        return [self._games[index] for index in self._get_indices(indices)]
