"""Files that appear whole or not at all."""

import errno
import hashlib
import io
import json
import os
import stat
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

# The umask can only be read by setting it, for all threads: once, on import, before there are any.
_UMASK = os.umask(0o077)
os.umask(_UMASK)


@contextmanager
def replacing(path: Path, sync: bool = True) -> Iterator[Path]:
    """Give a hidden path beside `path` to write to; on success it is fsynced and renamed, else removed.

    sync: False leaves the fsync to the caller, for many files that are forced to disk together.

    The hidden name keeps the suffixes, by which writers such as Keras choose a format, and fits on any disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=f".{path.name[-40:]}")
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


class JsonError(ValueError):
    """A JSON file that is not what was written; the message names the file, and the field where it is one."""


def read_json(path: Path, fields: Mapping[str, Any] | None = None, required: Collection[str] = ()) -> dict[str, Any]:
    """Return the JSON object in a file.

    fields: field → its type, such as int or dict[str, list[str]], where it is there. required: those that must be.

    Raises:
        JsonError: not UTF-8, not JSON, nested too deeply, no object, or a field that is missing or of another type.
        OSError: it cannot be read.
    """
    try:
        table = json.loads(path.read_bytes().decode())
    except (ValueError, RecursionError) as error:
        raise JsonError(f"{path}: not JSON: {str(error)[:200]}") from error
    if not isinstance(table, dict):
        raise JsonError(f"{path}: must hold an object. Received: {type(table).__name__}")
    if missing := sorted(set(required) - set(table)):
        raise JsonError(f"{path}: must hold {missing[0]}. Received: an object without it")
    for name, kind in (fields or {}).items():
        if name in table and not is_a(table[name], kind):
            shown = getattr(kind, "__name__", "") if not get_origin(kind) else str(kind)
            raise JsonError(f"{path}: {name} must be {shown or kind}. Received: {str(table[name])[:80]}")
    return table


def is_a(value: Any, kind: Any) -> bool:
    """Say whether a value of JSON is of a type; every number is a float, no truth value is a number."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is list:
        return isinstance(value, list) and all(is_a(one, parts[0]) for one in value)
    if origin is dict:
        return isinstance(value, dict) and all(is_a(one, parts[1]) for one in value.values())
    if kind is Any:
        return True
    if origin is UnionType:
        return any(is_a(value, one) for one in parts)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


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
