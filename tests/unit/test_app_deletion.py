"""Deleting a task's images, and the administrator's audit, at the edge."""

from __future__ import annotations

from typing import Any

import pytest
from app_doubles import MINE, THEIRS, Edge, done_task, job_id, make_edge, make_task

from app.shapes.schemas.service import AuditOut
from app.shapes.schemas.tasks import TaskOut
from jobs.maintenance.audit import Finding

TASK = f"/api/images/tasks/{job_id(1)}"
ADMIN = {"Authorization": "Bearer dk_admin_secret"}


@pytest.fixture
def edge() -> Edge:
    found = make_edge()
    found.rows.add(done_task())
    return found


def _delete(edge: Edge, headers: Any = MINE, path: str = TASK) -> Any:
    return edge.client.delete(path, headers=headers)


def test_a_deleted_task_stays_and_its_images_are_gone(edge: Edge) -> None:
    assert edge.client.get(f"{TASK}/image", headers=MINE).status_code == 200
    for _ in range(2):  # again changes nothing
        answer = _delete(edge)
        assert answer.status_code == 200
        shown = TaskOut.model_validate_json(answer.data)
        assert [(image.deleted, image.signed_url) for image in shown.images] == [(True, None)]
    gone = edge.client.get(f"{TASK}/image", headers=MINE)
    assert (gone.status_code, gone.json["code"]) == (410, "image_gone")
    assert edge.client.get(TASK, headers=MINE).json["status"] == "succeeded"


def test_only_what_has_ended_can_be_deleted(edge: Edge) -> None:
    edge.rows.add(make_task(2))
    answer = _delete(edge, path=f"/api/images/tasks/{job_id(2)}")
    assert (answer.status_code, answer.json["code"]) == (409, "task_not_ended")


@pytest.mark.parametrize(
    ("headers", "status"),
    [(THEIRS, 404), ({}, 401), ({"Authorization": "Bearer dk_r_secret"}, 403)],
)
def test_no_one_else_can_delete(edge: Edge, headers: dict[str, str], status: int) -> None:
    assert _delete(edge, headers).status_code == status
    assert edge.client.get(f"{TASK}/image", headers=MINE).status_code == 200


def test_an_id_that_is_none_and_a_stray_parameter_are_told(edge: Edge) -> None:
    assert _delete(edge, path="/api/images/tasks/job_1").status_code == 404
    assert _delete(edge, path=f"{TASK}?force=1").status_code == 422


def test_the_audit_is_for_administrators(edge: Edge) -> None:
    assert edge.client.get("/api/admin/audit", headers=MINE).status_code == 403
    assert edge.client.get("/api/admin/audit", headers=ADMIN).json == {"clean": True, "findings": []}
    edge.rows.findings.append(Finding("held_is_what_jobs_say", "acct_a", "row 5, jobs 0"))
    told = AuditOut.model_validate_json(edge.client.get("/api/admin/audit", headers=ADMIN).data)
    assert (told.clean, told.findings[0].subject) == (False, "acct_a")


def test_both_routes_are_documented(edge: Edge) -> None:
    paths = edge.app.extensions["darkroom_openapi"]()["paths"]
    answers = paths["/api/images/tasks/{job_id}"]["delete"]["responses"]
    assert {"200", "401", "403", "404", "409"} <= set(answers)
    assert paths["/api/admin/audit"]["get"]["x-scope"] == "admin"
