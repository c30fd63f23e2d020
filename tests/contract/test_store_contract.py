"""What every store must do. A new store joins by a line in ``STORES``."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from storage.base import BlobNotFoundError, Store
from storage.local import LocalStore
from storage.s3 import S3Store
from tests.s3_server import new_bucket, options, s3_client


def _local(request: pytest.FixtureRequest) -> Store:
    return LocalStore(request.getfixturevalue("tmp_path") / "store")


def _s3(request: pytest.FixtureRequest) -> Store:
    return request.getfixturevalue("s3_stores")("")


def _s3_with_prefix(request: pytest.FixtureRequest) -> Store:
    return request.getfixturevalue("s3_stores")("house")


STORES: dict[str, Callable[[pytest.FixtureRequest], Store]] = {
    "local": _local,
    "s3": _s3,
    "s3-prefix": _s3_with_prefix,
}


@pytest.fixture(scope="module")
def s3_stores(s3_url: str) -> Callable[[str], Store]:
    """Stores by prefix, each made once (boto3 takes a moment) and emptied again, next to keys of others."""
    client, made = s3_client(s3_url), {}

    def emptied(prefix: str) -> Store:
        if prefix not in made:
            bucket = new_bucket(s3_url)
            made[prefix] = S3Store(options(s3_url, bucket, prefix=prefix))
            for key in (".hidden", "house/.hidden", *(("top", "house-2/jobs/b/0/x.png") if prefix else ())):
                client.put_object(Bucket=bucket, Key=key, Body=b"not ours")
        for key in list(made[prefix].iter_keys()):
            made[prefix].delete(key)
        return made[prefix]

    return emptied


@pytest.fixture(params=sorted(STORES))
def store(request: pytest.FixtureRequest) -> Store:
    return STORES[request.param](request)


@pytest.fixture
def put(store: Store, tmp_path: Path) -> Callable[[str, bytes], Path]:
    def put_bytes(key: str, data: bytes, name: str = "incoming") -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        store.put_file(str(path), key)
        return path

    return put_bytes


def test_a_blob_reads_back_as_it_was_put_and_its_file_has_moved(store, put):
    path = put("job_1/0/abc.png", b"some bytes")
    assert store.read("job_1/0/abc.png") == b"some bytes"
    with store.open("job_1/0/abc.png") as blob:
        blob.seek(5)
        assert blob.read() == b"bytes"
    assert store.exists("job_1/0/abc.png")
    assert not path.exists()


def test_an_existing_key_is_left_as_it_is_and_the_file_is_gone_all_the_same(store, put):
    put("job_1/0/abc.png", b"first")
    path = put("job_1/0/abc.png", b"second")
    assert store.read("job_1/0/abc.png") == b"first"
    assert not path.exists()


def test_an_unknown_key_is_not_found(store, put):
    put("a/b", b"x")
    for key in ("nothing/here", "a", "a/b/c"):
        assert not store.exists(key)
        with pytest.raises(BlobNotFoundError):
            store.read(key)
        with pytest.raises(BlobNotFoundError):
            store.open(key)


def test_delete_takes_one_blob_away_and_may_be_repeated(store, put):
    put("job_1/0/a", b"x")
    put("job_1/0/b", b"y")
    store.delete("job_1/0/a")
    store.delete("job_1/0/a")
    assert not store.exists("job_1/0/a")
    assert store.read("job_1/0/b") == b"y"


def test_a_deleted_key_can_be_put_again(store, put):
    put("job_1/0/a", b"x")
    store.delete("job_1/0/a")
    put("job_1/0/a", b"z")
    assert store.read("job_1/0/a") == b"z"


def test_a_copy_and_its_source_outlive_each_other(store, put):
    put("job_1/0/a.png", b"the image")
    store.copy("job_1/0/a.png", "job_2/0/a.png")
    store.copy("job_1/0/a.png", "job_3/0/a.png")
    store.delete("job_1/0/a.png")
    assert (store.read("job_2/0/a.png"), store.exists("job_1/0/a.png")) == (b"the image", False)
    store.delete("job_2/0/a.png")
    assert store.read("job_3/0/a.png") == b"the image"
    with pytest.raises(BlobNotFoundError):
        store.copy("job_1/0/a.png", "job_4/0/a.png")
    assert list(store.iter_keys()) == ["job_3/0/a.png"]


def test_keys_are_listed_by_prefix_and_by_age(store, put):
    for key in ("job_1/0/a", "job_1/1/b", "job_12/0/c", "top"):
        put(key, b"x")
    assert sorted(store.iter_keys()) == ["job_1/0/a", "job_1/1/b", "job_12/0/c", "top"]
    assert sorted(store.iter_keys("job_1/")) == ["job_1/0/a", "job_1/1/b"]
    assert sorted(store.iter_keys("job_1")) == ["job_1/0/a", "job_1/1/b", "job_12/0/c"]
    assert list(store.iter_keys("nothing/")) == []
    assert list(store.iter_keys("job_1/", older_than_s=3600)) == []


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/etc/passwd",
        "../x",
        "a/../b",
        "a/./b",
        "a//b",
        "a/",
        ".hidden",
        "a/.b",
        "a b",
        "a\\b",
        "a\n",
        "a\0b",
        "ä",
        "x" * 600,
    ],
)
def test_a_key_that_is_not_made_of_our_ids_is_refused_by_every_method(store, put, key):
    with pytest.raises(ValueError, match="not a storage key"):
        put(key, b"x")
    for method in (store.open, store.read, store.exists, store.delete, lambda bad: store.copy("a", bad)):
        with pytest.raises(ValueError, match="not a storage key"):
            method(key)


def test_writers_of_one_key_and_deleters_around_it_do_not_disturb_each_other(store, put):
    def write(number: int) -> None:
        put("job_1/0/same", b"the same", f"incoming-{number}")
        put(f"job_1/0/{number}", b"other", f"other-{number}")
        store.delete(f"job_1/0/{number}")
        put(f"job_2/{number}/x", b"other", f"third-{number}")
        store.delete(f"job_2/{number}/x")

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write, range(40)))
    assert store.read("job_1/0/same") == b"the same"
    assert list(store.iter_keys()) == ["job_1/0/same"]


def test_a_working_store_passes_its_check_and_keeps_nothing_of_it(store):
    store.check()
    assert list(store.iter_keys()) == []


def test_folders_come_in_order_and_in_slices(store, put):
    for name in ("c", "a", "b", "d.x"):
        put(f"jobs/{name}/0/x.png", b"x")
    put("jobs/e", b"a blob and no folder")
    assert store.folders("jobs") == ["a", "b", "c", "d.x"]
    assert store.folders("jobs", limit=2) == ["a", "b"]
    assert store.folders("jobs", after="b", limit=2) == ["c", "d.x"]
    assert store.folders("jobs/a") == ["0"]
    assert store.folders("nothing/here") == store.folders("jobs", after="d.x") == []
    store.delete("jobs/a/0/x.png")
    assert store.folders("jobs", limit=1) == ["b"]


def test_folders_are_found_slice_by_slice_each_once_whatever_their_names(store, put):
    names = ["a", "a-1", "a.b", "a0", "aa", "a_", "A"]
    for name in names:
        put(f"jobs/{name}/0/x.png", b"x")
    found, after = [], ""
    while slice_ := store.folders("jobs", after=after, limit=2):
        found += slice_
        after = slice_[-1]
    assert sorted(found) == sorted(names)
    assert found == store.folders("jobs")


def test_the_keys_of_some_folders_are_listed_and_of_no_others(store, put):
    for name in ("a", "a-1", "b", "b.x", "c", "d"):
        put(f"jobs/{name}/0/x.png", b"x")
        put(f"jobs/{name}/1/y.png", b"y")
    put("jobs/b0", b"a blob and no folder")
    put("inputs/b/0/x.png", b"x")
    wanted = ["a", "b", "c"]
    expected = [f"jobs/{name}/{rest}" for name in wanted for rest in ("0/x.png", "1/y.png")]
    assert sorted(store.iter_folders("jobs", wanted)) == expected
    assert sorted(store.iter_folders("jobs", ["b", "nothing"])) == expected[2:4]
    assert list(store.iter_folders("jobs", [])) == list(store.iter_folders("jobs", wanted, older_than_s=60)) == []


def test_a_blob_is_read_from_any_place_to_its_end_and_no_further(store, put):
    data = bytes(range(256)) * 1024
    put("a/b", data)
    with store.open("a/b") as blob:
        blob.seek(200_000)
        assert blob.read(10) == data[200_000:200_010]
        blob.seek(3)
        assert blob.read(300_000) == data[3:]
        assert blob.read(1) == b""
        blob.seek(-2, 2)
        assert blob.read() == data[-2:]
    put("a/empty", b"")
    assert store.read("a/empty") == store.open("a/empty").read() == b""


def test_folders_are_named_by_our_own_parts_alone(store):
    for parent in ("", "..", "/etc", "jobs/"):
        with pytest.raises(ValueError, match="not a storage key"):
            store.folders(parent)
