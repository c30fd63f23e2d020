"""What the Replicate twin keeps: predictions, uploaded files, and the result files it serves without a key."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sandbox.bounded import BoundedStore
from sandbox.drawing.bad_files import IMAGE_FAULTS
from sandbox.drawing.images import NotAnImage, Recipe
from sandbox.emulators.replicate.errors import INTERRUPTED
from sandbox.emulators.replicate.hooks import Postman
from sandbox.emulators.replicate.images import inputs_of, recipes
from sandbox.emulators.replicate.predictions import (
    RETENTION_S,
    TERMINAL,
    Asked,
    Prediction,
    broken_link,
    ending_for,
    iso,
    new_number,
)
from sandbox.faults import Script
from sandbox.markers import Fault
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
        """The file object (section 8 of the contract sheet)."""
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


@dataclass(frozen=True)
class Served:
    """A result file, spoilt where a picture fault says so; there from the end of its prediction on."""

    made: Prediction
    recipe: Recipe
    fault: Fault | None


class ReplicateStore:
    """Predictions and files of all accounts."""

    def __init__(self, sandbox_state: State) -> None:
        self._sandbox = sandbox_state
        self._made: BoundedStore[str, Prediction] = BoundedStore(
            items_max=sandbox_state.settings.tasks_max,
            size_max=FILES_BYTES_MAX,
            size_of=lambda made: sum(recipe.size_bytes for _, recipe in made.files[:1]),
        )
        self._served: BoundedStore[str, Served] = BoundedStore(items_max=sandbox_state.settings.tasks_max)
        self._uploads: BoundedStore[str, Upload] = BoundedStore(
            items_max=10_000, size_max=FILES_BYTES_MAX, size_of=lambda upload: len(upload.data)
        )
        self._numbers = 0
        self.postman = Postman(sandbox_state)

    def clear(self) -> None:
        """Forget it all."""
        self.postman.clear()
        for store in (self._made, self._served, self._uploads):
            store.clear()

    def restart(self) -> int:
        """Interrupt what is not done."""
        now = self._sandbox.clock.now()
        running = [made for made in self._made.values() if made.standing(now)[0] not in TERMINAL]
        for made in running:
            made.cut = (now, "failed", INTERRUPTED)
        return len(running)

    def make(
        self, asked: Asked, fate: Script, *, owner: str, base_url: str, root_url: str, cancel_after_s: float | None
    ) -> Prediction:
        """Accept a prediction. Raises Problem where a picture that goes in cannot be used."""
        blobs, mask = inputs_of(asked.model, asked.input, lambda link: self._uploaded_at(link, owner, base_url))
        now, number = self._sandbox.clock.now(), self._next_number(owner, asked.prompt)
        seed = int(asked.input.get("seed", hashlib.sha256(number.encode()).digest()[0] * 256 + self._numbers % SEEDS))
        drawn = list(recipes(asked.model, asked.input, blobs, mask, seed=seed, fate=fate))
        expire, form, word = fate.get("expire"), fate.get("form"), fate.get("word")
        made = Prediction(
            number=number,
            owner=owner,
            asked=asked,
            base_url=base_url,
            ending=ending_for(fate),
            created_s=now,
            lasts_s=self._sandbox.latency_s(fate, asked.prompt),
            seed=seed,
            form=form.value if form else "",
            word=word.value if word else "",
            deadline_s=None if cancel_after_s is None else now + cancel_after_s,
            retention_s=expire.number(0) if expire else min(RETENTION_S, self._sandbox.settings.retention_s),
        )
        made.files = [self._publish(made, place, recipe, fate, root_url) for place, recipe in enumerate(drawn)]
        self._made.put(number, made)
        self.postman.expect(made)
        return made

    def _next_number(self, owner: str, prompt: str) -> str:
        self._numbers += 1
        return new_number(f"{owner} {self._numbers} {prompt} {self._sandbox.clock.now()}")

    def _publish(self, made: Prediction, place: int, recipe: Recipe, fate: Script, root_url: str) -> tuple[str, Recipe]:
        digest = hashlib.md5(f"{made.number} {place}".encode(), usedforsecurity=False).hexdigest()
        ending = {"jpeg": "jpg"}.get(recipe.file_format, recipe.file_format)
        path = f"{digest}/out-{place}.{ending}"
        self._served.put(path, Served(made, recipe, fate.get(*IMAGE_FAULTS)))
        return broken_link(fate.get("dead_link"), f"{root_url}/delivery/xezq/{path}", root_url), recipe

    def served(self, path: str) -> Served | None:
        """A result file, while there is one."""
        found, now = self._served.get(path), self._sandbox.clock.now()
        if found is None or now < found.made.ends_s or now >= found.made.ends_s + found.made.retention_s:
            return None
        return found

    def find(self, owner: str, number: str) -> Prediction | None:
        """One of the owner's predictions."""
        made = self._made.get(number)
        return made if made is not None and made.owner == owner else None

    def all_of(self, owner: str, after: datetime | None, before: datetime | None) -> list[Prediction]:
        """The owner's predictions, newest first; ``after`` inclusive, ``before`` exclusive."""
        mine = [made for made in reversed(self._made.values()) if made.owner == owner]
        return [
            made
            for made in mine
            if (after is None or iso(made.created_s) >= iso(after.timestamp()))
            and (before is None or iso(made.created_s) < iso(before.timestamp()))
        ]

    def cancel(self, made: Prediction) -> None:
        """Stop one that has not ended; an ended one stays as it is."""
        now = self._sandbox.clock.now()
        if made.standing(now)[0] not in TERMINAL:
            made.cut = (now, "canceled", "")

    def store(self, owner: str, *, name: str, content_type: str, data: bytes, metadata: Any) -> Upload:
        """Keep an uploaded file for a day."""
        number = new_number(f"file {self._next_number(owner, name)}")
        upload = Upload(number, owner, name, content_type, data, metadata, self._sandbox.clock.now())
        self._uploads.put(number, upload)
        return upload

    def upload(self, owner: str, number: str) -> Upload | None:
        """One of the owner's files, within its day."""
        found = self._uploads.get(number)
        if found is None or found.owner != owner or self._sandbox.clock.now() >= found.created_s + FILE_LIVES_S:
            return None
        return found

    def uploads_of(self, owner: str) -> list[Upload]:
        """All of them, newest first."""
        numbers = [upload.number for upload in reversed(self._uploads.values())]
        return [upload for number in numbers if (upload := self.upload(owner, number))]

    def forget_upload(self, number: str) -> None:
        """``DELETE /files/{id}``."""
        self._uploads.discard(number)

    def _uploaded_at(self, link: str, owner: str, base_url: str) -> bytes | None:
        folder, _, number = link.rpartition("/")
        if folder != f"{base_url}/files":
            return None
        upload = self.upload(owner, number)
        if upload is None:
            raise NotAnImage("there is no such file, or no longer")
        return upload.data
