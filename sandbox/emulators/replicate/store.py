"""What the Replicate emulator keeps: predictions, uploaded files, and the result files it serves without a key."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sandbox.bounded import BoundedStore
from sandbox.drawing.bad_files import IMAGE_FAULTS
from sandbox.drawing.images import NotAnImage, Recipe
from sandbox.emulators.replicate import hooks
from sandbox.emulators.replicate.errors import FAILURES
from sandbox.emulators.replicate.images import inputs_of, recipe_for
from sandbox.emulators.replicate.predictions import (
    RETENTION_S,
    UPSTREAM_TROUBLE,
    Asked,
    Prediction,
    ending_for,
    iso,
    new_number,
)
from sandbox.faults import Script
from sandbox.plumbing import outcomes
from sandbox.plumbing.tasks import Ending, ResultFile, TaskStore
from sandbox.plumbing.webhooks import Postman
from sandbox.state import State

FILE_LIVES_S = 86400.0
FILES_BYTES_MAX = 512 * 2**20
SEEDS = 2**16


@dataclass(frozen=True)
class Upload:
    """A file of ``POST /files``."""

    number: str
    owner: str
    name: str
    content_type: str
    data: bytes
    metadata: Any
    created_s: float

    def describe(self, base_url: str) -> dict[str, Any]:
        """The file object (section 8 of the contract)."""
        md5 = hashlib.md5(self.data, usedforsecurity=False).hexdigest()
        return {
            "id": self.number,
            "name": self.name,
            "content_type": self.content_type,
            "size": len(self.data),
            "etag": md5,
            "checksums": {"sha256": hashlib.sha256(self.data).hexdigest(), "md5": md5},
            "metadata": self.metadata,
            "created_at": iso(self.created_s),
            "expires_at": iso(self.created_s + FILE_LIVES_S),
            "urls": {"get": f"{base_url}/files/{self.number}"},
        }


class ReplicateStore(TaskStore[Prediction]):
    """Predictions and files of all accounts."""

    def __init__(self, state: State) -> None:
        super().__init__(state, bytes_max=FILES_BYTES_MAX)
        self._uploads: BoundedStore[str, Upload] = BoundedStore(
            items_max=10_000, size_max=FILES_BYTES_MAX, size_of=lambda upload: len(upload.data)
        )
        self.postman = Postman(state)

    def clear(self) -> None:
        """Delete it all."""
        self.postman.clear()
        self._uploads.clear()
        super().clear()

    def interrupted(self, task: Prediction) -> Ending:
        """How a restart ends a prediction."""
        del task
        return Ending("failed", FAILURES["interrupted"])

    def make(self, asked: Asked, fate: Script, *, owner: str, root_url: str) -> Prediction:
        """Accept a prediction. Raises Problem where an image that goes in cannot be used."""
        base_url = f"{root_url}/v1"
        blobs, mask = inputs_of(asked.model, asked.input, lambda link: self._uploaded_at(link, owner, base_url))
        number = self._next_number(owner, asked.prompt)
        first_byte = hashlib.sha256(number.encode()).digest()[0]
        seed = int(asked.input.get("seed", first_byte * 256 + self.count % SEEDS))
        made = Prediction(
            number=number,
            owner=owner,
            prompt=asked.prompt,
            fate=fate,
            ending=ending_for(fate),
            flips_to=UPSTREAM_TROUBLE,
            created_s=self.now(),
            lasts_s=self.latency_s(fate, asked.prompt),
            kept_s=outcomes.kept_s(min(RETENTION_S, self.state.settings.retention_s), fate),
            asked=asked,
            base_url=base_url,
            seed=seed,
        )
        first = recipe_for(asked.model, asked.input, blobs, mask, seed=seed)
        drawn = outcomes.recipes(first, int(asked.input.get("num_outputs", 1)), fate)
        made.files = [(self._publish(made, place, recipe, root_url), recipe) for place, recipe in enumerate(drawn)]
        self.put(made)
        self.postman.expect(hooks.deliveries(made))
        return made

    def _next_number(self, owner: str, prompt: str) -> str:
        return new_number(f"{owner} {self.next_count()} {prompt} {self.now()}")

    def _publish(self, made: Prediction, place: int, recipe: Recipe, root_url: str) -> str:
        """Publish a result file, there from the end on; returns its link."""
        digest = hashlib.md5(f"{made.number} {place}".encode(), usedforsecurity=False).hexdigest()
        ending = {"jpeg": "jpg"}.get(recipe.file_format, recipe.file_format)
        path, until_s = f"{digest}/out-{place}.{ending}", made.done_s + made.kept_s
        fault = made.fate.get(*IMAGE_FAULTS)
        self.files.put(path, ResultFile(recipe, made.prompt, fault, from_s=made.done_s, until_s=until_s))
        folder = f"{root_url}/delivery/xezq"
        nowhere = f"{folder}/{'0' * 32}/out-{place}.{ending}"
        return outcomes.link_of(f"{folder}/{path}", made.fate, host_url=root_url, nowhere=nowhere)

    def between(self, owner: str, after: datetime | None, before: datetime | None) -> list[Prediction]:
        """The owner's predictions, newest first; ``after`` inclusive, ``before`` exclusive, to the millisecond."""
        return [
            made
            for made in self.all_of(owner)
            if (after is None or iso(made.created_s) >= iso(after.timestamp()))
            and (before is None or iso(made.created_s) < iso(before.timestamp()))
        ]

    def upload(self, owner: str, *, name: str, content_type: str, data: bytes, metadata: Any) -> Upload:
        """Keep an uploaded file for a day."""
        number = new_number(f"file {self._next_number(owner, name)}")
        upload = Upload(number, owner, name, content_type, data, metadata, self.now())
        self._uploads.put(number, upload)
        return upload

    def find_upload(self, owner: str, number: str) -> Upload | None:
        """One of the owner's files, within its day."""
        found = self._uploads.get(number)
        if found is None or found.owner != owner or self.now() >= found.created_s + FILE_LIVES_S:
            return None
        return found

    def uploads_of(self, owner: str) -> list[Upload]:
        """All of them, newest first."""
        numbers = [upload.number for upload in reversed(self._uploads.values())]
        return [upload for number in numbers if (upload := self.find_upload(owner, number))]

    def delete_upload(self, number: str) -> None:
        """``DELETE /files/{id}``."""
        self._uploads.discard(number)

    def _uploaded_at(self, link: str, owner: str, base_url: str) -> bytes | None:
        folder, _, number = link.rpartition("/")
        if folder != f"{base_url}/files":
            return None
        upload = self.find_upload(owner, number)
        if upload is None:
            raise NotAnImage("there is no such file, or no longer")
        return upload.data
