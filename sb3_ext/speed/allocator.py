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


@cache
def keep_freed_memory() -> bool:
    """
    Let the process keep freed memory, up to 256 MiB in each heap (threads may have their own), if it has glibc's
    allocator in its default state. Call it before the first update.

    An update makes tensors of some megabytes and frees them again. With glibc's own settings that memory may go back to
    the system each time, which then has to clear it page by page for the next one: with ten critics hundreds of page
    faults an update, which take milliseconds. Whoever has set glibc's ``MALLOC_..._`` or ``GLIBC_TUNABLES`` environment
    variables keeps these settings; without glibc (macOS, Windows, musl) there is nothing to do.

    :return: whether glibc has accepted the settings
    """
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
