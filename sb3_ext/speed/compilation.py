"""``torch.compile`` where it works, and the plain function elsewhere."""

import warnings
from collections.abc import Callable
from typing import Any

import torch as th
from torch import nn

# Networks of one class share their code. By default torch keeps 8 compiled versions of it in a process, which are too
# few for a hyperparameter search
_N_COMPILED_VERSIONS = 256


class LossGradients:
    """
    A loss and its gradients as one function, which leaves no work to autograd at run time when compiled.

    ``th.autocast`` applies only to the loss. As usual, the backward pass runs outside of it.

    :param loss: a module that returns a tuple of tensors, its loss (a scalar) first. To be compiled it must not change
        buffers in place
    """

    def __init__(self, loss: nn.Module) -> None:
        self.loss = loss

    def functional(self, parameters: dict[str, nn.Parameter], *args: Any) -> tuple[th.Tensor, ...]:
        """
        Compute the loss and its gradients, in a form for ``torch.compile``. Uncompiled it is slower than
        :meth:`autograd`.

        :param parameters: parameters to differentiate by, with their names in the loss. The others are constants
        :param args: arguments of the loss
        :return: the gradients in the order of the parameters, then what the loss returns, detached. Gradients have the
            strides of their parameters, and are zero for parameters without influence
        """

        def evaluate(values: dict[str, th.Tensor]) -> tuple[th.Tensor, tuple[th.Tensor, ...]]:
            results = th.func.functional_call(self.loss, values, args)
            return results[0], results

        if not parameters:  # everything is frozen
            return tuple(result.detach() for result in self.loss(*args))
        values = {name: parameter.detach() for name, parameter in parameters.items()}
        loss, pull_back, results = th.func.vjp(evaluate, values, has_aux=True)  # type: ignore[misc]
        with th.autocast(loss.device.type, enabled=False):
            gradients = pull_back(th.ones_like(loss))[0]
        # Fused optimizers ignore strides, so a gradient needs those of its parameter
        return *(_with_strides_like(gradients[name], values[name]) for name in values), *results

    def autograd(self, parameters: dict[str, nn.Parameter], *args: Any) -> tuple[th.Tensor, ...]:
        """
        Do the same as :meth:`functional`, faster without compilation.

        The parameters' ``grad`` must be ``None`` before, because ``backward`` is faster than ``th.autograd.grad``.
        """
        if not parameters:  # all are frozen
            return tuple(result.detach() for result in self.loss(*args))
        with th.enable_grad():
            results = self.loss(*args)
        with th.autocast(results[0].device.type, enabled=False):
            results[0].backward(inputs=[*parameters.values()])
        gradients = (th.zeros_like(p) if p.grad is None else p.grad for p in parameters.values())
        return *gradients, *(result.detach() for result in results)


def _with_strides_like(gradient: th.Tensor, parameter: th.Tensor) -> th.Tensor:
    return gradient if gradient.stride() == parameter.stride() else th.empty_like(parameter).copy_(gradient)


def autotunes() -> bool:
    """Tell whether torch's compiler is set to try several kernels for each matrix product."""
    from torch._inductor import config  # takes a while, and is needed only to compile

    return config.max_autotune or config.max_autotune_gemm


def compiled_or_plain(function: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """
    Compile a function, and fall back to a plain one where that fails.

    Compilation happens at the first call and for new shapes, so a constructor cannot detect that there is no compiler.
    If a compiled call fails and the plain function succeeds, a warning follows, and the plain function replaces the
    compiled one. Errors for a lack of GPU memory are raised.

    This function raises torch's limit of compiled versions for the whole process.

    :param function: a function of tensors
    :param plain: the function itself, or an equivalent one that is faster uncompiled
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
            result = plain(*args, **kwargs)  # raises the error if the arguments were wrong
            chosen = plain
            reason = next(iter(str(error).strip().splitlines()), "")
            message = f"torch.compile failed with {type(error).__name__}: {reason}"
            warnings.warn(f"compile=True has no effect from here on: {message}", stacklevel=2)
            return result

    return call
