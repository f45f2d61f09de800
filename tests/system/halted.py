"""Stops threads of a running process while its others continue, like threads that are fully busy.

It uses ptrace on each thread. This module makes no assertions.
"""

import contextlib
import ctypes
import os
from pathlib import Path

from harness import need

SEIZE, INTERRUPT, DETACH = 0x4206, 0x4207, 17  # ptrace(2)
ALL = 0x40000000  # __WALL of waitpid(2): threads, too

LIBC = ctypes.CDLL(None, use_errno=True)


def named(pid, names):
    """The threads of the process whose name begins with `names`."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(task.name) for task in tasks if (task / "comm").read_text().startswith(names)]


@contextlib.contextmanager
def halted(threads):
    """These threads are stopped until the block ends."""
    for thread in threads:
        trace(SEIZE, thread)
        trace(INTERRUPT, thread)
        os.waitpid(thread, ALL)
    try:
        yield
    finally:
        for thread in threads:
            trace(DETACH, thread)


def trace(order, thread):
    """One order to the kernel."""
    none = ctypes.c_void_p(0)
    done = LIBC.ptrace(ctypes.c_long(order), ctypes.c_long(thread), none, none)
    need(done == 0, f"ptrace {order:#x} of thread {thread}: {os.strerror(ctypes.get_errno())}")
