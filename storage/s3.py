"""The store in a bucket of S3, or of anything that speaks its protocol.

Uses plain operations only (PUT, GET, HEAD, DELETE, ListObjectsV2, HeadBucket; CopyObject for the result cache), so that
every endpoint will do.
Waits only in sockets and ``time.sleep``: under gevent's patches a slow bucket blocks no other greenlet.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from botocore.exceptions import ClientError

from storage.base import BlobNotFoundError
from storage.keys import check_key, folder_order, is_key
from storage.s3_client import (
    ABSENT,
    S3Options,
    as_storage_errors,
    code_of,
    encryption_fields,
    make_client,
    make_session,
)

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from botocore.response import StreamingBody
    from types_boto3_s3 import S3Client

_BUFFER_BYTES = 64 * 1024
LINK_LIFE_S = 300
# The key begins with a dot, so no listing of ours shows it.
_CHECK_KEY = ".check"
_WRITE_CHECK_EVERY_S = 60.0


class S3Store:
    """Blobs as objects below a prefix of one bucket. Thread-safe and greenlet-safe."""

    def __init__(self, options: S3Options) -> None:
        """Connects to nothing yet. Raises StorageUnavailableError for options that boto3 refuses."""
        self._bucket = options.bucket
        self._prefix = f"{options.prefix}/" if options.prefix else ""
        self._encryption = encryption_fields(options)
        self._gives_links = options.gives_links
        self._written_at = float("-inf")
        with as_storage_errors("set up"):
            session = make_session(options)
            self._client = make_client(session, options, connect_s=3, read_s=15, tries=2)
            # A readiness check is repeated soon, and its caller waits for seconds at most.
            self._prober = make_client(session, options, connect_s=2, read_s=2, tries=1)

    def put_file(self, path: str, key: str) -> None:
        """Keep the file at ``path`` under ``key``, moving it; afterwards it is no longer there, stored or not.

        Durable on return: S3 answers a PUT when the object is safe. Its SHA-256 is part of the signature,
        so a damaged upload is refused. Two writers of one new key at the same moment: the later
        one wins, as in the local store, and both hold the same image.
        """
        check_key(key)
        try:
            with as_storage_errors("write"):
                if self._size(key) is None:
                    with Path(path).open("rb") as file:
                        self._put(self._client, key, file)
        finally:
            Path(path).unlink(missing_ok=True)

    def _put(self, client: S3Client, key: str, body: BinaryIO | bytes) -> None:
        client.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=body, **self._encryption)

    def copy(self, key: str, target: str) -> None:
        """Keep the blob ``key`` under ``target`` as well: the bucket copies it by itself.

        Raises BlobNotFoundError, StorageUnavailableError.
        """
        check_key(key)
        check_key(target)
        with as_storage_errors("copy", absent=key):
            self._client.copy_object(
                Bucket=self._bucket,
                Key=self._prefix + target,
                CopySource={"Bucket": self._bucket, "Key": self._prefix + key},
                **self._encryption,
            )

    def open(self, key: str) -> BinaryIO:
        """The blob for reading, fetched as it is read and from where it is read.

        Raises BlobNotFoundError, StorageUnavailableError; reading raises both, too.
        """
        check_key(key)
        with as_storage_errors("read"):
            size_bytes = self._size_or_raise(key)
        if size_bytes is None:
            raise BlobNotFoundError(key)
        return io.BufferedReader(_Blob(self, key, size_bytes), _BUFFER_BYTES)

    def read(self, key: str) -> bytes:
        """The whole blob. Raises BlobNotFoundError, StorageUnavailableError."""
        check_key(key)
        with as_storage_errors("read", absent=key):
            return self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)["Body"].read()

    def stream(self, key: str, first: int) -> StreamingBody:
        """What the blob holds from byte ``first`` on, as it arrives. Raises botocore's errors."""
        return self._client.get_object(Bucket=self._bucket, Key=self._prefix + key, Range=f"bytes={first}-")["Body"]

    def exists(self, key: str) -> bool:
        """Raises StorageUnavailableError when that cannot be known."""
        check_key(key)
        with as_storage_errors("look"):
            return self._size_or_raise(key) is not None

    def _size(self, key: str) -> int | None:
        """In bytes; None when there is no such object, or no such bucket: a HEAD does not tell which."""
        try:
            return self._client.head_object(Bucket=self._bucket, Key=self._prefix + key)["ContentLength"]
        except ClientError as error:
            if code_of(error) in ABSENT:
                return None
            raise

    def _size_or_raise(self, key: str) -> int | None:
        """The same, but raises when the bucket is missing, which must not be taken for a missing image."""
        size_bytes = self._size(key)
        if size_bytes is None:
            self._client.head_bucket(Bucket=self._bucket)
        return size_bytes

    def delete(self, key: str) -> None:
        """Idempotent. Raises StorageUnavailableError."""
        check_key(key)
        with as_storage_errors("delete"):
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + key)

    def iter_keys(self, prefix: str = "", *, older_than_s: float = 0.0) -> Iterator[str]:
        """Keys starting with ``prefix`` and written at least ``older_than_s`` ago, by S3's clock and ours.

        Raises ValueError when the folders in ``prefix`` could not be part of a key.
        """
        parent = prefix.rpartition("/")[0]
        if parent:
            check_key(parent)
        yield from self._keys(older_than_s, Prefix=self._prefix + prefix)

    def iter_folders(self, parent: str, names: Sequence[str], *, older_than_s: float = 0.0) -> Iterator[str]:
        """One listing from the first folder to the last: a request per thousand keys and not one per folder."""
        if not names:
            return
        wanted, top = set(names), f"{check_key(parent)}/"
        first, last = min(names, key=folder_order), max(names, key=folder_order)
        for key in self._keys(older_than_s, Prefix=self._prefix + top, StartAfter=f"{self._prefix}{top}{first}/"):
            folder, slash, _ = key.removeprefix(top).partition("/")
            if folder_order(folder) > folder_order(last):
                return
            if slash and folder in wanted:
                yield key

    def _keys(self, older_than_s: float, **wanted: Any) -> Iterator[str]:
        # Without an age the clocks, which may differ, do not matter.
        written_before = datetime.now(UTC) - timedelta(seconds=older_than_s) if older_than_s else None
        for page in self._pages(**wanted):
            for found in page.get("Contents", ()):
                key = found["Key"].removeprefix(self._prefix)
                if is_key(key) and (written_before is None or found["LastModified"] <= written_before):
                    yield key

    def folders(self, parent: str, *, after: str = "", limit: int = 1000) -> list[str]:
        """Names of the folders in ``parent``, as ``Store.folders`` says."""
        top = f"{self._prefix}{check_key(parent)}/"
        # After everything in the folder ``after``: no part of a key sorts after a tilde.
        start = {"StartAfter": f"{top}{after}/~"} if after else {}
        names: list[str] = []
        for page in self._pages(Prefix=top, Delimiter="/", MaxKeys=min(limit, 1000), **start):
            found = (each["Prefix"].removeprefix(top)[:-1] for each in page.get("CommonPrefixes", ()))
            names += [name for name in found if is_key(name) and folder_order(name) > folder_order(after)]
            if len(names) >= limit:
                break
        return names[:limit]

    def _pages(self, **wanted: Any) -> Iterator[Any]:
        """Answers to ListObjectsV2, one after the other."""
        while True:
            with as_storage_errors("list"):
                page = self._client.list_objects_v2(Bucket=self._bucket, **wanted)
            yield page
            if not page.get("IsTruncated"):
                return
            wanted["ContinuationToken"] = page["NextContinuationToken"]

    def link(self, key: str, *, content_type: str, disposition: str) -> str | None:
        """A signed URL, valid for ``LINK_LIFE_S`` seconds; None unless the operator wants them."""
        if not self._gives_links:
            return None
        check_key(key)
        with as_storage_errors("sign"):
            return self._client.generate_presigned_url(
                "get_object",
                Params={
                    "Bucket": self._bucket,
                    "Key": self._prefix + key,
                    "ResponseContentType": content_type,
                    "ResponseContentDisposition": disposition,
                },
                ExpiresIn=LINK_LIFE_S,
            )

    def check(self) -> None:
        """Raise StorageUnavailableError when a write would fail.

        It writes at most once a minute and checks only for the bucket in between, because S3 bills writes.
        """
        now = time.monotonic()
        with as_storage_errors("write"):
            if now - self._written_at < _WRITE_CHECK_EVERY_S:
                self._prober.head_bucket(Bucket=self._bucket)
                return
            self._put(self._prober, _CHECK_KEY, b"")
            self._prober.delete_object(Bucket=self._bucket, Key=self._prefix + _CHECK_KEY)
        self._written_at = now


class _Blob(io.RawIOBase):
    """An object as a file. After a seek away from the current position the next read is a new GET."""

    def __init__(self, store: S3Store, key: str, size_bytes: int) -> None:
        super().__init__()
        self._store = store
        self._key = key
        self._size_bytes = size_bytes
        self._at = 0
        self._stream: StreamingBody | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size_bytes}[whence]
        if start + offset != self._at:
            self._close_stream()
            self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        if self._at >= self._size_bytes:
            return 0
        with as_storage_errors("read", absent=self._key):
            if self._stream is None:
                self._stream = self._store.stream(self._key, self._at)
            data = self._stream.read(len(view))
        view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._close_stream()
        super().close()

    def _close_stream(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None
