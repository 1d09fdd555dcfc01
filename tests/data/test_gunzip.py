"""The gzip stream beside Python's own, in pieces of any size, whole and damaged."""

import gzip
import io
import random
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isal import igzip_lib

from tf_liver.data.gunzip import CHUNK_BYTES, GunzipReader

DAMAGED = (EOFError, igzip_lib.IsalError)
# Repeated to be large: a member over several chunks, a slice that compresses to next to nothing.
MEMBERS = st.lists(st.tuples(st.binary(max_size=300), st.sampled_from([1, 7, 5000])), min_size=1, max_size=4)
PIECES = st.lists(st.tuples(st.booleans(), st.sampled_from([1, 3, 512, 65536, 1 << 20])), min_size=1, max_size=5)


def pieces_of(stream, pieces):
    """Read a stream to its end, by `read` or `readinto`, in pieces of these sizes, over and over."""
    at = 0
    while True:
        into, size = pieces[at % len(pieces)]
        buffer = bytearray(size)
        data = bytes(buffer[: stream.readinto(buffer)]) if into else stream.read(size)
        yield data, size
        if len(data) < size:
            return
        at += 1


@given(members=MEMBERS, pieces=PIECES, padding=st.integers(0, 9), level=st.integers(0, 9), junk=st.booleans())
@settings(deadline=None)
def test_any_pieces_of_any_members_are_the_data(members, pieces, padding, level, junk):
    data = b"".join(part * times for part, times in members)
    packed = b"".join(gzip.compress(part * times, level) + bytes(padding) for part, times in members)
    stream = GunzipReader(io.BytesIO(packed + b"junk" * junk))
    if len(data) > 10_000:
        pieces = [*pieces, (False, 65536)]
    read = [piece for piece, _ in pieces_of(stream, pieces)]
    assert b"".join(read) == data
    assert bool(stream.garbage) == junk
    assert stream.read(1) == b""


@given(data=st.binary(min_size=1, max_size=3000), level=st.integers(0, 9), where=st.floats(0, 1, exclude_max=True))
@settings(deadline=None)
def test_what_pythons_gzip_refuses_is_refused(data, level, where):
    packed = gzip.compress(data * 3, level)
    at = int(where * len(packed))
    with pytest.raises(DAMAGED):
        GunzipReader(io.BytesIO(packed[:at] or packed[:1])).read()
    flipped = bytearray(packed)
    flipped[max(at, 10)] ^= 16  # behind the fixed header, where each bit counts
    try:
        gzip.decompress(flipped)
    except (OSError, EOFError, zlib.error):
        with pytest.raises(DAMAGED):
            GunzipReader(io.BytesIO(flipped)).read()
    else:
        assert GunzipReader(io.BytesIO(flipped)).read() == data * 3


def test_a_member_larger_than_what_is_read_at_once():
    data = random.Random(0).randbytes(3 * CHUNK_BYTES + 5)
    stream = GunzipReader(io.BytesIO(gzip.compress(data, 1)))
    assert stream.read(len(data) - 2) == data[:-2]
    assert stream.read() == data[-2:]
