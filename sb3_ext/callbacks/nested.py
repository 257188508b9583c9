"""Callbacks within callbacks."""

from collections.abc import Iterator
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EventCallback


def all_callbacks(callback: Any) -> Iterator[BaseCallback]:
    """Iterate over a callback and those within it."""
    if isinstance(callback, BaseCallback):
        yield callback
    if isinstance(callback, CallbackList):
        for each in callback.callbacks:
            yield from all_callbacks(each)
    if isinstance(callback, EventCallback):
        yield from all_callbacks(callback.callback)
