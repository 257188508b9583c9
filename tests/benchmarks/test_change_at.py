"""Arguments that change while a model trains."""

from pathlib import Path

import pytest
from stable_baselines3.common.callbacks import CallbackList, ConvertCallback

from sb3_ext import REDQSAC

SCRIPTS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def model() -> REDQSAC:
    return REDQSAC("MlpPolicy", "Pendulum-v1", learning_starts=5, gradient_steps=1, buffer_size=100, n_steps=2)


def test_from_the_step_on(model: REDQSAC, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from change_at import ChangeAt

    seen = []
    watch = ConvertCallback(lambda *_: seen.append((model.gamma, model.actor_q)) or True)
    model.learn(20, callback=CallbackList([ChangeAt(15, gamma=0.5, actor_q="min"), watch]))
    assert seen == [(0.99, "mean")] * 14 + [(0.5, "min")] * 6
    assert model.replay_buffer.gamma == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"discount": 0.5}, "discount=0.5: a REDQSAC has no such attribute"),
        ({"learning_rate": 0.1}, "learning_rate=0.1: SB3 reads it at the set-up only"),
    ],
)
def test_what_has_no_effect_is_an_error_at_once(
    model: REDQSAC, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, float], message: str
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from change_at import ChangeAt

    with pytest.raises(ValueError, match=message):
        model.learn(20, callback=ChangeAt(10, **arguments))
    assert model.num_timesteps == 0
