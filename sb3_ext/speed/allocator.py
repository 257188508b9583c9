"""Settings of the C library's allocator, from which tensors on a CPU get their memory."""

import ctypes
import os
from functools import cache

# From glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

#: Blocks smaller than this come from the heap. It is the largest threshold that glibc itself would choose. Larger
#: blocks, such as most replay buffers, get their pages from the system when they are first written to
HEAP_BLOCK_BYTES = 32 * 2**20
#: The process keeps this much free memory at the end of a heap
KEPT_BYTES = 256 * 2**20
#: With this environment variable set to 0, glibc's settings stay as they are
SWITCH = "SB3_EXT_KEEP_FREED_MEMORY"


@cache
def keep_freed_memory() -> bool:
    """
    Let the process keep freed memory, up to 256 MiB in each heap. Threads may have their own heaps.

    An update allocates and frees tensors of some megabytes. By default glibc may return their memory to the system each
    time. The system then has to clear it page by page for the next tensors. With ten critics these page faults take
    milliseconds an update.

    Algorithms call this function before their first update on a CPU. It does nothing in these cases:

    - ``SB3_EXT_KEEP_FREED_MEMORY=0`` is in the environment
    - glibc's own variables (``MALLOC_..._``, ``GLIBC_TUNABLES``) are in the environment
    - there is no glibc (macOS, Windows, musl)

    :return: whether glibc has accepted the settings
    """
    if os.environ.get(SWITCH) == "0":
        return False
    if os.environ.get("GLIBC_TUNABLES", "") or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018  (AttributeError for another library)
        mallopt = libc.mallopt
    except (OSError, TypeError, AttributeError):
        return False
    accepted = mallopt(_M_MMAP_THRESHOLD, HEAP_BLOCK_BYTES), mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
    return accepted == (1, 1)
