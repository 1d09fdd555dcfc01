"""Files that appear whole or not at all."""

import errno
import hashlib
import io
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# The umask can only be read by setting it, for all threads: once, on import, before there are any.
_UMASK = os.umask(0o077)
os.umask(_UMASK)


@contextmanager
def replacing(path: Path, sync: bool = True) -> Iterator[Path]:
    """Give a hidden path beside `path` to write to; on success it is fsynced and renamed, else removed.

    sync: False leaves the fsync to the caller, for many files that are forced to disk together.

    The hidden name keeps the suffixes, by which writers such as Keras choose a format.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=f".{path.name}")
    os.close(handle)
    try:
        yield Path(name)
        if sync:
            fsync(Path(name))
        os.chmod(name, 0o666 & ~_UMASK)
        os.replace(name, path)
        if sync:
            fsync(path.parent)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)  # gone, if only the folder's fsync failed
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # "No space left on device" does not say for what
        raise


def write_atomic(path: Path, data: bytes | str, sync: bool = True) -> None:
    """Write a whole file or nothing; `sync` as in `replacing`.

    A file name in bytes that are no UTF-8 is written with escapes, `\\udcfc`, which JSON reads back as that name.
    """
    with replacing(path, sync) as beside:
        beside.write_bytes(data.encode(errors="backslashreplace") if isinstance(data, str) else data)


def fsync(path: Path) -> None:
    """Force a file or folder to disk, as far as its mount can: a rename is only safe once its contents are there."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL or not path.is_dir():  # some network mounts cannot sync a folder
            raise
    finally:
        os.close(handle)


def irregular(path: Path) -> str:
    """Say what a path is that is no regular file, which must never be opened: a pipe is waited for; "" for a file.

    Raises:
        FileNotFoundError: nothing is there.
    """
    mode = os.stat(path).st_mode
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
    return "" if stat.S_ISREG(mode) else kinds.get(stat.S_IFMT(mode), "a device")


class HashingFile(io.FileIO):
    """A file that is read once, from front to back, and hashed on the way, if there is a digest."""

    def __init__(self, path: Path, digest: Any = None) -> None:
        super().__init__(path)
        self._digest = digest

    def readinto(self, buffer: Any, /) -> int:
        got = super().readinto(buffer)
        if self._digest:
            self._digest.update(memoryview(buffer)[:got])
        return got

    def read_to_the_end(self) -> None:
        """Hash what nobody has asked for."""
        chunk = bytearray(1 << 18)
        while self.readinto(chunk):
            pass


def sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_writable(folder: Path) -> None:
    """Raise the OSError of a new file in the folder, or where it will be made, before any work is done."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    with tempfile.TemporaryFile(dir=there):
        pass
