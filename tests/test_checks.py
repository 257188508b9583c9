"""Checks of arguments."""

from typing import Any

import numpy as np
import pytest

from sb3_ext.checks import check_choice, check_finite, check_integer, check_interval, finite_number


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0.5", 0.5),
        ("-3", -3.0),
        ("1e-3", 1e-3),
        (2, 2.0),
        (np.float32(0.25), 0.25),
        ("", None),
        ("auto", None),
        ("1_2", None),  # which float() takes for 12
        ("nan", None),
        ("-inf", None),
        (float("inf"), None),
        (float("nan"), None),
        (None, None),
        ([1.0], None),
    ],
    ids=repr,
)
def test_finite_number(value: Any, expected: float | None) -> None:
    assert finite_number(value) == expected


def test_choices() -> None:
    check_choice("backup", "min", ("min", "mean"))
    with pytest.raises(ValueError, match=r"^backup='max' is not one of 'min', 'mean'$"):
        check_choice("backup", "max", ("min", "mean"))


@pytest.mark.parametrize("value", [3, np.int64(4)])
def test_integers(value: Any) -> None:
    check_integer("n_steps", value, minimum=3)


@pytest.mark.parametrize("value", [2, 3.0, True, "3", None])
def test_what_is_no_integer_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^n_steps={value!r} must be an integer of at least 3$"):
        check_integer("n_steps", value, minimum=3)


@pytest.mark.parametrize("value", [0, 1, 0.5, np.float32(0.5)])
def test_intervals(value: Any) -> None:
    check_interval("tau", value, 0.0, 1.0, "in [0, 1]")


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), True, "0.5", None])
def test_what_is_outside_of_an_interval_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^tau={value!r} must be in \[0, 1\]$"):
        check_interval("tau", value, 0.0, 1.0, "in [0, 1]")


def test_finite_values() -> None:
    check_finite("observation", {"image": np.zeros((2, 3), np.uint8), "vector": np.zeros((2, 4))}, step=7)
    check_finite("reward", 0.5, step=7)
    bad = np.zeros((2, 4))
    bad[1, 2] = np.nan
    with pytest.raises(
        ValueError, match=r"observation\['vector'\] is nan at index \[1, 2\] \(environment first\), time step 7: only"
    ):
        check_finite("observation", {"image": np.zeros((2, 3)), "vector": bad}, step=7)
    with pytest.raises(ValueError, match=r"reward is inf at index \[\], time step 7: only"):
        check_finite("reward", np.inf, step=7, is_batch=False)
