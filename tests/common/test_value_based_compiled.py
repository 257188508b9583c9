"""The value-based algorithms compiled: the same training as the plain one."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th

from tests.support.models import each_value_based, make
from tests.support.states import assert_equal, state
from tests.support.value_losses import gradients_of, losses_of


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler", "compiled_with_gradients")
@each_value_based
def test_compiled_losses_are_the_plain_ones(cls: Any, tmp_path: Path) -> None:
    reference, model = make(cls).learn(60), make(cls, compile=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="compile=True has no effect")
        expected, actual = losses_of(model, reference)
    th.testing.assert_close(actual.losses, expected.losses, rtol=1e-4, atol=1e-5)
    gradient = gradients_of(reference, expected.losses)
    th.testing.assert_close(gradients_of(model, actual.losses), gradient, rtol=1e-3, atol=1e-5)

    model.learn(60)
    assert model._n_updates == 20
    assert model.policy.state_dict().keys() == reference.policy.state_dict().keys()
    model.save(tmp_path / "model")
    loaded = cls.load(tmp_path / "model", env=model.env)
    assert loaded.compile
    assert_equal(state(loaded), state(model))
    observations = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    assert (
        loaded.predict(observations, deterministic=True)[0] == model.predict(observations, deterministic=True)[0]
    ).all()
    assert not cls.load(tmp_path / "model", compile=False).compile


@pytest.mark.usefixtures("fresh_compiler", "compiled_with_gradients")
@each_value_based
def test_every_model_of_a_process_is_compiled(cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search for hyperparameters makes many models, of different sizes, one after another."""
    runs: list[int] = []
    compile_really = th.compile

    def counting(graph: Any, inputs: Any) -> Callable[..., Any]:
        """A backend that counts how often a captured graph runs, and does not compile it."""
        return lambda *args: (runs.append(1), graph(*args))[1]

    monkeypatch.setattr(th, "compile", lambda function, **kwargs: compile_really(function, backend=counting, **kwargs))
    for n_models in range(1, 11):
        before = len(runs)
        model = make(cls, compile=True, policy_kwargs=dict(net_arch=[7 + n_models])).learn(30)
        # The online and the target network, at each update
        assert len(runs) - before >= 2 * model._n_updates, f"model {n_models} was not compiled"


@each_value_based
def test_training_without_a_compiler(cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(function: Callable[..., Any], **kwargs: Any) -> Callable[..., Any]:
        def compiled(*args: Any) -> Any:
            raise RuntimeError("no C++ compiler")

        return compiled

    monkeypatch.setattr(th, "compile", failing)
    with pytest.warns(UserWarning, match="compile=True has no effect"):
        model = make(cls, compile=True).learn(60)
    plain = make(cls).learn(60)
    assert_equal(state(model), state(plain))
