"""Constructors that take positional arguments in the order of SB3's."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

_Constructor = TypeVar("_Constructor", bound=Callable[..., None])


def positional_as_in(parent: type) -> Callable[[_Constructor], _Constructor]:
    """
    Decorate a constructor: positional arguments mean what they mean to a parent's constructor.

    The constructor itself gets them by name. So it can have defaults of its own for some of them.
    """
    names = list(inspect.signature(parent).parameters)

    def decorate(constructor: _Constructor) -> _Constructor:
        @functools.wraps(constructor)
        def named(self: Any, *args: Any, **kwargs: Any) -> None:
            if len(args) > len(names):
                raise TypeError(
                    f"{type(self).__name__} got {len(args)} positional arguments, but takes only {len(names)}: "
                    f"{', '.join(names)}"
                )
            constructor(self, **dict(zip(names, args, strict=False)), **kwargs)

        return named  # type: ignore[return-value]

    return decorate
