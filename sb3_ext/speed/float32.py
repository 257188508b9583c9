"""The rate of float32 matrix products on a CPU, which is a setting of torch for the whole process."""

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal, TypeVar

import torch as th

from sb3_ext.checks import check_choice

Float32MatmulPrecision = Literal["auto", "medium"]
FLOAT32_MATMUL_PRECISIONS: tuple[str | None, ...] = (None, "auto", "medium")
Function = TypeVar("Function", bound=Callable[..., None])

# torch's names. By default, products are exact. With "bf16" oneDNN computes them, and it may round to bfloat16. Only
# processors with AMX and some with ARM's instructions do that
_EXACT, _ONEDNN = ("none", "ieee"), "bf16"
# Another order of the sums changes the largest error by a factor of 2 or so, rounding to bfloat16 by 1000
_SAME_EXACTNESS = 4.0


@contextmanager
def float32_matmul_precision(precision: str | None = "auto") -> Iterator[None]:
    """
    Compute float32 matrix products on the CPU faster within a ``with`` statement, also those of stock algorithms.

    By default torch uses MKL. Where MKL leaves AVX-512 unused, as on AMD processors, oneDNN is up to twice as fast.
    Without AVX-512 torch ignores the setting, ``torch.backends.mkldnn.matmul.fp32_precision``. It is one for the whole
    process, and is restored at the end. Statements may overlap, also in threads: the last one restores it. A torch
    without the setting computes as always.

    :param precision: ``"auto"``: oneDNN where it is as exact, and where the user has not chosen a precision himself.
        ``"medium"``: oneDNN even where it rounds to bfloat16, like ``torch.set_float32_matmul_precision("medium")``.
        ``None``: as torch is set
    :raises ValueError: if the precision is none of these
    """
    check_choice("precision", precision, FLOAT32_MATMUL_PRECISIONS)
    uses_onednn = precision is not None and _setting.acquire(by_force=precision == "medium")
    try:
        yield
    finally:
        if uses_onednn:
            _setting.release()


def with_float32_matmul_precision(train: Function) -> Function:
    """Decorate ``train()`` of a model: the products have the model's ``float32_matmul_precision``, on a CPU."""

    @functools.wraps(train)
    def decorated(model: Any, *args: Any, **kwargs: Any) -> None:
        with float32_matmul_precision(model.float32_matmul_precision if model.device.type == "cpu" else None):
            train(model, *args, **kwargs)

    return decorated  # type: ignore[return-value]


@cache
def onednn_is_exact() -> bool:
    """
    Tell whether oneDNN's float32 products have no larger errors than torch's default on this processor.

    The first call computes some products to find out, in about 10 ms. It draws no random numbers.
    """
    if getattr(th.cpu, "_is_amx_tile_supported", bool)():  # may round products of other shapes than those tried
        return False
    numbers = th.arange(2 * 256 * 256, dtype=th.float64, device="cpu").reshape(2, 256, 256)
    left, right = numbers.sin().float(), numbers.sqrt().cos().float()
    with th.no_grad(), th.autocast("cpu", enabled=False):
        exact = left.double() @ right.double()

        def largest_errors() -> list[float]:
            products = (left @ right, th.baddbmm(left, left, right) - left, th.stack([*map(th.mm, left, right)]))
            return [(product.double() - exact).abs().max().item() for product in products]

        usual = largest_errors()
        with _setting.temporarily(_ONEDNN):
            return all(error <= _SAME_EXACTNESS * limit for error, limit in zip(largest_errors(), usual, strict=True))


class _Setting:
    """torch's setting, and how many ``with`` statements use oneDNN at the moment."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._n_users = 0
        self._before = _EXACT[0]

    @property
    def _matmul(self) -> Any:
        """torch's object with the setting, or ``None`` if this torch has none."""
        return getattr(th.backends.mkldnn, "matmul", None) if th.backends.mkldnn.is_available() else None

    def acquire(self, by_force: bool) -> bool:
        """
        Use oneDNN, and return whether :meth:`release` has to follow.

        :param by_force: even if it is less exact, or if the user has chosen another precision
        """
        if self._matmul is None:
            return False
        with self._lock:
            if self._n_users == 0:
                self._before = self._matmul.fp32_precision
                if not by_force and (self._before not in _EXACT or not onednn_is_exact()):
                    return False
                self._matmul.fp32_precision = _ONEDNN
            self._n_users += 1
        return True

    def release(self) -> None:
        """Stop using oneDNN, unless others still do."""
        with self._lock:
            self._n_users -= 1
            # What somebody has set meanwhile stays
            if self._n_users == 0 and self._matmul.fp32_precision == _ONEDNN:
                self._restore(self._before)

    @contextmanager
    def temporarily(self, value: str) -> Iterator[None]:
        """Have another value within a ``with`` statement."""
        before = self._matmul.fp32_precision
        self._matmul.fp32_precision = value
        try:
            yield
        finally:
            self._restore(before)

    def _restore(self, value: str) -> None:
        # With "none" the setting follows those of oneDNN and of torch as a whole, which may be where the value is from
        self._matmul.fp32_precision = "none"
        if self._matmul.fp32_precision != value:
            self._matmul.fp32_precision = value


_setting = _Setting()
