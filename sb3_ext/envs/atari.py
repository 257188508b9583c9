"""
Atari games emulated by ALE's vector environment, in threads of C++, behind the interface of SB3's ``VecEnv``.

What an agent sees is what SB3's ``AtariWrapper`` in a ``DummyVecEnv`` shows it; ``docs/atari.md`` lists what differs.
"""

import inspect
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, fields
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
    StickyActionEnv,
    WarpFrame,
)
from stable_baselines3.common.monitor import Monitor, ResultsWriter
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from sb3_ext.checks import check_choice, check_integer, check_interval

#: ALE's counter of frames is an int: never reached, as time limits are kept here.
_NO_LIMIT = 2**30
#: Of the number of no-ops; each is in range with a probability of 1/2 or more.
_MAX_DRAWS = 200
#: What ``AtariEnv`` may be constructed with, and what ALE's vector environment can do of it. ``None``: anything.
_ENV_KWARGS: dict[str, tuple | None] = {
    "game": None,
    "frameskip": None,
    "repeat_action_probability": None,
    "full_action_space": None,
    "max_num_frames_per_episode": None,
    "render_mode": None,
    "continuous_action_threshold": None,
    "obs_type": ("rgb",),
    "mode": (None,),
    "difficulty": (None,),
    "continuous": (False,),
    "sound_obs": (False,),
}
#: Wrappers whose work is done here.
_PARTS_OF_ATARI_WRAPPER = (
    *(StickyActionEnv, NoopResetEnv, MaxAndSkipEnv, EpisodicLifeEnv, FireResetEnv, WarpFrame, ClipRewardEnv),
)
_KNOWN_WRAPPERS = (
    *(Monitor, AtariWrapper, *_PARTS_OF_ATARI_WRAPPER),
    *(gym.wrappers.OrderEnforcing, gym.wrappers.PassiveEnvChecker),
)


def _import_ale() -> Any:
    """
    :return: ``ale_py``, its games registered
    :raises ImportError: if it is not installed, or its vector environment has no colours
    """
    try:
        import ale_py
        from ale_py.vector_env import AtariVectorEnv
    except ImportError as error:
        raise ImportError(
            'AtariVecEnv needs ale-py 0.11.2 or later and OpenCV: pip install "sb3-ext[atari]"'
        ) from error
    if "grayscale" not in inspect.signature(AtariVectorEnv.__init__).parameters:
        raise ImportError(
            f"AtariVecEnv needs ale-py 0.11.2 or later, this is {ale_py.__version__}: "
            'pip install --upgrade "sb3-ext[atari]"'
        )
    gym.register_envs(ale_py)
    return ale_py


def _import_cv2() -> Any:
    """
    :return: OpenCV
    :raises ImportError: if it is not installed
    """
    try:
        import cv2
    except ImportError as error:
        raise ImportError('AtariVecEnv(exact_frames=True) needs OpenCV: pip install "sb3-ext[atari]"') from error
    return cv2


@dataclass(frozen=True)
class _Settings:
    """How the games are played. Those of SB3's ``AtariWrapper`` have its names and defaults, see ``AtariVecEnv``."""

    noop_max: int = 30
    frame_skip: int = 4
    screen_size: int = 84
    terminal_on_life_loss: bool = True
    clip_reward: bool = True
    repeat_action_probability: float | None = None
    full_action_space: bool | None = None
    max_num_frames_per_episode: int | None = None
    exact_frames: bool = True
    num_threads: int = 0

    def check(self) -> None:
        """:raises ValueError: if one of them is not allowed"""
        for name, minimum in (("noop_max", 0), ("frame_skip", 1), ("screen_size", 1), ("num_threads", 0)):
            check_integer(name, getattr(self, name), minimum)
        for name in ("terminal_on_life_loss", "clip_reward", "exact_frames"):
            check_choice(name, getattr(self, name), (True, False))
        if self.repeat_action_probability is not None:
            check_interval("repeat_action_probability", self.repeat_action_probability, 0, 1, "a number from 0 to 1")
        if self.full_action_space is not None:
            check_choice("full_action_space", self.full_action_space, (None, True, False))
        if self.max_num_frames_per_episode is not None:
            check_integer("max_num_frames_per_episode", self.max_num_frames_per_episode, 1)


@dataclass(frozen=True)
class _Rules:
    """
    What all environments have in common.

    :param spec: of the environment
    :param settings: how it is played
    :param vector_kwargs: of ALE's vector environment
    :param max_frames: an episode is cut off at
    :param first_frame: number of the frame with which a game begins: not 0 if buttons are pressed to start it
    :param action_meanings: names of the actions
    """

    spec: EnvSpec
    settings: _Settings
    vector_kwargs: dict[str, Any]
    max_frames: int
    first_frame: int
    action_meanings: list[str]


def _rules(env: str | EnvSpec, settings: _Settings) -> _Rules:
    """
    :param env: id of a registered environment, or what ``gymnasium.spec`` gives for it
    :param settings: of the constructor
    :return: what to emulate and how
    :raises ImportError: without ale-py
    :raises ValueError: if it is not an Atari game, or one that ALE's vector environment cannot play
    """
    settings.check()
    ale_py = _import_ale()
    if settings.exact_frames:
        _import_cv2()
    spec = _game_spec(env)
    kwargs = spec.kwargs

    def chosen(name: str, default: Any) -> Any:
        value = getattr(settings, name)
        return kwargs.get(name, default) if value is None else value

    full_action_space = bool(chosen("full_action_space", False))
    interface = ale_py.ALEInterface()
    interface.setLoggerMode(ale_py.LoggerMode.Error)
    interface.loadROM(ale_py.roms.get_rom_path(kwargs["game"]))
    actions = interface.getLegalActionSet() if full_action_space else interface.getMinimalActionSet()
    # In the screen's own size ALE hands over what it has, for SB3's order of operations: maximum, grey, size
    own_size = interface.getScreenDims()
    interface.reset_game()
    first_frame = int(interface.getEpisodeFrameNumber())
    height, width = own_size if settings.exact_frames else (settings.screen_size, settings.screen_size)
    vector_kwargs = dict(
        game=kwargs["game"],
        max_num_frames_per_episode=_NO_LIMIT,
        repeat_action_probability=float(chosen("repeat_action_probability", 0.25)),
        full_action_space=full_action_space,
        img_height=height,
        img_width=width,
        grayscale=not settings.exact_frames,
        stack_num=1,
        frameskip=settings.frame_skip,
        # ALE draws one less than `noop_max` or less, and none at all too; see _Game._new_game
        noop_max=settings.noop_max + 1 if settings.noop_max else 0,
        # What SB3 does about these two takes several steps, see _Game
        use_fire_reset=False,
        episodic_life=False,
        reward_clipping=False,
    )
    max_frames = chosen("max_num_frames_per_episode", None) or _NO_LIMIT
    return _Rules(spec, settings, vector_kwargs, max_frames, first_frame, [action.name for action in actions])


def _game_spec(env: str | EnvSpec) -> EnvSpec:
    """
    :param env: id of a registered environment, or what ``gymnasium.spec`` gives for it
    :return: its registration
    :raises ValueError: if it is not an Atari game, or one that ALE's vector environment cannot play
    """
    try:
        spec = gym.spec(env) if isinstance(env, str) else env
    except gym.error.Error as error:
        raise ValueError(f"env_id={env!r} is not a registered id of an Atari game: {error}") from error
    if not str(spec.entry_point).endswith("ale_py.env:AtariEnv") or "game" not in spec.kwargs:
        raise ValueError(
            f"env_id={spec.id!r} is not an Atari game of ale-py (its entry point is {spec.entry_point}), "
            'allowed are ids such as "ALE/Boxing-v5" or "BoxingNoFrameskip-v4"'
        )
    for name, value in spec.kwargs.items():
        allowed = _ENV_KWARGS.get(name, ())
        if allowed is not None and value not in allowed:
            what = f"only {name}={allowed[0]!r} is" if allowed else "the argument is not"
            raise ValueError(f"{spec.id}: {name}={value!r}: {what} possible with ALE's vector environment")
    if isinstance(spec.kwargs.get("frameskip"), (tuple, list)):
        raise ValueError(
            f"{spec.id}: frameskip={spec.kwargs['frameskip']!r}: ALE's vector environment skips a fixed number of "
            "frames, take an id with NoFrameskip in it or one of the ALE/...-v5"
        )
    if spec.max_episode_steps is not None:
        raise ValueError(
            f"{spec.id}: max_episode_steps={spec.max_episode_steps}: only max_num_frames_per_episode is possible"
        )
    return spec


@dataclass
class _EpisodeLog:
    """What SB3's ``Monitor`` keeps: the file, if there is one, and when its time began."""

    t_start: float = field(default_factory=time.time)
    writer: ResultsWriter | None = None

    def finish(self, total_reward: float, length: int) -> dict[str, Any]:
        """
        :param total_reward: unclipped, of the whole game
        :param length: in frames of the emulator, as ``Monitor`` counts them under ``AtariWrapper``
        :return: what goes into ``info["episode"]``
        """
        episode = {"r": round(total_reward, 6), "l": length, "t": round(time.time() - self.t_start, 6)}
        if self.writer is not None:
            self.writer.write_row(episode)
        return episode


class _Game:
    """
    One environment: a vector environment of size one, so that it can make steps of its own. SB3's wrappers do that
    after a lost life and at the start of a game.

    :param rules: what all environments have in common
    """

    render_mode = "rgb_array"

    def __init__(self, rules: _Rules) -> None:
        from ale_py.vector_env import AtariVectorEnv

        self.spec = rules.spec
        self.metadata: dict[str, Any] = {
            "render_modes": ["human", "rgb_array"],
            "render_fps": 60 // rules.settings.frame_skip or 1,
        }
        self.log = _EpisodeLog()
        self._rules = rules
        self._settings = rules.settings
        self._ale: Any = AtariVectorEnv(num_envs=1, num_threads=1, **rules.vector_kwargs)
        #: What ``set_attr`` was given
        self.attributes: dict[str, Any] = {}
        self._in_flight = False
        self._has_fire = "FIRE" in rules.action_meanings
        self._needs_seed = True
        self._is_over = True
        self._lives = 0
        self._score = 0.0
        self._frame_number = 0
        self._frame = np.zeros(0, dtype=np.uint8)

    def get_action_meanings(self) -> list[str]:
        """:return: names of the actions"""
        return list(self._rules.action_meanings)

    def send(self, action: int) -> None:
        """
        :param action: the emulator shall begin to repeat
        :raises RuntimeError: before the first reset, or after ``close()``
        """
        self._check_open()
        if self._needs_seed:
            raise RuntimeError("reset() comes before the first step")
        self._ale.send(np.array([action], dtype=np.int32))
        self._in_flight = True

    def settle(self) -> None:
        """Finish a step that was begun and never waited for, as after Ctrl-C: else ALE would answer a step late."""
        if self._in_flight:
            _, terminated, truncated, _ = self.receive()
            if terminated or truncated:
                self.reset(None)

    def _check_open(self) -> None:
        if self._ale is None:
            raise RuntimeError(f"{self.spec.id}: the environments are closed")

    def receive(self) -> tuple[float, bool, bool, dict[str, Any]]:
        """
        Wait for the emulator.

        :return: reward (unclipped), terminated, truncated, info
        """
        frames, rewards, over, _, counters = self._ale.recv()
        self._in_flight = False
        self._look(frames, counters)
        lives = int(counters["lives"][0])
        reward, terminated = float(rewards[0]), bool(over[0])
        truncated = self._frame_number >= self._rules.max_frames
        self._score += reward
        self._is_over = terminated or truncated
        info = self._info(counters)
        if self._is_over:
            info["episode"] = self.log.finish(self._score, self._frame_number - self._rules.first_frame)
        # With no lives left some games go on for a few frames: these are not a second loss
        if self._settings.terminal_on_life_loss and 0 < lives < self._lives:
            terminated = True
        self._lives = lives
        return reward, terminated, truncated, info

    def reset(self, seed: int | None) -> dict[str, Any]:
        """
        Do what SB3's ``EpisodicLifeEnv`` and ``FireResetEnv`` do: begin a new game, or go on after a lost life, and
        press the two buttons that some games wait for.

        :param seed: begins a new game in any case
        :return: info
        """
        info = self._start(seed)
        if self._has_fire:
            for action in (1, 2):
                info, ended = self._play(action)
                if ended:
                    info = self._start(None)
        return info

    def observe(self) -> np.ndarray:
        """:return: a copy of what the agent sees, shape (height, width, 1)"""
        if not self._settings.exact_frames:
            return self._frame[..., None].copy()
        cv2 = _import_cv2()
        size = (self._settings.screen_size, self._settings.screen_size)
        grey = cv2.cvtColor(self._frame, cv2.COLOR_RGB2GRAY)
        return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA))[..., None]

    def render(self) -> np.ndarray:
        """:return: the picture the observation is made of, in colours if there are any, shape (height, width, 3)"""
        if self._frame.ndim == 3:
            return self._frame.copy()
        return np.repeat(self._frame[..., None], 3, axis=2)

    def close(self) -> None:
        """End the emulator and its thread, and close the file."""
        self._ale = None
        if self.log.writer is not None:
            self.log.writer.close()
            self.log.writer = None

    def _start(self, seed: int | None) -> dict[str, Any]:
        if self._settings.terminal_on_life_loss and not self._is_over and seed is None:
            info, _ = self._play(0)
            if not self._is_over:
                return info
        return self._new_game(seed)

    def _play(self, action: int) -> tuple[dict[str, Any], bool]:
        self.send(action)
        _, terminated, truncated, info = self.receive()
        return info, terminated or truncated

    def _new_game(self, seed: int | None) -> dict[str, Any]:
        self._check_open()
        if seed is None and self._needs_seed:
            # Left to itself, ALE seeds by the clock: environments made at once may get the same sticky actions
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        ale_seed = None if seed is None else _ale_seed(seed)
        self._needs_seed = False
        for _ in range(_MAX_DRAWS):
            frames, counters = self._ale.reset(seed=ale_seed)
            n_noops = int(counters["episode_frame_number"][0]) - self._rules.first_frame
            # Repeated until SB3's distribution is left, which is uniform from 1 to `noop_max`
            if not self._settings.noop_max or 1 <= n_noops <= self._settings.noop_max:
                break
            ale_seed = None
        else:
            raise RuntimeError(f"{self.spec.id}: ALE never made 1 to noop_max={self._settings.noop_max} no-ops")
        self._look(frames, counters)
        self._is_over = False
        self._lives = int(counters["lives"][0])
        self._score = 0.0
        return self._info(counters)

    def _look(self, frames: np.ndarray, counters: dict[str, np.ndarray]) -> None:
        self._frame = frames[0, 0]
        self._frame_number = int(counters["episode_frame_number"][0])

    @staticmethod
    def _info(counters: dict[str, np.ndarray]) -> dict[str, Any]:
        return {name: int(counters[name][0]) for name in ("lives", "episode_frame_number", "frame_number")}


def _ale_seed(seed: int) -> int:
    """
    :param seed: of an environment
    :return: what ``ale_py.env.AtariEnv`` seeds the emulator with, without the sign, which ALE's vector environment
        takes for "no seed"
    """
    return int(np.random.SeedSequence(seed).generate_state(2)[1]) & 0x7FFFFFFF


class AtariVecEnv(VecEnv):
    """
    Atari games, emulated by ``ale_py.vector_env.AtariVectorEnv`` in threads of its own, with the preprocessing,
    rewards, terminal observations and episode statistics of SB3's ``Monitor`` and ``AtariWrapper`` in a
    ``DummyVecEnv``. Observations have shape (n_envs, screen_size, screen_size, 1): ``VecFrameStack`` and
    ``VecTransposeImage`` go on top, as usual.

    :param env_id: ``"ALE/Boxing-v5"`` or ``"BoxingNoFrameskip-v4"``, or what ``gymnasium.spec`` returns. Its own
        number of skipped frames is replaced by ``frame_skip``.
    :param n_envs: number of environments
    :param noop_max: a game begins with 1 to so many frames without action; 0 for none
    :param frame_skip: frames for which an action is repeated
    :param screen_size: side of the observation in pixels
    :param terminal_on_life_loss: whether a lost life ends an episode (not the game, which goes on)
    :param clip_reward: whether rewards are their signs
    :param repeat_action_probability: of sticky actions, for each frame; ``None`` for that of the id
    :param full_action_space: all 18 actions, not only those of the game; ``None`` for what the id says
    :param max_num_frames_per_episode: a game is cut off after so many frames; ``None`` for what the id says
    :param exact_frames: whether observations equal SB3's to the bit. Otherwise ALE computes them: less work, and
        slightly other grey levels.
    :param num_threads: how many environments are emulated at once; 0 for all
    :param seed: environment i gets ``seed + i``
    :param monitor_dir: folder for ``0.monitor.csv``, ``1.monitor.csv`` and so on, as ``make_vec_env`` writes them
    :raises ImportError: without ale-py
    :raises ValueError: if an argument is out of its range, or the environment is not one that ALE's vector environment
        can play
    """

    def __init__(
        self,
        env_id: str | EnvSpec,
        n_envs: int = 1,
        *,
        noop_max: int = 30,
        frame_skip: int = 4,
        screen_size: int = 84,
        terminal_on_life_loss: bool = True,
        clip_reward: bool = True,
        repeat_action_probability: float | None = None,
        full_action_space: bool | None = None,
        max_num_frames_per_episode: int | None = None,
        exact_frames: bool = True,
        num_threads: int = 0,
        seed: int | None = None,
        monitor_dir: str | Path | None = None,
    ) -> None:
        check_integer("n_envs", n_envs, 1)
        settings = _Settings(
            noop_max=noop_max,
            frame_skip=frame_skip,
            screen_size=screen_size,
            terminal_on_life_loss=terminal_on_life_loss,
            clip_reward=clip_reward,
            repeat_action_probability=repeat_action_probability,
            full_action_space=full_action_space,
            max_num_frames_per_episode=max_num_frames_per_episode,
            exact_frames=exact_frames,
            num_threads=num_threads,
        )
        self._env_id, self._settings = env_id, settings
        self._rules = _rules(env_id, settings)
        self._games = [_Game(self._rules) for _ in range(n_envs)]
        self._in_flight = min(num_threads, n_envs) or n_envs
        self._actions: list[int] | None = None
        observation_space = spaces.Box(0, 255, (screen_size, screen_size, 1), np.uint8)
        super().__init__(n_envs, observation_space, spaces.Discrete(len(self._rules.action_meanings)))
        self.metadata = self._games[0].metadata
        if monitor_dir is not None:
            self._write_monitor_files(Path(monitor_dir))
        if seed is not None:
            self.seed(seed)
            self.action_space.seed(seed)

    def another(self, n_envs: int) -> "AtariVecEnv":
        """
        :param n_envs: number of environments
        :return: the same game with the same settings once more, without seed and monitor files
        """
        return AtariVecEnv(self._env_id, n_envs, **asdict(self._settings))

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """
        :param seed: environment i gets ``seed + i`` at the next reset; ``None`` for one of numpy's random generator
        :return: the seeds of all environments
        :raises ValueError: if it is not an integer of at least 0
        """
        if seed is not None:
            check_integer("seed", seed, 0)
        return super().seed(seed)

    def reset(self) -> np.ndarray:
        """
        Begin anew. As with SB3's ``EpisodicLifeEnv``, a game in progress goes on unless there is a new seed, if
        ``terminal_on_life_loss`` is set.

        :return: observations, shape (n_envs, screen_size, screen_size, 1)
        """
        self._actions = None
        for index, game in enumerate(self._games):
            game.settle()
            self.reset_infos[index] = game.reset(self._seeds[index])
        self._reset_seeds()
        self._reset_options()
        return np.stack([game.observe() for game in self._games])

    def step_async(self, actions: np.ndarray) -> None:
        """
        :param actions: of all environments, shape (n_envs,)
        :raises ValueError: if they are not as many integers, or one of them is no action of the game
        """
        array, n_actions = np.asarray(actions), len(self._rules.action_meanings)
        if array.shape != (self.num_envs,) or not np.issubdtype(array.dtype, np.integer):
            raise ValueError(
                f"actions have shape {array.shape} and dtype {array.dtype}, they must be {self.num_envs} integers"
            )
        if array.min() < 0 or array.max() >= n_actions:
            raise ValueError(f"actions={array.tolist()} must be from 0 to {n_actions - 1}")
        for game in self._games:
            game.settle()
        self._actions = array.tolist()
        for game, action in zip(self._games[: self._in_flight], self._actions, strict=False):
            game.send(action)

    def step_wait(self) -> VecEnvStepReturn:
        """
        :return: observations of shape (n_envs, screen_size, screen_size, 1), rewards and dones of shape (n_envs,),
            infos
        """
        if self._actions is None:
            raise RuntimeError("step_async() comes before step_wait()")
        # Whatever happens meanwhile, this step is over
        actions, self._actions = self._actions, None
        rewards = np.zeros(self.num_envs, dtype=np.float32)
        dones = np.zeros(self.num_envs, dtype=bool)
        observations, infos = [], []
        for index, game in enumerate(self._games):
            rewards[index], terminated, truncated, info = game.receive()
            if index + self._in_flight < self.num_envs:
                self._games[index + self._in_flight].send(actions[index + self._in_flight])
            dones[index] = terminated or truncated
            info["TimeLimit.truncated"] = truncated and not terminated
            observation = game.observe()
            if dones[index]:
                info["terminal_observation"] = observation
                self.reset_infos[index] = game.reset(None)
                observation = game.observe()
            observations.append(observation)
            infos.append(info)
        if self._rules.settings.clip_reward:
            rewards = np.sign(rewards)
        return np.stack(observations), rewards, dones, infos

    def close(self) -> None:
        """End the emulators and close the files."""
        for game in self._games:
            game.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """:return: of each environment the picture its observation is made of, shape (height, width, 3)"""
        return [game.render() for game in self._games]

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """
        :param attr_name: ``render_mode``, ``spec``, ``metadata``, a space, or what was set
        :param indices: of environments, ``None`` for all
        :return: its values
        """
        if attr_name in ("observation_space", "action_space"):
            return [getattr(self, attr_name) for _ in self._chosen(indices)]
        return [
            game.attributes[attr_name] if attr_name in game.attributes else getattr(game, attr_name)
            for game in self._chosen(indices)
        ]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """
        :param attr_name: to remember, nothing reads it but ``get_attr``
        :param value: of it
        :param indices: of environments, ``None`` for all
        """
        for game in self._chosen(indices):
            game.attributes[attr_name] = value

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list:
        """
        :param method_name: ``get_action_meanings`` or ``render``
        :param method_args: of the method
        :param indices: of environments, ``None`` for all
        :param method_kwargs: of the method
        :return: what it returns
        :raises AttributeError: for another method, which would act behind the back of this class
        """
        if method_name not in ("get_action_meanings", "render"):
            raise AttributeError(f"method_name={method_name!r} is not one of 'get_action_meanings', 'render'")
        return [getattr(game, method_name)(*method_args, **method_kwargs) for game in self._chosen(indices)]

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """
        :param wrapper_class: for instance ``Monitor``, which ``evaluate_policy`` asks for
        :param indices: of environments, ``None`` for all
        :return: whether the work of such a wrapper is done here
        """
        settings = self._rules.settings
        done_here: list[type[gym.Wrapper]] = [Monitor, AtariWrapper, WarpFrame]
        optional: dict[type[gym.Wrapper], bool] = {
            NoopResetEnv: settings.noop_max > 0,
            MaxAndSkipEnv: settings.frame_skip > 1,
            EpisodicLifeEnv: settings.terminal_on_life_loss,
            FireResetEnv: "FIRE" in self._rules.action_meanings,
            ClipRewardEnv: settings.clip_reward,
        }
        done_here += [wrapper for wrapper, is_used in optional.items() if is_used]
        return [any(issubclass(wrapper, wrapper_class) for wrapper in done_here) for _ in self._chosen(indices)]

    def _chosen(self, indices: VecEnvIndices) -> list[_Game]:
        return [self._games[index] for index in self._get_indices(indices)]

    def _write_monitor_files(self, folder: Path) -> None:
        for index, game in enumerate(self._games):
            header: dict[str, float | str] = {"t_start": game.log.t_start, "env_id": self._rules.spec.id}
            game.log.writer = ResultsWriter(str(folder / str(index)), header=header)


def use_ale_vector(venv: VecEnv, **settings: Any) -> AtariVecEnv:
    """
    Replace SB3's environments by ALE's vector environment. For ``vec_env_wrapper`` in a YAML file of rl_zoo3::

        vec_env_wrapper: sb3_ext.envs.use_ale_vector

    Game, number of environments, seeds, monitor files and the settings of ``AtariWrapper`` are taken over, so that
    the files go on where they are; the old environments are closed.

    :param venv: not yet reset
    :param settings: of ``AtariVecEnv``; they go before those of ``AtariWrapper``, which need not be there
    :return: the new environments
    :raises ImportError: without ale-py
    :raises ValueError: if it is not a ``DummyVecEnv``, or has environments or wrappers that cannot be replaced
    """
    allowed = [setting.name for setting in fields(_Settings)]
    for name in settings:
        check_choice("setting of use_ale_vector", name, allowed)
    if type(venv) is not DummyVecEnv:
        raise ValueError(
            f"use_ale_vector got a {type(venv).__name__}, it can replace only a DummyVecEnv that nothing wraps yet: "
            "leave out --vec-env subproc (and, with enjoy, --n-envs above 1), and name it first in vec_env_wrapper"
        )
    _import_ale()
    # Before the wrappers are looked at: those of other environments would make for a misleading message
    spec = _game_spec(_same_spec(venv))
    monitors = [_monitor(env) for env in venv.envs]
    found, *others = [_wrapper_settings(env) for env in venv.envs]
    if any(other != found for other in others):
        raise ValueError(f"use_ale_vector needs the same AtariWrapper in all environments, got {[found, *others]}")
    new = AtariVecEnv(spec, venv.num_envs, **{**found, **settings})
    new.action_space = deepcopy(venv.action_space) if venv.action_space == new.action_space else new.action_space
    # `make_vec_env` has set them for the first reset, which has not been
    new._seeds = list(venv._seeds)
    for game, monitor in zip(new._games, monitors, strict=True):
        if monitor is not None:
            game.log.t_start, game.log.writer = monitor.t_start, monitor.results_writer
            # Closing the old environments must leave the file open
            monitor.results_writer = None
    venv.close()
    return new


def _wrappers(env: gym.Env) -> list[gym.Wrapper]:
    wrappers = []
    while isinstance(env, gym.Wrapper):
        wrappers.append(env)
        env = env.env
    return wrappers


def _same_spec(venv: DummyVecEnv) -> EnvSpec:
    """
    :param venv: the environments to replace
    :return: what they are all made from
    :raises ValueError: if they differ or are no Atari games
    """
    made_from = [env.unwrapped.spec for env in venv.envs]
    spec = made_from[0]
    if spec is None or any(other is None or other.kwargs != spec.kwargs for other in made_from):
        raise ValueError(
            f"use_ale_vector can replace only environments made from one id with the same arguments, got {made_from}"
        )
    return spec


def _monitor(env: gym.Env) -> Monitor | None:
    """
    :param env: an environment to replace
    :return: its ``Monitor``
    :raises ValueError: if it writes more than ``AtariVecEnv`` can, or there are wrappers that do other work
    """
    monitor = None
    for wrapper in _wrappers(env):
        if type(wrapper) not in _KNOWN_WRAPPERS:
            names = ", ".join(known.__name__ for known in _KNOWN_WRAPPERS)
            raise ValueError(
                f"use_ale_vector cannot replace the wrapper {type(wrapper).__name__} of {env}, allowed are {names}"
            )
        if isinstance(wrapper, Monitor):
            monitor = wrapper
    if monitor is not None and (monitor.info_keywords or monitor.reset_keywords):
        raise ValueError(
            f"monitor_kwargs: info_keywords={monitor.info_keywords!r} and reset_keywords={monitor.reset_keywords!r} "
            "must be empty with use_ale_vector"
        )
    return monitor


def _wrapper_settings(env: gym.Env) -> dict[str, Any]:
    """
    :param env: an environment to replace
    :return: the settings of its ``AtariWrapper``; nothing without one
    :raises ValueError: if the environment skips frames too
    """
    wrappers: dict[type, Any] = {type(wrapper): wrapper for wrapper in _wrappers(env)}
    if WarpFrame not in wrappers:
        alone = [known.__name__ for known in _PARTS_OF_ATARI_WRAPPER if known in wrappers]
        if alone:
            raise ValueError(
                f"use_ale_vector got {', '.join(alone)} without the rest of AtariWrapper: name AtariWrapper in "
                "env_wrapper, or nothing, and give the settings to use_ale_vector"
            )
        return {}
    spec = env.unwrapped.spec
    skipped = (spec.kwargs if spec is not None else {}).get("frameskip", 1)
    if skipped != 1:
        raise ValueError(
            f"frameskip={skipped!r} of the environment would be multiplied by AtariWrapper's: give it 1 "
            '(env_kwargs: {"frameskip": 1}, --env-kwargs frameskip:1), or leave out env_wrapper'
        )
    settings: dict[str, Any] = dict(
        noop_max=wrappers[NoopResetEnv].noop_max if NoopResetEnv in wrappers else 0,
        frame_skip=wrappers[MaxAndSkipEnv]._skip if MaxAndSkipEnv in wrappers else 1,
        screen_size=wrappers[WarpFrame].width,
        terminal_on_life_loss=EpisodicLifeEnv in wrappers,
        clip_reward=ClipRewardEnv in wrappers,
    )
    if StickyActionEnv in wrappers:
        settings["repeat_action_probability"] = _one_stickiness(wrappers[StickyActionEnv], env)
    return settings


def _one_stickiness(sticky: StickyActionEnv, env: gym.Env) -> float:
    """
    :param sticky: SB3's wrapper for sticky actions
    :param env: which it is part of
    :return: its probability
    :raises ValueError: if the emulator repeats actions as well
    """
    spec = env.unwrapped.spec
    own = (spec.kwargs if spec is not None else {}).get("repeat_action_probability", 0.25)
    if own:
        raise ValueError(
            f"repeat_action_probability={own} of the environment and action_repeat_probability="
            f"{sticky.action_repeat_probability} of AtariWrapper cannot be had at once: set one of them to 0"
        )
    return sticky.action_repeat_probability
