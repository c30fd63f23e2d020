"""What is special about the store on disk: modes, links, order of writes, full disks."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from storage import local
from storage.base import BlobNotFoundError, StorageUnavailableError
from storage.local import LocalStore


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def _incoming(tmp_path: Path, data: bytes = b"data") -> str:
    path = tmp_path / "incoming"
    path.write_bytes(data)
    path.chmod(0o644)
    return str(path)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_folders_are_0700_and_files_0600(store, tmp_path):
    store.put_file(_incoming(tmp_path), "job/0/x.png")
    folders = [store.root, store.staging, store.root / "job", store.root / "job/0"]
    assert {_mode(folder) for folder in folders} == {0o700}
    assert _mode(store.root / "job/0/x.png") == 0o600


def test_a_folder_that_was_there_keeps_its_mode(tmp_path):
    root = tmp_path / "shared"
    root.mkdir(mode=0o755)
    LocalStore(root)
    assert _mode(root) == 0o755


def test_the_file_is_synced_before_it_is_renamed_and_the_folder_after(store, tmp_path, monkeypatch):
    calls: list[str] = []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(descriptor: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        real_fsync(descriptor)

    def rename(*args, **kwargs) -> None:
        calls.append("rename")
        real_rename(*args, **kwargs)

    (store.root / "job").mkdir()
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    store.put_file(_incoming(tmp_path), "job/x.png")
    assert calls == ["file", "rename", "folder"]


def test_a_new_folder_is_made_durable_in_its_parent(store, tmp_path, monkeypatch):
    synced: list[int] = []
    real_fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.fstat(fd).st_ino), real_fsync(fd)))
    store.put_file(_incoming(tmp_path), "job/0/x.png")
    for folder in (store.root, store.root / "job", store.root / "job/0"):
        assert folder.stat().st_ino in synced


def test_a_link_in_place_of_a_blob_is_not_followed(store, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    (store.root / "x.png").symlink_to(secret)
    assert not store.exists("x.png")
    with pytest.raises(BlobNotFoundError):
        store.read("x.png")


def test_a_link_in_place_of_a_folder_leads_nowhere(store, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x.png").write_bytes(b"secret")
    (store.root / "job").symlink_to(outside)
    with pytest.raises(BlobNotFoundError):
        store.read("job/x.png")
    with pytest.raises(StorageUnavailableError):
        store.put_file(_incoming(tmp_path), "job/y.png")
    store.delete("job/x.png")
    assert [path.name for path in outside.iterdir()] == ["x.png"]
    assert list(store.iter_keys()) == list(store.iter_keys("job/")) == []


def test_a_pipe_in_place_of_a_blob_does_not_block(store):
    os.mkfifo(store.root / "x.png")
    with pytest.raises(BlobNotFoundError):
        store.open("x.png")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_failing_disk_is_said_and_leaves_no_file(store, tmp_path, monkeypatch, call, number):
    def fail(*_args, **_kwargs):
        raise OSError(number, os.strerror(number), "/a/private/path")

    path = _incoming(tmp_path)
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(StorageUnavailableError) as failure:
        store.put_file(path, "job/x.png")
    assert errno.errorcode[number] in str(failure.value)
    assert "private" not in str(failure.value)
    assert not Path(path).exists()
    assert not store.exists("job/x.png")
    assert list(store.staging.iterdir()) == []


def test_a_full_disk_fails_the_check(store, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(local.tempfile, "mkstemp", full)
    with pytest.raises(StorageUnavailableError, match="ENOSPC"):
        store.check()


def test_a_removed_folder_fails_the_check(store):
    store.staging.rmdir()
    with pytest.raises(StorageUnavailableError, match="ENOENT"):
        store.check()


def test_a_file_on_another_disk_is_copied_in(store, monkeypatch, tmp_path):
    monkeypatch.setattr(local, "_device", lambda path: hash(str(path)))
    store.put_file(_incoming(tmp_path), "job/x.png")
    assert store.read("job/x.png") == b"data"
    assert list(store.staging.iterdir()) == []
    assert not (tmp_path / "incoming").exists()


@pytest.mark.parametrize("refused", ["", "link", "utime"])
def test_a_copy_is_young_and_a_file_of_its_own_where_the_disk_has_no_links(store, tmp_path, monkeypatch, refused):
    store.put_file(_incoming(tmp_path), "a/0/x.png")
    os.utime(store.root / "a/0/x.png", (0, 0))

    def fails(*_args, **_options):
        raise PermissionError(errno.EPERM, "not here")

    if refused:
        monkeypatch.setattr(os, refused, fails)
    store.copy("a/0/x.png", "b/0/x.png")
    assert store.read("b/0/x.png") == b"data"
    copied = store.root / "b/0/x.png"
    assert (copied.stat().st_nlink, _mode(copied)) == (1 if refused else 2, 0o600)
    assert list(store.iter_keys("b/", older_than_s=3600.0)) == []  # it is no orphan while its row is written
    assert list(store.staging.iterdir()) == []


def test_folders_left_empty_go_with_the_last_blob(store, tmp_path):
    for name in ("a", "b"):
        store.put_file(_incoming(tmp_path), f"job/0/{name}")
    store.delete("job/0/a")
    assert (store.root / "job/0").is_dir()
    store.delete("job/0/b")
    assert [path.name for path in store.root.iterdir()] == [".staging"]


def test_the_sweep_takes_old_staging_files_and_leaves_young_ones(store):
    old, young = store.staging / "old", store.staging / "young"
    old.write_bytes(b"x")
    young.write_bytes(b"x")
    os.utime(old, (0, 0))
    assert local.sweep_folder(store.staging) == 1
    assert [path.name for path in store.staging.iterdir()] == ["young"]


def test_staging_is_no_key_and_is_not_listed(store):
    (store.staging / "half").write_bytes(b"x")
    assert list(store.iter_keys()) == []
    with pytest.raises(ValueError, match="not a storage key"):
        store.read(".staging/half")
