"""Server-sent events as bytes."""

from __future__ import annotations

import pytest

from app.http import event_stream


def test_a_record_has_its_id_its_name_and_its_data_in_one_line() -> None:
    data = {"text": "two\nlines", "ü": 1}
    assert event_stream.record(data, event="task.queued", last_id="7") == (
        'id: 7\nevent: task.queued\ndata: {"text":"two\\nlines","ü":1}\n\n'.encode()
    )


def test_text_keeps_its_lines() -> None:
    assert event_stream.record("a\r\nb\nc") == b"data: a\ndata: b\ndata: c\n\n"


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "a\0b"])
def test_no_field_can_be_broken_out_of(text: str) -> None:
    for write in (
        lambda: event_stream.record("", event=text),
        lambda: event_stream.record("", last_id=text),
        lambda: event_stream.comment(text),
        lambda: event_stream.opening(text),
    ):
        with pytest.raises(ValueError, match="one line"):
            write()


def test_a_stream_says_first_when_to_come_back_and_from_where() -> None:
    assert event_stream.opening() == b"retry: 2000\n\n"
    assert event_stream.opening("9") == b"retry: 2000\nid: 9\n\n"


def test_a_comment_is_no_record() -> None:
    assert event_stream.comment() == b": \n\n"


def test_an_answer_is_sent_as_it_comes_and_its_end_is_told() -> None:
    closed: list[bool] = []
    response = event_stream.answer(iter([b"a", b"b"]))
    response.call_on_close(lambda: closed.append(True))
    iterable = response.get_app_iter({"REQUEST_METHOD": "GET"})
    assert list(iterable) == [b"a", b"b"]
    iterable.close()  # type: ignore[attr-defined]
    assert closed == [True]
    assert response.headers["Content-Type"] == "text/event-stream"
    assert (response.headers["Cache-Control"], response.headers["X-Accel-Buffering"]) == ("no-store", "no")
