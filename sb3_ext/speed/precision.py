"""The precision in which networks run while training."""

from functools import cache
from typing import Literal

import torch as th

AutocastDtype = Literal["auto", "bfloat16"]
#: What ``autocast_dtype`` may name besides ``None`` and ``"auto"``. (float16 would need its gradients scaled.)
AUTOCAST_DTYPES: dict[str, th.dtype] = {"bfloat16": th.bfloat16}


def autocast_dtype_on(name: str | None, device_type: str) -> th.dtype | None:
    """
    :param name: ``None``, ``"auto"`` or a key of ``AUTOCAST_DTYPES``
    :param device_type: ``"cpu"``, ``"cuda"``, ...
    :return: the lower precision to evaluate networks in, ``None`` for that of their parameters. ``"auto"``: bfloat16 on
        a CPU that computes in it; on GPUs ``None``, as what it brings there has not been measured
    """
    if name == "auto":
        return th.bfloat16 if device_type == "cpu" and cpu_computes_in_bfloat16() else None
    return None if name is None else AUTOCAST_DTYPES[name]


@cache
def cpu_computes_in_bfloat16() -> bool:
    """
    :return: whether the processor has instructions for matrix products in bfloat16 (AVX512-BF16 or AMX). Without them
        they are emulated, far slower than float32
    """
    # Private functions of torch, which may go; on processors other than x86-64 they say no
    flags = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(th.cpu, flag, bool)() for flag in flags)


def cpu_capability() -> str:
    """
    :return: the instructions of this processor that decide how, and how exactly, networks are computed: ``AVX512`` or
        ``AVX2``, say, in one word, with ``+BF16`` where ``autocast_dtype="auto"`` means bfloat16
    """
    instructions = th.backends.cpu.get_cpu_capability().replace(" ", "-")  # "NO AVX", "Z VECTOR"
    return instructions + ("+BF16" if cpu_computes_in_bfloat16() else "")
