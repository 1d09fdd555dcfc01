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
from tf_liver.data.pipeline import data_error, stored_batches
from tf_liver.data.store import SliceStore, images_path
from tf_liver.experiment import replace


@pytest.fixture
def loader(phantoms, tmp_path, tiny):
    """Loads samples of the policy that draws most, with neighbours."""
    prepare(find_cases(phantoms), tmp_path, workers=1)
    augmenter = WarpAugmenter(replace(tiny, augmentation="affine_intensity_elastic", neighbours=1))
    return SliceLoader(SliceStore(tmp_path, find_cases(phantoms)), augmenter)


def children(pid: int) -> set[int]:
    tasks = Path(f"/proc/{pid}/task")
    return {int(c) for task in tasks.iterdir() for c in (task / "children").read_text().split()}


def loading_processes() -> set[int]:
    """Return the children of this process's children: what its fork server has made."""
    return {pid for child in children(os.getpid()) for pid in children(child)}


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


def test_the_processes_end_when_closed(loader, tiny):
    before = loading_processes()
    processes = LoaderProcesses(loader, 2, 8, tiny.image_size)
    processes(epoch_samples(loader.store.index, 0.0, 0, 0)[:8])
    started = loading_processes() - before
    assert len(started) == 2
    processes.close()
    deadline = time.monotonic() + 10
    while loading_processes() & started and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not loading_processes() & started


def test_a_damaged_slice_is_named_through_processes_and_tf_data(loader, tiny, tmp_path):
    path = images_path(tmp_path, "phantom_02")
    values = bytearray(path.read_bytes())
    values[len(values) // 2] ^= 255
    path.write_bytes(values)
    processes = LoaderProcesses(loader, 2, 8, tiny.image_size)
    with pytest.raises(Exception, match=r"phantom_02\.images\.npy: slice \d+ is damaged"):
        list(stored_batches(loader.store, replace(tiny, neighbours=1), 0, 2, load=processes))
    rows = np.array([(2, z, 0) for z in loader.store.index.positives[2]])
    with pytest.raises(DataError, match="is damaged"):
        LoaderProcesses(loader, 1, len(rows), tiny.image_size)(rows)


def test_a_killed_process_is_an_error_and_no_hang(loader, tiny):
    before = loading_processes()
    rows = epoch_samples(loader.store.index, 0.0, 0, 0)[:8]
    processes = LoaderProcesses(loader, 1, 8, tiny.image_size)
    processes(rows)
    (worker,) = loading_processes() - before
    os.kill(worker, signal.SIGKILL)
    for _ in range(20):  # more often than there are slots
        with pytest.raises(MemoryError, match="a loading process was killed"):
            processes(rows)
    with pytest.raises(Exception) as caught:  # noqa: PT011
        list(stored_batches(loader.store, replace(tiny, neighbours=1), 0, 1, load=processes))
    assert str(data_error(caught.value)).startswith("a loading process was killed")
    assert isinstance(data_error(caught.value), MemoryError)
