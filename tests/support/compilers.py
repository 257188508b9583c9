"""Fixtures for tests of what is compiled."""

import warnings
from collections.abc import Iterator

import pytest
import torch as th

from sb3_ext.speed.evaluation import NetworkEvaluator


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """As in a new process: PyTorch stops compiling a function that was compiled too often."""
    th.compiler.reset()
    yield
    th.compiler.reset()


@pytest.fixture
def traced_only(monkeypatch: pytest.MonkeyPatch, fresh_compiler: None) -> None:
    """All of `torch.compile` but the C++ code at its end, which takes most of the time."""
    compile_really = th.compile
    monkeypatch.setattr(
        th, "compile", lambda function, **kwargs: compile_really(function, backend="aot_eager", **kwargs)
    )


@pytest.fixture
def no_excuses() -> Iterator[None]:
    """What cannot be compiled is an error."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="compile=True has no effect")
        yield


@pytest.fixture
def compiled_with_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: also where gradients are asked for."""
    monkeypatch.setattr(NetworkEvaluator, "is_compiled", lambda self, differentiable: self.compile)
