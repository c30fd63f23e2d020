"""The reference images of an order: their bytes from wherever they are, verified, and kept in the store."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from core.turns import Turns
from jobs.documents import StoredInput
from jobs.errors import (
    BadImageError,
    FieldFault,
    ImageGoneError,
    ImageNotFoundError,
    ImageNotReadyError,
    InputsGoneError,
    InvalidOrderError,
    JobNotFoundError,
    UploadGoneError,
    UploadNotFoundError,
)
from jobs.reads.tasks import Image
from jobs.reads.uploads import Upload
from jobs.submission import own_images
from jobs.submission.image_words import sentence
from jobs.submission.order import ReferenceImage
from jobs.submission.own_images import OfTask, OfUpload
from jobs.submission.remote_images import RemoteImages
from storage.base import BlobNotFoundError, MediaBusyError, MediaError, Store, StoredImage
from storage.media import Media

# How long an order waits until another order of its account has had its images decoded.
DECODING_TURN_S = 30.0

_DATA_URL = re.compile(r"data:[\w.+/-]{0,100};base64,", re.ASCII)
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_MISSING = (
    *(JobNotFoundError, ImageNotReadyError, ImageNotFoundError, ImageGoneError),
    *(UploadNotFoundError, UploadGoneError),
)
INPUT_GONE = "input_gone"
FORMS = ("data: URL", "base64", "https URL", "upload_id")


def _no_upload(_account_id: str, _upload_id: str) -> Upload:
    raise UploadNotFoundError


@dataclass(frozen=True, slots=True)
class References:
    """``find_image`` finds an image of an account's own task by (account id, job id, index), ``find_upload`` an upload
    by (account id, id) and notes its use.

    ``max_bytes`` bounds one image, wherever it comes from. ``path_of``: path and query of an address of this service,
    None for any other: what is ours is not fetched.
    """

    store: Store
    media: Media
    remote_images: RemoteImages
    find_image: Callable[[str, str, int], Image]
    max_bytes: int
    find_upload: Callable[[str, str], Upload] = _no_upload
    path_of: Callable[[str], str | None] = lambda _url: None
    _decoding: Turns = field(default_factory=lambda: Turns(DECODING_TURN_S), init=False)

    def read(self, account_id: str, images: Sequence[ReferenceImage]) -> list[bytes]:
        """The bytes of every image. Raises InvalidOrderError naming each that cannot be had, InputsGoneError where
        what is missing came with an earlier order, MediaBusyError, DatabaseAwayError, StorageUnavailableError."""
        found = [self._local(account_id, image) for image in images]
        remote = [at for at, content in enumerate(found) if content is None]
        named = [(images[at].field_name, images[at].text) for at in remote]
        for at, content in zip(remote, self.remote_images.fetch_all(account_id, named), strict=True):
            found[at] = content
        if faults := [content for content in found if isinstance(content, FieldFault)]:
            gone = all(fault.code == INPUT_GONE for fault in faults)
            raise InputsGoneError(faults) if gone else InvalidOrderError(faults)
        return [content for content in found if isinstance(content, bytes)]

    def misnamed(self, images: Sequence[ReferenceImage]) -> list[FieldFault]:
        """What is wrong with the texts alone, for an order that is refused anyway: nothing is looked up."""
        texts = [image for image in images if image.data is None and not self._elsewhere(image)]
        return [found for found in map(self._decoded, texts) if isinstance(found, FieldFault)]

    def keep(
        self, account_id: str, job_id: str, images: Sequence[ReferenceImage], contents: Sequence[bytes]
    ) -> list[StoredInput]:
        """Verify and store the images of a new job; all or none stay. An account has one decoder at a time.

        Raises BadImageError naming each bad one, MediaBusyError, StorageUnavailableError.
        """
        kept: list[StoredInput] = []
        faults: list[FieldFault] = []
        try:
            for image, data in zip(images, contents, strict=True):
                try:
                    with self._turn(account_id):
                        kept.append(self._keep(job_id, len(kept), image, data))
                except MediaError as error:
                    faults.append(FieldFault(image.field_name or image.role, error.code, sentence(error)))
            faults += _mask_faults(kept) if not faults else []
            if faults:
                raise BadImageError(faults)
        except BaseException:
            self.delete(kept)
            raise
        return kept

    def keep_upload(self, account_id: str, data: bytes, *, prefix: str) -> StoredImage:
        """Verify and store an image that no order has come with yet. An account has one decoder at a time.

        Raises MediaError, MediaBusyError, StorageUnavailableError.
        """
        with self._turn(account_id):
            return self.media.keep_upload(data, prefix=prefix)

    @contextmanager
    def _turn(self, account_id: str) -> Iterator[None]:
        try:
            with self._decoding.turn(account_id):
                yield
        except TimeoutError:
            raise MediaBusyError("other images of this account are being decoded") from None

    def delete(self, kept: Sequence[StoredInput]) -> None:
        """Delete images from the store again. Raises StorageUnavailableError."""
        for each in kept:
            self.store.delete(each["key"])

    def _keep(self, job_id: str, position: int, image: ReferenceImage, data: bytes) -> StoredInput:
        prefix = f"inputs/{job_id}/{position}"
        if self._is_normal(image):  # encoding it a second time would only lose quality
            stored = self.media.keep_result(data, prefix=prefix)
        else:
            stored = self.media.keep_upload(data, prefix=prefix, role=image.role)
        return {
            "role": image.role,
            "position": position,
            "key": stored.key,
            "mime": stored.mime,
            "width_px": stored.width_px,
            "height_px": stored.height_px,
            "size_bytes": stored.size_bytes,
            "sha256": stored.sha256,
        }

    def _local(self, account_id: str, image: ReferenceImage) -> bytes | FieldFault | None:
        """Bytes that came along or are in our store; None for a URL, which is fetched with the others."""
        if image.data is not None:
            return image.data if len(image.data) <= self.max_bytes else self._too_large(image)
        if image.kept is not None:
            return self._kept_input(image)
        own = own_images.named(image.text, self.path_of)
        if own is not None:
            return self._own(account_id, image, own)
        return None if _is_url(image) else self._decoded(image)

    def _own(self, account_id: str, image: ReferenceImage, own: OfTask | OfUpload) -> bytes | FieldFault:
        try:
            if isinstance(own, OfUpload):
                key = self.find_upload(account_id, own.upload_id).key
            else:
                key = self._image_key(self.find_image(account_id, own.job_id, own.index), own)
            return self.store.read(key)
        except _MISSING as error:
            return FieldFault(image.field_name, error.code, error.detail or "there is no such image of yours")
        except BlobNotFoundError:  # deleted since its row was read
            return FieldFault(image.field_name, "image_gone", "the image has been deleted")

    def _image_key(self, found: Image, own: OfTask) -> str:
        if not own.variant or found.width_px is None:
            return found.key
        width, height = own.variant.get("width"), own.variant.get("height")
        return self.media.variant(
            found.key,
            found.mime,
            width=int(width) if width else None,
            height=int(height) if height else None,
            format=own.variant.get("format"),
        ).key

    def _kept_input(self, image: ReferenceImage) -> bytes | FieldFault:
        gone = FieldFault(image.field_name, INPUT_GONE, "has been deleted since; send the image again")
        if image.kept is None or image.kept.deleted:
            return gone
        try:
            return self.store.read(image.kept.key)
        except BlobNotFoundError:
            return gone

    def _is_normal(self, image: ReferenceImage) -> bool:
        """Whether its bytes are those of an upload or an earlier order, which :meth:`keep` or :meth:`keep_upload` has
        encoded already. A mask is encoded in a way of its own."""
        if image.kept is not None:
            return True
        own = own_images.named(image.text, self.path_of) if image.data is None else None
        return isinstance(own, OfUpload) and image.role != "mask"

    def _elsewhere(self, image: ReferenceImage) -> bool:
        found = own_images.named(image.text, self.path_of) is not None
        return image.kept is not None or found or _is_url(image)

    def _decoded(self, image: ReferenceImage) -> bytes | FieldFault:
        """Base64, with or without a data: URL around it; its length is judged before it is decoded."""
        prefix = _DATA_URL.match(image.text)
        text = image.text[prefix.end() :] if prefix else image.text
        if len(text) > 4 * (self.max_bytes // 3 + 1):
            return self._too_large(image)
        try:
            if not _BASE64.fullmatch(text):
                raise binascii.Error
            return base64.b64decode(text, validate=True)
        except binascii.Error:
            wanted = "is no base64" if prefix else f"is neither {', '.join(FORMS)} nor job_id#index"
            return FieldFault(image.field_name, "wrong_type", wanted)

    def _too_large(self, image: ReferenceImage) -> FieldFault:
        return FieldFault(image.field_name, "image_too_large_bytes", f"is larger than {self.max_bytes} bytes")


def _is_url(image: ReferenceImage) -> bool:
    return image.text[:8].lower().startswith(("https://", "http://"))


def _mask_faults(kept: Sequence[StoredInput]) -> list[FieldFault]:
    """A mask applies to the first image, so it must have its size."""
    by_role = {each["role"]: each for each in reversed(kept)}
    image, mask = by_role.get("image"), by_role.get("mask")
    if image is None or mask is None:
        return []
    asked, given = (image["width_px"], image["height_px"]), (mask["width_px"], mask["height_px"])
    if asked == given:
        return []
    sizes = f"{given[0]}x{given[1]}, the image {asked[0]}x{asked[1]}"
    return [FieldFault("mask", "mask_size_mismatch", f"the mask is {sizes}")]
