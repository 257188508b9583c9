"""How the C library keeps the memory that tensors on a CPU come from."""

import ctypes
import os
from functools import cache

# From glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

#: Blocks smaller than this are cut from the heap: the largest size up to which glibc itself would go. Of larger ones,
#: most replay buffers among them, the system gives the pages when they are first written
HEAP_BLOCK_BYTES = 32 * 2**20
#: So much free memory at the end of a heap stays with the process
KEPT_BYTES = 256 * 2**20
#: Set it to 0 in the environment, and glibc's settings are left alone
SWITCH = "SB3_EXT_KEEP_FREED_MEMORY"


@cache
def keep_freed_memory() -> bool:
    """
    Let the process keep freed memory, up to 256 MiB in each heap (threads may have their own), where glibc's allocator
    is in its default state. Algorithms call it before their first update on a CPU.

    An update makes tensors of some megabytes and frees them again. By default that memory may go back to the system
    each time, which then has to clear it page by page for the next one. With ten critics that is hundreds of page
    faults an update, which take milliseconds.

    Nothing happens if ``SB3_EXT_KEEP_FREED_MEMORY=0`` is in the environment, if glibc's own variables
    (``MALLOC_..._``, ``GLIBC_TUNABLES``) are, or where there is no glibc (macOS, Windows, musl).

    :return: whether glibc has accepted the settings
    """
    if os.environ.get(SWITCH) == "0":
        return False
    if os.environ.get("GLIBC_TUNABLES", "") or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018  (AttributeError where it is another library)
        mallopt = libc.mallopt
    except (OSError, TypeError, AttributeError):
        return False
    accepted = mallopt(_M_MMAP_THRESHOLD, HEAP_BLOCK_BYTES), mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
    return accepted == (1, 1)
