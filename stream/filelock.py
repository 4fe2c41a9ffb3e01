"""Locks on open files that vanish with their holder, however it ends."""

from __future__ import annotations

import sys

_BEYOND_ANY_FILE = 1 << 62

if sys.platform == "win32":
    import msvcrt
    import os

    def lock(fd: int, *, shared: bool) -> bool:
        """Lock an open file for this process's life, or return False if another holds it."""
        del shared  # the locked byte lies beyond the data: it keeps out those who ask for it, and no reader
        os.lseek(fd, _BEYOND_ANY_FILE, os.SEEK_SET)
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def lock(fd: int, *, shared: bool) -> bool:
        """Lock an open file for this process's life, or return False if another holds it."""
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
