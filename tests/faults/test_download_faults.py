"""Download: rows 63 to 68 of the table of faults, against a real server, real disks and real signals."""

import contextlib
import hashlib
import io
import os
import pty
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import termios
import time
from pathlib import Path

import pytest
from http_server import Fault, serving

from tf_liver import download
from tf_liver.data import DataError
from tf_liver.data import fetch as fetching
from tf_liver.data.cases import find_cases
from tf_liver.data.download import MAX_MEMBERS, place, unpack

N_FIRST = 1_500_000  # bytes that come before something goes wrong
TOP = "Task03_Liver"


def tar_of(folder: Path, filler: bytes) -> bytes:
    """Return a tar laid out as the real one: one top folder, test images without labels, macOS droppings."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        tar.add(folder, TOP)
        for name, data in ((f"./._{TOP}", b"mac"), (f"{TOP}/imagesTr/._phantom_01.nii.gz", b"mac")):
            add(tar, name, data)
        add(tar, f"{TOP}/imagesTs/phantom_99.nii.gz", filler)
    return made.getvalue()


def add(tar: tarfile.TarFile, name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, link, len(data)
    tar.addfile(member, io.BytesIO(data))


def without(data: bytes, name: str) -> bytes:
    """Return a tar without the members whose name holds `name`."""
    made = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(data)) as old, tarfile.open(fileobj=made, mode="w") as new:
        for member in old:
            if name not in member.name:
                new.addfile(member, old.extractfile(member))
    return made.getvalue()


def md5_of(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


@pytest.fixture(scope="module")
def good(phantoms: Path) -> bytes:
    return tar_of(phantoms, os.urandom(4 << 20))


@pytest.fixture
def site(good):
    with serving(good) as site:
        yield site


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """No proxy stands between the test and its server, and waiting between retries is short."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(fetching, "FIRST_WAIT_S", 0.01)


@pytest.fixture
def data(tmp_path):
    """The folder that downloads go to; nothing else lies in it."""
    return tmp_path / "data" / TOP


def arguments(site, data, *more, md5=None):
    chosen = ["--url", site.url, "--md5", md5 or md5_of(site.data), "-o", data, *more]
    return [str(a) for a in chosen]


def call(capsys, *argv):
    """Return exit code, output and error output of the command."""
    code = download.main([str(a) for a in argv])
    out, err = capsys.readouterr()
    return code, out, err


def refused(capsys, *argv):
    """Return the one line with which the command refuses."""
    code, _, err = call(capsys, *argv)
    assert code == 2, err
    assert err.count("\n") == 1, err
    return err


def completes(capsys, site, data, *more):
    """Run the command to its good end and return its output; nothing but the data is left."""
    code, out, err = call(capsys, *arguments(site, data, *more))
    assert (code, err) == (0, "")
    assert left(data) == [TOP]
    assert len(find_cases(data)) == 4
    assert (data / "imagesTs" / "phantom_99.nii.gz").stat().st_size == 4 << 20
    return out


def left(data):
    """Return what lies beside the target, hidden files too."""
    return sorted(p.name for p in data.parent.glob("*"))


def part(data):
    return data.with_name(f"{TOP}.tar.part")


def child(*argv, limit_bytes=None):
    """Start the command in a process of its own, perhaps with a limit on the size of a file."""
    limit = {}
    if limit_bytes:
        limit["preexec_fn"] = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
    command = [sys.executable, "-m", "tf_liver.download", *map(str, argv)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **limit)


def wait_for(condition, process, seconds=20):
    """Wait until a condition holds, or the process has ended."""
    end = time.monotonic() + seconds
    while not condition() and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.0005)


# The straight way


def test_fetches_unpacks_and_does_nothing_the_second_time(capsys, site, data, phantoms):
    out = completes(capsys, site, data)
    assert "to fetch" in out
    assert "are free" in out
    assert "downloading: 4." in out
    assert "100%" in out
    for file in phantoms.rglob("*.*"):
        assert (data / file.relative_to(phantoms)).read_bytes() == file.read_bytes()
    assert not list(data.rglob("._*"))
    code, out, _ = call(capsys, *arguments(site, data))
    assert (code, out) == (0, f"{data}: already there, 4 cases\n")
    assert site.asked == [""]


def test_an_archive_at_hand_is_left_alone(capsys, good, data, tmp_path):
    archive = tmp_path / "mine.tar"
    archive.write_bytes(good)
    argv = ["--archive", archive, "-o", data]
    assert f"mine.tar: md5 must be {fetching.MD5}. Received: {md5_of(good)}\n" in refused(capsys, *argv)
    assert left(data) == []
    assert call(capsys, *argv, "--md5", md5_of(good).upper())[0] == 0
    assert left(data) == [TOP]
    assert archive.read_bytes() == good
    assert "there is no such archive" in refused(capsys, "--archive", tmp_path / "no.tar", "-o", tmp_path / "x" / "y")
    assert not (tmp_path / "x").exists()


def test_keep_keeps_the_archive_and_the_next_call_unpacks_it(capsys, site, data):
    assert call(capsys, *arguments(site, data, "--keep"))[0] == 0
    assert left(data) == [TOP, f"{TOP}.tar"]
    shutil.rmtree(data)
    completes(capsys, site, data)
    assert len(site.asked) == 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--url", "ftp://host/a.tar"], "url: must begin with http:// or https://"),
        (["--url", "http://host:port/a.tar"], "url: nonnumeric port: 'port'"),
        (["--md5", "a90ec6"], "md5: must be 32 digits of 0-9, a-f. Received: a90ec6"),
        (["--retries", "-1"], "timeout and retries must be positive. Received: 60.0, -1"),
        (["--timeout", "0"], "timeout and retries must be positive. Received: 0.0, 8"),
    ],
)
def test_bad_options_are_refused(capsys, data, argv, message):
    known_size_needs_much_disk = ["--md5", "0" * 32]
    assert message in refused(capsys, *known_size_needs_much_disk, *argv, "-o", data)
    assert not data.parent.exists() or left(data) == []


def test_a_terminal_gets_a_bar(site, data):
    site.faults = [Fault(pause_after=1000, meanwhile=lambda: time.sleep(0.3), drop_after=N_FIRST)]
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    command = [sys.executable, "-m", "tf_liver.download", *arguments(site, data)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, text=True)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # how a terminal says that the other side has closed
        while more := os.read(ours, 4096):
            shown += more
    os.close(ours)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert re.search(rb"\rdownloading: +[1-9]\d?%", shown)
    for what in ("downloading", "checking md5", "unpacking"):
        assert f"\r{what}: ".encode() in shown
    assert b"Traceback" not in shown
    assert [line.split(" after ")[0] for line in out.splitlines()[1:]] == ["connection closed", f"{data}: 4 cases"]


def test_a_folder_with_something_else_is_left_alone(capsys, site, data):
    data.mkdir(parents=True)
    (data / "thesis.tex").write_text("42")
    assert "move it away, or choose another --output" in refused(capsys, *arguments(site, data))
    assert (data / "thesis.tex").read_text() == "42"
    assert site.asked == []


def test_an_empty_folder_and_a_link_to_another_disk_are_filled(capsys, site, data, tmp_path):
    (tmp_path / "disk" / TOP).mkdir(parents=True)
    data.parent.mkdir()
    data.symlink_to(tmp_path / "disk" / TOP)
    completes(capsys, site, data)
    assert left(tmp_path / "disk" / TOP) == [TOP]


# Row 63, 64: what must not be unpacked

BAD_MEMBERS = {
    "dots": (("../evil",), "members must lie inside the archive's own folder. Received: '../evil'"),
    "inner dots": ((f"{TOP}/a/../../../evil",), "members must lie inside"),
    "absolute": (("/tmp/tf_liver_evil",), "members must lie inside"),
    "absolute link": ((f"{TOP}/a", b"", tarfile.SYMTYPE, "/etc"), f"Received: '{TOP}/a', a symbolic link"),
    "link out": ((f"{TOP}/a", b"", tarfile.SYMTYPE, "../.."), "a symbolic link"),
    "link inside": ((f"{TOP}/a", b"", tarfile.SYMTYPE, "imagesTr"), "a symbolic link"),
    "hard link": ((f"{TOP}/a", b"", tarfile.LNKTYPE, "/etc/passwd"), "a hard link"),
    "character device": ((f"{TOP}/a", b"", tarfile.CHRTYPE), "a character device"),
    "block device": ((f"{TOP}/a", b"", tarfile.BLKTYPE), "a block device"),
    "pipe": ((f"{TOP}/a", b"", tarfile.FIFOTYPE), "a named pipe"),
    "twice": ((f"{TOP}/imagesTs/phantom_99.nii.gz", b"x"), "cannot unpack"),
}


@pytest.mark.parametrize("name", BAD_MEMBERS)
def test_bad_members_leave_nothing(capsys, good, data, tmp_path, name):
    member, message = BAD_MEMBERS[name]
    archive = tmp_path / "bad.tar"
    archive.write_bytes(good)
    with tarfile.open(archive, "a") as tar:
        add(tar, *member)
        add(tar, f"{TOP}/a/through_the_link")  # what a link would be there for
    before = sorted(tmp_path.rglob("*"))
    line = refused(capsys, "--archive", archive, "--md5", md5_of(archive.read_bytes()), "-o", data)
    assert message in line
    assert sorted(tmp_path.rglob("*")) == sorted([*before, data.parent])
    assert not Path("/tmp/tf_liver_evil").exists()


def test_members_stay_inside_by_real_paths_too(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path)
    assert place(tmp_path / "in", Path("a/b")) == tmp_path / "in" / "a" / "b"
    for inside in ("link/evil", "../evil", "/evil"):
        with pytest.raises(DataError, match="must stay inside"):
            place(tmp_path / "in", Path(inside))


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


def bomb(path: Path, kind: str) -> Path:
    """Write an archive that is small on disk and large in what it claims."""
    with path.open("wb") as file:
        if kind == "members":
            file.write(header(f"{TOP}/x", 0) * (MAX_MEMBERS + 1))
        else:
            size = {"size": 101 * 10**9, "name": 300 << 20}[kind]
            file.write(header(f"{TOP}/x", size, tarfile.GNUTYPE_LONGNAME if kind == "name" else tarfile.REGTYPE))
            file.truncate(512 + size)  # a hole: takes no disk
    return path


class Silence:
    def say(self, text):
        pass

    def progress(self, what, done, total):
        pass


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("members", "must hold at most 10,000 members and 100.0 GB"),
        ("size", "must hold at most 10,000 members and 100.0 GB"),
        ("name", "a header claims 314572800 bytes for itself"),
    ],
)
def test_bombs_are_refused_before_anything_is_written(capsys, data, tmp_path, kind, message):
    archive = bomb(tmp_path / "bomb.tar", kind)
    with pytest.raises(DataError, match=message):
        unpack(archive, tmp_path / TOP, Silence())
    assert list(tmp_path.iterdir()) == [archive]
    if kind == "size":  # the command would hash 101 GB first
        return
    with open(archive, "rb") as file:
        md5 = hashlib.file_digest(file, "md5").hexdigest()
    assert message in refused(capsys, "--archive", archive, "--md5", md5, "-o", data)
    assert left(data) == []


def test_sparse_members_are_refused(capsys, data, tmp_path):
    member = tarfile.TarInfo(f"{TOP}/hole")
    member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(10**15)}
    member.size = 512
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(member, io.BytesIO(b"0\n".ljust(512, b"\0")))
    md5 = md5_of((tmp_path / "a.tar").read_bytes())
    assert "a sparse file" in refused(capsys, "--archive", tmp_path / "a.tar", "--md5", md5, "-o", data)
    assert left(data) == []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tar: tar[:-2_000_000], "a.tar: not a plain tar, or a damaged one"),
        (lambda tar: b"<!DOCTYPE html>" + bytes(2000), "a.tar: not a plain tar, or a damaged one"),
        (lambda tar: without(tar, "labelsTr/phantom_02"), "labelsTr: case phantom_02 has no label, yet dataset.json"),
        (lambda tar: header(f"{TOP}/readme", 0) + bytes(1024), "must hold imagesTr/ and labelsTr/"),
    ],
    ids=["cut", "html", "labels missing", "other contents"],
)
def test_archives_that_are_not_it_leave_nothing(capsys, good, data, tmp_path, damage, message):
    archive = tmp_path / "a.tar"
    archive.write_bytes(damage(good))
    line = refused(capsys, "--archive", archive, "--md5", md5_of(archive.read_bytes()), "-o", data)
    assert message in line
    assert str(archive) in line
    assert left(data) == []


# Row 65: dropped connections


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
def test_a_dropped_connection_goes_on_from_there(capsys, site, data, reset):
    site.faults = [Fault(drop_after=N_FIRST, reset=reset)]
    out = completes(capsys, site, data)
    assert "retry 1 of 8" in out
    first, second = site.asked
    assert first == ""
    if reset:  # which may overtake the last bytes, but not throw away those before
        assert fetching.CHUNK < int(second[len("bytes=") : -1]) <= N_FIRST
    else:
        assert second == f"bytes={N_FIRST}-"


def test_a_server_that_always_drops_is_no_failure_while_there_is_headway(capsys, site, data):
    site.always = Fault(drop_after=N_FIRST)
    completes(capsys, site, data, "--retries", "1")
    assert site.asked == ["", *(f"bytes={n * N_FIRST}-" for n in range(1, len(site.data) // N_FIRST + 1))]


@pytest.mark.parametrize("fault", [Fault(drop_after=0), Fault(status=503), Fault(status=429)], ids=lambda f: f.status)
def test_retries_without_headway_are_bounded_and_the_next_call_resumes(capsys, site, data, fault):
    site.faults, site.always = [Fault(drop_after=N_FIRST)], fault
    line = refused(capsys, *arguments(site, data, "--retries", "3"))
    assert f"{site.url}: " in line
    assert f"1.5 MB are kept in {part(data)}, the next call goes on from there" in line
    assert site.asked == ["", *[f"bytes={N_FIRST}-"] * 3]
    assert part(data).read_bytes() == site.data[:N_FIRST]
    site.always = Fault()
    completes(capsys, site, data)
    assert site.asked[4:] == [f"bytes={N_FIRST}-"]


def test_a_stalled_server_counts_as_lost(capsys, site, data):
    site.faults = [Fault(stall_after=N_FIRST)]
    assert "connection lost (timed out) after 1.5 MB" in completes(capsys, site, data, "--timeout", "0.3")
    assert site.asked == ["", f"bytes={N_FIRST}-"]


def test_no_server_is_one_line(capsys, data):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, yet nobody listens
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/a.tar"
        line = refused(capsys, "--url", url, "--md5", "0" * 32, "-o", data, "--retries", "1")
    assert line.startswith(f"error: {url}: no connection (")
    assert "Connection refused" in line
    assert left(data) == []


def test_a_missing_file_is_not_asked_for_twice(capsys, site, data):
    site.always = Fault(status=404)
    assert refused(capsys, *arguments(site, data)) == f"error: {site.url}: HTTP 404 Not Found\n"
    assert len(site.asked) == 1
    assert left(data) == []


# Row 66, 67: the server cannot, or must not, go on


def broken_off(capsys, site, data):
    """Leave a beginning of the file, and forget the request."""
    site.faults = [Fault(drop_after=N_FIRST)]
    refused(capsys, *arguments(site, data, "--retries", "0"))
    assert part(data).stat().st_size == N_FIRST
    site.asked.clear()


def test_ignored_range_starts_over(capsys, site, data):
    broken_off(capsys, site, data)
    site.always = Fault(ignore_range=True)
    assert "starting over: the server ignores Range" in completes(capsys, site, data)
    assert site.asked == [f"bytes={N_FIRST}-"]


def test_starting_over_again_and_again_is_bounded(capsys, site, data):
    site.always = Fault(ignore_range=True, drop_after=N_FIRST)
    assert "connection closed" in refused(capsys, *arguments(site, data, "--retries", "3"))
    assert len(site.asked) == 4
    assert part(data).stat().st_size == N_FIRST


def test_changed_etag_starts_over(capsys, site, data, phantoms):
    broken_off(capsys, site, data)
    site.data, site.etag = tar_of(phantoms, os.urandom(4 << 20)), '"v2"'
    out = completes(capsys, site, data)
    assert 'starting over: the file on the server has changed (ETag "v1" before, "v2" now)' in out
    assert site.asked == [f"bytes={N_FIRST}-"]


def test_etag_changed_between_two_retries_starts_over(capsys, site, data, phantoms):
    later = tar_of(phantoms, os.urandom(4 << 20))

    def change():
        site.data, site.etag = later, '"v2"'

    site.faults = [Fault(drop_after=N_FIRST, pause_after=1000, meanwhile=change)]
    out = call(capsys, *arguments(site, data, md5=md5_of(later)))
    assert out[0] == 0
    assert "has changed" in out[1]
    assert site.asked == ["", f"bytes={N_FIRST + 1000}-"]


@pytest.mark.parametrize(
    ("fault", "etag"),
    [
        (Fault(offset_shift=7), '"v1"'),
        (Fault(offset_shift=-N_FIRST), '"v1"'),
        (Fault(ignore_if_range=True), '"v2"'),
        (Fault(offset_shift=10**9), '"v1"'),
    ],
    ids=["later", "from the start", "another ETag", "416"],
)
def test_a_rest_that_does_not_fit_is_thrown_away(capsys, site, data, fault, etag):
    broken_off(capsys, site, data)
    site.faults, site.etag = [fault], etag
    assert "starting over" in completes(capsys, site, data)
    assert site.asked == [f"bytes={N_FIRST}-", ""]


@pytest.mark.parametrize("etag", ["", 'W/"v1"'])
def test_without_a_strong_etag_nothing_is_pieced_together(capsys, site, data, etag):
    site.etag = etag
    site.faults = [Fault(drop_after=N_FIRST)]
    line = refused(capsys, *arguments(site, data, "--retries", "0"))
    assert "connection closed; 1.5 MB came, but without an ETag the next call starts over\n" in line
    site.asked.clear()
    assert "starting over: without an ETag" in completes(capsys, site, data)
    assert site.asked == [""]


@pytest.mark.parametrize("memory", [None, b"", b"{", b"[]", b'{"etag": "\\"v1\\"", "total": "x"}'])
def test_a_part_without_its_memory_is_not_trusted(capsys, site, data, memory):
    broken_off(capsys, site, data)
    beside = data.with_name(f"{TOP}.tar.part.json")
    beside.unlink() if memory is None else beside.write_bytes(memory)
    completes(capsys, site, data)
    assert site.asked == [""]


def test_a_part_that_is_complete_is_not_asked_for(capsys, site, data):
    broken_off(capsys, site, data)
    part(data).write_bytes(site.data)  # as after a kill between the last byte and the new name
    completes(capsys, site, data)
    assert site.asked == []


def test_a_part_that_is_too_long_starts_over(capsys, site, data):
    broken_off(capsys, site, data)
    with part(data).open("ab") as file:
        file.truncate(len(site.data) + 1)
    completes(capsys, site, data)
    assert site.asked == [""]


# Row 68: the wrong file


def test_a_wrong_file_is_set_aside(capsys, site, data):
    right, site.data = site.data, b"\x1f" + site.data[1:]
    line = refused(capsys, *arguments(site, data, md5=md5_of(right)))
    bad = data.with_name(f"{TOP}.tar.bad-md5")
    assert f"md5 must be {md5_of(right)}. Received: {md5_of(site.data)}; set aside as {bad}\n" in line
    assert left(data) == [bad.name]
    assert bad.read_bytes() == site.data
    site.data = right
    assert call(capsys, *arguments(site, data))[0] == 0
    assert left(data) == [TOP, bad.name]


def test_a_beginning_that_rotted_is_found_by_the_checksum(capsys, site, data):
    broken_off(capsys, site, data)
    with part(data).open("r+b") as file:
        file.write(b"rot")
    assert "set aside as" in refused(capsys, *arguments(site, data))
    assert call(capsys, *arguments(site, data))[0] == 0
    assert left(data) == [TOP, f"{TOP}.tar.bad-md5"]


def test_a_wrong_size_is_seen_before_a_byte_is_fetched(capsys, site, data):
    data.parent.mkdir()
    if shutil.disk_usage(data.parent).free < 2 * fetching.SIZE:
        pytest.skip("less than 58 GB free: the disk is refused before the server is asked")
    line = refused(capsys, "--url", site.url, "-o", data)
    assert f"{site.url}: must be 28,925,891,584 bytes. Received: {len(site.data):,}" in line
    assert left(data) == []


def test_a_server_that_tells_no_size_is_refused(capsys, site, data):
    site.always = Fault(no_length=True)
    assert "must say the size of the file (Content-Length)" in refused(capsys, *arguments(site, data))
    assert left(data) == []


# Disks that fill, processes that die


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int):
    folder.mkdir(parents=True, exist_ok=True)
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder], capture_output=True)
    if made.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {made.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_disk_that_is_too_small_is_refused_first(capsys, site, data):
    with small_disk(data.parent, 8):
        line = refused(capsys, *arguments(site, data))
        assert f"disk too small: {data.parent}: needs " in line
        assert "MB unpacked), 8.4 MB are free\n" in line
        assert left(data) == []
        site.asked.clear()
        line = refused(capsys, "--url", site.url, "-o", data)
        assert "needs 57.9 GB (28.9 GB to fetch, 28.9 GB unpacked), 8.4 MB are free" in line
        assert site.asked == []


def test_a_disk_that_fills_keeps_what_came(capsys, site, data):
    with small_disk(data.parent, 12):
        filler = data.parent / "others.bin"

        def fill():
            end = time.monotonic() + 10
            while time.monotonic() < end and not (part(data).exists() and part(data).stat().st_size == N_FIRST):
                time.sleep(0.005)
            filler.write_bytes(bytes(9 << 20))

        site.faults = [Fault(pause_after=N_FIRST, meanwhile=fill)]
        line = refused(capsys, *arguments(site, data))
        assert f"{part(data)}: No space left on device; " in line
        assert "the next call goes on from there" in line
        kept = part(data).read_bytes()
        assert N_FIRST <= len(kept) < len(site.data)
        assert kept == site.data[: len(kept)]
        filler.unlink()
        completes(capsys, site, data)
        assert site.asked == ["", f"bytes={len(kept)}-"]


def test_a_limit_on_file_size_keeps_what_came(capsys, site, data):
    process = child(*arguments(site, data), limit_bytes=N_FIRST)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert (
        err
        == f"error: {part(data)}: File too large; 1.5 MB are kept in {part(data)}, the next call goes on from there\n"
    )
    assert part(data).stat().st_size == N_FIRST
    completes(capsys, site, data)
    assert site.asked == ["", f"bytes={N_FIRST}-"]


def test_a_disk_that_fills_while_unpacking_leaves_no_folder(good, data, tmp_path):
    (tmp_path / "a.tar").write_bytes(good)
    argv = ["--archive", tmp_path / "a.tar", "--md5", md5_of(good), "-o", data]
    process = child(*argv, limit_bytes=N_FIRST)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert err == f"error: {data.parent}: cannot unpack '{TOP}/imagesTs/phantom_99.nii.gz': File too large\n"
    assert left(data) == []


def test_kill_9_while_downloading(capsys, site, data):
    site.faults = [Fault(stall_after=N_FIRST)]
    process = child(*arguments(site, data))
    wait_for(lambda: part(data).exists() and part(data).stat().st_size == N_FIRST, process)
    assert "another process is downloading to it" in refused(capsys, *arguments(site, data))
    process.kill()
    assert process.wait(5) == -signal.SIGKILL
    assert not data.exists()
    completes(capsys, site, data)
    assert site.asked == ["", f"bytes={N_FIRST}-"]


def test_ctrl_c_keeps_what_came(capsys, site, data):
    site.faults = [Fault(stall_after=N_FIRST)]
    process = child(*arguments(site, data))
    wait_for(lambda: part(data).exists() and part(data).stat().st_size == N_FIRST, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert err == f"{part(data)} is kept, the next call goes on from there\ninterrupted\n"
    assert left(data) == [f"{TOP}.tar.part", f"{TOP}.tar.part.json"]
    completes(capsys, site, data)
    assert site.asked == ["", f"bytes={N_FIRST}-"]


def test_kill_9_while_unpacking(capsys, phantoms, data, tmp_path):
    archive, hidden = tmp_path / "a.tar", data.with_name(f".{TOP}.unpacking")
    archive.write_bytes(tar_of(phantoms, bytes(96 << 20)))
    argv = ["--archive", archive, "--md5", md5_of(archive.read_bytes()), "-o", data]
    for _ in range(5):  # a fast disk may be done before the signal comes
        process = child(*argv)
        wait_for((hidden / TOP / "imagesTs" / "phantom_99.nii.gz").exists, process)
        process.kill()
        if process.wait(5) == -signal.SIGKILL:
            break
        shutil.rmtree(data)
    assert not data.exists()
    assert hidden.exists()
    assert call(capsys, *argv)[0] == 0
    assert left(data) == [TOP]
    assert len(find_cases(data)) == 4
