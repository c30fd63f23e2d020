"""A catalogue that follows its operator's file."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

import pytest

from providers.catalog.catalog import CatalogError
from providers.catalog.live import LOOK_EVERY_S, LiveCatalog

CHEAP, DEAR = "models: {gpt-image-2: {markup: 2}}", "models: {gpt-image-2: {markup: 33}}"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now

    def tick(self) -> None:
        self.now += LOOK_EVERY_S


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalog.local.yaml"


def markup(live: LiveCatalog) -> object:
    return live.current().models["gpt-image-2"].markup


def age(folder: Path) -> None:
    """As if nothing had happened in the folder for an hour."""
    os.utime(folder, (1, 1))


def test_without_a_file_there_is_only_the_packaged_one(path: Path, clock: Clock) -> None:
    live = LiveCatalog(path, clock=clock)
    assert (markup(live), live.faults) == (None, ())
    assert LiveCatalog(None, clock=clock).current().version == live.current().version


def test_a_file_that_comes_changes_and_goes_is_followed(path: Path, clock: Clock) -> None:
    live = LiveCatalog(path, clock=clock)
    versions = [live.current().version]
    for text, expected in ((CHEAP, 2), (DEAR, 33)):
        path.write_text(text)
        clock.tick()
        assert markup(live) == expected
        versions.append(live.current().version)
    path.unlink()
    age(path.parent)
    clock.tick()
    assert markup(live) is None
    versions.append(live.current().version)
    assert len(set(versions)) == 3
    assert versions[0] == versions[-1]


def test_it_looks_once_a_second(path: Path, clock: Clock) -> None:
    path.write_text(CHEAP)
    live = LiveCatalog(path, clock=clock)
    path.write_text(DEAR)
    clock.now += LOOK_EVERY_S * 0.9
    assert markup(live) == 2
    clock.tick()
    assert markup(live) == 33


def test_who_misses_a_model_need_not_wait(path: Path, clock: Clock) -> None:
    live = LiveCatalog(path, clock=clock)
    path.write_text(CHEAP)
    assert live.renewed().models["gpt-image-2"].markup == 2


def test_what_was_handed_out_stays_as_it_was(path: Path, clock: Clock) -> None:
    live = LiveCatalog(path, clock=clock)
    before = live.current()
    path.write_text(CHEAP)
    clock.tick()
    assert live.current() is not before
    assert before.models["gpt-image-2"].markup is None


def test_an_unchanged_file_is_not_read_again(path: Path, clock: Clock) -> None:
    path.write_text(CHEAP)
    live = LiveCatalog(path, clock=clock)
    before = live.current()
    clock.tick()
    assert live.current() is before


def test_a_faulty_file_keeps_the_last_good_one_and_is_told_once(
    path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_text(CHEAP)
    live = LiveCatalog(path, clock=clock)
    path.write_text("models: {nobody: {markup: 3}, gpt-image-2: {markup: 0}}")
    with caplog.at_level(logging.INFO, "providers.catalog.live"):
        for _ in range(3):
            clock.tick()
            assert markup(live) == 2
    assert len(live.faults) == 2
    assert [record.message for record in caplog.records] == ["catalog_local_faulty"]
    path.write_text(DEAR)
    clock.tick()
    assert (markup(live), live.faults) == (33, ())


def test_nobody_starts_with_a_faulty_file(path: Path, clock: Clock) -> None:
    path.write_text("models: {nobody: {markup: 3}}")
    with pytest.raises(CatalogError, match="nobody"):
        LiveCatalog(path, clock=clock)
    path.unlink()
    path.mkdir()
    with pytest.raises(CatalogError, match="cannot be read"):
        LiveCatalog(path, clock=clock)


def test_a_moment_without_the_file_is_not_its_end(path: Path, clock: Clock) -> None:
    # As when an editor puts a new file in the old one's place.
    path.write_text(CHEAP)
    live = LiveCatalog(path, clock=clock)
    path.rename(path.with_suffix(".bak"))
    clock.tick()
    assert markup(live) == 2
    age(path.parent)
    clock.tick()
    assert markup(live) is None


def test_a_file_that_cannot_be_read_is_tried_again(path: Path, clock: Clock) -> None:
    path.write_text(CHEAP)
    live = LiveCatalog(path, clock=clock)
    path.unlink()
    path.mkdir()
    clock.tick()
    assert markup(live) == 2
    assert "cannot be read" in live.faults[0]
    path.rmdir()
    path.write_text(DEAR)
    clock.tick()
    assert markup(live) == 33


def test_a_read_that_failed_is_repeated_though_the_file_stays_as_it_is(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = LiveCatalog(path, clock=clock)
    path.write_text(CHEAP)

    def refused(_path: Path) -> bytes:
        raise PermissionError

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", refused)
        clock.tick()
        assert live.faults == ("cannot be read (PermissionError)",)
    clock.tick()
    assert (markup(live), live.faults) == (2, ())


def test_many_at_once_see_one_or_the_other(path: Path) -> None:
    path.write_text(CHEAP)
    live = LiveCatalog(path, clock=Clock())
    seen: set[object] = set()

    def look() -> None:
        for _ in range(20):
            seen.add(live.renewed().models["gpt-image-2"].markup)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    path.with_suffix(".new").write_text(DEAR)
    path.with_suffix(".new").replace(path)
    for thread in threads:
        thread.join()
    assert seen <= {2, 33}
    assert live.renewed().models["gpt-image-2"].markup == 33
