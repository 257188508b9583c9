"""The precision in which networks run while training."""

from functools import cache

import torch as th

#: What ``autocast_dtype`` may name besides ``None`` and ``"auto"``. (float16 would need its gradients scaled.)
AUTOCAST_DTYPES: dict[str, th.dtype] = {"bfloat16": th.bfloat16}


def autocast_dtype_on(name: str | None, device_type: str) -> th.dtype | None:
    """
    :param name: ``None``, ``"auto"`` or a key of ``AUTOCAST_DTYPES``
    :param device_type: ``"cpu"``, ``"cuda"``, ...
    :return: the lower precision to evaluate networks in, ``None`` for that of their parameters
    """
    if name == "auto":
        return th.bfloat16 if computes_in_bfloat16(device_type) else None
    return None if name is None else AUTOCAST_DTYPES[name]


@cache
def computes_in_bfloat16(device_type: str) -> bool:
    """
    :param device_type: ``"cpu"``, ``"cuda"``, ...
    :return: whether it has instructions for matrix products in bfloat16. (Without them they are emulated, far slower
        than float32.)
    """
    if device_type == "cuda":
        return th.cuda.is_available() and th.cuda.is_bf16_supported(including_emulation=False)
    # torch's own look at the processor; on others than x86-64 these say no
    return device_type == "cpu" and (th.cpu._is_avx512_bf16_supported() or th.cpu._is_amx_tile_supported())
