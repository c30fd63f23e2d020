"""How a run shares its tests among pytest-xdist's workers: whole files, and the slow ones first."""

from __future__ import annotations

import gc

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

# Where a minute waits for a process. What follows is short and fills the gaps at the end of a run.
_SLOW_FIRST = ("tests/e2e/", "tests/integration/")
# These share one running service, and a second one would cost more than it saves.
_SERVICE = "tests/e2e/"
_OWN_SERVICE = "tests/e2e/test_chaos.py"


class ByFile(LoadFileScheduling):
    """Tests of one file run in one worker, so that its fixtures are made once; so do all tests of the service."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return _SERVICE if file.startswith(_SERVICE) and file != _OWN_SERVICE else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile:
    config.option.loadscopereorder = False  # the order below, not the number of tests, says what is long
    return ByFile(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: not item.nodeid.startswith(_SLOW_FIRST))


def pytest_sessionstart() -> None:
    gc.disable()  # collecting tests makes next to no garbage


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """What is loaded by now stays: the collector need not walk fifteen thousand tests again and again. In the process
    that only shares them out, too, which collects none and so never reaches the hooks of a collection's end."""
    gc.collect()
    gc.freeze()
    gc.enable()
