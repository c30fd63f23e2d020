"""A request whose body is read strictly: a broken form is an error, and a body over its limit is one, too."""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property
from io import BytesIO
from shutil import copyfileobj
from tempfile import SpooledTemporaryFile
from typing import IO, TYPE_CHECKING, Any, cast

from flask import Request
from werkzeug.datastructures import FileStorage, Headers, MultiDict
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.formparser import FormDataParser, MultiPartParser
from werkzeug.wsgi import LimitedStream, get_input_stream

from app.http.errors import MalformedFormError

if TYPE_CHECKING:
    from werkzeug.formparser import t_parse_result

_LOSSLESS = "iso-8859-1"
SPOOL_BYTES = 64 * 1024


class StrictRequest(Request):
    """Flask's request, without its leniency."""

    def make_form_data_parser(self) -> FormDataParser:
        """A parser that raises ValueError for a broken form, where Werkzeug's makes an empty one."""
        return _StrictForms(
            self._get_file_stream,
            max_form_memory_size=self.max_form_memory_size,
            max_content_length=self.max_content_length,
            max_form_parts=self.max_form_parts,
            cls=self.parameter_storage_class,
            silent=False,
        )

    def _get_file_stream(self, *_about_the_part: Any, **_more: Any) -> IO[bytes]:
        """Where a part of a form goes: to the disk from SPOOL_BYTES on, so that uploads take little memory while they
        arrive and wait for their turn."""
        return cast("IO[bytes]", SpooledTemporaryFile(SPOOL_BYTES, "rb+"))

    def arrive(self) -> None:
        """Let the body arrive, without holding it in memory: what is large goes to the disk until it is read.

        Raises RequestEntityTooLarge, and what the server raises for a body that is late; the faults of a form are told
        where it is read.
        """
        if self.mimetype == "multipart/form-data":
            with suppress(ValueError):
                _ = self.files
            return
        spool = self._get_file_stream()
        copyfileobj(self.stream, spool, SPOOL_BYTES)
        spool.seek(0)
        self.__dict__["stream"] = spool

    def let_go(self) -> None:
        """Free the body, as it came and as it was read: the request waits on, and needs it no more."""
        self.close()
        if isinstance(spool := self.__dict__.get("stream"), SpooledTemporaryFile):
            spool.close()
        nothing = self.parameter_storage_class()
        self.__dict__.update(form=nothing, files=nothing, values=nothing, stream=BytesIO(), _cached_data=b"")
        self._cached_json = (None, None)

    @cached_property
    def stream(self) -> IO[bytes]:
        """The body; reading it raises RequestEntityTooLarge where it exceeds its limit, announced or not."""
        most = self.max_content_length
        found = get_input_stream(self.environ, max_content_length=most)
        if most is None or "wsgi.input_terminated" not in self.environ:
            return found
        return cast("IO[bytes]", _Capped(self.environ["wsgi.input"], most, is_max=True))


class _Capped(LimitedStream):
    """Tells a body that ends at its limit from one that goes on; Werkzeug's cuts the second and refuses the first."""

    def on_exhausted(self) -> None:
        if self._stream.read(1):
            raise RequestEntityTooLarge

    def readall(self) -> bytes:
        data = super().readall()
        if data and self.is_exhausted:
            self.on_exhausted()
        return data


class _StrictForms(FormDataParser):
    def _parse_multipart(
        self, stream: IO[bytes], mimetype: str, content_length: int | None, options: dict[str, str]
    ) -> t_parse_result:
        del mimetype
        boundary = options.get("boundary", "").encode("ascii")
        if not boundary:
            raise ValueError("no boundary")
        parser = _StrictParts(
            stream_factory=self.stream_factory,
            max_form_memory_size=self.max_form_memory_size,
            max_form_parts=self.max_form_parts,
            cls=self.cls,
        )
        return (stream, *parser.parse(stream, boundary, content_length))


class _StrictParts(MultiPartParser):
    """Every part has a name, and every text is UTF-8."""

    def get_part_charset(self, headers: Headers) -> str:
        if super().get_part_charset(headers) == _LOSSLESS:
            raise MalformedFormError("the text parts of a form are UTF-8")
        return _LOSSLESS  # Werkzeug would replace what is not UTF-8; the bytes are looked at below

    def parse(
        self, stream: IO[bytes], boundary: bytes, content_length: int | None
    ) -> tuple[MultiDict[str, str], MultiDict[str, FileStorage]]:
        form, files = super().parse(stream, boundary, content_length)
        names: list[Any] = [*form, *files]
        if not all(names):  # None without the parameter, whatever the types say
            raise MalformedFormError("a part of the form has no name")
        return self.cls([(name, _utf8(name, text)) for name, text in form.items(multi=True)]), files


def _utf8(name: str, text: str) -> str:
    try:
        return text.encode(_LOSSLESS).decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedFormError(f"the part {name[:100]!r} is not UTF-8 at byte {error.start}") from None
