import gc
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tf_liver.data import DataError
from tf_liver.data.augment import WarpAugmenter
from tf_liver.data.build import prepare
from tf_liver.data.cases import find_cases
from tf_liver.data.index import epoch_samples
from tf_liver.data.loader import LoaderProcesses, SliceLoader
from tf_liver.data.pipeline import stored_batches
from tf_liver.data.store import SliceStore, images_path


@pytest.fixture
def loader(phantoms, tmp_path, tiny):
    prepare(find_cases(phantoms), tmp_path, workers=1)
    return SliceLoader(SliceStore(tmp_path, find_cases(phantoms)), WarpAugmenter(tiny))


def children() -> set[int]:
    """Return the processes that the fork server of this one has made."""
    pids = {int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()}
    found = set()
    for pid in pids:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"forkserver" in command and str(os.getpid()).encode():
            found.add(pid)
    return found


def test_processes_give_what_the_loader_gives_and_keep_what_is_held(loader, tiny):
    """More batches are held than there are slots; none may be overwritten."""
    rows = epoch_samples(loader.store.index, 0.0, 0, 0)
    processes = LoaderProcesses(loader, 2, 8, tiny.image_size)
    held = [(rows[k : k + 8], processes(rows[k : k + 8])) for k in range(0, len(rows), 2)]
    assert len(held) > 12
    for own, (images, masks) in held:
        expected_images, expected_masks = loader(own)
        np.testing.assert_array_equal(images, expected_images)
        np.testing.assert_array_equal(masks, expected_masks)


def test_the_processes_end_with_their_owner(loader, tiny):
    before = children()
    processes = LoaderProcesses(loader, 2, 8, tiny.image_size)
    processes(epoch_samples(loader.store.index, 0.0, 0, 0)[:8])
    started = children() - before
    assert started
    del processes
    gc.collect()
    deadline = time.monotonic() + 10
    while len(children() & started) > 1 and time.monotonic() < deadline:  # the fork server itself stays
        time.sleep(0.05)
    assert len(children() & started) <= 1


def test_a_damaged_slice_is_named_through_processes_and_tf_data(loader, tiny, tmp_path):
    path = images_path(tmp_path, "phantom_02")
    values = bytearray(path.read_bytes())
    values[len(values) // 2] ^= 255
    path.write_bytes(values)
    with pytest.raises(Exception, match=r"phantom_02\.images\.npy: slice \d+ is damaged"):
        list(stored_batches(loader.store, tiny, 0, 2))
    rows = np.array([(2, z, 0) for z in loader.store.index.positives[2]])
    with pytest.raises(DataError, match="is damaged"):
        LoaderProcesses(loader, 1, len(rows), tiny.image_size)(rows)


def test_a_killed_process_is_an_error_and_no_hang(loader, tiny):
    before = children()
    rows = epoch_samples(loader.store.index, 0.0, 0, 0)[:8]
    processes = LoaderProcesses(loader, 2, 8, tiny.image_size)
    processes(rows)
    server = {p for p in children() if b"forkserver" in Path(f"/proc/{p}/cmdline").read_bytes()}
    for pid in server - before:
        if int(Path(f"/proc/{pid}/stat").read_text().split()[3]) != os.getpid():  # a child of the fork server
            os.kill(pid, signal.SIGKILL)
    time.sleep(0.2)
    with pytest.raises(MemoryError, match="a loading process was killed"):
        for _ in range(3):
            processes(rows)
