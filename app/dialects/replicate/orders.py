"""An order from the body of a prediction: its model, its input, its callback, and what is kept for reading it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from app.dialects.replicate.clipped import clipped
from app.dialects.replicate.inputs import Translated, operation_for, translate
from app.dialects.replicate.names import Named, Names
from app.dialects.replicate.prediction import DIALECT, Kept
from app.dialects.replicate.webhook import webhook_of
from app.http.bodies import faults_of
from app.http.errors import InvalidRequestError
from app.orders import request_body
from app.shapes.schemas.replicate import PredictionBody
from jobs.errors import FieldFault, InvalidOrderError
from jobs.submission.order import Order
from jobs.submission.quoting import Quoting


@dataclass(frozen=True, slots=True)
class Asked:
    """An order and the words in which it was given. ``faults`` are those outside its input."""

    order: Order
    translated: Translated
    faults: Sequence[FieldFault] = ()

    def in_its_words(self, error: InvalidOrderError) -> InvalidOrderError:
        """The same faults, each at the place that the caller knows."""
        place_of, outside = self.translated.place_of, set(self.faults)
        return InvalidOrderError(
            [fault if fault in outside else replace(fault, field=place_of(fault.field)) for fault in error.faults]
        )


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads bodies. ``kinds`` types the fields of orders (app.orders.forms.kinds_of), ``default`` is the setting
    REPLICATE_MODEL_ID."""

    names: Names
    quoting: Quoting
    kinds: Mapping[str, str]
    default: str | None = None

    def read(
        self,
        members: Mapping[str, Any],
        *,
        model: str | None,
        cancel_after_s: int | None,
        faults: Sequence[FieldFault] = (),
    ) -> Asked:
        """The order in a body. ``model`` is that of the route, ``faults`` are those found in headers.

        Raises InvalidRequestError for a body without an input that can be judged, ModelNotFoundError and
        UnknownVersionError.
        """
        body, own_faults = _body(members)
        named = self._named(body, model)
        if any(fault.field == "input" for fault in own_faults):
            raise InvalidRequestError([*faults, *own_faults])
        translated = translate(body.input, named)
        named = named or self._chosen(translated)
        fields = {**translated.members, **({"model": named.model.id} if named else {}), "lenient": True}
        # Dropped are only fields that this model does not take and others do: each is named in a warning.
        read = request_body.of_members(fields, self.kinds, translated.images)
        operation = (
            operation_for(named.model, translated.images) if named else ("edit" if translated.images else "generate")
        )
        order = read.order(operation)
        outside = [*faults, *own_faults]
        every = [*outside, *translated.faults, *order.faults]
        kept = _kept(body, named, translated, cancel_after_s)
        webhook = webhook_of(*_callback(body))
        order = replace(order, faults=every, client=kept, webhook=webhook, cancel_after_s=cancel_after_s)
        return Asked(order, translated, outside)

    def _named(self, body: PredictionBody, model: str | None) -> Named | None:
        """The model that the route, the version or the body names, or that of the setting."""
        if model is not None:
            return self.names.model(model)
        if body.version is not None:
            return self.names.version(body.version)
        if body.model is not None:
            return self.names.model(body.model)
        return self.names.version(self.default) if self.default else None

    def _chosen(self, translated: Translated) -> Named | None:
        """The default model of the service, for an order that names none."""
        model = self.quoting.default_for("edit" if translated.images else "generate")
        return self.names.of(model) if model else None


def _body(members: Mapping[str, Any]) -> tuple[PredictionBody, list[FieldFault]]:
    """The body, and its faults; a member at fault counts as left out, so that the others can be judged."""
    try:
        return PredictionBody.model_validate(dict(members)), []
    except ValidationError as error:
        faults = faults_of(error, PredictionBody.model_fields)
        bad = {fault.field.split("[")[0].split(".")[0] for fault in faults}
        sound = {name: members[name] for name in members if name in PredictionBody.model_fields and name not in bad}
        return PredictionBody.model_construct(**{"input": {}, **sound}), faults


def _callback(body: PredictionBody) -> tuple[str | None, Sequence[str] | None]:
    if body.webhook is None and body.webhook_completed is not None:
        return body.webhook_completed, ("completed",)
    return body.webhook, body.webhook_events_filter


def _kept(body: PredictionBody, named: Named | None, translated: Translated, cancel_after_s: int | None) -> Kept:
    url, events = _callback(body)
    return {
        "dialect": DIALECT,
        "model": named.full if named else "",
        "version": named.version if named else "",
        "single": named.single if named else False,
        "input": clipped(body.input),
        "notes": [*(named.notes if named else ()), *translated.notes][:100],
        "webhook": url,
        "webhook_events_filter": list(events) if events is not None else None,
        "cancel_after_s": cancel_after_s,
    }
