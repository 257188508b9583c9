"""``set_parameters`` takes what SB3 takes, refuses what does not fit, and then changes nothing."""

from typing import Any

import pytest
import torch as th

from sb3_ext import REDQSAC, SoftDQN
from tests.support.models import CLASSES, make
from tests.support.states import assert_equal, state


def variants() -> list[Any]:
    return [(cls, {}) for cls in CLASSES] + [(REDQSAC, dict(ent_coef=0.1)), (SoftDQN, dict(auto_temperature=True))]


def two(cls: Any, **settings: Any) -> tuple[Any, Any]:
    return tuple(make(cls, seed=seed, gradient_steps=1, **settings).learn(24 + 2 * seed) for seed in (1, 2))  # type: ignore[return-value]


def without_additions(params: dict[str, Any]) -> dict[str, Any]:
    """What SB3 has in a dictionary of parameters, and earlier versions of this package had."""
    names = ("state", "param_groups")
    return {
        name: {key: entry[key] for key in names} if name.endswith("optimizer") else entry
        for name, entry in params.items()
    }


@pytest.mark.parametrize(("cls", "settings"), variants())
def test_parameters_of_earlier_versions(cls: Any, settings: Any) -> None:
    model, other = two(cls, **settings)
    variable = {"REDQSAC": "log_ent_coef"}.get(cls.__name__)
    before = state(other)
    other.set_parameters(without_additions(model.get_parameters()))
    expected = state(model)
    if variable in expected:
        expected[variable] = before[variable]  # which they did not have
    if "log_temperature" in expected:
        # The networks have the temperature, up to rounding
        th.testing.assert_close(state(other).pop("log_temperature"), expected.pop("log_temperature"))
    assert_equal({name: value for name, value in state(other).items() if name in expected}, expected)


@pytest.mark.parametrize(("cls", "settings"), variants())
def test_a_part_of_the_parameters(cls: Any, settings: Any) -> None:
    model, other = two(cls, **settings)
    before = state(other)
    other.set_parameters({"policy": model.get_parameters()["policy"]}, exact_match=False)
    networks = dict(model.policy.state_dict())
    for name, value in state(other).items():
        if name != "log_temperature":
            assert th.equal(value, networks.get(name, before[name])), name
    if settings.get("auto_temperature"):
        assert other.log_temperature.exp().item() == pytest.approx(model.temperature)
        other.set_parameters(
            {"temperature_optimizer": two(cls, **settings)[1].get_parameters()["temperature_optimizer"]},
            exact_match=False,
        )
        assert other.log_temperature.exp().item() == pytest.approx(other.temperature)


@pytest.mark.parametrize(("cls", "settings"), variants())
def test_what_is_refused_changes_nothing(cls: Any, settings: Any) -> None:
    model, other = two(cls, **settings)
    before, counters = state(other), [other._n_updates, other._current_progress_remaining]
    whole = model.get_parameters()
    last = list(whole)[-1]
    weights = whole["policy"]
    broken = [
        {name: entry for name, entry in whole.items() if name != last},
        whole | {"unknown": {}},
        whole | {"policy": {name: weights[name] for name in list(weights)[1:]}},
        whole | {last: {**whole[last], "param_groups": []}},
    ]
    for params in broken:
        with pytest.raises((ValueError, RuntimeError)):
            other.set_parameters(params)
        assert_equal(state(other), before)
        assert [other._n_updates, other._current_progress_remaining] == counters
    with pytest.raises(ValueError, match="unknown"):
        other.set_parameters({"policy": weights, "unknown": {}}, exact_match=False)
    assert_equal(state(other), before)


@pytest.mark.parametrize("exact_match", [True, False])
def test_a_learned_temperature_is_not_set_where_it_is_fixed(exact_match: bool) -> None:
    model, other = make(REDQSAC), make(REDQSAC, ent_coef=0.1, seed=3)
    before = state(other)
    with pytest.raises(ValueError, match="'ent_coef_optimizer', which learns what is fixed in this model"):
        other.set_parameters(model.get_parameters(), exact_match=exact_match)
    assert_equal(state(other), before)
    with pytest.raises(ValueError, match="Names of parameters do not match"):
        model.set_parameters(other.get_parameters())


def test_a_scheduled_temperature_is_learned_on(tmp_path: Any) -> None:
    scheduled = make(SoftDQN, temperature_initial=3.0, temperature_final=2.0).learn(30)
    learner = make(SoftDQN, auto_temperature=True)
    learner.set_parameters(scheduled.get_parameters())
    assert learner.temperature == scheduled.temperature
    assert learner.log_temperature.exp().item() == pytest.approx(scheduled.temperature)
