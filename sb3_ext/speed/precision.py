"""The precision of networks during training."""

from functools import cache
from typing import Literal

import torch as th

AutocastDtype = Literal["auto", "bfloat16"]
#: Values of ``autocast_dtype`` besides ``None`` and ``"auto"``. float16 is missing, because its gradients would need
#: scaling
AUTOCAST_DTYPES: dict[str, th.dtype] = {"bfloat16": th.bfloat16}


def autocast_dtype_on(name: str | None, device_type: str) -> th.dtype | None:
    """
    Return the lower precision in which to evaluate networks, or ``None`` for that of their parameters.

    ``"auto"`` is bfloat16 on a CPU with instructions for it. It is ``None`` on GPUs, where the gain has not been
    measured.

    :param name: ``None``, ``"auto"`` or a key of ``AUTOCAST_DTYPES``
    :param device_type: ``"cpu"``, ``"cuda"``, ...
    """
    if name == "auto":
        return th.bfloat16 if device_type == "cpu" and cpu_computes_in_bfloat16() else None
    return None if name is None else AUTOCAST_DTYPES[name]


@cache
def cpu_computes_in_bfloat16() -> bool:
    """
    Tell whether the processor has instructions for matrix products in bfloat16 (AVX512-BF16 or AMX).

    Without them bfloat16 is emulated, which is far slower than float32.
    """
    # These functions of torch are private and may disappear. On processors other than x86-64 they return False
    flags = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(th.cpu, flag, bool)() for flag in flags)


def cpu_capability() -> str:
    """
    Name the instructions that determine the speed and the rounding of networks on this processor.

    :return: one word such as ``AVX512`` or ``AVX2``, with ``+BF16`` where ``autocast_dtype="auto"`` means bfloat16
    """
    instructions = th.backends.cpu.get_cpu_capability().replace(" ", "-")  # "NO AVX", "Z VECTOR"
    return instructions + ("+BF16" if cpu_computes_in_bfloat16() else "")
