"""Rows 45 to 51 of the fault list: what disks and people do to prepared slices."""

import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tf_liver import prepare as command
from tf_liver.data import DataError, build
from tf_liver.data.build import default_folder, prepare
from tf_liver.data.cases import find_cases
from tf_liver.data.nifti import read_label, read_volume
from tf_liver.data.store import MANIFEST, SliceStore, images_path, record_path


@pytest.fixture
def data(phantoms, tmp_path):
    """Scans of one's own to change."""
    return shutil.copytree(phantoms, tmp_path / "data")


@pytest.fixture
def built(data, tmp_path):
    """A finished store of them."""
    folder = tmp_path / "store"
    assert len(prepare(find_cases(data), folder, workers=1)) == 4
    return folder


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix in (".npy", ".json")}


def records(folder):
    return [p for p in folder.glob("phantom_*.json")]


def whole(folder, data):
    """Read every slice of the store and compare it with the scans; True if all are equal."""
    cases = find_cases(data)
    store = SliceStore(folder, cases)
    for number, case in enumerate(cases):
        image, label = read_volume(case.image).slices, read_label(case.label).slices
        for z in range(len(image)):
            stored_image, stored_label = store.read(number, z)
            np.testing.assert_array_equal(stored_image, image[z : z + 1])
            np.testing.assert_array_equal(stored_label, label[z])
            assert stored_image.dtype == np.int16
    return True


def child(data, root, *argv, **kwargs):
    """Start a real `prepare` on the data."""
    code = "import sys; from tf_liver.prepare import main; sys.exit(main(sys.argv[1:]))"
    argv = [sys.executable, "-u", "-c", code, str(data), "--prepared", str(root), "--workers", "1", *argv]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)


def test_a_store_holds_the_exact_slices_and_is_left_alone_when_current(built, data):
    assert whole(built, data)
    before = contents(built)
    assert prepare(find_cases(data), built, workers=1) == []
    assert prepare(find_cases(data), built, workers=1, full=True) == []
    assert contents(built) == before


def test_several_processes_build_the_same_files(built, data, tmp_path):
    again = tmp_path / "again"
    assert len(prepare(find_cases(data), again, workers=2)) == 4
    assert contents(again) == contents(built)


def test_the_arrays_can_be_memory_mapped(built):
    array = np.load(images_path(built, "phantom_00"), mmap_mode="r", allow_pickle=False)
    assert isinstance(array, np.memmap)
    assert array.flags.c_contiguous


def test_row_45_disk_full(data, tmp_path):
    """A file-size limit in a child is a disk that fills up in the middle of a file: OSError EFBIG instead of ENOSPC."""
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))  # noqa: E731
    process = child(data, tmp_path / "root", preexec_fn=limit)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert len(err.strip().splitlines()) == 1
    assert "File too large" in err
    folder = default_folder(data, tmp_path / "root")
    assert not list(folder.glob("*.json"))
    assert not list(folder.glob(".*.npy"))
    assert len(prepare(find_cases(data), folder, workers=1)) == 4
    assert whole(folder, data)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_row_45_a_really_full_disk(data, tmp_path, monkeypatch):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        process = child(data, disk)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 2
        assert "need up to" in err.splitlines()[-1]
        (default_folder(data, disk) / ".lock").unlink()
        # Somebody else fills the disk after the estimate.
        monkeypatch.setattr(build, "_announce", lambda *_: None)
        prepare_one = find_cases(data)[:1]
        size = 2 * read_volume(prepare_one[0].image).voxels.size
        subprocess.run(["mount", "-o", f"remount,size={size + 20_000}", disk], check=True)
        with pytest.raises(OSError, match=r"No space left on device: .*phantom_00"):
            prepare(prepare_one, disk / "one", workers=1)
        assert not list((disk / "one").glob("*.json"))
        assert not list((disk / "one").glob(".*.npy"))
    finally:
        subprocess.run(["umount", disk], check=True)


def test_row_46_kill_9_in_the_middle(data, tmp_path):
    """Killed at several moments of building; each time the next call finishes the work and all slices are right."""
    finished_early = 0
    for moment in (1, 2, 3):
        root = tmp_path / str(moment)
        folder = default_folder(data, root)
        process = child(data, root)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            if folder.exists() and len(list(folder.glob("*.npy"))) >= 2 * moment - 1:
                break
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        early = process.wait() != -signal.SIGKILL
        process.communicate()
        assert early == (folder / MANIFEST).exists()
        finished_early += early
        prepare(find_cases(data), folder, workers=1)
        assert (folder / MANIFEST).exists()
        assert not list(folder.glob(".*.npy"))
        assert whole(folder, data)
    assert finished_early < 3


def change_source(data):
    case = find_cases(data)[1]
    shutil.copy(find_cases(data)[0].image, case.image)
    shutil.copy(find_cases(data)[0].label, case.label)


def test_row_47_a_changed_source_is_noticed(built, data):
    change_source(data)
    assert prepare(find_cases(data), built, workers=1) == ["phantom_01"]
    assert whole(built, data)


def test_row_47_a_store_that_is_built_anew_while_it_is_read_is_noticed(built, data):
    """Read slices again, and slices of a file that was not open yet: neither come from the other scan."""
    old, later = SliceStore(built, find_cases(data)), SliceStore(built, find_cases(data))
    first = int(old.index.positives[1][0])
    old.read(1, first)
    change_source(data)
    assert prepare(find_cases(data), built, workers=1) == ["phantom_01"]
    for store in (old, later):
        with pytest.raises(DataError, match=r"phantom_01\.images\.npy: was built anew, of other scans"):
            store.read(1, first)
    assert prepare(find_cases(data), built, workers=1) == []


def test_row_47_check_looks_at_the_scans_themselves(built, data):
    """Another scan of the same size and time."""
    path = find_cases(data)[1].image
    times = path.stat()
    values = bytearray(path.read_bytes())
    values[4] ^= 1  # gzip's time of its file: the voxels stay
    path.write_bytes(values)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert prepare(find_cases(data), built, workers=1) == []
    assert prepare(find_cases(data), built, workers=1, full=True) == ["phantom_01"]


def test_row_47_a_source_that_was_only_touched_is_not_built_again(built, data):
    os.utime(find_cases(data)[1].image)
    before = record_path(built, "phantom_01").read_text()
    assert prepare(find_cases(data), built, workers=1) == []
    after = record_path(built, "phantom_01").read_text()
    assert after != before  # the new time is noted, so that the file is not hashed again
    assert prepare(find_cases(data), built, workers=1) == []
    assert record_path(built, "phantom_01").read_text() == after


def test_row_47_another_format_is_built_again(built, data):
    path = record_path(built, "phantom_02")
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 0}))
    assert prepare(find_cases(data), built, workers=1) == ["phantom_02"]


@pytest.mark.parametrize("change", [{"positives": [1, 2, 3]}, {"shape": [1]}, {"seal": "0"}, {"sources": 3}])
def test_row_48_a_changed_record_is_noticed_and_built_again(built, data, change):
    path = record_path(built, "phantom_01")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert prepare(find_cases(data), built, workers=1) == ["phantom_01"]
    assert whole(built, data)


@pytest.mark.parametrize("kind", ["images", "labels"])
def test_row_48_one_flipped_byte_is_detected_and_mended(built, data, kind, capsys):
    path = built / f"phantom_03.{kind}.npy"
    values = bytearray(path.read_bytes())
    values[-1000] ^= 1
    path.write_bytes(values)
    store = SliceStore(built, find_cases(data))
    last = store.index.depths[3] - 1
    if kind == "labels":  # they lie in the order of the record
        last = json.loads(record_path(built, "phantom_03").read_text())["positives"][-1]
    with pytest.raises(DataError, match=rf"phantom_03\.{kind}\.npy: slice \d+ is damaged"):
        store.read(3, last)
    # The next call finds it without being told to look: the reader has taken the manifest away.
    assert prepare(find_cases(data), built, workers=1) == ["phantom_03"]
    assert whole(built, data)


@pytest.mark.parametrize("kind", ["images", "labels"])
def test_row_48_a_flipped_bit_in_the_array_header_is_detected(built, data, kind):
    """Big-endian values of the same bytes have the same CRC."""
    path = built / f"phantom_03.{kind}.npy"
    values = path.read_bytes()
    path.write_bytes(
        values.replace(b"'<i2'", b"'>i2'", 1) if kind == "images" else values.replace(b"'|u1'", b"'|i1'", 1)
    )
    assert path.read_bytes() != values
    store = SliceStore(built, find_cases(data))
    with pytest.raises(DataError, match=rf"phantom_03\.{kind}\.npy: must begin with the .npy header of"):
        store.read(3, int(store.index.positives[3][0]))
    assert prepare(find_cases(data), built, workers=1) == ["phantom_03"]


def test_row_48_check_finds_a_flipped_byte_that_nobody_has_read(built, data, capsys):
    path = images_path(built, "phantom_03")
    values = bytearray(path.read_bytes())
    values[-1000] ^= 1
    path.write_bytes(values)
    assert prepare(find_cases(data), built, workers=1) == []
    assert prepare(find_cases(data), built, workers=2, full=True) == ["phantom_03"]
    assert whole(built, data)


def test_row_48_a_file_that_shrank_is_detected_even_when_it_is_open(built, data):
    store = SliceStore(built, find_cases(data))
    store.read(0, 0)
    with open(images_path(built, "phantom_00"), "r+b") as file:
        file.truncate(5000)
    with pytest.raises(DataError, match="is damaged"):
        store.read(0, store.index.depths[0] - 1)
    assert prepare(find_cases(data), built, workers=1) == ["phantom_00"]


def test_row_49_objects_are_refused(built, data):
    np.save(images_path(built, "phantom_00"), np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(DataError, match=r"phantom_00\.images\.npy: must begin with the \.npy header"):
        SliceStore(built, find_cases(data)).read(0, 0)
    assert prepare(find_cases(data), built, workers=1) == ["phantom_00"]


def test_row_50_two_builders_at_once(data, tmp_path):
    both = [child(data, tmp_path / "root") for _ in range(2)]
    outs = [p.communicate(timeout=120) for p in both]
    assert [p.returncode for p in both] == [0, 0], outs
    built = sorted(int(out.split(" of them prepared now")[0].split()[-1]) for out, _ in outs)
    assert built == [0, 4]
    assert whole(default_folder(data, tmp_path / "root"), data)


def test_row_50_the_second_builder_waits_for_the_lock_and_says_so(data, tmp_path):
    folder = default_folder(data, tmp_path / "root")
    folder.mkdir(parents=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = child(data, tmp_path / "root")
        assert "another process is preparing it; waiting" in process.stdout.readline()
        time.sleep(0.3)
        assert process.poll() is None
        assert not list(folder.glob("*.npy"))
    out, _ = process.communicate(timeout=60)
    assert "4 of them prepared now" in out


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting read-only needs root")
def test_row_51_a_finished_store_on_a_read_only_disk_is_used(built, data, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    (built / ".lock").unlink()
    if subprocess.run(["mount", "--bind", built, disk], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", disk], check=True)
        assert prepare(find_cases(data), disk, workers=1) == []
        assert whole(disk, data)
        spoilt = bytearray(images_path(built, "phantom_03").read_bytes())
        spoilt[-1000] ^= 1
        images_path(built, "phantom_03").write_bytes(spoilt)
        store = SliceStore(disk, find_cases(data))
        with pytest.raises(DataError, match=r"is damaged .*, and cannot be mended \(Read-only file system\)"):
            store.read(3, store.index.depths[3] - 1)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_row_46_workers_end_when_their_parent_is_killed(data, tmp_path):
    """Many cases and two processes: none may go on building, and renaming files, after the parent is gone."""
    for kind in ("imagesTr", "labelsTr"):
        for n in range(4, 40):
            shutil.copy(data / kind / "phantom_00.nii.gz", data / kind / f"phantom_{n:02}.nii.gz")
    (data / "dataset.json").unlink()
    process = child(data, tmp_path / "root", "--workers", "2")
    folder = default_folder(data, tmp_path / "root")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(records(folder)) < 2:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(1.0)
    finished = len(records(folder))
    time.sleep(1.0)
    assert len(records(folder)) == finished < 40
    assert not (folder / MANIFEST).exists()
    assert len(prepare(find_cases(data), folder, workers=2)) == 40 - finished
    assert whole(folder, data)


def test_row_51_a_folder_that_cannot_be_written(data, tmp_path, capsys):
    """A file where the folder should be; root may write anywhere, so permissions alone would not tell."""
    (tmp_path / "root").write_text("")
    assert command.main([str(data), "--prepared", str(tmp_path / "root")]) == 2
    err = capsys.readouterr().err
    assert len(err.strip().splitlines()) == 1
    assert str(tmp_path / "root") in err


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting read-only needs root")
def test_row_51_a_read_only_disk(data, tmp_path, capsys):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        assert command.main([str(data), "--prepared", str(disk)]) == 2
        assert "Read-only file system" in capsys.readouterr().err
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_case_that_is_not_prepared_is_named(built, data):
    record_path(built, "phantom_01").unlink()
    with pytest.raises(DataError, match="case phantom_01 is not prepared"):
        SliceStore(built, find_cases(data))


def test_a_broken_scan_leaves_the_good_cases_and_no_manifest(data, tmp_path):
    broken = find_cases(data)[2].image
    broken.write_bytes(broken.read_bytes()[:-100])
    folder = tmp_path / "store"
    with pytest.raises(DataError, match=r"phantom_02\.nii\.gz: damaged"):
        prepare(find_cases(data), folder, workers=1)
    assert not (folder / MANIFEST).exists()
    assert record_path(folder, "phantom_01").exists()
    assert not record_path(folder, "phantom_02").exists()
