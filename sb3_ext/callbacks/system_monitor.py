"""What a training costs: processor, memory, and where the time goes."""

import copy
import os
import time
from collections import defaultdict
from collections.abc import Callable
from types import MethodType
from typing import Any

import psutil
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback

from sb3_ext.callbacks.nested import all_callbacks
from sb3_ext.checks import check_integer

_PARTS = ("environment", "update", "evaluation")


class SystemMonitorCallback(BaseCallback):
    """
    Logs what the training of any model of SB3 that collects rollouts costs, for this process and those that it started.

    - ``system/cpu_cores``: processor seconds per second. 2 means that two cores are busy.
    - ``system/memory_gb``: resident memory in 10^9 bytes. Memory that processes share is counted in each.
    - ``system/environment``, ``update``, ``evaluation``, ``other``: shares of the time, which sum to 1. ``environment``
      is the steps of the training environments, without wrappers around all of them, ``update`` the gradient steps, and
      ``evaluation`` every ``EvalCallback`` of the run. ``other`` is the choice of actions, the replay buffer and other
      callbacks.

    In YAML files::

        callback:
          - sb3_ext.callbacks.SystemMonitorCallback: {log_freq: 5000}

    :param log_freq: steps of the vectorized environment over which these are means, at least 1. A rollout and its
        updates are never parted, so PPO's are means over whole iterations
    :raises ValueError: naming the argument, its value and what is allowed; also when training begins with an algorithm
        that collects no rollouts, such as ``BC``
    """

    def __init__(self, log_freq: int = 1000, verbose: int = 0) -> None:
        super().__init__(verbose)
        check_integer("log_freq", log_freq, minimum=1)
        self.log_freq = log_freq
        # Objects whose methods are timed, and the methods' names
        self._timed: list[tuple[Any, str]] = []
        # Seconds since the last record, by part
        self._seconds: dict[str, float] = defaultdict(float)
        self._began = self._rollout_ended = 0.0
        self._n_calls_recorded = 0
        self._has_rollouts = False
        self._cpu_began: dict[int, float] = {}

    def _on_training_start(self) -> None:
        self._restore()  # what an interrupted training left
        # Not those of wrappers: `VecNormalize` is saved with what it holds, and functions cannot be
        for name in ("step_async", "step_wait"):
            self._time_calls(self.training_env.unwrapped, name, "environment")
        for callback in all_callbacks(self.locals.get("callback")):
            if isinstance(callback, EvalCallback):
                self._time_calls(callback, "on_step", "evaluation")
        self._rollout_ended, self._has_rollouts = 0.0, False
        self._begin()

    def _time_calls(self, owner: Any, name: str, part: str) -> None:
        """Count the seconds of an object's method, by a method of its own that :meth:`_restore` removes."""
        vars(owner)[name] = _Timed(owner, name, self._seconds, part)
        self._timed.append((owner, name))

    def _restore(self) -> None:
        for owner, name in self._timed:
            vars(owner).pop(name, None)
        self._timed.clear()

    def _begin(self) -> None:
        self._seconds.clear()
        self._n_calls_recorded = self.n_calls
        self._began = time.perf_counter()
        self._cpu_began = _cpu_seconds()

    def _on_rollout_end(self) -> None:  # SB3 trains until the next rollout starts
        self._rollout_ended = time.perf_counter()

    def _on_rollout_start(self) -> None:
        self._has_rollouts = True
        if self._rollout_ended > 0.0:
            self._seconds["update"] += time.perf_counter() - self._rollout_ended
        if self.n_calls - self._n_calls_recorded >= self.log_freq:
            self._record()
            self._begin()

    def _on_step(self) -> bool:
        if not self._has_rollouts:
            name = type(self.model).__name__
            raise ValueError(f"SystemMonitorCallback needs an algorithm that collects rollouts, which {name} does not")
        return True

    def _record(self) -> None:
        passed = time.perf_counter() - self._began
        cpu = _cpu_seconds()
        used = sum(seconds - self._cpu_began.get(process, 0.0) for process, seconds in cpu.items())
        self.logger.record("system/cpu_cores", used / passed)
        self.logger.record("system/memory_gb", sum(_each_process(lambda p: p.memory_info().rss).values()) / 1e9)
        for part in _PARTS:
            self.logger.record(f"system/{part}", self._seconds[part] / passed)
        self.logger.record("system/other", 1.0 - sum(self._seconds[part] for part in _PARTS) / passed)

    def _on_training_end(self) -> None:
        self._restore()


class _Timed:
    """A method of an object that adds the seconds it takes to ``seconds[part]``. A copy of the object is not timed."""

    def __init__(self, owner: Any, name: str, seconds: dict[str, float], part: str) -> None:
        self.owner, self.name, self.method = owner, name, getattr(owner, name)
        self.seconds, self.part = seconds, part

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return self.method(*args, **kwargs)
        finally:
            self.seconds[self.part] += time.perf_counter() - began

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        # Whoever copies the owner has noted its copy before its attributes are copied
        owner = memo.get(id(self.owner))
        return copy.deepcopy(self.method, memo) if owner is None else MethodType(getattr(type(owner), self.name), owner)


def _each_process(read: Callable[[psutil.Process], float]) -> dict[int, float]:
    """Read a number of this process and each that it started, by process id. Without those that cannot be read."""
    own = psutil.Process(os.getpid())
    numbers = {}
    for process in (own, *own.children(recursive=True)):
        try:
            numbers[process.pid] = read(process)
        except psutil.Error:
            continue
    return numbers


def _cpu_seconds() -> dict[int, float]:
    return _each_process(lambda process: sum(process.cpu_times()[:2]))
