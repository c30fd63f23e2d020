"""What a chaos run finds wrong in callbacks: missing, under two ids, another end, a wrong signature."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from standardwebhooks import Webhook

from chaos import told
from chaos.orders import MixedOrder
from chaos.receiver import Receiver, Told

SECRET = "whsec_" + "c2VjcmV0" * 4
GOOD = Told("/accounts/0", "msg_1", "job_1", ("succeeded",), genuine=True)


@pytest.mark.parametrize(
    ("heard", "wrong"),
    [
        ([GOOD], 0),
        ([GOOD, GOOD], 0),
        ([], 1),
        ([GOOD, Told("/accounts/0", "msg_2", "job_1", ("succeeded",), genuine=True)], 1),
        ([Told("/accounts/0", "msg_1", "job_1", ("failed",), genuine=True)], 1),
        ([Told("/accounts/0", "msg_1", "job_1", ("succeeded",), genuine=False)], 1),
    ],
    ids=["once", "repeated", "missing", "two ids", "another end", "a wrong signature"],
)
def test_each_end_is_to_be_told_under_one_id(heard: list[Told], wrong: int) -> None:
    order = MixedOrder("k", 0, "generate", {"prompt": "x"}, "openai", True, None, False)
    load: Any = SimpleNamespace(accepted=lambda: [SimpleNamespace(task_id="job_1", order=order)])
    receiver: Any = SimpleNamespace(told=heard)
    found = list(told.callbacks(load, {"job_1": {"id": "job_1", "status": "succeeded"}}, receiver, hooked=True))
    assert [each.promise for each in found] == ["callback"] * wrong


@pytest.mark.parametrize("secret", [SECRET, "whsec_" + "b3RoZXIx" * 4], ids=["ours", "another"])
def test_a_receiver_checks_signatures(secret: str) -> None:
    receiver = Receiver(gentle=True)
    try:
        receiver.secrets["/accounts/0"] = SECRET
        body, at = '{"type": "image.task.failed", "data": {"id": "job_1"}}', datetime.now(UTC)
        signature = Webhook(secret).sign("msg_1", at, body)
        headers = {"webhook-id": "msg_1", "webhook-timestamp": str(int(at.timestamp())), "webhook-signature": signature}
        assert receiver.take("/accounts/0", headers, body.encode()) == 204
        assert receiver.told == [Told("/accounts/0", "msg_1", "job_1", ("failed",), genuine=secret == SECRET)]
    finally:
        receiver.close()
