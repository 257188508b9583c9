"""What SoftDQN refuses, at the start and at loading."""

from pathlib import Path
from typing import Any

import pytest

from sb3_ext import (
    PrioritizedReplayBuffer,
    SoftDQN,
)
from tests.support.models import assert_refused

NAN, INF = float("nan"), float("inf")
PER: dict[str, Any] = dict(replay_buffer_class=PrioritizedReplayBuffer)
MUNCHAUSEN: dict[str, Any] = dict(munchausen_coef=0.9, double_q=False)
BAD: list[tuple[dict[str, Any], str]] = [
    (dict(target_backup="mean"), r"target_backup='mean' is not one of 'soft', 'boltzmann', 'mellowmax', 'max'"),
    (dict(temperature_initial=0.0), r"temperature_initial=0.0 must be a number >= 1e-08"),
    (dict(temperature_initial=INF), r"temperature_initial=inf must be a number >= 1e-08"),
    (dict(temperature_final=0.0), r"temperature_final=0.0 must be a number >= 1e-08"),
    (dict(temperature_final=-1.0), r"temperature_final=-1.0 must be a number >= 1e-08"),
    (dict(temperature_final=NAN), r"temperature_final=nan must be a number >= 1e-08"),
    (dict(temperature_fraction=0.0), r"temperature_fraction=0.0 must be in \(0, 1\]"),
    (dict(temperature_fraction=1.5), r"temperature_fraction=1.5 must be in \(0, 1\]"),
    (dict(target_entropy_fraction=-0.1), r"target_entropy_fraction=-0.1 must be in \[0, 1\)"),
    (dict(target_entropy_fraction=1.0), r"target_entropy_fraction=1.0 must be in \[0, 1\)"),
    (dict(munchausen_coef=1.1), r"munchausen_coef=1.1 must be in \[0, 1\]"),
    (dict(munchausen_coef=-0.9), r"munchausen_coef=-0.9 must be in \[0, 1\]"),
    (dict(munchausen_clip=0.1), r"munchausen_clip=0.1 must be a number <= 0"),
    (dict(munchausen_clip=-INF), r"munchausen_clip=-inf must be a number <= 0"),
    *(
        (
            MUNCHAUSEN | dict(target_backup=backup),
            rf"munchausen_coef=0.9 with target_backup='{backup}': only target_backup='soft' is allowed",
        )
        for backup in ("boltzmann", "mellowmax", "max")
    ),
    (MUNCHAUSEN | dict(double_q=True), r"munchausen_coef=0.9 with double_q=True: only double_q=False is allowed"),
    (
        MUNCHAUSEN | PER | dict(replay_buffer_kwargs=dict(n_steps=3)),
        r"replay_buffer_kwargs has n_steps=3, which contradicts n_steps=1 of the algorithm",
    ),
]


@pytest.mark.parametrize(("kwargs", "message"), BAD)
def test_bad_arguments(kwargs: dict[str, Any], message: str, saved: dict[Any, Path]) -> None:
    assert_refused(SoftDQN, message, saved[SoftDQN], **kwargs)
