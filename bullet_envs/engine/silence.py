"""PyBullet without what it prints: its banner and warnings bypass Python's streams."""

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ..versions import pybullet_name

# Reentrant: the garbage collector may close a forgotten world while output is silenced.
_LOCK = threading.RLock()
if hasattr(os, "register_at_fork"):
    # A child would have the lock of another thread for ever, and no output.
    os.register_at_fork(
        before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_LOCK.release
    )
_LIBC: Any = None
with suppress(TypeError, OSError):  # Windows has no handle of the process itself
    _LIBC = ctypes.CDLL(None)


def _flush_c_streams() -> None:
    if _LIBC is not None:
        _LIBC.fflush(None)


@contextmanager
def silenced() -> Iterator[None]:
    """Send C-level stdout and stderr to nowhere."""
    # Descriptors belong to the process: two threads at once would restore each other's.
    with _LOCK:
        saved = {}
        for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
            with suppress(OSError, AttributeError):  # a daemon has neither
                stream.flush()
                saved[descriptor] = os.dup(descriptor)
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            _flush_c_streams()  # what the caller's own C code has printed is kept
            for descriptor in saved:
                os.dup2(null, descriptor)
            yield
        finally:
            _flush_c_streams()  # into a pipe C writes late, after the silence
            os.close(null)
            for descriptor, original in saved.items():
                os.dup2(original, descriptor)
                os.close(original)


pybullet_name()  # refuses two of them
with silenced():
    import pybullet as p

__all__ = ["p", "silenced"]
