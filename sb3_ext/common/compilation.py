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
    A loss and its gradients as one function, so that both are compiled as one: nothing of autograd is left to do at
    run time, and what the backward pass needs of the forward pass needs not be kept for long.

    :param loss: a module that returns a tuple of tensors, its loss (a scalar) first. It may change no buffers (such as
        the statistics of batch normalisation)
    """

    def __init__(self, loss: nn.Module) -> None:
        self.loss = loss

    def of(self, parameters: dict[str, th.Tensor], *args: Any) -> tuple[th.Tensor, ...]:
        """
        :param parameters: detached, by their names in the loss. The others are constants
        :param args: of the loss
        :return: the gradients, in the order of the parameters, then what the loss returns, detached
        """

        def evaluate(parameters: dict[str, th.Tensor]) -> tuple[th.Tensor, tuple[th.Tensor, ...]]:
            results = th.func.functional_call(self.loss, parameters, args)
            return results[0], results

        gradients, results = th.func.grad(evaluate, has_aux=True)(parameters)
        return *gradients.values(), *results


class CompiledFunctions:
    """
    Compiled functions by what they were made of. They belong to the networks they were made of: a copy of the model
    has networks of its own, and begins without any.
    """

    def __init__(self) -> None:
        self._functions: dict[Callable[..., Any], Callable[..., Any]] = {}

    def of(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """
        :param function: a network, or a method of one
        :return: the same, compiled at its first call
        """
        if function not in self._functions:
            self._functions[function] = compiled_or_plain(function)
        return self._functions[function]

    def __deepcopy__(self, memo: dict[int, Any]) -> "CompiledFunctions":
        return CompiledFunctions()

    def __reduce__(self) -> tuple[Any, ...]:
        return CompiledFunctions, ()


def compiled_or_plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """
    Compilation happens at the first call, and again where the shapes are new: too late for a constructor to find out
    that there is no compiler. If a call fails where the plain function does not, and not for want of GPU memory, it is
    the plain function from then on, with a warning. (Raises torch's limit of compiled versions, for the whole process.)

    :param function: of tensors
    :return: the same, faster after its first call
    """
    chosen: Callable[..., Any] | None = None

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal chosen
        if chosen is function:
            return function(*args, **kwargs)
        try:
            if chosen is None:
                config = th._dynamo.config
                config.recompile_limit = max(config.recompile_limit, _N_COMPILED_VERSIONS)
                chosen = th.compile(function, dynamic=False)
            return chosen(*args, **kwargs)
        except th.OutOfMemoryError:
            raise
        except Exception as error:
            result = function(*args, **kwargs)  # raises what is wrong with the arguments, if that was it
            chosen = function
            reason = next(iter(str(error).strip().splitlines()), "")
            what = f"torch.compile failed with {type(error).__name__}: {reason}"
            warnings.warn(f"compile=True has no effect from here on: {what}", stacklevel=2)
            return result

    return call
