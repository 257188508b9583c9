"""
Schedules by name, for learning rates and other numbers in YAML files and constructors.

| name | value |
|---|---|
| ``lin_1e-3`` | a line from 1e-3 to 0; ``lin_1e-3_1e-4``: to 1e-4 |
| ``cos_1e-3`` | half a cosine from 1e-3 to 0; ``cos_1e-3_1e-4``: to 1e-4 |
| ``exp_1e-3_1e-5`` | by the same factor in each step, from 1e-3 to 1e-5 |
| ``piecewise_1e-3_0.5_1e-4_0.8_1e-5`` | 1e-3, from half of the training on 1e-4, from 80 % on 1e-5 |
| ``warmup_0.05_cos_1e-3`` | a line from 0 in the first 5 %, then the other schedule in the rest |

Each is a function of the remaining progress, which SB3 counts from 1 to 0, and of nothing else. Models contain it in
their files.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from stable_baselines3.common.type_aliases import Schedule


@dataclass(frozen=True)
class Linear:
    """A line from ``start`` to ``end``."""

    start: float
    end: float = 0.0

    def __call__(self, progress_remaining: float) -> float:
        return self.end + (self.start - self.end) * _clipped(progress_remaining)


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from ``start`` to ``end``, flat at both (https://arxiv.org/abs/1608.03983, without restarts)."""

    start: float
    end: float = 0.0

    def __call__(self, progress_remaining: float) -> float:
        share = 0.5 * (1.0 - math.cos(math.pi * _clipped(progress_remaining)))
        return self.end + (self.start - self.end) * share


@dataclass(frozen=True)
class Exponential:
    """From ``start`` to ``end``, both above 0, by the same factor in each step."""

    start: float
    end: float

    def __call__(self, progress_remaining: float) -> float:
        return self.start * (self.end / self.start) ** (1.0 - _clipped(progress_remaining))


@dataclass(frozen=True)
class Piecewise:
    """
    Constant pieces.

    :param values: one more than ``starts``
    :param starts: shares of the training, increasing, in (0, 1), from which on the second and further values hold
    """

    values: tuple[float, ...]
    starts: tuple[float, ...]

    def __call__(self, progress_remaining: float) -> float:
        done = 1.0 - _clipped(progress_remaining)
        return self.values[sum(done >= start for start in self.starts)]


@dataclass(frozen=True)
class WarmUp:
    """
    A line from 0 to what another schedule begins with, which then covers the rest of the training.

    :param fraction: share of the training that the line takes, in (0, 1)
    """

    fraction: float
    then: Schedule

    def __call__(self, progress_remaining: float) -> float:
        done = 1.0 - _clipped(progress_remaining)
        if done < self.fraction:
            return self.then(1.0) * done / self.fraction
        return self.then(1.0 - (done - self.fraction) / (1.0 - self.fraction))


@dataclass(frozen=True)
class Within:
    """
    A schedule that is at its end after a fraction of the training, as SB3's exploration is.

    :param fraction: share of the training, >= 0
    """

    schedule: Schedule
    fraction: float

    def __call__(self, progress_remaining: float) -> float:
        done = 1.0 - _clipped(progress_remaining)
        return self.schedule(0.0 if done >= self.fraction else 1.0 - done / self.fraction)


@dataclass(frozen=True)
class Scaled:
    """
    A schedule times a factor.

    :param schedule: a number, or a function of the remaining progress
    """

    schedule: Any
    factor: float

    def __post_init__(self) -> None:
        if isinstance(self.schedule, Scaled):  # hundreds of levels could not be saved
            inner = self.schedule
            object.__setattr__(self, "schedule", inner.schedule)
            object.__setattr__(self, "factor", inner.factor * self.factor)

    def __call__(self, progress_remaining: float) -> float:
        value = self.schedule(progress_remaining) if callable(self.schedule) else self.schedule
        return float(value) * self.factor


def _clipped(progress_remaining: float) -> float:
    # SB3's progress is below 0 if the last rollout goes beyond the last time step
    return min(max(progress_remaining, 0.0), 1.0)


_EXAMPLES = "lin_1e-3, cos_1e-3_1e-4, exp_1e-3_1e-5, piecewise_1e-3_0.5_1e-4 or warmup_0.05_cos_1e-3"
NAMES = ("lin", "cos", "exp", "piecewise", "warmup")


def is_named_schedule(value: object) -> bool:
    """Tell whether a text begins like the name of a schedule."""
    return isinstance(value, str) and value.partition("_")[0] in NAMES


def named_schedule(text: str) -> Schedule:
    """
    Return a schedule by its name, see the table of this module.

    :raises ValueError: for a text that names none, with what is allowed
    """
    name, _, rest = text.partition("_")
    if name == "warmup":
        fraction, _, inner = rest.partition("_")
        return WarmUp(_share(text, fraction), named_schedule(inner))
    numbers = _numbers(text, rest.split("_") if rest else [])
    if name in ("lin", "cos") and len(numbers) in (1, 2):
        return (Linear if name == "lin" else Cosine)(*numbers)
    if name == "exp" and len(numbers) == 2 and min(numbers) > 0:
        return Exponential(*numbers)
    if name == "piecewise" and len(numbers) >= 3 and len(numbers) % 2 == 1:
        starts = tuple(numbers[1::2])
        if all(0 < start < 1 for start in starts) and all(a < b for a, b in pairwise(starts)):
            return Piecewise(tuple(numbers[::2]), starts)
    raise ValueError(f"{text!r} is no schedule: it must be like {_EXAMPLES}")


def check_probabilities(name: str, text: str) -> None:
    """
    Check that a schedule with a name gives probabilities all the time.

    :param name: of the argument
    :raises ValueError: naming the argument, its value and what is allowed
    """
    try:
        schedule = named_schedule(text)
    except ValueError as error:
        raise ValueError(f"{name}={error}") from None
    largest = _largest(schedule)
    if largest > 1:
        raise ValueError(f"{name}={text!r} must stay in [0, 1], and it has {largest}")


def _largest(schedule: Any) -> float:
    """Return the largest value of a schedule with a name."""
    if isinstance(schedule, WarmUp):
        return _largest(schedule.then)
    return max(schedule.values) if isinstance(schedule, Piecewise) else max(schedule.start, schedule.end)


def _numbers(text: str, parts: Sequence[str]) -> list[float]:
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = [math.nan]
    if not all(math.isfinite(number) and number >= 0 for number in numbers):
        raise ValueError(f"{text!r} is no schedule: its numbers must be finite and >= 0, as in {_EXAMPLES}")
    return numbers


def _share(text: str, part: str) -> float:
    (share,) = _numbers(text, [part])
    if not 0 < share < 1:
        raise ValueError(f"{text!r} is no schedule: the share of a warm-up must be in (0, 1), as in {_EXAMPLES}")
    return share
