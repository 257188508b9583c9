"""How the C library keeps the memory that tensors on a CPU come from."""

import ctypes
import os
from functools import cache

# From glibc's malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3

#: Blocks smaller than this are cut from the heap: the largest value that glibc allows. Replay buffers are larger, and
#: the system still gives their pages when they are first written.
HEAP_BLOCK_BYTES = 32 * 2**20
#: So much free memory at the end of the heap stays with the process
KEPT_BYTES = 256 * 2**20


@cache
def keep_freed_memory() -> bool:
    """
    Let the process keep up to 256 MiB of freed memory, if it has glibc's allocator in its default state. Call it before
    the first update.

    An update makes tensors of some megabytes and frees them again. With glibc's own settings that memory may go back to
    the system each time, which then has to clear it page by page for the next one: with ten critics hundreds of page
    faults an update, which take milliseconds. Whoever has set glibc's ``MALLOC_..._`` or ``GLIBC_TUNABLES`` environment
    variables keeps these settings; without glibc (macOS, Windows, musl) there is nothing to do.

    :return: whether the settings were changed
    """
    if os.environ.get("GLIBC_TUNABLES", "") or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018  (AttributeError where it is another library)
        mallopt = libc.mallopt
    except (OSError, TypeError, AttributeError):
        return False
    settings = (
        (_M_MMAP_THRESHOLD, HEAP_BLOCK_BYTES),
        (_M_TRIM_THRESHOLD, KEPT_BYTES),
        # Asked of the system at once, so that growing the heap is rare, too
        (_M_TOP_PAD, HEAP_BLOCK_BYTES),
    )
    return [mallopt(parameter, value) for parameter, value in settings] == [1, 1, 1]
