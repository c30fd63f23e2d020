"""Building the upstream order of a call from its job's rows and the reference images in our store."""

from __future__ import annotations

from jobs.call import Call
from jobs.documents import InputPart
from jobs.execution.context import WorkerContext
from jobs.reads.worker import LiveJob, OrderParts
from providers.base import InputImage, UpstreamOrder
from providers.catalog.catalog import Model
from storage.base import Store
from storage.media import Media


def build_order(context: WorkerContext, job: LiveJob, parts: OrderParts, call: Call) -> UpstreamOrder:
    """Return the upstream order of one call.

    Raises StorageUnavailableError, BlobNotFoundError, DatabaseAwayError, and UnknownModelError if the catalogue no
    longer has the model.
    """
    request = parts.request
    images: dict[str, list[InputImage]] = {"image": [], "mask": [], "face": []}
    model = context.model(job.model)
    for row in parts.inputs:
        images[row["role"]].append(input_image(context.store, context.media, model, row))
    return UpstreamOrder(
        operation=job.operation,
        model=model,
        prompt=request.get("prompt"),
        n=call.image_count,
        size=request.get("size") or {},
        params=request.get("params") or {},
        extra=request.get("extra") or {},
        images=images["image"],
        mask=next(iter(images["mask"]), None),
        face=next(iter(images["face"]), None),
        callback_url=context.callback_url(job.provider, call.id),
        request_id=job.request_id,
    )


def input_image(store: Store, media: Media, model: Model, row: InputPart) -> InputImage:
    """Return a stored image for the adapter; a mask has the polarity that the model expects.

    Raises BlobNotFoundError, StorageUnavailableError, and of a mask MediaError and MediaBusyError.
    """
    key = row["key"]
    if row["role"] == "mask" and model.inputs.mask_polarity == "white_edits":
        key = media.white_mask(key).key
    return InputImage(store.read(key), row["mime"], row["width_px"], row["height_px"])
