"""One emulated Atari game, which resets and loses lives as SB3's wrappers do."""

from typing import Any

import numpy as np

from sb3_ext.envs.atari_rules import AtariRules, import_cv2
from sb3_ext.envs.episode_log import EpisodeLog

#: Limit for repeated draws of the number of no-ops. Each draw is in SB3's range with a probability of 1/2 or more.
_MAX_DRAWS = 200


class AtariGame:
    """
    One game, emulated by a vector environment of size one. A larger vector environment could not make steps in one of
    its games only. SB3's wrappers make such steps after a lost life and at the start of a game.

    :param rules: what all games have in common
    """

    render_mode = "rgb_array"

    def __init__(self, rules: AtariRules) -> None:
        self.spec = rules.spec
        self.metadata: dict[str, Any] = {
            "render_modes": ["human", "rgb_array"],
            "render_fps": 60 // rules.settings.frame_skip or 1,
        }
        self.log = EpisodeLog()
        self._rules = rules
        self._settings = rules.settings
        self._ale: Any = self._make_ale()
        #: Values that ``AtariVecEnv.set_attr`` was given
        self.attributes: dict[str, Any] = {}
        self._has_pending_step = False
        #: Whether a step or a reset is under way, from the emulator to the counters here. It stays so after Ctrl-C
        self._is_incomplete = False
        self._has_fire = "FIRE" in rules.action_meanings
        self._needs_seed = True
        self._is_over = True
        self._lives = 0
        self._score = 0.0
        self._frame_number = 0
        self._frame = np.zeros(0, dtype=np.uint8)

    def _make_ale(self) -> Any:
        from ale_py.vector_env import AtariVectorEnv

        return AtariVectorEnv(num_envs=1, num_threads=1, **self._rules.vector_kwargs)

    def get_action_meanings(self) -> list[str]:
        """Names of the actions."""
        return list(self._rules.action_meanings)

    def send(self, action: int) -> None:
        """
        Let the emulator begin a step; ``receive`` waits for it.

        :param action: index of the action that is repeated for ``frame_skip`` frames
        :raises RuntimeError: before the first reset, or after ``close()``
        """
        self._check_open()
        if self._needs_seed:
            raise RuntimeError("reset() comes before the first step")
        self._is_incomplete = True
        self._ale.send(np.array([action], dtype=np.int32))
        self._has_pending_step = True
        self._is_incomplete = False

    def receive(self) -> tuple[float, bool, bool, dict[str, Any]]:
        """Wait for the step that ``send`` began. The result is unclipped reward, terminated, truncated and info."""
        self._is_incomplete = True
        frames, rewards, over, _, counters = self._ale.recv()
        self._has_pending_step = False
        self._store_frame(frames, counters)
        lives = int(counters["lives"][0])
        reward, terminated = float(rewards[0]), bool(over[0])
        truncated = self._frame_number >= self._rules.max_frames
        self._score += reward
        self._is_over = terminated or truncated
        info = self._info(counters)
        if self._is_over:
            info["episode"] = self.log.finish(self._score, self._frame_number - self._rules.first_frame)
        # Some games go on for a few frames with no lives left: the end of the game is not one more lost life
        if self._settings.terminal_on_life_loss and 0 < lives < self._lives:
            terminated = True
        self._lives = lives
        self._is_incomplete = False
        return reward, terminated, truncated, info

    def recover(self) -> None:
        """
        Go on after Ctrl-C or an error, if it came within a step.

        A step that was sent is waited for, because ALE would answer the next one with its result. Where an interrupt
        came within a call of ALE nobody knows what ALE did, and waiting may last for ever. Then a new game begins, of a
        new emulator. A transition that was under way goes from the old game into the new one, without an end.
        """
        self._check_open()
        if self._is_incomplete:
            self._ale = self._make_ale()
            self._has_pending_step, self._is_over, self._needs_seed = False, True, True
            self.reset(None)
        elif self._has_pending_step:
            _, terminated, truncated, _ = self.receive()
            if terminated or truncated:
                self.reset(None)

    def reset(self, seed: int | None) -> dict[str, Any]:
        """
        Begin a new game, or go on after a lost life, as SB3's ``EpisodicLifeEnv`` does. Then press the two buttons that
        some games wait for, as SB3's ``FireResetEnv`` does.

        :param seed: a seed always begins a new game
        """
        info = self._resume_or_restart(seed)
        if self._has_fire:
            for action in (1, 2):
                info, is_done = self._step(action)
                if is_done:
                    info = self._resume_or_restart(None)
        return info

    def observe(self) -> np.ndarray:
        """Return a copy of what the agent sees, shape (height, width, 1)."""
        if not self._settings.exact_frames:
            return self._frame[..., None].copy()
        cv2 = import_cv2()
        size = (self._settings.screen_size, self._settings.screen_size)
        gray = cv2.cvtColor(self._frame, cv2.COLOR_RGB2GRAY)
        return np.asarray(cv2.resize(gray, size, interpolation=cv2.INTER_AREA))[..., None]

    def render(self) -> np.ndarray:
        """Return the picture that is observed, shape (height, width, 3); gray without ``exact_frames``."""
        if self._frame.size == 0:
            raise RuntimeError(f"{self.spec.id}: reset() comes before render()")
        if self._frame.ndim == 3:
            return self._frame.copy()
        return np.repeat(self._frame[..., None], 3, axis=2)

    def close(self) -> None:
        """End the emulator and its thread, and close the monitor file."""
        self._ale, self._is_incomplete, self._has_pending_step = None, False, False
        self.log.close()

    def _check_open(self) -> None:
        if self._ale is None:
            raise RuntimeError(f"{self.spec.id}: the environments are closed")

    def _resume_or_restart(self, seed: int | None) -> dict[str, Any]:
        if self._settings.terminal_on_life_loss and not self._is_over and seed is None:
            info, _ = self._step(0)
            if not self._is_over:
                return info
        return self._restart(seed)

    def _step(self, action: int) -> tuple[dict[str, Any], bool]:
        self.send(action)
        _, terminated, truncated, info = self.receive()
        return info, terminated or truncated

    def _restart(self, seed: int | None) -> dict[str, Any]:
        self._check_open()
        if seed is None and self._needs_seed:
            # ALE would take its seed from the clock, so that games made together might get the same sticky actions
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        ale_seed = None if seed is None else _ale_seed(seed)
        self._is_incomplete = True
        self._needs_seed = False
        for _ in range(_MAX_DRAWS):
            frames, counters = self._ale.reset(seed=ale_seed)
            n_noops = int(counters["episode_frame_number"][0]) - self._rules.first_frame
            # SB3 draws uniformly from 1 to `noop_max`, ALE from a larger range: repeating the draw leaves SB3's range
            if not self._settings.noop_max or 1 <= n_noops <= self._settings.noop_max:
                break
            ale_seed = None
        else:
            raise RuntimeError(f"{self.spec.id}: ALE never made 1 to noop_max={self._settings.noop_max} no-ops")
        self._store_frame(frames, counters)
        self._is_over = False
        self._lives = int(counters["lives"][0])
        self._score = 0.0
        self._is_incomplete = False
        return self._info(counters)

    def _store_frame(self, frames: np.ndarray, counters: dict[str, np.ndarray]) -> None:
        self._frame = frames[0, 0]
        self._frame_number = int(counters["episode_frame_number"][0])

    @staticmethod
    def _info(counters: dict[str, np.ndarray]) -> dict[str, Any]:
        return {name: int(counters[name][0]) for name in ("lives", "episode_frame_number", "frame_number")}


def _ale_seed(seed: int) -> int:
    """Return the seed of ``ale_py.env.AtariEnv`` without its sign, because a negative one means no seed here."""
    return int(np.random.SeedSequence(seed).generate_state(2)[1]) & 0x7FFFFFFF
