"""The reference images of an order: their bytes from wherever they are, verified, and kept in the store."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from core.turns import Turns
from jobs.documents import StoredInput
from jobs.errors import (
    BadImageError,
    FieldFault,
    ImageGoneError,
    ImageNotFoundError,
    ImageNotReadyError,
    InvalidOrderError,
    JobNotFoundError,
)
from jobs.reads.tasks import Image
from jobs.submission.image_words import sentence
from jobs.submission.order import ReferenceImage
from jobs.submission.remote_images import RemoteImages
from storage.base import MediaBusyError, MediaError, Store
from storage.media import Media

# How long an order waits until another order of its account has had its images decoded.
DECODING_TURN_S = 30.0

_JOB_IMAGE = re.compile(r"(job_[0-9A-HJKMNP-TV-Z]{26})(?:#([0-9]{1,3}))?")
_DATA_URL = re.compile(r"data:[\w.+/-]{0,100};base64,", re.ASCII)
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_MISSING = (JobNotFoundError, ImageNotReadyError, ImageNotFoundError, ImageGoneError)


@dataclass(frozen=True, slots=True)
class References:
    """``find_image`` finds an image of an account's own task by (account id, job id, index).

    ``max_bytes`` bounds one image, wherever it comes from.
    """

    store: Store
    media: Media
    remote_images: RemoteImages
    find_image: Callable[[str, str, int], Image]
    max_bytes: int
    _decoding: Turns = field(default_factory=lambda: Turns(DECODING_TURN_S), init=False)

    def read(self, account_id: str, images: Sequence[ReferenceImage]) -> list[bytes]:
        """The bytes of every image. Raises InvalidOrderError naming each that cannot be had, MediaBusyError,
        DatabaseAwayError, StorageUnavailableError."""
        found = [self._local(account_id, image) for image in images]
        remote = [at for at, content in enumerate(found) if content is None]
        named = [(images[at].field_name, images[at].text) for at in remote]
        for at, content in zip(remote, self.remote_images.fetch_all(account_id, named), strict=True):
            found[at] = content
        if faults := [content for content in found if isinstance(content, FieldFault)]:
            raise InvalidOrderError(faults)
        return [content for content in found if isinstance(content, bytes)]

    def misnamed(self, images: Sequence[ReferenceImage]) -> list[FieldFault]:
        """What is wrong with the texts alone, for an order that is refused anyway: nothing is looked up."""
        texts = [image for image in images if image.data is None and not _elsewhere(image)]
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
                    with self._decoding.turn(account_id):
                        kept.append(self._keep(job_id, len(kept), image, data))
                except TimeoutError:
                    raise MediaBusyError("other images of this account are being decoded") from None
                except MediaError as error:
                    faults.append(FieldFault(image.field_name or image.role, error.code, sentence(error)))
            faults += _mask_faults(kept) if not faults else []
            if faults:
                raise BadImageError(faults)
        except BaseException:
            self.delete(kept)
            raise
        return kept

    def delete(self, kept: Sequence[StoredInput]) -> None:
        """Delete images from the store again. Raises StorageUnavailableError."""
        for each in kept:
            self.store.delete(each["key"])

    def _keep(self, job_id: str, position: int, image: ReferenceImage, data: bytes) -> StoredInput:
        stored = self.media.keep_upload(data, prefix=f"inputs/{job_id}/{position}", role=image.role)
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
        if _is_url(image):
            return None
        if image.text.startswith("upl_"):
            return FieldFault(image.field_name, "not_available_yet", "uploads by id are not served by this version")
        if named := _JOB_IMAGE.fullmatch(image.text):
            return self._of_task(account_id, image, named[1], int(named[2] or 0))
        return self._decoded(image)

    def _of_task(self, account_id: str, image: ReferenceImage, job_id: str, index: int) -> bytes | FieldFault:
        try:
            found = self.find_image(account_id, job_id, index)
        except _MISSING as error:
            return FieldFault(image.field_name, error.code, error.detail or "there is no such image of yours")
        return self.store.read(found.key)

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
            wanted = "is no base64" if prefix else "is neither data: URL, base64, https URL nor job_id#index"
            return FieldFault(image.field_name, "wrong_type", wanted)

    def _too_large(self, image: ReferenceImage) -> FieldFault:
        return FieldFault(image.field_name, "image_too_large_bytes", f"is larger than {self.max_bytes} bytes")


def _is_url(image: ReferenceImage) -> bool:
    return image.text[:8].lower().startswith(("https://", "http://"))


def _elsewhere(image: ReferenceImage) -> bool:
    return _is_url(image) or image.text.startswith("upl_") or _JOB_IMAGE.fullmatch(image.text) is not None


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
