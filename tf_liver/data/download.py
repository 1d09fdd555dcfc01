"""The Task03_Liver archive: room for it, its checksum, and unpacking it so that nothing lands outside the target."""

import fcntl
import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Protocol

from tf_liver.data import DataError
from tf_liver.data.cases import find_cases
from tf_liver.files import fsync

MAX_BYTES, MAX_MEMBERS = 100 * 10**9, 10_000  # Task03_Liver: 29 GB in under 1,000 members
MAX_READ = 1 << 20  # tarfile takes a long name in one read, as long as its header says
CHUNK = 1 << 20
_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.FIFOTYPE: "a named pipe",
}


class Listener(Protocol):
    """Who wants to know how far it is."""

    def say(self, text: str) -> None:
        """Take a line for people."""

    def progress(self, what: str, done: int, total: int) -> None:
        """Take the bytes done so far; they may fall when something starts over."""


def _clear(target: Path) -> Path:
    """Return the folder that is unpacked to, without what a killed process may have left in it."""
    hidden = target.with_name(f".{target.name}.unpacking")
    if hidden.exists():
        shutil.rmtree(hidden)
    return hidden


def unpack(archive: Path, target: Path, listener: Listener) -> int:
    """Unpack a tar of the Task03_Liver layout and return its number of cases; `target` appears whole or not at all.

    Every member is looked at before anything is written. Python's own extraction is not used: its filter="data"
    can be led outside by chains of links before 3.11.13 (CVE-2025-4517).

    Raises:
        DataError: not a tar, or one with members that are not plain files and folders, or without cases.
        OSError: the disk is too small or full.
    """
    hidden = _clear(target)
    try:
        with _Modest(io.FileIO(archive)) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            members = _safe_members(archive, tar)
            check_space(target.parent, 0, sum(member.size for member, _ in members))
            hidden.mkdir(parents=True)
            _write(tar, members, hidden, listener)
        inside = list(hidden.iterdir())
        root = inside[0] if len(inside) == 1 and inside[0].is_dir() else hidden
        cases = len(find_cases(root))
        os.replace(root, target)
        fsync(target.parent)
        return cases
    except (tarfile.TarError, RecursionError) as error:
        raise DataError(f"{archive}: not a plain tar, or a damaged one: {error}") from error
    except DataError as error:
        raise DataError(str(error).replace(f"{hidden}", f"{archive}")) from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


class _Modest(io.BufferedReader):
    """A file that hands out no more at once than a tar header can honestly claim."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= MAX_READ:
            raise tarfile.ReadError(f"a header claims {size} bytes for itself")
        return super().read(size)


def _safe_members(archive: Path, tar: tarfile.TarFile) -> list[tuple[tarfile.TarInfo, PurePosixPath]]:
    """Return the files and folders of a tar with their relative paths, without macOS `._*`; refuse all else."""
    chosen: list[tuple[tarfile.TarInfo, PurePosixPath]] = []
    total_bytes = 0
    for count, member in enumerate(tar, 1):
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts or "\0" in member.name:
            raise DataError(f"{archive}: members must lie inside the archive's own folder. Received: {member.name!r}")
        if not (member.isreg() or member.isdir()) or member.issparse():
            kind = _KINDS.get(member.type, "a sparse file" if member.issparse() else f"type {member.type!r}")
            raise DataError(f"{archive}: members must be files or folders. Received: {member.name!r}, {kind}")
        total_bytes += member.size
        if count > MAX_MEMBERS or member.size < 0 or total_bytes > MAX_BYTES:
            limits = f"at most {MAX_MEMBERS:,} members and {human(MAX_BYTES)}"
            raise DataError(f"{archive}: must hold {limits}. Received: more, at {member.name!r}")
        if not any(part.startswith("._") for part in path.parts):
            chosen.append((member, path))
    return chosen


def _write(
    tar: tarfile.TarFile, members: list[tuple[tarfile.TarInfo, PurePosixPath]], folder: Path, listener: Listener
) -> None:
    """Write the members below an empty folder; owners and modes are this process's own."""
    done, total = 0, sum(member.size for member, _ in members)
    for member, inside in members:
        try:
            path = place(folder, inside)
            if member.isdir():
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            source = tar.extractfile(member)
            assert source is not None  # a regular file
            with path.open("xb") as file:
                while data := source.read(CHUNK):
                    file.write(data)
                    done += len(data)
                    listener.progress("unpacking", done, total)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OSError(f"{folder.parent}: cannot unpack {member.name!r}: {error.strerror or error}") from error


def place(folder: Path, inside: PurePosixPath) -> Path:
    """Return where a member belongs below `folder`, by real paths: whatever a name or a link does, not outside.

    Raises:
        DataError: it would lie outside.
    """
    path = (folder / inside).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise DataError(f"{folder}: members must stay inside. Received: {str(inside)!r}, which leads to {path}")
    return path


def check_md5(archive: Path, md5: str, listener: Listener, set_aside: bool) -> None:
    """Compare a file with its checksum.

    set_aside: move a wrong file out of the way, so that the next call fetches it anew.

    Raises:
        DataError: the checksum is wrong.
    """
    digest, done, total = hashlib.md5(usedforsecurity=False), 0, archive.stat().st_size
    with archive.open("rb") as file:
        while data := file.read(CHUNK):
            digest.update(data)
            done += len(data)
            listener.progress("checking md5", done, total)
    if (received := digest.hexdigest()) == md5:
        return
    moved = ""
    if set_aside:
        bad = archive.with_name(f"{archive.name}.bad-md5")
        os.replace(archive, bad)
        moved = f"; set aside as {bad}"
    raise DataError(f"{archive}: md5 must be {md5}. Received: {received}{moved}")


@contextmanager
def alone(target: Path) -> Iterator[None]:
    """Keep a second download away from the same target, and clear what a killed one left half unpacked.

    The lock goes with the process, however that ends.

    Raises:
        BlockingIOError: another process downloads to `target`.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = target.with_name(f".{target.name}.lock")
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it has just removed the file: this lock would hold nobody off.
            if not lock.exists() or not os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                raise BlockingIOError
        except BlockingIOError as error:
            raise BlockingIOError(f"{target}: another process is downloading to it") from error
        try:
            _clear(target)
            yield
        finally:
            lock.unlink()


def check_space(folder: Path, fetch_bytes: int, unpack_bytes: int) -> str:
    """Return a line that says how much disk is needed and free.

    Raises:
        OSError: it does not fit.
    """
    there = next(f for f in (folder, *folder.parents) if f.exists())
    need, free = fetch_bytes + unpack_bytes, shutil.disk_usage(there).free
    parts = f" ({human(fetch_bytes)} to fetch, {human(unpack_bytes)} unpacked)" if fetch_bytes else " to unpack"
    line = f"{there}: needs {human(need)}{parts}, {human(free)} are free"
    if need > free:
        raise OSError(f"disk too small: {line}")
    return line


def human(n_bytes: int) -> str:
    """Return a number of bytes as people read it."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n_bytes >= size:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes} bytes"
