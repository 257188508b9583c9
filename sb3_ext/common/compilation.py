"""``torch.compile`` where it works, the plain function where it does not."""

import warnings
from collections.abc import Callable
from typing import Any

import torch as th

# Networks of one class share their code, for which torch keeps 8 compiled versions in a process unless told otherwise:
# too few for the trials of a hyperparameter search
_N_COMPILED_VERSIONS = 256


def compiled_or_plain(function: Callable[..., th.Tensor]) -> Callable[..., th.Tensor]:
    """
    Compilation happens at the first call, which is too late for a constructor to find out that there is no compiler: if
    that call fails where the plain function does not, the plain function it is, with a warning.

    :param function: of tensors
    :return: the same, faster after its first call
    """
    chosen: list[Callable[..., th.Tensor]] = []

    def call(*args: Any) -> th.Tensor:
        if chosen:
            return chosen[0](*args)
        try:
            config = th._dynamo.config
            config.recompile_limit = max(config.recompile_limit, _N_COMPILED_VERSIONS)
            compiled = th.compile(function, dynamic=False)
            result = compiled(*args)
        except Exception as error:
            result = function(*args)  # raises what is wrong with the arguments, if that was it
            compiled = function
            reason = next(iter(str(error).strip().splitlines()), "")
            warnings.warn(
                f"compile=True has no effect: torch.compile failed with {type(error).__name__}: {reason}", stacklevel=2
            )
        chosen.append(compiled)
        return result

    return call
