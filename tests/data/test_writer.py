"""Arrays written slice by slice, past the page cache or not, are plain .npy files."""

import errno
import resource
import signal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tf_liver.data.writer import BLOCK_BYTES, SliceWriter


def write(path, array, order):
    path.touch()
    with SliceWriter(path, array.shape[1:]) as out:
        for z in order:
            assert np.array_equal(out.write(z, array[z]), array[z])


@given(
    order=st.permutations(range(5)),
    plane=st.sampled_from([(64, 32), (64, 64), (7, 9), (1, 1), (250, 250)]),
    dtype=st.sampled_from([np.int16, np.uint8, np.float32]),
)
def test_slices_in_any_order_are_the_array(tmp_path_factory, order, plane, dtype):
    array = np.random.default_rng(0).integers(0, 200, (5, *plane)).astype(dtype)
    path = tmp_path_factory.mktemp("writer") / "array.npy"
    write(path, array, order)
    read = np.load(path, mmap_mode="r", allow_pickle=False)
    assert read.dtype == array.dtype
    assert np.array_equal(read, array)


def test_an_array_without_slices_is_empty(tmp_path):
    (tmp_path / "none.npy").touch()
    with SliceWriter(tmp_path / "none.npy", (8, 8)):
        pass
    assert np.load(tmp_path / "none.npy").shape == (0, 8, 8)


@pytest.mark.parametrize("limit", [2 * BLOCK_BYTES, 2 * BLOCK_BYTES + 100])  # whole blocks fit, or a part of one
def test_a_limit_of_the_file_size_is_named(tmp_path, limit):
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write(tmp_path / "a.npy", np.ones((4, 64, 32), np.int16), range(4))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.errno == errno.EFBIG
