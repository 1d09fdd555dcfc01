"""Files that appear whole or not at all, on mounts that cannot do all they are asked."""

import errno
import os
import stat

import pytest

from tf_liver import files


def failing_on_folders(monkeypatch, code):
    honest = os.fsync

    def fsync(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(code, os.strerror(code))
        honest(handle)

    monkeypatch.setattr(os, "fsync", fsync)


def test_a_mount_that_cannot_sync_folders_is_borne_with(tmp_path, monkeypatch):
    failing_on_folders(monkeypatch, errno.EINVAL)
    files.write_atomic(tmp_path / "a", "text")
    assert os.listdir(tmp_path) == ["a"]


def test_a_folder_that_fails_to_sync_is_named(tmp_path, monkeypatch):
    failing_on_folders(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="Input/output error") as caught:
        files.write_atomic(tmp_path / "a", "text")
    assert caught.value.errno == errno.EIO


def test_the_umask_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the umask was set"))
    files.write_atomic(tmp_path / "a", "text")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~files._UMASK
