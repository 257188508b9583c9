"""What IQN refuses, at the start and at loading, and what can be changed there."""

from pathlib import Path
from typing import Any

import pytest

from sb3_ext import (
    IQN,
)
from tests.support.models import assert_refused

NAN, INF = float("nan"), float("inf")
BAD: list[tuple[dict[str, Any], str]] = [
    *(
        ({name: value}, rf"{name}={value} must be an integer of at least 1")
        for name in ("n_quantile_samples", "n_target_quantile_samples", "n_action_quantile_samples")
        for value in (0, 2.5)
    ),
    (dict(kappa=0.0), r"kappa=0.0 must be a number > 0"),
    (dict(kappa=NAN), r"kappa=nan must be a number > 0"),
    (dict(risk_measure="var"), r"risk_measure='var' is not one of 'neutral', 'cvar', 'wang', 'cpw', 'pow'"),
    *(
        (dict(risk_measure=measure, risk_eta=eta), rf"risk_eta={eta} must be in \(0, 1\] with risk_measure='{measure}'")
        for measure in ("cvar", "cpw")
        for eta in (0.0, -0.5, 1.5, NAN)
    ),
    *(
        (dict(risk_measure=measure, risk_eta=eta), rf"risk_eta={eta!r} must be a number between .* with .*'{measure}'")
        for measure in ("neutral", "wang", "pow")
        for eta in (INF, NAN, "1")
    ),
    # The default of eta is no level of the worst returns
    (dict(risk_measure="cvar"), r"risk_eta=0.0 must be in \(0, 1\]"),
]


@pytest.mark.parametrize(("kwargs", "message"), BAD)
def test_bad_arguments(kwargs: dict[str, Any], message: str, saved: dict[Any, Path]) -> None:
    assert_refused(IQN, message, saved[IQN], **kwargs)


def test_settings_of_iqn_can_be_changed_at_loading(saved: dict[Any, Path]) -> None:
    loaded = IQN.load(saved[IQN], risk_measure="cvar", risk_eta=0.25, n_action_quantile_samples=6)
    for network in (loaded.q_net, loaded.q_net_target):
        assert (network.risk_measure, network.risk_eta, network.n_action_quantile_samples) == ("cvar", 0.25, 6)
    assert loaded.q_net.action_taus(2, deterministic=True).max().item() == pytest.approx(0.25 * 5.5 / 6)


@pytest.mark.parametrize(
    "policy_kwargs", [dict(risk_measure="cvar", risk_eta=0.5), dict(n_action_quantile_samples=9)], ids=str
)
def test_settings_of_iqn_in_policy_kwargs_are_refused(policy_kwargs: dict[str, Any]) -> None:
    """IQN sets them itself: an option that does nothing is the worst of both."""
    with pytest.raises(ValueError, match=f"policy_kwargs has {next(iter(policy_kwargs))}="):
        IQN("MlpPolicy", "CartPole-v1", buffer_size=10, policy_kwargs=policy_kwargs)
