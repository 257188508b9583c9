"""``torch.compile`` where it works, the plain function where it does not."""

import warnings
from collections.abc import Callable
from typing import Any

import torch as th
from torch import nn

# Networks of one class share their code, for which torch keeps 8 compiled versions in a process unless told otherwise:
# too few for the trials of a hyperparameter search
_N_COMPILED_VERSIONS = 256


class LossGradients:
    """
    A loss and its gradients as one function, so that both are compiled as one: nothing of autograd is left to do at run
    time. ``th.autocast`` is for the loss alone; the backward pass runs outside of it, as usual.

    :param loss: a module that returns a tuple of tensors, its loss (a scalar) first. To be compiled it may not change
        buffers in place
    """

    def __init__(self, loss: nn.Module) -> None:
        self.loss = loss

    def in_one(self, parameters: dict[str, nn.Parameter], *args: Any) -> tuple[th.Tensor, ...]:
        """
        To be compiled: uncompiled it takes longer than :meth:`by_autograd`.

        :param parameters: of the loss, by their names in it. The others are constants
        :param args: of the loss
        :return: the gradients, in the order of the parameters and with their strides (zeros where the loss does not
            depend on one), then what the loss returns, detached
        """

        def evaluate(values: dict[str, th.Tensor]) -> tuple[th.Tensor, tuple[th.Tensor, ...]]:
            results = th.func.functional_call(self.loss, values, args)
            return results[0], results

        values = {name: parameter.detach() for name, parameter in parameters.items()}
        loss, pull_back, results = th.func.vjp(evaluate, values, has_aux=True)  # type: ignore[misc]
        with th.autocast(loss.device.type, enabled=False):
            gradients = pull_back(th.ones_like(loss))[0]
        # Fused optimisers go through memory without a look at strides
        return *(_with_strides_of(values[name], gradients[name]) for name in values), *results

    def by_autograd(self, parameters: dict[str, nn.Parameter], *args: Any) -> tuple[th.Tensor, ...]:
        """
        The same without compilation in mind, zeros for parameters without effect included. (By way of the parameters'
        ``grad``, which is faster than ``th.autograd.grad``, and must be ``None`` before.)
        """
        with th.enable_grad():
            results = self.loss(*args)
        with th.autocast(results[0].device.type, enabled=False):
            results[0].backward(inputs=[*parameters.values()])
        gradients = (th.zeros_like(p) if p.grad is None else p.grad for p in parameters.values())
        return *gradients, *(result.detach() for result in results)


def _with_strides_of(parameter: th.Tensor, gradient: th.Tensor) -> th.Tensor:
    return gradient if gradient.stride() == parameter.stride() else th.empty_like(parameter).copy_(gradient)


class CompiledFunctions:
    """
    Compiled functions by what they were made of. They belong to the networks they were made of: a copy of the model
    has networks of its own, and begins without any.
    """

    def __init__(self) -> None:
        self._functions: dict[Callable[..., Any], Callable[..., Any]] = {}

    def of(self, function: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
        """
        :param function: a network, or a method of an object
        :param plain: what is called where compiling fails, see :func:`compiled_or_plain`
        :return: the same, compiled at its first call
        """
        if function not in self._functions:
            self._functions[function] = compiled_or_plain(function, plain)
        return self._functions[function]

    def __deepcopy__(self, memo: dict[int, Any]) -> "CompiledFunctions":
        return CompiledFunctions()

    def __reduce__(self) -> tuple[Any, ...]:
        return CompiledFunctions, ()


def compiled_or_plain(function: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """
    Compilation happens at the first call, and again where the shapes are new: too late for a constructor to find out
    that there is no compiler. If a call fails where the plain function does not, and not for want of GPU memory, it is
    the plain function from then on, with a warning. (Raises torch's limit of compiled versions, for the whole process.)

    :param function: of tensors
    :param plain: the function itself, or what does the same faster where nothing is compiled
    :return: the same, faster after its first call
    """
    chosen: Callable[..., Any] | None = None

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal chosen
        if chosen is plain:
            return plain(*args, **kwargs)
        try:
            if chosen is None:
                config = th._dynamo.config
                config.recompile_limit = max(config.recompile_limit, _N_COMPILED_VERSIONS)
                chosen = th.compile(function, dynamic=False)
            return chosen(*args, **kwargs)
        except th.OutOfMemoryError:
            raise
        except Exception as error:
            result = plain(*args, **kwargs)  # raises what is wrong with the arguments, if that was it
            chosen = plain
            reason = next(iter(str(error).strip().splitlines()), "")
            what = f"torch.compile failed with {type(error).__name__}: {reason}"
            warnings.warn(f"compile=True has no effect from here on: {what}", stacklevel=2)
            return result

    return call
