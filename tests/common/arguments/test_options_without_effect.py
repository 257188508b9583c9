"""An option that has no effect with the others given is refused, by the constructor and at loading."""

import io
from typing import Any

import pytest

from sb3_ext import IQN, REDQSAC, DoubleDQN, SoftDQN
from tests.support.models import CLASSES, make

REFUSED: list[tuple[Any, dict[str, Any], dict[str, Any], str]] = [
    (REDQSAC, dict(target_backup="min"), dict(subset_size=2), "target_backup='redq'"),
    (REDQSAC, dict(target_backup="rem"), dict(subset_size=1), "target_backup='redq'"),
    (REDQSAC, {}, dict(reinforce_baseline="mean_action"), "actor_gradient='reinforce'"),
    (REDQSAC, dict(n_actor_samples=2), dict(reinforce_baseline="loo"), "actor_gradient='reinforce'"),
    (REDQSAC, dict(use_sde=True, use_sde_at_warmup=True), dict(random_steps=50), "use_sde_at_warmup=False"),
    *((cls, {}, dict(learning_rate_fraction=0.5), "learning_rate_final") for cls in CLASSES),
    *((cls, {}, dict(n_steps_fraction=0.5), "n_steps_final") for cls in CLASSES),
    *((cls, {}, dict(reset_shrink=0.5), "reset_interval") for cls in CLASSES if cls is not REDQSAC),
    *((cls, {}, dict(reset_fraction=0.5), "reset_interval") for cls in CLASSES if cls is not REDQSAC),
    (SoftDQN, dict(auto_temperature=True), dict(temperature_final=0.05), "auto_temperature=False"),
    (SoftDQN, dict(auto_temperature=True), dict(temperature_fraction=0.5), "auto_temperature=False"),
    (SoftDQN, {}, dict(target_entropy_fraction=0.1), "auto_temperature=True"),
    (SoftDQN, dict(double_q=False), dict(munchausen_clip=-1.0), "munchausen_coef above 0"),
    (IQN, {}, dict(risk_eta=0.5), "another risk_measure than 'neutral'"),
    (IQN, dict(risk_measure="neutral"), dict(risk_eta=-0.5), "another risk_measure than 'neutral'"),
]


@pytest.mark.parametrize(("cls", "settings", "option", "needs"), REFUSED)
def test_it_is_refused(cls: Any, settings: dict[str, Any], option: dict[str, Any], needs: str) -> None:
    ((name, value),) = option.items()
    message = (
        f"{name}={value!r} has no effect here: it needs {needs}; otherwise {name}={0.0 if name == 'risk_eta' else None}"
    )
    with pytest.raises(ValueError, match=message):
        make(cls, **settings, **option)
    file = io.BytesIO()
    make(cls, **settings).save(file)
    file.seek(0)
    with pytest.raises(ValueError, match=message):
        cls.load(file, **option)
    # What the message says helps also where the option is in a file
    without = 0.0 if name == "risk_eta" else None
    assert make(cls, **settings, **{name: without}) is not None


@pytest.mark.parametrize(
    ("cls", "settings"),
    [
        (REDQSAC, dict(target_backup="redq", subset_size=2)),
        (REDQSAC, dict(actor_gradient="reinforce", reinforce_baseline="mean_action")),
        (DoubleDQN, dict(learning_rate_final=1e-5, learning_rate_fraction=0.5)),
        (SoftDQN, dict(temperature_final=0.1, temperature_fraction=0.3)),
        (SoftDQN, dict(auto_temperature=True, target_entropy_fraction=0.3)),
        (SoftDQN, dict(munchausen_coef=0.9, munchausen_clip=-0.5, double_q=False)),
        (IQN, dict(risk_measure="cvar", risk_eta=0.5)),
        (IQN, dict(risk_measure="neutral", risk_eta=0.0)),
    ],
    ids=str,
)
def test_with_what_it_needs_it_is_taken(cls: Any, settings: dict[str, Any]) -> None:
    model = make(cls, **settings)
    assert {name: getattr(model, name) for name in settings} == settings
