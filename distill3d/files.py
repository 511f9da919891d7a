"""Files that are whole or absent: every file this library writes goes through here.

The bytes go to a temporary file in the target's own folder, are flushed to the disk, and replace the target in one
step. A crash, a full disk or an interrupt leaves the earlier file, or none, and never half of one.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import OutputError

#: Seconds to wait before each further try where Windows refuses to replace a file that a virus scanner or another
#: program has open.
_WAITS: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6) if sys.platform == "win32" else ()


def real(path: Path) -> Path:
    """The absolute path without links; unlike ``Path.resolve`` it raises nothing where links run in a circle."""
    return Path(os.path.realpath(path))


def _advice(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full: free some space or choose another output folder"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            "the folder cannot be written, or another program has the file open: check the permissions, close the "
            "program, or choose another output folder"
        )
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return "a file stands where a folder is needed: choose another output folder"
    if error.errno == errno.ENAMETOOLONG:
        return "choose a shorter name"
    return "check the folder or choose another one"


def output_error(path: Path, error: OSError) -> OutputError:
    """The error that says which file could not be written, why, and what to do."""
    return OutputError(f"could not write {path}: {error.strerror or error}; {_advice(error)}")


def make_folder(path: Path) -> Path:
    """Create ``path`` and its parents, and prove that a file can be written there.

    Raises:
        OutputError: the folder cannot be made or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise output_error(path, error) from error
    return path


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path to write to, with ``path``'s suffix; it becomes ``path`` when the block ends without an error.

    Raises:
        OutputError: for any ``OSError`` inside the block; the temporary file is removed and ``path`` is untouched.
    """
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:32]}-", suffix=path.suffix)
        temporary = Path(name)
        os.close(handle)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        with contextlib.suppress(OSError):  # on a share only the owner may; the file is written all the same
            temporary.chmod(0o666 & ~umask)
        _replace(temporary, path)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _replace(temporary: Path, path: Path) -> None:
    for wait in _WAITS:
        try:
            temporary.replace(path)
        except PermissionError:
            time.sleep(wait)
        else:
            return
    temporary.replace(path)


def write_bytes(path: Path, data: bytes | bytearray | memoryview) -> Path:
    """Write ``data`` to ``path`` in one step. Raises ``OutputError``."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return path


def write_json(path: Path, value: Any) -> Path:
    """Write ``value`` as indented JSON in one step; numbers that are not finite are refused. Raises ``OutputError``."""
    return write_bytes(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())
