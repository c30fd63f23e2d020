"""A worker whose statements are counted: ``python -m bench.counted``; the web's twin is ``bench.counted_web``.

What SQLAlchemy hands to the driver is added up in a Redis hash, a few times a second.
"""

from gevent import monkey

if __name__ == "__main__":
    monkey.patch_all()

import runpy
import threading
import time
from collections import Counter

from sqlalchemy import Engine, event

from core.redis import make_client
from core.settings import load

KEY = "bench:statements"
TELL_EVERY_S = 0.2
SHOWN_CHARS = 160


def count_statements() -> None:
    seen: Counter[str] = Counter()

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        seen[statement[:SHOWN_CHARS]] += 1

    event.listen(Engine, "before_cursor_execute", note)
    threading.Thread(target=_tell, args=(seen,), name="counted", daemon=True).start()


def _tell(seen: Counter[str]) -> None:
    client = make_client(load().redis_url)
    while True:
        time.sleep(TELL_EVERY_S)
        new, told = dict(seen), client.pipeline(transaction=False)
        seen.clear()
        for statement, times in new.items():
            told.hincrby(KEY, statement, times)
        told.execute()


if __name__ == "__main__":
    count_statements()
    runpy.run_module("workers", run_name="__main__", alter_sys=True)
