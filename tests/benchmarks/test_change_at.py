"""Arguments that change while a model trains."""

from collections.abc import Callable
from types import ModuleType

import pytest
from stable_baselines3.common.callbacks import CallbackList, ConvertCallback

from sb3_ext import REDQSAC

Load = Callable[[str], ModuleType]


@pytest.fixture
def model() -> REDQSAC:
    return REDQSAC("MlpPolicy", "Pendulum-v1", learning_starts=5, gradient_steps=1, buffer_size=100, n_steps=2)


def test_from_the_step_on(model: REDQSAC, load_script: Load) -> None:
    seen = []
    watch = ConvertCallback(lambda *_: seen.append((model.gamma, model.actor_q)) or True)
    model.learn(20, callback=CallbackList([load_script("change_at").ChangeAt(15, gamma=0.5, actor_q="min"), watch]))
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
    model: REDQSAC, load_script: Load, arguments: dict[str, float], message: str
) -> None:
    callback = load_script("change_at").ChangeAt(10, **arguments)
    with pytest.raises(ValueError, match=message):
        model.learn(20, callback=callback)
    assert model.num_timesteps == 0
