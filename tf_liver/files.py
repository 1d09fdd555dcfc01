"""Files that appear whole or not at all."""

import errno
import hashlib
import io
import json
import os
import stat
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints, is_typeddict

T = TypeVar("T")

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


def read_json(path: Path, kind: type[T], required: Collection[str] = ()) -> T:
    """Return the JSON object in a file, as the TypedDict `kind`, or dict[str, Any] where its fields are free.

    required: fields that must be there, beside those of `kind` that must. Fields that `kind` does not name may be.

    Raises:
        JsonError: no file, not UTF-8, not JSON, nested too deeply, a name twice, a number beyond 64 bits, no object, or
            a field that is missing or of another type.
        OSError: it is not there, or cannot be read.
    """
    if what := irregular(path):
        raise JsonError(f"{path}: must be a file. Received: {what}")
    hooks: dict[str, Any] = {"parse_int": _number, "parse_float": _number, "parse_constant": _number}
    try:
        table = json.loads(path.read_bytes().decode(), object_pairs_hook=_object, **hooks)
    except (ValueError, RecursionError) as error:
        raise JsonError(f"{path}: not JSON: {str(error)[:200]}") from error
    if not isinstance(table, dict):
        raise JsonError(f"{path}: must hold an object. Received: {type(table).__name__}")
    if missing := sorted(set(required) - set(table)):
        raise JsonError(f"{path}: must hold {missing[0]}. Received: an object without it")
    if fault := wrong(table, kind, ""):
        raise JsonError(f"{path}: {fault}")
    return cast(T, table)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"twice in one object: {next(name for name in names if names.count(name) > 1)[:80]}")
    return table


def _number(text: str) -> int | float:
    value = int(text) if text.lstrip("-").isdigit() else float(text)
    if not abs(value) < 2**63:  # nor NaN; no number of ours is larger, and arithmetic with it would overflow
        raise ValueError(f"no number of 64 bits: {text[:80]}")
    return value


def wrong(value: Any, kind: Any, name: str) -> str:
    """Say which field of a value of JSON is of another type, and what it holds; "" if none is.

    kind: a TypedDict, list[…], dict[str, …], a union, Any, or a plain type; every number is a float, no truth value is
    a number. name: of the value.
    """
    origin, parts = get_origin(kind), get_args(kind)
    inside: list[tuple[str, Any, Any]] = []
    if kind is Any or (origin is UnionType and not all(wrong(value, one, name) for one in parts)):
        return ""
    if origin is list and isinstance(value, list):
        inside = [(f"{name}[{n}]", one, parts[0]) for n, one in enumerate(value)]
    elif origin is dict and isinstance(value, dict):
        inside = [(f"{name}.{key}", one, parts[1]) for key, one in value.items()]
    elif is_typeddict(kind) and isinstance(value, dict):
        if missing := sorted(kind.__required_keys__ - set(value)):
            return f"{name} must hold {missing[0]}. Received: an object without it".strip(" .")
        inside = [(f"{name}.{key}", value[key], of) for key, of in get_type_hints(kind).items() if key in value]
    elif not _is_plain(value, kind):
        shown = "an object" if is_typeddict(kind) else kind.__name__ if isinstance(kind, type) and not origin else kind
        return f"{name.removeprefix('.')} must be {shown}. Received: {str(value)[:80]}"
    return next(filter(None, (wrong(one, of, where) for where, one, of in inside)), "")


def _is_plain(value: Any, kind: Any) -> bool:
    if get_origin(kind) or is_typeddict(kind) or (isinstance(value, bool) and kind is not bool):
        return False
    return isinstance(value, (int, float) if kind is float else kind)


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
