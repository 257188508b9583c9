"""``torch.compile`` where it works, the plain function where it does not."""

import warnings
from collections.abc import Callable
from typing import Any

import torch as th
from torch import nn

# Networks of one class share their code. Torch keeps 8 compiled versions of it in a process, unless told otherwise: too
# few for the trials of a hyperparameter search
_N_COMPILED_VERSIONS = 256


class LossGradients:
    """
    A loss and its gradients as one function. Compiled as one, they leave no work to autograd at run time.

    ``th.autocast`` applies to the loss alone; the backward pass runs outside of it, as usual.

    :param loss: a module that returns a tuple of tensors, its loss (a scalar) first. To be compiled it may not change
        buffers in place
    """

    def __init__(self, loss: nn.Module) -> None:
        self.loss = loss

    def functional(self, parameters: dict[str, nn.Parameter], *args: Any) -> tuple[th.Tensor, ...]:
        """
        The form for ``torch.compile``; uncompiled it takes longer than :meth:`autograd`.

        :param parameters: those to differentiate by, by their names in the loss. The others are constants
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
        # Fused optimizers run through memory and ignore strides
        return *(_with_strides_like(gradients[name], values[name]) for name in values), *results

    def autograd(self, parameters: dict[str, nn.Parameter], *args: Any) -> tuple[th.Tensor, ...]:
        """
        The same, faster where nothing is compiled. The parameters' ``grad`` must be ``None`` before: gradients pass
        through it, because that is faster than ``th.autograd.grad``.
        """
        with th.enable_grad():
            results = self.loss(*args)
        with th.autocast(results[0].device.type, enabled=False):
            results[0].backward(inputs=[*parameters.values()])
        gradients = (th.zeros_like(p) if p.grad is None else p.grad for p in parameters.values())
        return *gradients, *(result.detach() for result in results)


def _with_strides_like(gradient: th.Tensor, parameter: th.Tensor) -> th.Tensor:
    return gradient if gradient.stride() == parameter.stride() else th.empty_like(parameter).copy_(gradient)


def compiled_or_plain(function: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """
    Compile a function, and fall back to a plain one where that fails.

    Compilation happens at the first call, and again where shapes are new: too late for a constructor to find out that
    there is no compiler. If a call fails where the plain function works, the plain one serves from then on, with a
    warning; a lack of GPU memory is raised. (This raises torch's limit of compiled versions, for the whole process.)

    :param function: of tensors
    :param plain: the function itself, or one with the same result that is faster where nothing is compiled
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
            result = plain(*args, **kwargs)  # raises what is wrong with the arguments, if that was the cause
            chosen = plain
            reason = next(iter(str(error).strip().splitlines()), "")
            message = f"torch.compile failed with {type(error).__name__}: {reason}"
            warnings.warn(f"compile=True has no effect from here on: {message}", stacklevel=2)
            return result

    return call
