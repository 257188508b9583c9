"""The library for float32 matrix products on a CPU, which is a setting of torch for the whole process."""

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any, Literal, TypeVar

import torch as th

from sb3_ext.checks import check_choice
from sb3_ext.speed.compilation import autotunes

Float32MatmulPrecision = Literal["auto", "medium"]
FLOAT32_MATMUL_PRECISIONS: tuple[str | None, ...] = (None, "auto", "medium")
Function = TypeVar("Function", bound=Callable[..., None])

# torch's names. By default, products are exact. With "bf16" oneDNN computes them, and it may round to bfloat16. Only
# processors with AMX and some with ARM's instructions do that
_DEFAULT, _EXACT, _ONEDNN = "none", "ieee", "bf16"
# Another order of the sums changes the largest error by a factor of 2 or so, rounding to bfloat16 by 1000
_SAME_EXACTNESS = 4.0


def float32_matmul_precision(precision: str | None = "auto") -> AbstractContextManager[None]:
    """
    Compute float32 matrix products on the CPU by oneDNN within a ``with`` statement, also those of stock algorithms.

    By default torch uses MKL, which leaves AVX-512 unused on AMD processors. oneDNN uses it. torch's setting,
    ``torch.backends.mkldnn.matmul.fp32_precision``, is one for the whole process. The end of the statement restores it.
    Statements may overlap, also in threads: the last one restores it. A torch without the setting computes as always.

    :param precision: ``"auto"``: oneDNN where it is as exact, unless the process has a lower precision already.
        ``"medium"``: oneDNN even where it rounds to bfloat16, like ``torch.set_float32_matmul_precision("medium")``.
        ``None``: as torch is set
    :raises ValueError: if the precision is none of these
    """
    check_choice("precision", precision, FLOAT32_MATMUL_PRECISIONS)
    return _use(precision)


@contextmanager
def _use(precision: str | None) -> Iterator[None]:
    uses_onednn = precision is not None and _setting.acquire(by_force=precision == "medium")
    try:
        yield
    finally:
        if uses_onednn:
            _setting.release()


def with_float32_matmul_precision(train: Function) -> Function:
    """
    Decorate ``train()`` of a model: on a CPU the products have the model's ``float32_matmul_precision``.

    torch's compiler cannot autotune under this setting, so ``compile=True`` with autotuning goes without.
    """

    @functools.wraps(train)
    def decorated(model: Any, *args: Any, **kwargs: Any) -> None:
        precision = model.float32_matmul_precision
        check_choice("float32_matmul_precision", precision, FLOAT32_MATMUL_PRECISIONS)
        is_possible = model.device.type == "cpu" and not (model.compile and autotunes())
        with _use(precision if is_possible else None):
            train(model, *args, **kwargs)

    return decorated  # type: ignore[return-value]


@cache
def onednn_products() -> Literal["unused", "exact", "rounded"]:
    """
    Tell what becomes of float32 products on this processor if torch is set to use oneDNN.

    The first call computes some products to find out, in well under a second. It draws no random numbers.

    :return: ``"unused"``: torch ignores the setting, or has none. ``"exact"``: oneDNN computes them, with no larger
        errors. ``"rounded"``: oneDNN computes them in a lower precision
    """
    if not _setting.exists():
        return "unused"
    if getattr(th.cpu, "_is_amx_tile_supported", bool)():  # may round products of other shapes than those tried
        return "rounded"
    numbers = th.arange(2 * 256 * 256, dtype=th.float64, device="cpu").reshape(2, 256, 256)
    left, right = numbers.sin().float(), numbers.sqrt().cos().float()

    def products() -> tuple[th.Tensor, ...]:
        return left @ right, th.baddbmm(left, left, right) - left, th.stack([*map(th.mm, left, right)])

    with th.no_grad(), th.autocast("cpu", enabled=False):
        exact = left.double() @ right.double()
        with _setting.temporarily(_EXACT):
            usual = products()
        with _setting.temporarily(_ONEDNN):
            by_onednn = products()
        if all(th.equal(one, other) for one, other in zip(usual, by_onednn, strict=True)):
            return "unused"
        limits, errors = (
            [(product.double() - exact).abs().max().item() for product in some] for some in (usual, by_onednn)
        )
    is_exact = all(error <= _SAME_EXACTNESS * limit for error, limit in zip(errors, limits, strict=True))
    return "exact" if is_exact else "rounded"


class _Setting:
    """torch's setting, and how many ``with`` statements use oneDNN at the moment."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._n_users = 0
        self._before = _DEFAULT

    @property
    def _matmul(self) -> Any:
        """torch's object with the setting, or ``None`` if this torch has none."""
        return getattr(th.backends.mkldnn, "matmul", None) if th.backends.mkldnn.is_available() else None

    def exists(self) -> bool:
        """Tell whether this torch has the setting."""
        return self._matmul is not None

    def acquire(self, by_force: bool) -> bool:
        """
        Use oneDNN, and return whether :meth:`release` has to follow.

        :param by_force: even if it is less exact, or if the process has another precision
        """
        if not self.exists() or not (by_force or onednn_products() == "exact"):
            return False
        with self._lock:
            present = self._matmul.fp32_precision
            # Nobody's choice of a lower precision is overridden, whether made before or inside a statement
            expected = (_DEFAULT, _EXACT) if self._n_users == 0 else (_ONEDNN,)
            if not by_force and present not in expected:
                return False
            if self._n_users == 0 or present != _ONEDNN:  # also what somebody has set inside a statement
                self._before = present
            self._matmul.fp32_precision = _ONEDNN
            self._n_users += 1
        return True

    def release(self) -> None:
        """Stop using oneDNN, unless others still do."""
        with self._lock:
            self._n_users -= 1
            # Another value that somebody has set meanwhile stays
            if self._n_users == 0 and self._matmul.fp32_precision == _ONEDNN:
                self._restore(self._before)

    @contextmanager
    def temporarily(self, value: str) -> Iterator[None]:
        """Have another value within a ``with`` statement."""
        with self._lock:
            before = self._matmul.fp32_precision
            self._matmul.fp32_precision = value
            try:
                yield
            finally:
                self._restore(before)

    def _restore(self, value: str) -> None:
        # By default the setting follows those of oneDNN and of torch as a whole, which may be where the value is from
        self._matmul.fp32_precision = _DEFAULT
        if self._matmul.fp32_precision != value:
            self._matmul.fp32_precision = value


_setting = _Setting()
