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


def test_an_unknown_name_is_an_error(model: REDQSAC, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from change_at import ChangeAt

    with pytest.raises(ValueError, match=r"discount=0.5: a REDQSAC has no such attribute"):
        model.learn(20, callback=ChangeAt(10, discount=0.5))
