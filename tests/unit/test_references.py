"""The images of an order are verified one at a time for each account, so that no account holds every decoder."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from jobs.submission import references
from jobs.submission.order import ReferenceImage
from jobs.submission.references import References
from jobs.submission.remote_images import RemoteImages
from storage.base import MediaBusyError, StoredImage
from storage.local import LocalStore

IMAGE = [ReferenceImage("image", b"x", "images[0]")]


class SlowMedia:
    """A decoder that works on an image until it is told to end."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.end = threading.Event()

    def keep_upload(self, data: bytes, *, prefix: str, role: str) -> StoredImage:
        self.begun.release()
        assert self.end.wait(60)
        return StoredImage(f"{prefix}.png", "image/png", 1, 1, len(data), "0" * 64)


def held(media: SlowMedia, tmp_path: Path) -> References:
    def find_image(*_: object) -> Any:
        raise AssertionError("no order names a task's image")

    remote = RemoteImages(lambda url: url.encode())
    return References(LocalStore(tmp_path / "blobs"), media, remote, find_image, max_bytes=100)  # type: ignore[arg-type]


@contextmanager
def decoding_for(account_id: str, found: References, media: SlowMedia) -> Iterator[None]:
    """While an image of this account is being decoded."""
    thread = threading.Thread(target=found.keep, args=(account_id, "job_1", IMAGE, [b"x"]))
    thread.start()
    try:
        assert media.begun.acquire(timeout=60)
        yield
    finally:
        media.end.set()
        thread.join(60)


def test_an_account_has_one_decoder_and_another_account_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(references, "DECODING_TURN_S", 0.01)
    media = SlowMedia()
    found = held(media, tmp_path)
    with decoding_for("greedy", found, media):
        other = threading.Thread(target=found.keep, args=("other", "job_2", IMAGE, [b"x"]))
        other.start()
        assert media.begun.acquire(timeout=60)
        with pytest.raises(MediaBusyError, match="other images of this account"):
            found.keep("greedy", "job_3", IMAGE, [b"x"])
        assert not media.begun.acquire(blocking=False)
    other.join(60)
    [kept] = found.keep("greedy", "job_4", IMAGE, [b"x"])
    assert kept["key"].startswith("inputs/job_4/0")
