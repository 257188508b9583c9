"""A loss and its gradients as one function, and what becomes of functions that cannot be compiled."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch as th

from sb3_ext.speed.compilation import LossGradients, compiled_or_plain


class Shifted(th.nn.Module):
    """A loss that moves a buffer, has an output in full precision, and a parameter without effect."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.unused = th.nn.Linear(3, 2), th.nn.Parameter(th.ones(2))
        self.register_buffer("count", th.zeros(()))

    def forward(self, x: th.Tensor, counts: bool) -> tuple[th.Tensor, ...]:
        if counts:
            self.count.add_(1.0)
        with th.autocast("cpu", enabled=False):
            outputs = self.layer(x)
        return outputs.square().sum(), outputs


def test_a_loss_and_its_gradients_in_both_ways() -> None:
    th.manual_seed(0)
    loss, x = Shifted(), th.randn(5, 3)
    parameters = dict(loss.named_parameters())
    gradients_of = LossGradients(loss)
    outputs = x @ loss.layer.weight.T + loss.layer.bias
    expected = {
        "unused": th.zeros(2),
        "layer.weight": 2 * outputs.T @ x,
        "layer.bias": 2 * outputs.sum(dim=0),
    }
    for function in (gradients_of.functional, gradients_of.autograd):
        for precision in (th.float32, th.bfloat16):
            loss.zero_grad()
            with th.no_grad(), th.autocast("cpu", dtype=th.bfloat16, enabled=precision == th.bfloat16):
                *gradients, value, extra = function(parameters, x, False)
            for name, gradient in zip(parameters, gradients, strict=True):
                th.testing.assert_close(gradient, expected[name].detach(), msg=name)
            th.testing.assert_close(value, outputs.square().sum().detach())
            assert not (value.requires_grad or extra.requires_grad) and th.equal(extra, loss.layer(x).detach())
    for function in (gradients_of.functional, gradients_of.autograd):
        value, extra = function({}, x, False)  # everything is frozen
        assert not (value.requires_grad or extra.requires_grad)
        th.testing.assert_close(value, outputs.square().sum().detach())
    with th.no_grad(), pytest.raises(RuntimeError, match="mutate"):
        gradients_of.functional(parameters, x, True)
    loss.zero_grad()
    with pytest.warns(UserWarning, match="compile=True has no effect"), th.no_grad():
        *gradients, value, _ = compiled_or_plain(gradients_of.functional, gradients_of.autograd)(parameters, x, True)
    assert loss.count == 1
    th.testing.assert_close(gradients[0], expected[next(iter(parameters))].detach())


def test_gradients_have_the_strides_of_their_parameters() -> None:
    convolution = th.nn.Conv2d(4, 8, 3)

    class Loss(th.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = convolution

        def forward(self, x: th.Tensor) -> tuple[th.Tensor, ...]:
            return (self.convolution(x).square().sum(),)

    x = th.rand(2, 4, 8, 8).to(memory_format=th.channels_last)
    Loss()(x)[0].backward()
    expected = convolution.weight.grad
    parameters = dict(Loss().named_parameters())
    with th.no_grad():
        for function in (LossGradients(Loss()).functional, LossGradients(Loss()).autograd):
            convolution.zero_grad()
            weight, bias, _ = function(parameters, x)
            assert weight.stride() == convolution.weight.stride() and bias.stride() == convolution.bias.stride()
            th.testing.assert_close(weight, expected)


def failing_at_call(function: Callable[..., th.Tensor], **kwargs: Any) -> Callable[..., th.Tensor]:
    def compiled(*args: Any) -> th.Tensor:
        raise RuntimeError("no C++ compiler\nand a long explanation")

    return compiled


def failing_at_once(function: Callable[..., th.Tensor], **kwargs: Any) -> Callable[..., th.Tensor]:
    # What torch.compile does on interpreters that it does not support
    raise RuntimeError("no C++ compiler\nand a long explanation")


def failing_at_second_call(function: Callable[..., th.Tensor], **kwargs: Any) -> Callable[..., th.Tensor]:
    # As where another shape of the arguments is compiled
    calls: list[int] = []

    def compiled(*args: Any) -> th.Tensor:
        calls.append(1)
        return function(*args) if len(calls) == 1 else failing_at_call(function)(*args)

    return compiled


def add_twice(x: th.Tensor, y: th.Tensor) -> th.Tensor:
    return x + 2 * y


@pytest.mark.parametrize("compiler", [failing_at_call, failing_at_once, failing_at_second_call])
def test_without_a_compiler_it_is_the_plain_function(compiler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(th, "compile", compiler)
    with pytest.warns(UserWarning) as caught:
        function = compiled_or_plain(add_twice, add_twice)
        results = [function(th.tensor(1.0), th.tensor(float(i))).item() for i in range(3)]
    assert results == [1.0, 3.0, 5.0]
    (message,) = [str(w.message) for w in caught]
    assert message == "compile=True has no effect from here on: torch.compile failed with RuntimeError: no C++ compiler"


def test_wrong_arguments_are_not_taken_for_a_missing_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(th, "compile", lambda function, **kwargs: function)
    function = compiled_or_plain(total := lambda x: x @ th.ones(3), total)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeError, match="size"):
            function(th.ones(2))
        assert function(th.ones(3)).item() == 3.0
