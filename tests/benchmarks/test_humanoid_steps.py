"""The benchmark of environment steps a second: what it trains with, and what it says of its rows."""

from collections.abc import Callable
from types import ModuleType

import pytest

LoadScript = Callable[[str], ModuleType]


def test_a_block_trains_with_the_settings_of_the_yaml_file(
    load_script: LoadScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = load_script("humanoid_steps")
    monkeypatch.setattr(script, "STORED", 300)
    monkeypatch.setattr(script, "WARM_UP", 2)
    models = []
    make = script.make
    monkeypatch.setattr(script, "make", lambda label: models.append(make(label)) or models[-1])
    figures = script.prepare("REDQSAC, not compiled", {"steps": 3})()
    assert figures["steps_per_s"] > 0 and figures["start_up_s"] > 0
    (model,) = models
    assert model.num_timesteps == 307 and model._n_updates == 7  # one update after each step
    assert not model.compile and model.target_network == "none" and model.normalize_returns


def test_summary(load_script: LoadScript, capsys: pytest.CaptureFixture[str]) -> None:
    script = load_script("humanoid_steps")
    rates = {"REDQSAC": [60, 66, 72], "contrib CrossQ": [6, 6, 6]}
    rows = [
        {"contestant": name, "round": index, "steps_per_s": rate, "start_up_s": 20}
        for name, values in rates.items()
        for index, rate in enumerate(values)
    ]
    script.summarize(rows)
    first, second = capsys.readouterr().out.splitlines()
    assert first.split() == [
        *["REDQSAC", "66.0", "steps", "a", "second,", "first", "update", "after", "20.0", "s,"],
        *["11.00", "(10.50", "to", "11.50)", "x", "contrib", "CrossQ"],
    ]
    assert second.split()[:3] == ["contrib", "CrossQ", "6.0"]
