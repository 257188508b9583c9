"""
Memory, speed and exactness of replay buffers for stacked frames, beside SB3's and those of other packages.

One stream of transitions is recorded (random policy, VecFrameStack(4), VecTransposeImage, fed as SB3's DQN feeds its
buffer) and replayed cyclically into every contestant. The end of a cycle is an interruption: all environments are
reset without ``done``. SB3's interface cannot tell a buffer; tianshou's and cpprb's can, and are told. Each contestant
lives in a process of its own with one torch thread, is filled once beyond its capacity, then asked in turn for timed
bursts: only one works at a time, and the ratios of one run hold where the machine's clock drifts. Run nothing else
meanwhile.

``fill`` is ``add`` until the buffer is full for the first time, whose memory the system hands out meanwhile; that
happens once. ``add`` is what it costs from then on.

Bytes per transition are the growth of the resident memory, from before the buffer is made to when it is full. Pages of
a mapped file are in it as far as they are mapped just then, and in a column of their own: the system may take them
back.

Every ``sample`` ends with torch tensors on the CPU of what DQN needs, views where a contestant returns views;
``sample_32_float`` adds DQN's first use of them, the division by 255, which is where views are paid for.
``mismatches`` counts the slots in which any field differs from SB3's ReplayBuffer; ``mismatches_unmasked`` leaves out
the next observations that DQN's target multiplies by zero.

    python benchmarks/replay_buffers.py --output benchmarks/results/replay_buffers.csv
"""

import argparse
import ctypes
import gc
import hashlib
import importlib.util
import math
import multiprocessing
import os
import statistics
import tempfile
import time
import traceback
from contextlib import ExitStack, closing, suppress
from copy import deepcopy
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import psutil
import torch as th
from gymnasium import spaces
from reporting import installed_versions, write_csv
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.env_util import make_atari_env, make_vec_env
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecTransposeImage
from tqdm import tqdm

SIDE = 84
N_STACK = 4
REFERENCE = "sb3"
# Batch size, and whether the observations are made floats
SAMPLES = {"sample_32": (32, False), "sample_256": (256, False), "sample_32_float": (32, True)}
METRICS = ("fill_steps_per_s", "add_steps_per_s", *(f"{name}_per_s" for name in SAMPLES))


class RandomEnv(gym.Env):
    """A noisy patch on a dark background, and episodes that end and are cut off at random: needs no emulator."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0, 255, (SIDE, SIDE, 1), np.uint8)
        self.action_space = spaces.Discrete(4)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return self._observation(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        terminated, truncated = self.np_random.random(2) < 0.05
        return self._observation(), float(self.np_random.normal()), bool(terminated), bool(truncated), {}

    def _observation(self) -> np.ndarray:
        frame = np.full((SIDE, SIDE, 1), 30, np.uint8)
        row, column = self.np_random.integers(SIDE - 16, size=2)
        frame[row : row + 16, column : column + 16] = self.np_random.integers(256, size=(16, 16, 1))
        return frame


class Step(NamedTuple):
    """What one step of all environments gives a buffer. ``truncated`` includes interruptions, which SB3 is not told."""

    obs: np.ndarray
    next_obs: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    dones: np.ndarray
    infos: list[dict[str, Any]]
    terminated: np.ndarray
    truncated: np.ndarray


class Recording:
    """
    Recorded steps, stored as distinct frames and, for each stack, which of them it holds.

    :param folder: where ``record`` has put the arrays
    """

    def __init__(self, folder: Path) -> None:
        arrays = np.load(folder / "recording.npz")
        self.frames = arrays["frames"]
        self.obs, self.next_obs = arrays["obs"], arrays["next_obs"]
        self.actions, self.rewards = arrays["actions"], arrays["rewards"]
        self.dones, self.timeouts = arrays["dones"], arrays["timeouts"]
        self.n_actions = int(arrays["n_actions"])

    def step(self, number: int) -> Step:
        """:param number: of the step in the endless stream"""
        at = number % len(self.actions)
        dones, timeouts = self.dones[at], self.timeouts[at]
        return Step(
            obs=self._stacks(self.obs[at]),
            next_obs=self._stacks(self.next_obs[at]),
            actions=self.actions[at],
            rewards=self.rewards[at],
            dones=dones,
            infos=[{"TimeLimit.truncated": bool(timeout)} for timeout in timeouts],
            terminated=dones & ~timeouts,
            truncated=timeouts | (at == len(self.actions) - 1) & ~dones,
        )

    def _stacks(self, indices: np.ndarray) -> np.ndarray:
        """In VecTransposeImage's layout: a channels-first view of an array that has the channels last."""
        return np.ascontiguousarray(self.frames[indices].transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


class Frames:
    """Distinct frames, each stored once."""

    def __init__(self) -> None:
        self.frames: list[np.ndarray] = []
        self._known: dict[bytes, int] = {}

    def indices(self, stacks: np.ndarray) -> np.ndarray:
        """
        :param stacks: of shape (environments, frames of a stack, height, width)
        :return: which of the distinct frames they hold, of shape (environments, frames of a stack)
        """
        return np.array([[self._index(frame) for frame in stack] for stack in stacks], np.int32)

    def _index(self, frame: np.ndarray) -> int:
        digest = hashlib.blake2b(frame.tobytes(), digest_size=16).digest()
        if digest not in self._known:
            self._known[digest] = len(self.frames)
            self.frames.append(frame.copy())
        return self._known[digest]


def make_env(env_id: str, n_envs: int) -> VecEnv:
    """
    :param env_id: an Atari game, or "random"
    :param n_envs: number of environments
    """
    if env_id == "random":
        venv = make_vec_env(RandomEnv, n_envs, seed=0)
    else:
        import ale_py

        gym.register_envs(ale_py)
        venv = make_atari_env(env_id, n_envs, seed=0)
    return VecTransposeImage(VecFrameStack(venv, N_STACK))


def record(env_id: str, n_envs: int, n_steps: int, folder: Path) -> None:
    """
    Play at random, and keep what ``OffPolicyAlgorithm._store_transition`` would hand to the buffer.

    :param env_id: an Atari game, or "random"
    :param n_envs: number of environments
    :param n_steps: steps of all environments
    :param folder: where the recording goes
    """
    venv = make_env(env_id, n_envs)
    venv.action_space.seed(0)
    frames = Frames()
    columns: dict[str, list[np.ndarray]] = {
        key: [] for key in ("obs", "next_obs", "actions", "rewards", "dones", "timeouts")
    }
    obs_indices = frames.indices(venv.reset())
    for _ in range(n_steps):
        actions = np.array([venv.action_space.sample() for _ in range(n_envs)])
        new_obs, rewards, dones, infos = venv.step(actions)
        next_obs = deepcopy(new_obs)
        for i in np.flatnonzero(dones):
            next_obs[i] = infos[i]["terminal_observation"]
        timeouts = np.array([info.get("TimeLimit.truncated", False) for info in infos])
        row = (obs_indices, frames.indices(next_obs), actions, rewards, dones, timeouts)
        for column, value in zip(columns.values(), row, strict=True):
            column.append(np.array(value))
        obs_indices = frames.indices(new_obs)
    arrays = {key: np.stack(column) for key, column in columns.items()}
    np.savez(folder / "recording.npz", frames=np.stack(frames.frames), n_actions=venv.action_space.n, **arrays)
    venv.close()


class Contestant:
    """
    A buffer behind the interface that is measured.

    :param capacity: transitions in all
    :param n_envs: number of environments
    :param n_actions: number of discrete actions
    :param folder: for files
    """

    label: str
    packages: tuple[str, ...] = ()

    def __init__(self, capacity: int, n_envs: int, n_actions: int, folder: Path) -> None:
        self.capacity, self.n_envs, self.folder = capacity, n_envs, folder
        self.spaces = (spaces.Box(0, 255, (N_STACK, SIDE, SIDE), np.uint8), spaces.Discrete(n_actions))
        self.make()

    def make(self) -> None:
        """Construct the buffer."""
        raise NotImplementedError

    def add(self, step: Step) -> None:
        """:param step: to store"""
        raise NotImplementedError

    def sample(self, batch_size: int) -> tuple[th.Tensor, ...]:
        """:return: observations, actions, next observations, dones, rewards"""
        raise NotImplementedError

    def at(self, slots: np.ndarray, envs: np.ndarray) -> tuple[Any, ...] | None:
        """:return: what ``sample`` returns, of chosen transitions; None where the interface does not allow to choose"""
        raise NotImplementedError

    def never_sampled(self) -> list[int]:
        """Slots that ``sample`` leaves out."""
        return []


class SB3(Contestant):
    label = "SB3 ReplayBuffer"

    def make(self) -> None:
        self.buffer = ReplayBuffer(self.capacity, *self.spaces, "cpu", self.n_envs)

    def add(self, step: Step) -> None:
        self.buffer.add(step.obs, step.next_obs, step.actions, step.rewards, step.dones, step.infos)

    def sample(self, batch_size: int) -> tuple[th.Tensor, ...]:
        return self.buffer.sample(batch_size)[:5]

    def at(self, slots: np.ndarray, envs: np.ndarray) -> tuple[Any, ...] | None:
        return self._at(slots, envs, self.buffer.next_observations[slots, envs])

    def _at(self, slots: np.ndarray, envs: np.ndarray, next_obs: np.ndarray) -> tuple[Any, ...]:
        buffer = self.buffer
        dones = buffer.dones[slots, envs] * (1 - buffer.timeouts[slots, envs])
        obs, actions = buffer.observations[slots, envs], buffer.actions[slots, envs]
        return obs, actions, next_obs, dones, buffer.rewards[slots, envs]


class SB3Optimized(SB3):
    """It does not go with the treatment of time limits: their ``dones`` count as mismatches."""

    label = "SB3 ReplayBuffer, optimize_memory_usage"

    def make(self) -> None:
        self.buffer = ReplayBuffer(
            self.capacity,
            *self.spaces,
            "cpu",
            self.n_envs,
            optimize_memory_usage=True,
            handle_timeout_termination=False,
        )

    def at(self, slots: np.ndarray, envs: np.ndarray) -> tuple[Any, ...] | None:
        return self._at(slots, envs, self.buffer.observations[(slots + 1) % self.buffer.buffer_size, envs])

    def never_sampled(self) -> list[int]:
        return [self.buffer.pos]


class FrameDedup(SB3):
    label = "FrameDedupReplayBuffer"

    def make(self) -> None:
        self._make()

    def _make(self, **kwargs: Any) -> None:
        from sb3_ext import FrameDedupReplayBuffer

        self.buffer = FrameDedupReplayBuffer(self.capacity, *self.spaces, "cpu", self.n_envs, **kwargs)

    def at(self, slots: np.ndarray, envs: np.ndarray) -> tuple[Any, ...] | None:
        return self.buffer.samples_at(slots, envs)[:5]


class FrameDedupLZ4(FrameDedup):
    label = "FrameDedupReplayBuffer, lz4"
    packages = ("lz4",)

    def make(self) -> None:
        self._make(compression="lz4")


class FrameDedupStorage(FrameDedup):
    label = "FrameDedupReplayBuffer, storage_path"

    def make(self) -> None:
        self._make(storage_path=tempfile.mkdtemp(dir=self.folder))


class PrioritizedFrameDedup(FrameDedup):
    """Sampled by priority; the weights, and priorities written back, are part of the work."""

    label = "PrioritizedFrameDedupReplayBuffer"

    def make(self) -> None:
        from sb3_ext import PrioritizedFrameDedupReplayBuffer

        self.buffer = PrioritizedFrameDedupReplayBuffer(self.capacity, *self.spaces, "cpu", self.n_envs)

    def sample(self, batch_size: int) -> tuple[th.Tensor, ...]:
        samples = self.buffer.sample_prioritized(batch_size)
        self.buffer.update_priorities(samples.indices, np.random.exponential(size=batch_size))
        return samples


class ExtraBuffers(SB3):
    label = "sb3-extra-buffers CompressedReplayBuffer, lz4-frame/1"
    packages = ("sb3_extra_buffers", "lz4")

    def make(self) -> None:
        from sb3_extra_buffers.compressed import CompressedReplayBuffer, find_buffer_dtypes

        dtypes = find_buffer_dtypes(self.spaces[0].shape, np.uint8, "lz4-frame")
        self.buffer = CompressedReplayBuffer(
            self.capacity, *self.spaces, "cpu", self.n_envs, dtypes=dtypes, compression_method="lz4-frame/1"
        )

    def at(self, slots: np.ndarray, envs: np.ndarray) -> tuple[Any, ...] | None:
        buffer = self.buffer
        obs, next_obs = (
            np.stack([reconstruct(slot, env) for slot, env in zip(slots, envs, strict=True)])
            for reconstruct in (buffer.reconstruct_obs, buffer.reconstruct_nextobs)
        )
        dones = buffer.dones[slots, envs] * (1 - buffer.timeouts[slots, envs])
        return obs, buffer.actions[slots, envs], next_obs, dones, buffer.rewards[slots, envs]


class Tianshou(Contestant):
    """Its stacks begin an episode with repetitions of the first frame, SB3's with zeros: these count as mismatches."""

    label = "tianshou VectorReplayBuffer, stack_num"
    packages = ("tianshou",)

    def make(self) -> None:
        from tianshou.data import Batch, VectorReplayBuffer

        self.batch = Batch
        self.buffer = VectorReplayBuffer(
            self.capacity, self.n_envs, stack_num=N_STACK, save_only_last_obs=True, ignore_obs_next=True
        )

    def add(self, step: Step) -> None:
        batch = self.batch(
            obs=step.obs, act=step.actions, rew=step.rewards, terminated=step.terminated, truncated=step.truncated
        )
        self.buffer.add(batch)

    def sample(self, batch_size: int) -> tuple[th.Tensor, ...]:
        return self._tensors(self.buffer.sample(batch_size)[0])

    def at(self, slots: np.ndarray, envs: np.ndarray) -> tuple[Any, ...] | None:
        return self._tensors(self.buffer[envs * (self.capacity // self.n_envs) + slots])

    @staticmethod
    def _tensors(batch: Any) -> tuple[th.Tensor, ...]:
        dones, rewards = (th.as_tensor(x, dtype=th.float32).unsqueeze(1) for x in (batch.terminated, batch.rew))
        actions = th.as_tensor(batch.act).unsqueeze(1)
        return th.as_tensor(batch.obs), actions, th.as_tensor(batch.obs_next), dones, rewards


class CPPRB(Contestant):
    """Its compression needs the steps of one environment in sequence: one buffer for each environment."""

    label = "cpprb ReplayBuffer, stack_compress"
    packages = ("cpprb",)

    def make(self) -> None:
        import cpprb

        entries = {
            "obs": {"shape": (SIDE, SIDE, N_STACK), "dtype": np.uint8},
            "act": {"dtype": np.int64},
            "rew": {},
            "done": {},
        }
        size = self.capacity // self.n_envs
        self.buffers = [
            cpprb.ReplayBuffer(size, entries, next_of="obs", stack_compress="obs") for _ in range(self.n_envs)
        ]

    def add(self, step: Step) -> None:
        obs, next_obs = step.obs.transpose(0, 2, 3, 1), step.next_obs.transpose(0, 2, 3, 1)
        for i, buffer in enumerate(self.buffers):
            buffer.add(
                obs=obs[i], act=step.actions[i], rew=step.rewards[i], next_obs=next_obs[i], done=step.terminated[i]
            )
            if step.terminated[i] or step.truncated[i]:
                buffer.on_episode_end()

    def sample(self, batch_size: int) -> tuple[th.Tensor, ...]:
        counts = np.bincount(np.random.randint(self.n_envs, size=batch_size), minlength=self.n_envs)
        parts = [buffer.sample(count) for buffer, count in zip(self.buffers, counts, strict=True) if count]
        return self._tensors({key: np.concatenate([part[key] for part in parts]) for key in parts[0]})

    def at(self, slots: np.ndarray, envs: np.ndarray) -> tuple[Any, ...] | None:
        assert len(np.unique(envs)) == 1, "of one environment at a time"
        return self._tensors(self.buffers[envs[0]]._encode_sample(slots))

    @staticmethod
    def _tensors(batch: dict[str, np.ndarray]) -> tuple[th.Tensor, ...]:
        obs, next_obs = (th.as_tensor(batch[key]).permute(0, 3, 1, 2) for key in ("obs", "next_obs"))
        actions, dones, rewards = (th.as_tensor(batch[key]) for key in ("act", "done", "rew"))
        return obs, actions, next_obs, dones, rewards


CONTESTANTS: dict[str, type[Contestant]] = {
    REFERENCE: SB3,
    "sb3-optimized": SB3Optimized,
    "dedup": FrameDedup,
    "dedup-lz4": FrameDedupLZ4,
    "dedup-storage": FrameDedupStorage,
    "dedup-prioritized": PrioritizedFrameDedup,
    "sb3-extra-buffers": ExtraBuffers,
    "tianshou": Tianshou,
    "cpprb": CPPRB,
}


def digests(data: tuple[Any, ...]) -> np.ndarray:
    """
    :param data: as ``Contestant.at`` gives it
    :return: for each transition, digests of its observation, of its next observation, and of the rest
    """
    obs, actions, next_obs, dones, rewards = map(np.asarray, data)
    # float64 holds every action and float32 exactly
    rest = np.stack([np.asarray(x, np.float64).reshape(len(obs)) for x in (actions, dones, rewards)], axis=1)
    rows = zip(obs, next_obs, rest, strict=True)
    joined = b"".join(hashlib.blake2b(field.tobytes(), digest_size=8).digest() for row in rows for field in row)
    return np.frombuffer(joined, np.uint64).reshape(len(obs), 3)


def resident() -> np.ndarray:
    """Resident bytes of this process, and those among them that belong to files or shared memory."""
    gc.collect()
    info = psutil.Process().memory_info()
    return np.array([info.rss, getattr(info, "shared", 0)])


def return_free_memory() -> None:
    """Hand the allocator's free memory back to the system, where it is glibc's."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


class Worker:
    """
    What runs in a contestant's process.

    :param name: of the contestant
    :param folder: with the recording, and for files
    :param capacity: transitions in all
    """

    def __init__(self, name: str, folder: Path, capacity: int) -> None:
        th.set_num_threads(1)
        np.random.seed(0)
        self.recording = Recording(folder)
        self.n_envs = self.recording.actions.shape[1]
        self.capacity, self.folder, self.kind = capacity, folder, CONTESTANTS[name]

    def fill(self, n_steps: int) -> list[float]:
        """
        :param n_steps: steps to store, more than fit
        :return: resident bytes per stored transition, file-backed ones among them, and the seconds it took to store
            the first ones, until the buffer was full
        """
        warm_up = self._make(16 * self.n_envs)  # imports, compiles, and lets the allocators settle
        for number in range(40):
            warm_up.add(self.recording.step(number))
        warm_up.sample(32)
        del warm_up
        gc.collect()
        return_free_memory()
        before = resident()
        self.contestant = self._make(self.capacity)
        n_filling = self.capacity // self.n_envs
        seconds = self.add(0, n_filling)
        self.add(n_filling, n_steps - n_filling)
        return [*((resident() - before) / self.capacity), seconds]

    def add(self, first: int, n_steps: int) -> float:
        """
        :param first: step of the stream
        :param n_steps: how many
        :return: seconds it took to store them
        """
        seconds = 0.0
        for number in range(first, first + n_steps):
            # Made just now, as by the environment and by SB3's copy of its observations: in the CPU's caches. Reading
            # them from memory would be most of what is measured
            step = self.recording.step(number)
            start = time.perf_counter()
            self.contestant.add(step)
            seconds += time.perf_counter() - start
        return seconds

    def sample(self, batch_size: int, as_floats: bool, calls: int) -> float:
        """
        :param batch_size: of each call
        :param as_floats: whether to go on to what SB3's policies make of observations
        :param calls: how many
        :return: seconds they took
        """
        observation_space = self.contestant.spaces[0]
        start = time.perf_counter()
        for _ in range(calls):
            obs, _, next_obs, *_ = self.contestant.sample(batch_size)
            if as_floats:
                preprocess_obs(obs, observation_space)
                preprocess_obs(next_obs, observation_space)
        return time.perf_counter() - start

    def digests(self) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """
        :return: for all transitions: digests, dones, and whether ``sample`` may return them; None where they cannot be
            chosen
        """
        per_env = self.capacity // self.n_envs
        values, dones = [], []
        for env in range(self.n_envs):
            for slots in np.array_split(np.arange(per_env), math.ceil(per_env / 256)):
                data = self.contestant.at(slots, np.full(len(slots), env))
                if data is None:
                    return None
                values.append(digests(data))
                dones.append(np.asarray(data[3]).reshape(-1))
        sampled = np.ones((self.n_envs, per_env), bool)
        sampled[:, self.contestant.never_sampled()] = False
        return np.concatenate(values), np.concatenate(dones), sampled.reshape(-1)

    def _make(self, capacity: int) -> Contestant:
        return self.kind(capacity, self.n_envs, self.recording.n_actions, self.folder)


def serve(connection: Connection, *arguments: Any) -> None:
    """
    The main function of a contestant's process: answers until it is ended.

    :param connection: to the parent
    :param arguments: of ``Worker``
    """
    worker = Worker(*arguments)
    while True:
        try:
            method, args = connection.recv()
        except EOFError:
            return  # the parent is gone
        try:
            connection.send((True, getattr(worker, method)(*args)))
        except Exception:
            connection.send((False, traceback.format_exc()))


class Remote:
    """
    The parent's end of a worker.

    :param name: of the contestant
    :param folder: with the recording, and for files
    :param capacity: transitions in all
    """

    def __init__(self, name: str, folder: Path, capacity: int) -> None:
        self.name = name
        # spawn: a fork would inherit the parent's memory and count it
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, name, folder, capacity), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, method: str, *arguments: Any) -> Any:
        """
        :param method: of ``Worker``
        :param arguments: of the method
        :return: what it returned
        """
        try:
            self.connection.send((method, arguments))
            succeeded, answer = self.connection.recv()
        except (EOFError, OSError):
            self.process.join(10)
            raise RuntimeError(f"{self.name}: its process ended, exit code {self.process.exitcode}") from None
        if not succeeded:
            raise RuntimeError(f"{self.name}:\n{answer}")
        return answer

    def close(self) -> None:
        """End the process, which has nothing to save."""
        self.process.terminate()
        self.process.join()


def available(names: list[str]) -> list[str]:
    """
    :param names: of contestants
    :return: those that can run here
    """
    kept = []
    for name in names:
        missing = [package for package in CONTESTANTS[name].packages if importlib.util.find_spec(package) is None]
        if missing:
            print(f"{name}: {', '.join(missing)} not installed, measured without it", flush=True)
        else:
            kept.append(name)
    return kept


def compare(remote: Remote, reference: tuple[np.ndarray, np.ndarray, np.ndarray]) -> dict[str, Any]:
    """
    :param remote: the contestant
    :param reference: what SB3's ReplayBuffer answers to ``digests``
    :return: how many transitions differ, of how many; None where the contestant's interface does not tell
    """
    answer = remote.ask("digests")
    if answer is None:
        return dict(mismatches=None, mismatches_unmasked=None, transitions_checked=0)
    expected, dones, _ = reference
    values, _, sampled = answer
    differs = (values != expected) & sampled[:, None]
    unmasked = differs.copy()
    unmasked[dones == 1, 1] = False
    return dict(
        mismatches=int(differs.any(axis=1).sum()),
        mismatches_unmasked=int(unmasked.any(axis=1).sum()),
        transitions_checked=int(sampled.sum()),
    )


def measure(names: list[str], args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """
    :param names: of the contestants
    :param args: the command line
    :param folder: with the recording, and for files
    :return: one row for each contestant and repeat
    """
    n_steps = math.ceil(1.1 * args.capacity / args.n_envs)
    with ExitStack() as stack:
        progress = stack.enter_context(tqdm(total=len(names) * (args.repeats + 2)))
        remotes = [stack.enter_context(closing(Remote(name, folder, args.capacity))) for name in names]
        constants: dict[str, dict[str, Any]] = {}
        for remote in remotes:
            progress.set_description(f"fill {remote.name}")
            rss, file_backed, seconds = remote.ask("fill", n_steps)
            constants[remote.name] = dict(
                fill_steps_per_s=f"{args.capacity / args.n_envs / seconds:.6g}",
                rss_bytes_per_transition=f"{rss:.1f}",
                file_backed_bytes_per_transition=f"{file_backed:.1f}",
            )
            progress.update()
        repeats = []
        for repeat in range(-1, args.repeats):  # the first one, untimed, brings everything into a steady state
            progress.set_description("warm-up" if repeat < 0 else f"repeat {repeat}")
            first = repeat % len(remotes)  # whoever comes first may find the machine cooler
            measured = burst(remotes[first:] + remotes[:first], args, n_steps)
            n_steps += args.burst
            if repeat >= 0:
                repeats.append(measured)
                progress.update(len(names))
        reference = next(remote for remote in remotes if remote.name == REFERENCE).ask("digests")
        for remote in remotes:
            progress.set_description(f"compare {remote.name}")
            constants[remote.name] |= compare(remote, reference)
            progress.update()
    return [
        dict(contestant=name, repeat=repeat, **measured[name], **constants[name])
        for repeat, measured in enumerate(repeats)
        for name in names
    ]


def burst(remotes: list[Remote], args: argparse.Namespace, first: int) -> dict[str, dict[str, str]]:
    """
    One measurement of everything, the contestants taking turns.

    :param remotes: the contestants
    :param args: the command line
    :param first: step of the stream
    :return: rates by contestant
    """
    rates: dict[str, dict[str, str]] = {remote.name: {} for remote in remotes}
    for remote in remotes:
        rate = args.burst / remote.ask("add", first, args.burst)
        rates[remote.name]["add_steps_per_s"] = f"{rate:.6g}"
        rates[remote.name]["add_transitions_per_s"] = f"{rate * args.n_envs:.6g}"
    for name, (batch_size, as_floats) in SAMPLES.items():
        for remote in remotes:
            seconds = remote.ask("sample", batch_size, as_floats, args.calls)
            rates[remote.name][f"{name}_per_s"] = f"{args.calls / seconds:.6g}"
    return rates


def machine() -> str:
    """One line on what the figures were measured with."""
    packages = (
        *("torch", "stable-baselines3", "sb3-ext", "gymnasium", "ale-py", "numpy", "lz4"),
        *("sb3-extra-buffers", "tianshou", "cpprb"),
    )
    cpu = f"1 torch thread, {os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB"
    return f"{installed_versions(packages)}, {cpu}"


def table(rows: list[dict[str, Any]]) -> str:
    """
    :param rows: as ``measure`` gives them
    :return: medians and their ratios to SB3's ReplayBuffer, as a Markdown table
    """
    columns = ("rss_bytes_per_transition", *METRICS)
    constant = ("file_backed_bytes_per_transition", "mismatches", "mismatches_unmasked")
    names = list(dict.fromkeys(row["contestant"] for row in rows))
    medians = {
        (name, column): statistics.median(float(row[column]) for row in rows if row["contestant"] == name)
        for name in names
        for column in columns
    }
    header = ["contestant", "bytes/transition", "x SB3"]
    for column in METRICS:
        header += [column.removesuffix("_per_s").replace("_", " ") + "/s", "x SB3"]
    header += ["of the bytes file-backed", "mismatches", "unmasked"]
    lines = [header, ["---"] * len(header)]
    for name in names:
        row = next(row for row in rows if row["contestant"] == name)
        cells = [CONTESTANTS[name].label]
        for column in columns:
            value = medians[name, column]
            cells += [f"{value:.0f}", f"{value / medians[REFERENCE, column]:.3f}"]
        lines.append(cells + ["-" if row[column] is None else str(row[column]) for column in constant])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="CSV file for the raw measurements")
    parser.add_argument("--capacity", type=int, default=100_000, help="transitions in a buffer, a multiple of --n-envs")
    parser.add_argument("--n-envs", type=int, default=8)
    parser.add_argument("--env", default="MsPacmanNoFrameskip-v4", help='an Atari game, or "random" (no emulator)')
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--contestants", default=",".join(CONTESTANTS), help="comma-separated; %(default)s")
    parser.add_argument("--recorded", type=int, default=2500, help="steps of all environments in the replayed stream")
    parser.add_argument("--burst", type=int, default=200, help="steps of all environments in one measurement")
    parser.add_argument("--calls", type=int, default=100, help="calls of sample() in one measurement")
    args = parser.parse_args()
    for name in ("capacity", "n_envs", "repeats", "recorded", "burst", "calls"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} {getattr(args, name)} must be at least 1")
    if args.capacity % args.n_envs:
        parser.error(f"--capacity {args.capacity} must be a multiple of --n-envs {args.n_envs}")
    # Everything is compared with SB3's ReplayBuffer
    args.contestants = list(dict.fromkeys([REFERENCE, *args.contestants.split(",")]))
    unknown = [name for name in args.contestants if name not in CONTESTANTS]
    if unknown:
        parser.error(f"unknown contestants {unknown}, known are {list(CONTESTANTS)}")
    return args


def main() -> None:
    args = parse()
    names = available(args.contestants)
    with tempfile.TemporaryDirectory(prefix="replay_buffers_") as name:
        folder = Path(name)
        record(args.env, args.n_envs, args.recorded, folder)
        rows = measure(names, args, folder)
    write_csv(args.output, rows, machine())
    print(machine())
    print(table(rows))


if __name__ == "__main__":
    main()
