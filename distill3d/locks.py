"""One process a folder: a lock file that names its owner, and that a process which died does not leave behind locked.

The operating system holds the lock (``flock``, on Windows a locked byte) and lets go of it when the process ends,
however it ends; the number in the file only tells a reader whom to look for.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from .errors import OutputError
from .files import output_error

FILE_NAME = ".lock"
_BYTE = 1 << 30
"""The byte that is locked on Windows, far behind the number, which others may then still read."""

if sys.platform == "win32":
    import msvcrt

    def _lock(handle: int) -> None:
        os.lseek(handle, _BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        finally:
            os.lseek(handle, 0, os.SEEK_SET)

else:
    import fcntl

    def _lock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_taken(error: OSError) -> bool:
    """Whether another process holds the lock; a file system that knows no locks raises other errors."""
    return isinstance(error, PermissionError) or error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)


def _same(handle: int, path: Path) -> bool:
    """Whether the open file is still the one at ``path``: its last owner may have removed it in between."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _take(path: Path, folder: Path) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(handle)
        except OSError as error:
            if _is_taken(error):
                owner = os.read(handle, 32).decode("ascii", "replace").strip() or "unknown"
                os.close(handle)
                raise OutputError(
                    f"expected a folder that no other process works in, got one where process {owner} does: "
                    f"{folder}. Wait for it or stop it, or choose another folder"
                ) from error
        if _same(handle, path):
            return handle
        os.close(handle)


@contextlib.contextmanager
def claimed(folder: Path, lock: Path | None = None) -> Iterator[None]:
    """Keep ``folder``, which exists, to this process for the length of the block.

    The lock file is ``.lock`` in it, or ``lock`` where the folder itself is to be replaced: an open file would forbid
    that on Windows. Where the file system has no locks, nothing is held and nothing is refused.

    Raises:
        OutputError: another process holds it, or the folder cannot be written.
    """
    path = lock or folder / FILE_NAME
    try:
        handle = _take(path, folder)
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())
    except OSError as error:
        raise output_error(path, error) from error
    try:
        yield
    finally:
        if sys.platform == "win32":
            os.close(handle)
            with contextlib.suppress(OSError):
                path.unlink()
        else:
            path.unlink(missing_ok=True)
            os.close(handle)
