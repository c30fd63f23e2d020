"""The store on S3 beyond the contract: what goes over the wire, and what becomes of faults."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from core.embedded.ports import free_ports
from core.settings import Settings, SettingsError
from storage.base import StorageUnavailableError
from storage.local import LocalStore
from storage.opening import open_store
from storage.s3 import LINK_LIFE_S, S3Store
from tests.s3_server import ACCESS_KEY_ID, SECRET_KEY, Front, new_bucket, options, running_front, s3_client

KEY = "jobs/job_1/0/abc.png"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def front_process(s3_url: str) -> Iterator[Front]:
    with running_front(s3_url) as front:
        yield front


@pytest.fixture
def front(front_process: Front) -> Front:
    """The way to the server, well and with nothing seen."""
    front_process.heal()
    front_process.seen.clear()
    return front_process


@pytest.fixture(scope="module")
def bucket(s3_url: str) -> str:
    return new_bucket(s3_url)


@pytest.fixture(scope="module")
def shared_store(front_process: Front, bucket: str) -> S3Store:
    return S3Store(options(front_process.url, bucket, prefix="house", sse="AES256"))


@pytest.fixture
def store(shared_store: S3Store) -> Iterator[S3Store]:
    yield shared_store
    for key in list(shared_store.iter_keys()):
        shared_store.delete(key)


@pytest.fixture
def put(store: S3Store, tmp_path: Path) -> Callable[..., Path]:
    def put_bytes(data: bytes = b"picture", key: str = KEY) -> Path:
        path = tmp_path / "incoming"
        path.write_bytes(data)
        store.put_file(str(path), key)
        return path

    return put_bytes


# ---------------------------------------------------------------- over the wire


def test_a_put_names_its_hash_and_asks_for_encryption_below_the_prefix(front: Front, put, bucket: str) -> None:
    put(b"picture")
    sent = next(each for each in front.seen if each.method == "PUT")
    assert (sent.path, sent.body) == (f"/{bucket}/house/{KEY}", b"picture")
    headers = {name.lower(): value for name, value in sent.headers.items()}
    assert headers["x-amz-content-sha256"] == hashlib.sha256(b"picture").hexdigest()
    assert headers["x-amz-server-side-encryption"] == "AES256"
    # Trailing checksums are what endpoints that are not Amazon's stumble over.
    assert not {"x-amz-trailer", "transfer-encoding"} & set(headers)


def test_the_bucket_says_that_it_is_encrypted(put, s3_url: str, bucket: str) -> None:
    put()
    about = s3_client(s3_url).head_object(Bucket=bucket, Key=f"house/{KEY}")
    assert about["ServerSideEncryption"] == "AES256"


def test_a_kms_key_goes_along(front: Front, bucket: str, tmp_path: Path) -> None:
    store = S3Store(options(front.url, bucket, sse="aws:kms", sse_kms_key_id="key-1"))
    (tmp_path / "x").write_bytes(b"x")
    store.put_file(str(tmp_path / "x"), "kms/x")
    headers = {name.lower(): value for name, value in front.seen[-1].headers.items()}
    assert headers["x-amz-server-side-encryption"] == "aws:kms"
    assert headers["x-amz-server-side-encryption-aws-kms-key-id"] == "key-1"
    store.delete("kms/x")


def test_a_whole_image_is_one_look_and_one_get(front: Front, store: S3Store, put) -> None:
    put(bytes(200_000))
    front.seen.clear()
    with store.open(KEY) as blob:
        blob.seek(0)
        while blob.read(64 * 1024):
            pass
    assert front.methods() == ["HEAD", "GET"]


def test_a_range_is_all_that_is_asked_for(front: Front, store: S3Store, put) -> None:
    put(bytes(200_000))
    front.seen.clear()
    with store.open(KEY) as blob:
        blob.seek(199_000)
        assert len(blob.read(500)) == 500
    assert [each.headers.get("Range") for each in front.seen] == [None, "bytes=199000-"]


def test_looking_at_an_image_without_reading_it_fetches_nothing(front: Front, store: S3Store, put) -> None:
    put()
    front.seen.clear()
    store.open(KEY).close()
    assert front.methods() == ["HEAD"]


def test_an_image_that_is_there_is_not_sent_again(front: Front, put) -> None:
    put()
    put()
    assert front.methods().count("PUT") == 1


def test_readiness_writes_now_and_then_and_asks_for_the_bucket_in_between(front: Front, bucket: str) -> None:
    store = S3Store(options(front.url, bucket))
    for _ in range(3):
        store.check()
    assert front.methods() == ["PUT", "DELETE", "HEAD", "HEAD"]


def test_a_thousand_folders_are_one_listing(front: Front, store: S3Store, put) -> None:
    for number in range(5):
        put(key=f"jobs/job_{number}/0/x.png")
    front.seen.clear()
    assert len(list(store.iter_folders("jobs", [f"job_{number}" for number in range(1000)]))) == 5
    assert front.methods() == ["GET"]


@pytest.mark.parametrize(
    ("given", "begins"),
    [
        ({"endpoint_url": "http://s3.lan:9000"}, "http://s3.lan:9000/pictures/a/b?"),
        ({"endpoint_url": "http://s3.lan:9000", "path_style": False}, "http://pictures.s3.lan:9000/a/b?"),
        ({"endpoint_url": None}, "https://pictures.s3.amazonaws.com/a/b?"),
        ({"endpoint_url": None, "path_style": True}, "https://s3.amazonaws.com/pictures/a/b?"),
        ({"endpoint_url": None, "region": "eu-west-1"}, "https://pictures.s3.eu-west-1.amazonaws.com/a/b?"),
    ],
)
def test_where_the_bucket_stands_in_an_address(given: dict[str, object], begins: str) -> None:
    store = S3Store(options("unused", "pictures", gives_links=True, **given))
    link = store.link("a/b", content_type="image/png", disposition="inline")
    assert link is not None
    assert link.startswith(begins)


# ---------------------------------------------------------------- links


def test_a_link_opens_the_image_as_what_it_is_and_for_minutes(s3_url: str, bucket: str, put) -> None:
    put(b"picture")
    store = S3Store(options(s3_url, bucket, prefix="house", gives_links=True))
    disposition = 'attachment; filename="job_1-0.png"'
    link = store.link(KEY, content_type="image/png", disposition=disposition)
    assert link is not None
    answer = requests.get(link, timeout=10)
    assert (answer.content, answer.headers["Content-Type"]) == (b"picture", "image/png")
    assert answer.headers["Content-Disposition"] == disposition
    asked = parse_qs(urlsplit(link).query)
    assert (asked["X-Amz-Expires"], LINK_LIFE_S) == ([str(LINK_LIFE_S)], 300)
    assert asked["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
    assert SECRET_KEY not in link
    with pytest.raises(ValueError, match="not a storage key"):
        store.link("../x", content_type="image/png", disposition="inline")


def test_there_are_no_links_unless_the_operator_wants_them(store: S3Store) -> None:
    assert store.link(KEY, content_type="image/png", disposition="inline") is None


# ---------------------------------------------------------------- faults


def troubles(store: S3Store, path: Path) -> dict[str, str]:
    """What every method says when it fails as a store may; side by side, for each is patient."""
    path.write_bytes(b"picture")
    calls: dict[str, Callable[[], object]] = {
        "put_file": lambda: store.put_file(str(path), KEY),
        "open": lambda: store.open(KEY),
        "read": lambda: store.read(KEY),
        "exists": lambda: store.exists(KEY),
        "delete": lambda: store.delete(KEY),
        "iter_keys": lambda: list(store.iter_keys()),
        "folders": lambda: store.folders("jobs"),
        "check": store.check,
    }

    def trouble(name: str) -> str:
        with pytest.raises(StorageUnavailableError) as failure:
            calls[name]()
        return str(failure.value)

    with ThreadPoolExecutor(len(calls)) as threads:
        return dict(zip(calls, threads.map(trouble, calls), strict=True))


def test_a_lost_bucket_is_trouble_and_no_lost_image(s3_url: str, tmp_path: Path) -> None:
    told = troubles(S3Store(options(s3_url, "no-such-bucket")), tmp_path / "x")
    assert {text.rpartition(" ")[2] for text in told.values()} == {"NoSuchBucket", "404"}
    assert not (tmp_path / "x").exists()


def test_a_server_that_is_away_is_trouble_and_not_named(tmp_path: Path) -> None:
    [port] = free_ports(1)
    told = troubles(S3Store(options(f"http://127.0.0.1:{port}", "pictures")), tmp_path / "x")
    assert {text.rpartition(": ")[2] for text in told.values()} == {"EndpointConnectionError"}
    assert not any(secret in str(told) for secret in (str(port), "pictures", KEY, SECRET_KEY, ACCESS_KEY_ID))


@pytest.mark.parametrize(("status", "code"), [(403, "AccessDenied"), (500, "InternalError"), (503, "SlowDown")])
def test_a_refused_put_is_said_without_secrets_and_leaves_no_file(
    front: Front, put, tmp_path: Path, status: int, code: str
) -> None:
    front.fail(status, code, method="PUT", times=9)
    with pytest.raises(StorageUnavailableError, match=f"^cannot write: {code}$"):
        put()
    assert not (tmp_path / "incoming").exists()


def test_what_a_server_calls_its_fault_is_not_repeated_blindly(front: Front, put) -> None:
    front.fail(400, "<b>see http://evil.example</b>", method="PUT", times=9)
    with pytest.raises(StorageUnavailableError) as trouble:
        put()
    assert "evil" not in str(trouble.value)


@pytest.mark.parametrize("status", [500, 503])
def test_one_fault_is_tried_again_before_a_caller_hears_of_it(front: Front, store: S3Store, put, status: int) -> None:
    front.fail(status, "SlowDown", method="PUT", times=1)
    put(b"picture")
    assert store.read(KEY) == b"picture"


def test_a_put_whose_answer_was_lost_ends_well(front: Front, store: S3Store, put) -> None:
    front.cut(method="PUT", times=1)
    put(b"picture")
    assert store.read(KEY) == b"picture"
    assert front.methods().count("PUT") == 2


def test_an_image_that_breaks_off_is_trouble_and_no_short_image(front: Front, store: S3Store, put) -> None:
    put(bytes(100_000))
    front.break_off(method="GET", times=2)
    with store.open(KEY) as blob, pytest.raises(StorageUnavailableError):
        blob.read()
    with pytest.raises(StorageUnavailableError):
        store.read(KEY)


def test_a_bucket_that_may_be_read_but_not_written_is_not_ready(front: Front, bucket: str) -> None:
    store = S3Store(options(front.url, bucket))
    front.fail(403, "AccessDenied", method="PUT", times=1)
    with pytest.raises(StorageUnavailableError, match="cannot write: AccessDenied"):
        store.check()
    store.check()


def test_secrets_are_not_in_a_repr(store: S3Store) -> None:
    assert SECRET_KEY not in repr(options("http://h", "b")) + repr(store) + repr(vars(store))


# ---------------------------------------------------------------- with others in one thread

UNDER_GEVENT = """
from gevent import monkey
monkey.patch_all()
import gevent
from gevent.event import Event
from gevent.pywsgi import WSGIServer
from tests.s3_server import options
from storage.s3 import S3Store

may_answer = Event()

def slow(environ, start_response):
    may_answer.wait()
    start_response("200 OK", [("Content-Length", "7")])
    return [b"picture"]

server = WSGIServer(("127.0.0.1", 0), slow, log=None)
server.start()
store = S3Store(options(f"http://127.0.0.1:{server.server_port}", "bucket"))
readers = [gevent.spawn(store.read, "a/b") for _ in range(20)]
gevent.sleep(0)
may_answer.set()  # reached only if nothing above holds the thread
print([reader.get(timeout=20) for reader in readers] == [b"picture"] * 20)
"""


def test_waiting_for_s3_holds_up_no_other_greenlet() -> None:
    command = [sys.executable, "-c", UNDER_GEVENT]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "True", done.stderr


# ---------------------------------------------------------------- from the settings


def settings(tmp_path: Path, **variables: str) -> Settings:
    return Settings(_env_file=None, DARKROOM_VAR=tmp_path, **variables)  # type: ignore[call-arg]


def test_images_lie_in_the_folder_unless_s3_is_asked_for(tmp_path: Path) -> None:
    assert isinstance(open_store(settings(tmp_path)), LocalStore)


def test_every_variable_reaches_the_store(tmp_path: Path, s3_url: str, bucket: str) -> None:
    store = open_store(
        settings(
            tmp_path,
            DARKROOM_STORAGE="s3",
            DARKROOM_S3_BUCKET=bucket,
            DARKROOM_S3_PREFIX="env/one",
            DARKROOM_S3_ENDPOINT_URL=s3_url,
            DARKROOM_S3_REGION="eu-north-1",
            DARKROOM_S3_PATH_STYLE="true",
            DARKROOM_S3_SSE="aws:kms",
            DARKROOM_S3_SSE_KMS_KEY_ID="key-1",
            DARKROOM_S3_SERVE="redirect",
            AWS_ACCESS_KEY_ID=ACCESS_KEY_ID,
            AWS_SECRET_ACCESS_KEY=SECRET_KEY,
            AWS_SESSION_TOKEN="token-1",
        )
    )
    (tmp_path / "x").write_bytes(b"x")
    store.put_file(str(tmp_path / "x"), "a/b")
    about = s3_client(s3_url).head_object(Bucket=bucket, Key="env/one/a/b")
    assert about["ServerSideEncryption"] == "aws:kms"
    link = store.link("a/b", content_type="image/png", disposition="inline")
    assert link is not None
    asked = parse_qs(urlsplit(link).query)
    assert asked["X-Amz-Credential"][0].split("/")[2:3] == ["eu-north-1"]
    assert asked["X-Amz-Security-Token"] == ["token-1"]
    assert not (tmp_path / "blobs").exists()


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({}, "DARKROOM_S3_BUCKET"),
        ({"DARKROOM_S3_BUCKET": "b", "AWS_ACCESS_KEY_ID": "half-of-it"}, "AWS_SECRET_ACCESS_KEY"),
        ({"DARKROOM_S3_BUCKET": "b", "DARKROOM_S3_SSE_KMS_KEY_ID": "key-1"}, "DARKROOM_S3_SSE=aws:kms"),
        ({"DARKROOM_S3_BUCKET": "b", "DARKROOM_S3_ENDPOINT_URL": "http://:nowhere"}, "DARKROOM_S3_ENDPOINT_URL"),
    ],
)
def test_variables_that_do_not_do_are_named(tmp_path: Path, variables: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError, match=named) as refusal:
        open_store(settings(tmp_path, DARKROOM_STORAGE="s3", **variables))
    assert not any(value in str(refusal.value) for value in ("half-of-it", "nowhere"))


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DARKROOM_STORAGE", "tape"),
        ("DARKROOM_S3_ENDPOINT_URL", "http://me:pw@s3.lan"),
        ("DARKROOM_S3_ENDPOINT_URL", "s3.lan"),
        ("DARKROOM_S3_PREFIX", "/rooted"),
        ("DARKROOM_S3_PREFIX", "a/../b"),
        ("DARKROOM_S3_SSE", "rot13"),
        ("DARKROOM_S3_SERVE", "both"),
    ],
)
def test_a_bad_variable_is_refused_at_once(tmp_path: Path, variable: str, value: str) -> None:
    with pytest.raises(ValueError, match=variable):
        settings(tmp_path, **{variable: value})
