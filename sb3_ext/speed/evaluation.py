"""How networks are evaluated while training: compiled, and in lower precision, where asked for."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch as th

from sb3_ext.speed.compilation import compiled_or_plain
from sb3_ext.speed.precision import autocast_dtype_on

Evaluated = TypeVar("Evaluated", th.Tensor, tuple[th.Tensor, ...])


class NetworkEvaluator:
    """
    Calls functions of networks as the training is configured to do.

    Compiled functions belong to the networks they were made of: a copy begins without any, and none is saved.

    :param device: of the networks
    """

    def __init__(self, device: th.device) -> None:
        self.device = device
        self.configure(False, None)
        self._compiled: dict[Callable[..., Any], Callable[..., Any]] = {}

    def configure(self, compile: bool, autocast_dtype: str | None) -> "NetworkEvaluator":
        """
        :param compile: use ``torch.compile``
        :param autocast_dtype: ``None``, ``"auto"`` or ``"bfloat16"``
        :return: itself
        """
        self.compile = compile
        self.autocast_dtype = autocast_dtype
        return self

    def is_compiled(self, differentiable: bool) -> bool:
        """
        On a CPU a compiled forward pass whose gradient comes later takes longer than a plain one: it also writes, a
        byte each, where activations were positive.

        :param differentiable: whether a gradient is asked for later
        :return: whether such a call is compiled
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
        :param function: a network, a method of one, or another function of networks
        :param args: its arguments
        :param differentiable: whether a gradient of the result is asked for later
        :param plain: a function with the same result that is faster where nothing is compiled; ``None``: the function
        :return: its result, always in float32
        """
        plain = function if plain is None else plain
        call: Callable[..., Evaluated] = plain
        if self.is_compiled(differentiable):
            if function not in self._compiled:
                self._compiled[function] = compiled_or_plain(function, plain)
            call = self._compiled[function]
        dtype = autocast_dtype_on(self.autocast_dtype, self.device.type)
        if dtype is None:
            return call(*args, **kwargs)
        with th.autocast(self.device.type, dtype=dtype):
            result = call(*args, **kwargs)
        if isinstance(result, th.Tensor):
            return result.float()
        return type(result)(tensor.float() for tensor in result)

    def __deepcopy__(self, memo: dict[int, Any]) -> "NetworkEvaluator":
        return _make_evaluator(self.device, self.compile, self.autocast_dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        return _make_evaluator, (self.device, self.compile, self.autocast_dtype)


def _make_evaluator(device: th.device, compile: bool, autocast_dtype: str | None) -> NetworkEvaluator:
    return NetworkEvaluator(device).configure(compile, autocast_dtype)
