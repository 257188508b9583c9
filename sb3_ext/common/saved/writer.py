"""
Which class wrote a saved model, and whether another one may load it.

A file of SB3 does not say which algorithm wrote it, and any class with the same networks loads it. So every model of
this package saves a :class:`WrittenBy`. SB3's ``load`` unpickles it whichever class it is called on, before it builds
anything. The check needs no change to SB3.
"""

import inspect
import warnings
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

# Module and qualified name of a class
ClassName = tuple[str, str]

#: The attribute of a model that holds its :class:`WrittenBy`. Only classes of this package and their subclasses have it
ATTRIBUTE = "_written_by"
_PACKAGE = __name__.partition(".")[0]


class WrittenBy:
    """
    Names of the class that wrote a model, and of its bases from this package.

    :param classes: module and qualified name of each, the class itself first. Names, because a class from ``__main__``
        would be saved with its code
    """

    def __init__(self, classes: tuple[ClassName, ...]) -> None:
        self.classes = classes

    @classmethod
    def of(cls, model_class: type) -> "WrittenBy":
        return cls(_names(model_class))

    def __reduce__(self) -> tuple[Any, ...]:
        return read_written_by, (self.classes,)


def read_written_by(classes: tuple[ClassName, ...]) -> WrittenBy:
    """
    Restore a :class:`WrittenBy`, and check the class that is loading the model, if any. Saved files name this function.

    :raises ValueError: if a model of another algorithm is being loaded
    """
    loader, stack_level = _class_that_loads()
    if loader is not None:
        check_loader(loader, classes, stack_level)
    return WrittenBy(classes)


def check_loader(loader: type, writer: tuple[ClassName, ...], stack_level: int = 1) -> None:
    """
    Check that a class may load what another one wrote. A base or a subclass of the writer gets a warning.

    :param writer: names of the class that wrote the model and of its bases, as in :class:`WrittenBy`
    :param stack_level: frames between the caller and the function that the warning is for
    :raises ValueError: naming both classes, if they are different algorithms
    """
    names = _names(loader)
    ours = hasattr(loader, ATTRIBUTE)
    if ours and _is_same(names, writer):
        return
    wrote, loads = ".".join(writer[0]), ".".join((loader.__module__, loader.__qualname__))
    if ours and (names[0] in writer or writer[0] in names):
        warnings.warn(
            f"a model that {wrote} wrote is loaded as {loads}, which may train in another way",
            stacklevel=stack_level + 2,
        )
        return
    # ValueError, because SB3 turns other errors into a warning while it reads a file
    raise ValueError(
        f"{loads} loads a model that {wrote} wrote, and would train it as another algorithm: call "
        f"{writer[0][1]}.load. (custom_objects={{{ATTRIBUTE!r}: None}} skips this check.)"
    )


def _names(model_class: type) -> tuple[ClassName, ...]:
    return tuple((base.__module__, base.__qualname__) for base in model_class.__mro__ if hasattr(base, ATTRIBUTE))


def _is_same(first: tuple[ClassName, ...], second: tuple[ClassName, ...]) -> bool:
    """Compare classes by name: a user's class may be defined again, or in a script and then in a module."""
    if first[0] == second[0]:
        return True
    return (
        first[0][1] == second[0][1]
        and not any(_is_ours(names[0][0]) for names in (first, second))
        and _from_package(first) == _from_package(second)
    )


def _from_package(names: tuple[ClassName, ...]) -> list[ClassName]:
    return [name for name in names if _is_ours(name[0])]


def _is_ours(module: str | None) -> bool:
    return str(module).partition(".")[0] == _PACKAGE


def _class_that_loads() -> tuple[type | None, int]:
    """Find the class whose ``load`` is running, if any, and how many frames up it was called from outside."""
    load = getattr(BaseAlgorithm, "load", None)
    code = getattr(inspect.unwrap(getattr(load, "__func__", len)), "__code__", None)
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_code is not code:
        frame, level = frame.f_back, level + 1
    loader = None if frame is None else frame.f_locals.get("cls")
    # The algorithms of this package extend `load`
    while frame is not None and frame.f_back is not None and _is_ours(frame.f_back.f_globals.get("__name__")):
        frame, level = frame.f_back, level + 1
    return (loader if isinstance(loader, type) else None), level
