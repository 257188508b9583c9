"""Attributes of SB3's networks that ours cannot have, and what to use instead."""

from typing import Any

from torch import nn


class NamesSubstitutes(nn.Module):
    """
    Mix-in for networks, to be put before the SB3 class.

    Reading an attribute that only SB3's network has raises an AttributeError that names a substitute. An empty or stale
    attribute instead would make loops over it do nothing. ``hasattr`` is false for such an attribute.
    """

    def substitute_for(self, name: str) -> str | None:
        """Hook: say in words what replaces an attribute of SB3, or return ``None`` if SB3 has none of this name."""
        return None

    # A property could not say it: nn.Module replaces its AttributeError by a message without an explanation
    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            substitute = self.substitute_for(name)
            if substitute is None:
                raise
            message = f"{type(self).__name__} has no {name}, unlike SB3's network: {substitute}"
        raise AttributeError(message, name=name, obj=self)
