"""Evaluation of networks during training, on request compiled or in lower precision."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch as th

from sb3_ext.speed.compilation import compiled_or_plain
from sb3_ext.speed.precision import autocast_dtype_on

Evaluated = TypeVar("Evaluated", th.Tensor, tuple[th.Tensor, ...])


class NetworkEvaluator:
    """
    Calls functions of networks as the training is configured.

    Compiled functions belong to their networks, so copies start without them and files do not contain them.

    :param device: device of the networks
    """

    def __init__(self, device: th.device) -> None:
        self.device = device
        self.configure(False, None)
        self._compiled: dict[Callable[..., Any], Callable[..., Any]] = {}

    def configure(self, compile: bool, autocast_dtype: str | None) -> "NetworkEvaluator":
        """
        Change the settings, and return the evaluator itself.

        :param compile: use ``torch.compile``
        :param autocast_dtype: ``None``, ``"auto"`` or ``"bfloat16"``
        """
        self.compile = compile
        self.autocast_dtype = autocast_dtype
        return self

    def is_compiled(self, differentiable: bool) -> bool:
        """
        Tell whether a call is compiled.

        On a CPU, compiled forward passes that need a gradient are slower, because they also store which activations
        were positive.

        :param differentiable: whether a gradient is needed later
        """
        return self.compile and (self.device.type != "cpu" or not differentiable)

    def __call__(
        self,
        function: Callable[..., Evaluated],
        *args: Any,
        differentiable: bool = False,
        plain: Callable[..., Evaluated] | None = None,
        **kwargs: Any,
    ) -> Evaluated:
        """
        Call a function, and return its result in float32.

        :param function: a network, a method of one, or another function of networks
        :param args: arguments of the function
        :param differentiable: whether a gradient of the result is needed later
        :param plain: an equivalent function that is faster uncompiled; by default the function itself
        """
        call: Callable[..., Evaluated] = function if plain is None else plain
        if self.is_compiled(differentiable):
            call = self._compiled_of(function, call)
        dtype = autocast_dtype_on(self.autocast_dtype, self.device.type)
        if dtype is None:
            return call(*args, **kwargs)
        with th.autocast(self.device.type, dtype=dtype):
            result = call(*args, **kwargs)
        if isinstance(result, th.Tensor):
            return result.float()
        return type(result)(tensor.float() for tensor in result)

    def in_place(self, function: Callable[..., None], *args: Any) -> None:
        """Call a function that changes tensors, in their own precision."""
        call = self._compiled_of(function, function) if self.compile else function
        call(*args)

    def _compiled_of(self, function: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
        if function not in self._compiled:
            self._compiled[function] = compiled_or_plain(function, plain)
        return self._compiled[function]

    def __deepcopy__(self, memo: dict[int, Any]) -> "NetworkEvaluator":
        return _make_evaluator(self.device, self.compile, self.autocast_dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        return _make_evaluator, (self.device, self.compile, self.autocast_dtype)


def _make_evaluator(device: th.device, compile: bool, autocast_dtype: str | None) -> NetworkEvaluator:
    return NetworkEvaluator(device).configure(compile, autocast_dtype)
